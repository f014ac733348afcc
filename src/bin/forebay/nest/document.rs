//! The document that the upstream keeps: what its events do to it, and what changed by that.
//!
//! Only thermostats and structures are kept. Nothing here does I/O, and nothing the upstream sends
//! makes it fail: what is no thermostat is none, and what is beyond the limits is left out.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::api::{Fields, NestEvent};
use super::depth::{self, DEPTH_MAX};

/// How many thermostats, and how many structures, single puts may add up to.
const THINGS_MAX: usize = 10_000;

/// How many fields single puts may add up to in one object.
const FIELDS_MAX: usize = 1_000;

/// What is known of the upstream.
#[derive(Default)]
pub(crate) struct Document {
    thermostats: Things,
    structures: Things,
}

/// What an event of the upstream did.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Applied {
    pub(crate) events: Vec<NestEvent>,
    /// How many values were left out because of the limits.
    pub(crate) left_out: usize,
}

type Things = BTreeMap<String, Fields>;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Thermostat,
    Structure,
}

/// The things that an event touched, and what it could not do.
#[derive(Default)]
struct Touched {
    things: BTreeSet<(Kind, String)>,
    left_out: usize,
}

impl Document {
    pub(crate) fn thermostats(&self) -> &BTreeMap<String, Fields> {
        &self.thermostats
    }

    /// Everything, as the events that would tell it.
    pub(crate) fn events(&self) -> impl Iterator<Item = NestEvent> {
        let all = |kind: Kind, things: &Things| things.keys().map(move |id| (kind, id.clone())).collect::<Vec<_>>();
        let mut things = all(Kind::Thermostat, &self.thermostats);
        things.extend(all(Kind::Structure, &self.structures));
        things.into_iter().map(|(kind, id)| self.event(kind, id))
    }

    /// `put`: the value at `path` is replaced; null removes it.
    pub(crate) fn put(&mut self, path: &str, data: Value) -> Applied {
        let mut touched = Touched::default();
        self.put_at(&parts(path), data, &mut touched);
        self.applied(touched)
    }

    /// `patch`: each key of the data is put below `path`. A key may itself be a path.
    pub(crate) fn patch(&mut self, path: &str, data: Value) -> Applied {
        let mut touched = Touched::default();
        for (key, value) in object(data) {
            let mut whole = parts(path);
            whole.extend(parts(&key));
            self.put_at(&whole, value, &mut touched);
        }
        self.applied(touched)
    }

    fn put_at(&mut self, path: &[&str], data: Value, touched: &mut Touched) {
        match path {
            [] => {
                let mut root = object(data);
                let mut devices = object(root.remove("devices").unwrap_or_default());
                let thermostats = devices.remove("thermostats").unwrap_or_default();
                self.replace(Kind::Thermostat, thermostats, touched);
                self.replace(Kind::Structure, root.remove("structures").unwrap_or_default(), touched);
            }
            ["devices"] => {
                let thermostats = object(data).remove("thermostats").unwrap_or_default();
                self.replace(Kind::Thermostat, thermostats, touched);
            }
            ["devices", "thermostats"] => self.replace(Kind::Thermostat, data, touched),
            ["devices", "thermostats", id, below @ ..] => self.set(Kind::Thermostat, id, below, data, touched),
            ["structures"] => self.replace(Kind::Structure, data, touched),
            ["structures", id, below @ ..] => self.set(Kind::Structure, id, below, data, touched),
            [_, ..] => {}
        }
    }

    /// All things of a kind are these.
    fn replace(&mut self, kind: Kind, data: Value, touched: &mut Touched) {
        let mut new = Things::new();
        for (id, mut value) in object(data) {
            touched.left_out += depth::prune(&mut value, DEPTH_MAX);
            if let Value::Object(fields) = value {
                new.insert(id, fields);
            }
        }
        let old = std::mem::replace(self.of_kind(kind), new);
        let new = self.of_kind(kind);
        let changed = new.iter().filter(|(id, fields)| old.get(*id) != Some(fields)).map(|(id, _)| id.clone());
        let mut things: Vec<String> = changed.collect();
        things.extend(old.into_keys().filter(|id| !new.contains_key(id)));
        touched.things.extend(things.into_iter().map(|id| (kind, id)));
    }

