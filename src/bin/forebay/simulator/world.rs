//! The devices and structures of one account, and how they change.
//!
//! Pure: time comes in with each call, and nothing here waits or is drawn by lot.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::refusal::Refusal;
use super::structure::{Away, Structure};
use super::temperature::Temperature;
use super::thermostat::{HvacState, Mode, Thermostat, token};
use super::writes;

/// Where the dial at the wall starts again from, and how far people turn it, in degrees Celsius.
const DIAL_MIN: f64 = 18.5;
const DIAL_MAX: f64 = 23.5;

/// What the humidity moves between, in percent.
const HUMIDITY_MIN: u8 = 35;
const HUMIDITY_MAX: u8 = 55;
const HUMIDITY_STEP: u8 = 5;

/// Below this a room does not cool down any further, in degrees Celsius.
const AMBIENT_MIN: f64 = 16.0;

#[derive(Clone)]
pub(super) struct World {
    thermostats: Vec<Thermostat>,
    structures: Vec<Structure>,
    /// Changes at the wall so far; each is another thermostat's turn.
    turns: usize,
}

impl World {
    /// Thermostats are dealt to the structures in turn.
    pub(super) fn new(thermostats: u16, structures: u16, now: Timestamp) -> Self {
        let structures: Vec<Structure> = (0..usize::from(structures)).map(Structure::numbered).collect();
        let thermostats = (0..usize::from(thermostats))
            .zip(structures.iter().cycle())
            .map(|(number, structure)| Thermostat::numbered(number, &structure.id, now))
            .collect();
        Self { thermostats, structures, turns: 0 }
    }

    pub(super) fn document(&self) -> Value {
        let thermostats: Map<String, Value> =
            self.thermostats.iter().map(|thermostat| (thermostat.id.clone(), thermostat.document())).collect();
        let structures: Map<String, Value> = self
            .structures
            .iter()
            .map(|structure| {
                let within = |thermostat: &&Thermostat| thermostat.structure == structure.id;
                let thermostats: Vec<&Thermostat> = self.thermostats.iter().filter(within).collect();
                (structure.id.clone(), structure.document(&thermostats))
            })
            .collect();
        json!({
            "devices": { "thermostats": thermostats },
            "structures": structures,
            "metadata": { "access_token": "c.simulated", "client_version": 1, "user_id": token(4000, 22) },
        })
    }

    /// A PUT to that path. Either all of it is taken or nothing, except at a parent.
    pub(super) fn write(&mut self, path: &[&str], body: &Value, now: Timestamp) -> Result<(), Refusal> {
        match path {
            ["devices", "thermostats", id] => self.write_thermostat(id, fields(body)?, now),
            ["devices", "thermostats", id, field] => self.write_thermostat(id, &only(field, body), now),
            ["structures", id] => self.write_structure(id, fields(body)?, now),
            ["structures", id, field] => self.write_structure(id, &only(field, body), now),
            // The real service answers 200 to a write of several devices and changes only some of them.
            ["devices", "thermostats"] | ["structures"] => match fields(body)?.iter().next() {
                Some((id, body)) => self.write(&[path, &[id.as_str()]].concat(), body, now),
                None => Ok(()),
            },
            [] | ["devices"] | ["metadata", ..] => {
                Err(Refusal::NoPermission { fields: vec![path.first().unwrap_or(&"/").to_string()] })
            }
            _ => Err(Refusal::NotFound),
        }
    }

    /// Somebody passes by, or the room warms up or cools down. There is always a change.
    pub(super) fn change_at_the_wall(&mut self, now: Timestamp) {
        let count = self.thermostats.len();
        let Some(thermostat) = self.thermostats.get_mut(self.turns % count.max(1)) else {
            return;
        };
        match self.turns / count % 3 {
            0 => drift(thermostat),
            1 => moisten(thermostat),
            _ => turn_dial(thermostat),
        }
        thermostat.last_connection = now;
        self.turns += 1;
    }

    /// Somebody does just that at that thermostat, or the first one.
    pub(super) fn turn(
        &mut self,
        id: Option<&str>,
        fields: &Map<String, Value>,
        ambient_celsius: Option<f64>,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        let chosen = |thermostat: &&mut Thermostat| id.is_none_or(|id| thermostat.id == id);
        let thermostat = self.thermostats.iter_mut().find(chosen).ok_or(Refusal::NotFound)?;
        let mut new = if fields.is_empty() { thermostat.clone() } else { writes::thermostat(thermostat, fields, now)? };
        if let Some(celsius) = ambient_celsius {
            new.ambient = Temperature::from_celsius(celsius);
            new.last_connection = now;
        }
        *thermostat = new;
        Ok(())
    }

