//! One thermostat: its state, what it makes of it, and how it reads on the wire.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::temperature::Temperature;

/// How many thermostats differ in more than their names before the kinds repeat.
const KINDS: usize = 4;

/// Where thermostats hang. One name is not ASCII, so that a stream can be cut within a character.
const PLACES: [&str; 10] = [
    "Hallway",
    "Bedroom",
    "Küche",
    "Living Room",
    "Office",
    "Basement",
    "Dining Room",
    "Guest Room",
    "Attic",
    "Kids Room",
];

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Mode {
    Heat,
    Cool,
    HeatCool,
    Eco,
    Off,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum HvacState {
    Heating,
    Cooling,
    Off,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub(super) enum Scale {
    F,
    C,
}

/// A lower and an upper bound.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Range {
    pub(super) low: Temperature,
    pub(super) high: Temperature,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Thermostat {
    pub(super) id: String,
    pub(super) structure: String,
    pub(super) place_id: String,
    pub(super) place: &'static str,
    pub(super) label: String,
    pub(super) last_connection: Timestamp,
    pub(super) can_cool: bool,
    pub(super) has_fan: bool,
    /// When the fan stops, while it runs.
    pub(super) fan_until: Option<Timestamp>,
    pub(super) fan_minutes: u16,
    pub(super) scale: Scale,
    pub(super) mode: Mode,
    pub(super) previous_mode: Option<Mode>,
    pub(super) ambient: Temperature,
    pub(super) target: Temperature,
    pub(super) band: Range,
    pub(super) eco: Range,
    pub(super) humidity_percent: u8,
    /// While the device is locked: what may still be asked of it.
    pub(super) lock: Option<Range>,
}

impl Range {
    pub(super) fn celsius(low: f64, high: f64) -> Self {
        Self { low: Temperature::from_celsius(low), high: Temperature::from_celsius(high) }
    }
}

impl Thermostat {
    /// The device with that number; the same number is always the same device.
    pub(super) fn numbered(number: usize, structure: &str, now: Timestamp) -> Self {
        let kind = number % KINDS;
        let round = number / PLACES.len();
        let place = number % PLACES.len();
        Self {
            id: token(1000 + number as u64, 22),
            structure: structure.to_owned(),
            place_id: token(2000 + place as u64, 54),
            place: PLACES[place],
            label: if round == 0 { String::new() } else { (round + 1).to_string() },
            last_connection: now,
            can_cool: kind != 2,
            has_fan: kind != 2,
            fan_until: None,
            fan_minutes: 15,
            scale: if kind == 1 { Scale::F } else { Scale::C },
            mode: [Mode::Heat, Mode::HeatCool, Mode::Heat, Mode::Cool][kind],
            previous_mode: None,
            ambient: Temperature::from_celsius(20.0),
            target: Temperature::from_celsius(21.5),
            band: Range::celsius(19.0, 24.0),
            eco: Range::celsius(12.5, 28.0),
            humidity_percent: 40,
            lock: (kind == 3).then(|| Range::celsius(18.0, 25.0)),
        }
    }

    /// What the device does at this temperature in this mode.
    pub(super) fn state(&self) -> HvacState {
        let (low, high) = match self.mode {
            Mode::Heat => (Some(self.target), None),
            Mode::Cool => (None, Some(self.target)),
            Mode::HeatCool => (Some(self.band.low), Some(self.band.high)),
            Mode::Eco => (Some(self.eco.low), self.can_cool.then_some(self.eco.high)),
            Mode::Off => (None, None),
        };
        if low.is_some_and(|low| self.ambient.is_below(low)) {
            HvacState::Heating
        } else if high.is_some_and(|high| high.is_below(self.ambient)) {
            HvacState::Cooling
        } else {
            HvacState::Off
        }
    }

    /// The last mode that heats or cools is remembered, so that one can come back to it.
    pub(super) fn set_mode(&mut self, mode: Mode) {
        match self.mode {
            Mode::Heat | Mode::Cool | Mode::HeatCool if mode != self.mode => self.previous_mode = Some(self.mode),
            Mode::Heat | Mode::Cool | Mode::HeatCool | Mode::Eco | Mode::Off => {}
        }
        self.mode = mode;
    }

    pub(super) fn document(&self) -> Value {
        let mut document = self.identity();
        let parts = [
            self.climate(),
            both("ambient_temperature", self.ambient),
            both("target_temperature", self.target),
            both("target_temperature_low", self.band.low),
            both("target_temperature_high", self.band.high),
            both("eco_temperature_low", self.eco.low),
            both("eco_temperature_high", self.eco.high),
            both("locked_temp_min", self.lock.unwrap_or(self.band).low),
            both("locked_temp_max", self.lock.unwrap_or(self.band).high),
        ];
        if let Value::Object(fields) = &mut document {
            for part in parts {
                if let Value::Object(part) = part {
                    fields.extend(part);
                }
            }
        }
        document
    }

    fn identity(&self) -> Value {
        let suffix = if self.label.is_empty() { String::new() } else { format!(" ({})", self.label) };
        json!({
            "device_id": self.id,
            "locale": "en-US",
            "software_version": "5.9.3-6",
            "structure_id": self.structure,
            "name": format!("{}{suffix}", self.place),
            "name_long": format!("{} Thermostat{suffix}", self.place),
            "label": self.label,
            "where_id": self.place_id,
            "where_name": self.place,
            "last_connection": wire_time(self.last_connection),
            "is_online": true,
        })
    }

    fn climate(&self) -> Value {
        let state = self.state();
        let target = if state == HvacState::Off { "~0" } else { "~15" };
        json!({
            "can_cool": self.can_cool,
            "can_heat": true,
            "is_using_emergency_heat": false,
            "has_fan": self.has_fan,
            "fan_timer_active": self.fan_until.is_some(),
            "fan_timer_timeout": wire_time(self.fan_until.unwrap_or(Timestamp::UNIX_EPOCH)),
            "fan_timer_duration": self.fan_minutes,
            "has_leaf": self.has_leaf(),
            "temperature_scale": self.scale,
            "hvac_mode": self.mode,
            "previous_hvac_mode": self.previous_mode.map_or(json!(""), |mode| json!(mode)),
            "hvac_state": state,
            "humidity": self.humidity_percent,
            "is_locked": self.lock.is_some(),
            "sunlight_correction_enabled": true,
            "sunlight_correction_active": false,
            "time_to_target": target,
            "time_to_target_training": "ready",
        })
    }

    /// The leaf that rewards thrift.
    fn has_leaf(&self) -> bool {
        match self.mode {
            Mode::Heat => self.target.celsius() <= 20.0,
            Mode::Cool => self.target.celsius() >= 25.0,
            Mode::HeatCool => self.band.low.celsius() <= 20.0 && self.band.high.celsius() >= 25.0,
            Mode::Eco => true,
            Mode::Off => false,
        }
    }
}

/// An opaque identifier of that length; the same seed is always the same identifier.
pub(super) fn token(seed: u64, len: usize) -> String {
    let mut random = fastrand::Rng::with_seed(seed);
    std::iter::repeat_with(|| random.alphanumeric()).take(len).collect()
}

/// ISO 8601 with milliseconds and `Z`.
fn wire_time(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string()
}

fn both(name: &str, temperature: Temperature) -> Value {
    json!({ format!("{name}_c"): temperature.celsius(), format!("{name}_f"): temperature.fahrenheit() })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every field that the real service documents.
    const FIELDS: &str = "device_id locale software_version structure_id name name_long label last_connection \
        is_online can_cool can_heat is_using_emergency_heat has_fan fan_timer_active fan_timer_timeout \
        fan_timer_duration has_leaf temperature_scale ambient_temperature_c ambient_temperature_f \
        target_temperature_c target_temperature_f target_temperature_high_c target_temperature_high_f \
        target_temperature_low_c target_temperature_low_f eco_temperature_high_c eco_temperature_high_f \
        eco_temperature_low_c eco_temperature_low_f hvac_mode previous_hvac_mode hvac_state humidity is_locked \
        locked_temp_min_c locked_temp_min_f locked_temp_max_c locked_temp_max_f sunlight_correction_enabled \
        sunlight_correction_active time_to_target time_to_target_training where_id where_name";

    #[test]
    fn a_document_has_every_field_and_no_other() {
        let now = "2026-03-04T05:06:07.0891Z".parse().expect("a time");
        let document = Thermostat::numbered(2, "s", now).document();
        let mut fields: Vec<&str> = FIELDS.split_whitespace().collect();
        fields.sort_unstable();
        let found: Vec<&String> = document.as_object().expect("an object").keys().collect();
        assert_eq!(found, fields);
        assert_eq!(document["last_connection"], "2026-03-04T05:06:07.089Z");
        assert_eq!(document["fan_timer_timeout"], "1970-01-01T00:00:00.000Z");
        assert_eq!(document["name_long"], "Küche Thermostat");
        assert_eq!(document["target_temperature_c"], json!(21.5));
        assert_eq!(document["target_temperature_f"], json!(71));
    }

    #[test]
    fn the_state_follows_mode_and_temperature() {
        let table = [
            (Mode::Heat, 20.0, HvacState::Heating),
            (Mode::Heat, 23.0, HvacState::Off),
            (Mode::Cool, 23.0, HvacState::Cooling),
            (Mode::Cool, 20.0, HvacState::Off),
            (Mode::HeatCool, 18.0, HvacState::Heating),
            (Mode::HeatCool, 22.0, HvacState::Off),
            (Mode::HeatCool, 25.0, HvacState::Cooling),
            (Mode::Eco, 12.0, HvacState::Heating),
            (Mode::Eco, 22.0, HvacState::Off),
            (Mode::Eco, 28.5, HvacState::Cooling),
            (Mode::Off, 5.0, HvacState::Off),
        ];
        for (mode, ambient, expected) in table {
            let mut thermostat = Thermostat::numbered(0, "s", Timestamp::UNIX_EPOCH);
            thermostat.mode = mode;
            thermostat.ambient = Temperature::from_celsius(ambient);
            assert_eq!(thermostat.state(), expected, "{mode:?} at {ambient}");
        }
    }

    #[test]
    fn identifiers_are_their_own_and_stay() {
        let ids: std::collections::BTreeSet<String> =
            (0..1000).map(|number| Thermostat::numbered(number, "s", Timestamp::UNIX_EPOCH).id).collect();
        assert_eq!(ids.len(), 1000);
        assert_eq!(token(7, 22), token(7, 22));
    }
}