    /// One thing, or a value below it, is this.
    fn set(&mut self, kind: Kind, id: &str, below: &[&str], mut data: Value, touched: &mut Touched) {
        let things = self.of_kind(kind);
        if below.len() > DEPTH_MAX || (!things.contains_key(id) && things.len() >= THINGS_MAX) {
            touched.left_out += 1;
            return;
        }
        // Each step of the path is an object around it.
        let depth_max = DEPTH_MAX - below.len();
        if depth_max == 0 && (data.is_array() || data.is_object()) {
            touched.left_out += 1;
            return;
        }
        touched.left_out += depth::prune(&mut data, depth_max);
        let outcome = match (below, data) {
            ([], Value::Object(fields)) => {
                if things.get(id) == Some(&fields) {
                    Outcome::Same
                } else {
                    things.insert(id.to_owned(), fields);
                    Outcome::Changed
                }
            }
            ([], _) => things.remove(id).map_or(Outcome::Same, |_| Outcome::Changed),
            ([field, deeper @ ..], data) => {
                let outcome = set_below(things.entry(id.to_owned()).or_default(), field, deeper, data);
                // The upstream keeps no empty objects.
                if things.get(id).is_some_and(Map::is_empty) {
                    things.remove(id);
                }
                outcome
            }
        };
        match outcome {
            Outcome::Same => {}
            Outcome::Changed => {
                touched.things.insert((kind, id.to_owned()));
            }
            Outcome::LeftOut => touched.left_out += 1,
        }
    }

    fn applied(&self, touched: Touched) -> Applied {
        let events = touched.things.into_iter().map(|(kind, id)| self.event(kind, id)).collect();
        Applied { events, left_out: touched.left_out }
    }

    /// What is to be told of a thing as it is now.
    fn event(&self, kind: Kind, id: String) -> NestEvent {
        match kind {
            Kind::Thermostat => match self.thermostats.get(&id) {
                Some(fields) => NestEvent::Thermostat { fields: fields.clone(), id },
                None => NestEvent::ThermostatRemoved { id },
            },
            Kind::Structure => match self.structures.get(&id) {
                Some(fields) => NestEvent::Structure { fields: fields.clone(), id },
                None => NestEvent::StructureRemoved { id },
            },
        }
    }

    fn of_kind(&mut self, kind: Kind) -> &mut Things {
        match kind {
            Kind::Thermostat => &mut self.thermostats,
            Kind::Structure => &mut self.structures,
        }
    }
}

/// What became of a value.
enum Outcome {
    Same,
    Changed,
    LeftOut,
}

/// Sets `field`, or what lies `deeper` in it; null removes it.
fn set_below(object: &mut Fields, field: &str, deeper: &[&str], data: Value) -> Outcome {
    if !object.contains_key(field) && (data.is_null() || object.len() >= FIELDS_MAX) {
        return if data.is_null() { Outcome::Same } else { Outcome::LeftOut };
    }
    let Some((next, rest)) = deeper.split_first() else {
        if object.get(field) == Some(&data) {
            return Outcome::Same;
        }
        match data {
            Value::Null => object.remove(field),
            Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) | Value::Object(_) => {
                object.insert(field.to_owned(), data)
            }
        };
        return Outcome::Changed;
    };
    let value = object.entry(field).or_insert_with(|| Value::Object(Map::new()));
    if !value.is_object() && !data.is_null() {
        // A plain value gives way to an object, as in the upstream's own store.
        *value = Value::Object(Map::new());
    }
    let Value::Object(inner) = value else {
        return Outcome::Same;
    };
    let outcome = set_below(inner, next, rest, data);
    if inner.is_empty() {
        object.remove(field);
    }
    outcome
}