    /// Stops the fans whose time is over.
    pub(super) fn advance(&mut self, now: Timestamp) {
        for thermostat in &mut self.thermostats {
            if thermostat.fan_until.is_some_and(|until| until <= now) {
                thermostat.fan_until = None;
                thermostat.last_connection = now;
            }
        }
    }

    fn write_thermostat(&mut self, id: &str, fields: &Map<String, Value>, now: Timestamp) -> Result<(), Refusal> {
        let thermostat = self.thermostats.iter_mut().find(|thermostat| thermostat.id == id).ok_or(Refusal::NotFound)?;
        *thermostat = writes::thermostat(thermostat, fields, now)?;
        Ok(())
    }

    fn write_structure(&mut self, id: &str, fields: &Map<String, Value>, now: Timestamp) -> Result<(), Refusal> {
        let structure = self.structures.iter_mut().find(|structure| structure.id == id).ok_or(Refusal::NotFound)?;
        let new = writes::structure(structure, fields)?;
        if new.away != structure.away {
            let within = self.thermostats.iter_mut().filter(|thermostat| thermostat.structure == id);
            within.for_each(|thermostat| follow(thermostat, new.away, now));
        }
        *structure = new;
        Ok(())
    }
}

/// The value at that path, if there is one.
pub(super) fn at<'a>(document: &'a Value, path: &[&str]) -> Option<&'a Value> {
    path.iter().try_fold(document, |value, part| value.as_object()?.get(*part))
}

/// An empty house saves energy; who comes home finds it as it was.
fn follow(thermostat: &mut Thermostat, away: Away, now: Timestamp) {
    let mode = match (away, thermostat.mode) {
        (Away::Away, Mode::Heat | Mode::Cool | Mode::HeatCool) => Some(Mode::Eco),
        (Away::Home, Mode::Eco) => thermostat.previous_mode,
        (Away::Away, Mode::Eco | Mode::Off) | (Away::Home, Mode::Heat | Mode::Cool | Mode::HeatCool | Mode::Off) => {
            None
        }
    };
    if let Some(mode) = mode {
        thermostat.set_mode(mode);
        thermostat.last_connection = now;
    }
}

fn drift(thermostat: &mut Thermostat) {
    let warmer = match thermostat.state() {
        HvacState::Heating => true,
        HvacState::Cooling => false,
        HvacState::Off => thermostat.ambient.celsius() <= AMBIENT_MIN,
    };
    thermostat.ambient = thermostat.ambient.stepped(warmer);
}

fn moisten(thermostat: &mut Thermostat) {
    let humidity = &mut thermostat.humidity_percent;
    *humidity = if *humidity >= HUMIDITY_MAX { HUMIDITY_MIN } else { *humidity + HUMIDITY_STEP };
}

fn turn_dial(thermostat: &mut Thermostat) {
    let dial = match thermostat.mode {
        Mode::Heat | Mode::Cool => &mut thermostat.target,
        Mode::HeatCool => &mut thermostat.band.low,
        // The dial does nothing then.
        Mode::Eco | Mode::Off => return moisten(thermostat),
    };
    let turned = dial.stepped(true);
    *dial = if turned.celsius() > DIAL_MAX { Temperature::from_celsius(DIAL_MIN) } else { turned };
    // The upper end of the band gives way.
    if thermostat.band.high.celsius() < thermostat.band.low.celsius() + 2.0 {
        thermostat.band.high = Temperature::from_celsius(thermostat.band.low.celsius() + 2.0);
    }
}

fn fields(body: &Value) -> Result<&Map<String, Value>, Refusal> {
    body.as_object().ok_or_else(|| Refusal::WrongFormat { field: "body".to_owned(), value: body.to_string() })
}

