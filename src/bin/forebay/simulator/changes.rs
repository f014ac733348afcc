//! From an old and a new document to the events that a stream at some path gets.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::world;

/// How changes are told.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "snake_case")]
pub(super) enum Form {
    /// As Nest does: the whole value at the stream's path.
    #[default]
    Documents,
    /// One `put` for each field that changed, with its absolute path.
    Leaves,
    /// As Firebase does: one `patch` for each object that changed, its path relative to the stream's.
    Patches,
}

/// An event before it is encoded.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Event {
    pub(super) name: &'static str,
    pub(super) data: Value,
}

impl Event {
    pub(super) fn put(path: &str, data: &Value) -> Self {
        Self { name: "put", data: json!({ "path": path, "data": data }) }
    }

    /// Everything at that path, as it goes out first.
    pub(super) fn snapshot(form: Form, path: &[&str], document: &Value) -> Self {
        let value = world::at(document, path).unwrap_or(&Value::Null);
        match form {
            Form::Documents | Form::Leaves => Self::put(&absolute(path), value),
            Form::Patches => Self::put("/", value),
        }
    }
}

/// What a stream at `path` is told, if anything.
pub(super) fn events(form: Form, path: &[&str], old: &Value, new: &Value) -> Vec<Event> {
    let (before, after) = (world::at(old, path), world::at(new, path));
    if before == after {
        return Vec::new();
    }
    let mut leaves = Vec::new();
    compare(&mut Vec::new(), before.unwrap_or(&Value::Null), after.unwrap_or(&Value::Null), &mut leaves);
    match form {
        Form::Documents => vec![Event::snapshot(form, path, new)],
        Form::Leaves => leaves
            .iter()
            .map(|(below, value)| {
                let below: Vec<&str> = below.iter().map(String::as_str).collect();
                Event::put(&absolute(&[path, &below].concat()), value)
            })
            .collect(),
        Form::Patches => patches(leaves),
    }
}

/// The path as it stands in an event: `/` for the root, no slash at the end.
pub(super) fn absolute(path: &[&str]) -> String {
    format!("/{}", path.join("/"))
}

fn patches(leaves: Vec<(Vec<String>, Value)>) -> Vec<Event> {
    let mut objects: BTreeMap<String, Map<String, Value>> = BTreeMap::new();
    let mut events = Vec::new();
    for (path, value) in leaves {
        let Some((field, parent)) = path.split_last() else {
            // The stream stands at the leaf itself, which has no fields to patch.
            events.push(Event::put("/", &value));
            continue;
        };
        objects.entry(format!("/{}", parent.join("/"))).or_default().insert(field.clone(), value);
    }
    events.extend(
        objects.into_iter().map(|(path, data)| Event { name: "patch", data: json!({ "path": path, "data": data }) }),
    );
    events
}

/// Collects what differs; an array is a leaf, and what is gone is null.
fn compare(path: &mut Vec<String>, old: &Value, new: &Value, found: &mut Vec<(Vec<String>, Value)>) {
    if old == new {
        return;
    }
    let (Value::Object(before), Value::Object(after)) = (old, new) else {
        found.push((path.clone(), new.clone()));
        return;
    };
    let gone = before.keys().filter(|key| !after.contains_key(*key));
    for key in after.keys().chain(gone) {
        path.push(key.clone());
        let value = |object: &'_ Map<String, Value>| object.get(key).cloned().unwrap_or(Value::Null);
        compare(path, &value(before), &value(after), found);
        path.pop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_form_tells_what_changed() {
        let old = json!({"d": {"a": {"t": 1, "u": 1, "s": "x"}, "b": {"t": 1}}, "m": {"k": 1, "gone": true}});
        let new = json!({"d": {"a": {"t": 2, "u": 3, "s": "x"}, "b": {"t": 1}}, "m": {"k": 1}});
        let put = |path: &str, data: Value| Event::put(path, &data);
        let patch = |path: &str, data: Value| Event { name: "patch", data: json!({"path": path, "data": data}) };
        let table: [(Form, &[&str], Vec<Event>); 9] = [
            (Form::Documents, &[], vec![put("/", new.clone())]),
            (Form::Documents, &["d", "a"], vec![put("/d/a", new["d"]["a"].clone())]),
            (Form::Documents, &["d", "a", "t"], vec![put("/d/a/t", json!(2))]),
            (Form::Documents, &["d", "b"], vec![]),
            (Form::Leaves, &[], vec![put("/d/a/t", json!(2)), put("/d/a/u", json!(3)), put("/m/gone", Value::Null)]),
            (Form::Leaves, &["d", "a", "u"], vec![put("/d/a/u", json!(3))]),
            (Form::Patches, &[], vec![patch("/d/a", json!({"t": 2, "u": 3})), patch("/m", json!({"gone": null}))]),
            (Form::Patches, &["d", "a"], vec![patch("/", json!({"t": 2, "u": 3}))]),
            (Form::Patches, &["d", "a", "t"], vec![put("/", json!(2))]),
        ];
        for (form, path, expected) in table {
            assert_eq!(events(form, path, &old, &new), expected, "{form:?} {path:?}");
        }
    }
}