fn parts(path: &str) -> Vec<&str> {
    path.split('/').filter(|part| !part.is_empty()).collect()
}

/// The members of an object; of anything else, none.
fn object(value: Value) -> Fields {
    match value {
        Value::Object(members) => members,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => Map::new(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn whole() -> Value {
        json!({
            "devices": {"thermostats": {"a": {"label": "Hall", "ambient_temperature_c": 21.5}, "b": {"humidity": 40}}},
            "structures": {"s": {"away": "home", "wheres": {"w": {"name": "Hall"}}}},
            "metadata": {"access_token": "no business of ours"},
        })
    }

    fn filled() -> Document {
        let mut document = Document::default();
        document.put("/", whole());
        document
    }

    /// The events in short: `+a` for a new or changed one, `-a` for one that is gone.
    fn short(applied: &Applied) -> Vec<String> {
        let short = |event: &NestEvent| match event {
            NestEvent::Thermostat { id, .. } | NestEvent::Structure { id, .. } => format!("+{id}"),
            NestEvent::ThermostatRemoved { id } | NestEvent::StructureRemoved { id } => format!("-{id}"),
            NestEvent::Link(_) => "link".to_owned(),
        };
        applied.events.iter().map(short).collect()
    }

    #[test]
    fn puts_at_any_path() {
        let table: [(&str, Value, &[&str]); 22] = [
            ("/", whole(), &[]),
            ("/", json!(null), &["-a", "-b", "-s"]),
            ("/", json!({"devices": {"thermostats": {"b": {"humidity": 40}}}}), &["-a", "-s"]),
            ("/devices", json!({"thermostats": {"b": {"humidity": 41}}}), &["-a", "+b"]),
            ("/devices", json!(null), &["-a", "-b"]),
            ("/devices/thermostats", json!({"b": {"humidity": 40}, "c": {"humidity": 1}}), &["-a", "+c"]),
            ("/devices/thermostats/b", json!({"humidity": 40}), &[]),
            ("/devices/thermostats/b", json!({"humidity": 41}), &["+b"]),
            ("/devices/thermostats/b", json!(null), &["-b"]),
            ("/devices/thermostats/c", json!(null), &[]),
            ("/devices/thermostats/c", json!("nonsense"), &[]),
            ("/devices/thermostats/a/label", json!("Cellar"), &["+a"]),
            ("devices/thermostats/a/label/", json!("Cellar"), &["+a"]),
            ("/devices/thermostats/a/label", json!("Hall"), &[]),
            ("/devices/thermostats/a/label", json!(null), &["+a"]),
            ("/devices/thermostats/b/humidity", json!(null), &["-b"]),
            ("/devices/thermostats/c/humidity", json!(1), &["+c"]),
            ("/devices/thermostats/c/humidity", json!(null), &[]),
            ("/structures/s/wheres/w/name", json!("Cellar"), &["+s"]),
            ("/structures/s/away/oddly/deep", json!(1), &["+s"]),
            ("/structures/s/away/oddly", json!(null), &[]),
            ("/metadata/client_version", json!(2), &[]),
        ];
        for (path, data, expected) in table {
            assert_eq!(short(&filled().put(path, data.clone())), expected, "{path} {data}");
        }
    }

    #[test]
    fn a_value_is_told_with_the_whole_object_and_its_numbers() {
        let applied = filled().put("/devices/thermostats/a/target_temperature_c", json!(19.0));
        let fields = json!({"label": "Hall", "ambient_temperature_c": 21.5, "target_temperature_c": 19.0});
        let Value::Object(fields) = fields else { panic!("an object") };
        assert_eq!(applied.events, [NestEvent::Thermostat { id: "a".to_owned(), fields }]);
        let text = serde_json::to_string(&applied.events).expect("JSON");
        assert!(text.contains("19.0") && text.contains("21.5"), "{text}");
    }

    #[test]
    fn patches_merge_and_tell_each_thing_once() {
        let table: [(&str, Value, &[&str]); 5] = [
            ("/devices/thermostats/a", json!({"label": "Cellar", "humidity": 1, "hvac_mode": "heat"}), &["+a"]),
            ("/devices/thermostats", json!({"a": null, "b/humidity": 41}), &["-a", "+b"]),
            ("/", json!({"devices/thermostats/b/humidity": 39, "structures/s/away": "away"}), &["+b", "+s"]),
            ("/devices/thermostats/a", json!({"humidity": null}), &[]),
            ("/devices/thermostats/a", json!(null), &[]),
        ];
        for (path, data, expected) in table {
            assert_eq!(short(&filled().patch(path, data.clone())), expected, "{path} {data}");
        }
        let mut document = filled();
        document.patch("/devices/thermostats/a", json!({"label": "Cellar"}));
        assert_eq!(document.thermostats()["a"]["ambient_temperature_c"], json!(21.5));
    }

    #[test]
    fn all_of_it_can_be_told() {
        let document = filled();
        let applied = Applied { events: document.events().collect(), left_out: 0 };
        assert_eq!(short(&applied), ["+a", "+b", "+s"]);
    }

    #[test]
    fn what_is_nested_too_deeply_is_left_out_wherever_it_comes() {
        // So many objects, one within the other.
        let nested = |depth: usize| (0..depth).fold(json!(1), |inner, _| json!({ "x": inner }));
        let deep = |applied: Applied| {
            let texts = applied.events.iter().map(|event| serde_json::to_string(event).expect("JSON"));
            (applied.left_out, texts.map(|text| text.matches("\"x\"").count()).max().unwrap_or_default())
        };
        let all = |depth| json!({"devices": {"thermostats": {"a": nested(depth), "b": {"humidity": 40}}}});
        let x = "/x".repeat(10);
        for (more, left_out) in [(0, 0), (1, 1), (60, 1)] {
            let depth = DEPTH_MAX + more;
            // What is too deep takes with it the key it stands under.
            let kept = DEPTH_MAX - left_out;
            let below = if left_out == 0 { DEPTH_MAX } else { DEPTH_MAX - 1 };
            assert_eq!(deep(filled().put("/", all(depth))), (left_out, kept), "{depth}");
            assert_eq!(deep(filled().put("/structures", json!({"s": nested(depth)}))), (left_out, kept), "{depth}");
            assert_eq!(deep(filled().put("/structures/s", nested(depth))), (left_out, kept), "{depth}");
            assert_eq!(deep(filled().put(&format!("/structures/s{x}"), nested(depth - 10))), (left_out, below));
            let patch = json!({"s": nested(depth), "t/away": "home"});
            assert_eq!(deep(filled().patch("/structures", patch)), (left_out, kept), "{depth}");
        }
        let far = "/x".repeat(DEPTH_MAX);
        assert_eq!(deep(filled().put(&format!("/structures/s{far}"), json!(1))), (0, DEPTH_MAX));
        let outcome = filled().put(&format!("/structures/s{far}"), json!([]));
        assert_eq!((outcome.left_out, outcome.events.len()), (1, 0));
    }

    #[test]
    fn single_puts_stay_within_the_limits() {
        let mut document = filled();
        let deep = "/x".repeat(DEPTH_MAX + 1);
        assert_eq!(document.put(&format!("/structures/s{deep}"), json!(1)).left_out, 1);
        for number in 0..FIELDS_MAX + 10 {
            document.put(&format!("/devices/thermostats/a/field{number}"), json!(1));
        }
        assert_eq!(document.thermostats()["a"].len(), FIELDS_MAX);
        for number in 0..THINGS_MAX + 10 {
            document.put(&format!("/devices/thermostats/{number}/label"), json!("x"));
        }
        assert_eq!(document.thermostats().len(), THINGS_MAX);
        assert_eq!(document.put("/devices/thermostats/one-more", json!({"label": "x"})).left_out, 1);
        assert_eq!(document.put("/devices/thermostats/a/label", json!("Cellar")).left_out, 0);
    }
}