fn only(field: &str, value: &Value) -> Map<String, Value> {
    Map::from_iter([(field.to_owned(), value.clone())])
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    #[test]
    fn the_document_holds_everything() {
        let document = World::new(5, 2, NOW).document();
        assert_eq!(at(&document, &["devices", "thermostats"]).and_then(Value::as_object).map(Map::len), Some(5));
        let structures = document["structures"].as_object().expect("structures");
        let counts: Vec<usize> =
            structures.values().map(|structure| structure["thermostats"].as_array().map_or(0, Vec::len)).collect();
        assert_eq!(counts.iter().sum::<usize>(), 5);
        for (id, thermostat) in document["devices"]["thermostats"].as_object().expect("thermostats") {
            assert_eq!(thermostat["device_id"], *id);
            let structure = &structures[thermostat["structure_id"].as_str().expect("an id")];
            let place = thermostat["where_id"].as_str().expect("an id");
            assert_eq!(structure["wheres"][place]["name"], thermostat["where_name"]);
        }
        assert!(at(&document, &["devices", "cameras"]).is_none());
    }

    #[test]
    fn writes_find_their_place() {
        let mut world = World::new(2, 1, NOW);
        let (first, second, home) =
            (world.thermostats[0].id.clone(), world.thermostats[1].id.clone(), world.structures[0].id.clone());
        let ok = json!({"label": "x"});
        let table = [
            (vec!["devices", "thermostats", &first], ok.clone(), Ok(())),
            (vec!["devices", "thermostats", &first, "target_temperature_c"], json!(25), Ok(())),
            (vec!["structures", &home], json!({"name": "Hut"}), Ok(())),
            (vec!["structures", &home, "away"], json!("home"), Ok(())),
            (vec!["devices", "thermostats", "nobody"], ok.clone(), Err(404)),
            (vec!["structures", "nowhere"], json!({"name": "Hut"}), Err(404)),
            (vec!["devices", "cameras", "c"], ok.clone(), Err(404)),
            (vec!["elsewhere"], ok.clone(), Err(404)),
            (vec!["devices", "thermostats", &first], json!([1]), Err(400)),
            (vec!["devices", "thermostats", &second, "humidity"], json!(1), Err(400)),
            (vec!["metadata", "user_id"], json!("me"), Err(400)),
            (vec![], ok, Err(400)),
        ];
        for (path, body, expected) in table {
            let result = world.write(&path, &body, NOW).map_err(|refusal| refusal.status().as_u16());
            assert_eq!(result, expected, "{path:?} {body}");
        }
        assert_eq!(world.thermostats[0].target.celsius(), 25.0);
        assert_eq!(world.structures[0].name, "Hut");
    }

    #[test]
    fn a_write_of_several_devices_changes_one() {
        let mut world = World::new(3, 1, NOW);
        let body: Map<String, Value> =
            world.thermostats.iter().map(|thermostat| (thermostat.id.clone(), json!({"label": "all"}))).collect();
        assert_eq!(world.write(&["devices", "thermostats"], &Value::Object(body), NOW), Ok(()));
        assert_eq!(world.thermostats.iter().filter(|thermostat| thermostat.label == "all").count(), 1);
    }

    #[test]
    fn away_saves_and_home_restores() {
        let mut world = World::new(3, 1, NOW);
        let home = world.structures[0].id.clone();
        let before: Vec<Mode> = world.thermostats.iter().map(|thermostat| thermostat.mode).collect();
        world.write(&["structures", &home, "away"], &json!("away"), NOW).expect("taken");
        assert!(world.thermostats.iter().all(|thermostat| thermostat.mode == Mode::Eco));
        world.write(&["structures", &home, "away"], &json!("home"), NOW).expect("taken");
        let after: Vec<Mode> = world.thermostats.iter().map(|thermostat| thermostat.mode).collect();
        assert_eq!(before, after);
    }

    #[test]
    fn every_turn_changes_something_within_bounds() {
        let mut world = World::new(4, 1, NOW);
        world.thermostats[1].set_mode(Mode::Off);
        for turn in 0..1000 {
            let before = world.document();
            world.change_at_the_wall(NOW);
            assert_ne!(before, world.document(), "turn {turn}");
            for thermostat in &world.thermostats {
                assert!((10.0..30.0).contains(&thermostat.ambient.celsius()), "turn {turn}");
                assert!((18.0..=25.0).contains(&thermostat.target.celsius()), "turn {turn}");
            }
        }
        World::new(0, 1, NOW).change_at_the_wall(NOW);
    }

    #[test]
    fn one_turns_what_one_wants() {
        let mut world = World::new(2, 1, NOW);
        let id = world.thermostats[1].id.clone();
        world.turn(Some(&id), &Map::new(), Some(17.0), NOW).expect("there");
        assert_eq!(world.thermostats[1].ambient.celsius(), 17.0);
        world.turn(None, &only("target_temperature_c", &json!(18)), None, NOW).expect("there");
        assert_eq!(world.thermostats[0].target.celsius(), 18.0);
        assert_eq!(world.turn(Some("nobody"), &Map::new(), None, NOW), Err(Refusal::NotFound));
    }

    #[test]
    fn fans_stop_in_time() {
        let mut world = World::new(1, 1, NOW);
        let id = world.thermostats[0].id.clone();
        world.write(&["devices", "thermostats", &id, "fan_timer_active"], &json!(true), NOW).expect("taken");
        world.advance(NOW + Duration::from_secs(15 * 60 - 1));
        assert!(world.thermostats[0].fan_until.is_some());
        world.advance(NOW + Duration::from_secs(15 * 60));
        assert!(world.thermostats[0].fan_until.is_none());
    }
}
