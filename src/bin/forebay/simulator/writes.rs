//! What may be written to a thermostat and to a structure, and when: the rules of the real service.
//!
//! Pure: a write makes a new state or a refusal, never half of one.

use jiff::{SignedDuration, Timestamp};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::refusal::Refusal;
use super::structure::{Away, Structure};
use super::temperature::{CELSIUS_MAX, CELSIUS_MIN, FAHRENHEIT_MAX, FAHRENHEIT_MIN, Temperature};
use super::thermostat::{Mode, Range, Scale, Thermostat};

const THERMOSTAT_FIELDS: [&str; 11] = [
    "fan_timer_active",
    "fan_timer_duration",
    "hvac_mode",
    "label",
    "target_temperature_c",
    "target_temperature_f",
    "target_temperature_high_c",
    "target_temperature_high_f",
    "target_temperature_low_c",
    "target_temperature_low_f",
    "temperature_scale",
];
const STRUCTURE_FIELDS: [&str; 2] = ["away", "name"];

/// The durations of the fan's timer, in minutes.
const FAN_MINUTES: [u16; 8] = [15, 30, 45, 60, 120, 240, 480, 960];

/// How far the two ends of a band must be apart, in degrees Celsius.
const BAND_MIN: f64 = 1.5;

/// The longest name and label, in bytes.
const NAME_LEN_MAX: usize = 255;

pub(super) fn thermostat(old: &Thermostat, fields: &Map<String, Value>, now: Timestamp) -> Result<Thermostat, Refusal> {
    check_permission(fields, &THERMOSTAT_FIELDS)?;
    let mut new = old.clone();
    // The mode goes first: it decides which temperatures may be set in the same call.
    if let Some(mode) = read(fields, "hvac_mode")? {
        check_mode(&new, mode)?;
        new.set_mode(mode);
    }
    if let Some(target) = temperature(fields, "target_temperature")? {
        check_target(&new)?;
        check_lock(&new, target)?;
        new.target = target;
    }
    let low = temperature(fields, "target_temperature_low")?;
    let high = temperature(fields, "target_temperature_high")?;
    if low.is_some() || high.is_some() {
        new.band = band(&new, low, high)?;
    }
    if let Some(label) = read::<String>(fields, "label")? {
        check_len("label", &label)?;
        new.label = label;
    }
    if let Some(scale) = read::<Scale>(fields, "temperature_scale")? {
        new.scale = scale;
    }
    set_fan(&mut new, fields, now)?;
    if new != *old {
        new.last_connection = now;
    }
    Ok(new)
}

pub(super) fn structure(old: &Structure, fields: &Map<String, Value>) -> Result<Structure, Refusal> {
    check_permission(fields, &STRUCTURE_FIELDS)?;
    let mut new = old.clone();
    if let Some(away) = read::<Away>(fields, "away")? {
        new.away = away;
    }
    if let Some(name) = read::<String>(fields, "name")? {
        check_len("name", &name)?;
        if name.is_empty() {
            return Err(wrong_format("name", &Value::String(name)));
        }
        new.name = name;
    }
    Ok(new)
}

fn check_permission(fields: &Map<String, Value>, writable: &[&str]) -> Result<(), Refusal> {
    if fields.is_empty() {
        return Err(Refusal::WrongFormat { field: "body".to_owned(), value: "{}".to_owned() });
    }
    let forbidden: Vec<String> = fields.keys().filter(|field| !writable.contains(&field.as_str())).cloned().collect();
    if forbidden.is_empty() { Ok(()) } else { Err(Refusal::NoPermission { fields: forbidden }) }
}

fn check_mode(thermostat: &Thermostat, mode: Mode) -> Result<(), Refusal> {
    match mode {
        Mode::Cool | Mode::HeatCool if !thermostat.can_cool => {
            not_allowed("Cannot set this hvac_mode: the thermostat cannot cool")
        }
        Mode::Heat | Mode::Cool | Mode::HeatCool | Mode::Eco | Mode::Off => Ok(()),
    }
}

fn check_target(thermostat: &Thermostat) -> Result<(), Refusal> {
    match thermostat.mode {
        Mode::Heat | Mode::Cool => Ok(()),
        Mode::HeatCool => not_allowed("Cannot change target temperature while hvac_mode is heat-cool"),
        Mode::Eco => not_allowed("Cannot change target temperature while hvac_mode is eco"),
        Mode::Off => not_allowed("Cannot change target temperature while hvac_mode is off"),
    }
}

fn check_lock(thermostat: &Thermostat, target: Temperature) -> Result<(), Refusal> {
    match thermostat.lock {
        Some(lock) if target.is_below(lock.low) || lock.high.is_below(target) => {
            not_allowed("Cannot change target temperature beyond the lock's range")
        }
        Some(_) | None => Ok(()),
    }
}

/// One end may be written alone; the other stays.
fn band(thermostat: &Thermostat, low: Option<Temperature>, high: Option<Temperature>) -> Result<Range, Refusal> {
    if thermostat.mode != Mode::HeatCool {
        return not_allowed("Cannot change target temperature low/high unless hvac_mode is heat-cool");
    }
    let band = Range { low: low.unwrap_or(thermostat.band.low), high: high.unwrap_or(thermostat.band.high) };
    check_lock(thermostat, band.low)?;
    check_lock(thermostat, band.high)?;
    if band.high.celsius() - band.low.celsius() < BAND_MIN {
        return not_allowed("Cannot set target temperature low so close to target temperature high");
    }
    Ok(band)
}

fn set_fan(thermostat: &mut Thermostat, fields: &Map<String, Value>, now: Timestamp) -> Result<(), Refusal> {
    let minutes = read::<u16>(fields, "fan_timer_duration")?;
    let active = read::<bool>(fields, "fan_timer_active")?;
    if (minutes.is_some() || active.is_some()) && !thermostat.has_fan {
        return not_allowed("Cannot change the fan timer: the thermostat has no fan");
    }
    if let Some(minutes) = minutes {
        if !FAN_MINUTES.contains(&minutes) {
            return Err(wrong_format("fan_timer_duration", &Value::from(minutes)));
        }
        thermostat.fan_minutes = minutes;
    }
    if let Some(active) = active {
        let until = now + SignedDuration::from_mins(i64::from(thermostat.fan_minutes));
        thermostat.fan_until = active.then_some(until);
    }
    Ok(())
}

/// A temperature comes in one of the two scales.
fn temperature(fields: &Map<String, Value>, name: &str) -> Result<Option<Temperature>, Refusal> {
    let (celsius, fahrenheit) = (format!("{name}_c"), format!("{name}_f"));
    match (read::<f64>(fields, &celsius)?, read::<f64>(fields, &fahrenheit)?) {
        (Some(_), Some(_)) => not_allowed("Cannot change one temperature in both scales in one call"),
        (Some(value), None) => {
            check_range(&celsius, value, CELSIUS_MIN, CELSIUS_MAX)?;
            Ok(Some(Temperature::from_celsius(value)))
        }
        (None, Some(value)) => {
            check_range(&fahrenheit, value, FAHRENHEIT_MIN, FAHRENHEIT_MAX)?;
            Ok(Some(Temperature::from_fahrenheit(value)))
        }
        (None, None) => Ok(None),
    }
}

fn check_range(field: &str, value: f64, min: f64, max: f64) -> Result<(), Refusal> {
    let field = field.to_owned();
    if value < min {
        Err(Refusal::TooLow { field, value })
    } else if value > max {
        Err(Refusal::TooHigh { field, value })
    } else {
        Ok(())
    }
}

fn check_len(field: &str, text: &str) -> Result<(), Refusal> {
    if text.len() > NAME_LEN_MAX { Err(wrong_format(field, &Value::from(text))) } else { Ok(()) }
}

fn read<T: DeserializeOwned>(fields: &Map<String, Value>, name: &str) -> Result<Option<T>, Refusal> {
    let Some(value) = fields.get(name) else {
        return Ok(None);
    };
    serde_json::from_value(value.clone()).map(Some).map_err(|_| wrong_format(name, value))
}

fn wrong_format(field: &str, value: &Value) -> Refusal {
    let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    Refusal::WrongFormat { field: field.to_owned(), value }
}

fn not_allowed<T>(why: &str) -> Result<T, Refusal> {
    Err(Refusal::NotAllowed(why.to_owned()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    /// In each row: the mode, the body, and the start of the refusal's message.
    #[test]
    fn thermostats_refuse() {
        let table = [
            ("heat", json!({}), "body '{}' is in wrong format"),
            ("heat", json!({"target_temperature_c": "warm"}), "target_temperature_c 'warm' is in wrong format"),
            ("heat", json!({"target_temperature_c": null}), "target_temperature_c 'null' is in wrong format"),
            ("heat", json!({"target_temperature_c": 32.5}), "target_temperature_c value is too high: 32.5"),
            ("heat", json!({"target_temperature_c": 8.9}), "target_temperature_c value is too low: 8.9"),
            ("heat", json!({"target_temperature_f": 91}), "target_temperature_f value is too high: 91"),
            ("heat", json!({"target_temperature_f": 49}), "target_temperature_f value is too low: 49"),
            ("heat", json!({"target_temperature_c": 20, "target_temperature_f": 68}), "Cannot change one temperature"),
            ("heat", json!({"target_temperature_low_c": 20}), "Cannot change target temperature low/high unless"),
            ("heat", json!({"hvac_mode": "warm"}), "hvac_mode 'warm' is in wrong format"),
            ("heat", json!({"humidity": 3}), "No write permission(s) for field(s): humidity"),
            ("heat", json!({"label": 3}), "label '3' is in wrong format"),
            ("heat", json!({"temperature_scale": "K"}), "temperature_scale 'K' is in wrong format"),
            ("heat", json!({"fan_timer_duration": 16}), "fan_timer_duration '16' is in wrong format"),
            ("heat", json!({"fan_timer_active": "yes"}), "fan_timer_active 'yes' is in wrong format"),
            ("off", json!({"target_temperature_c": 20}), "Cannot change target temperature while hvac_mode is off"),
            ("eco", json!({"target_temperature_c": 20}), "Cannot change target temperature while hvac_mode is eco"),
            ("heat-cool", json!({"target_temperature_c": 20}), "Cannot change target temperature while hvac_mode is"),
            ("heat-cool", json!({"target_temperature_low_c": 23}), "Cannot set target temperature low so close"),
            ("heat-cool", json!({"target_temperature_high_c": 18}), "Cannot set target temperature low so close"),
        ];
        for (mode, body, expected) in table {
            let old = in_mode(0, mode);
            let refusal = thermostat(&old, &fields(&body), NOW).expect_err(expected);
            let message = refusal.body(0)["message"].as_str().unwrap_or_default().to_owned();
            assert!(message.starts_with(expected), "{mode} {body}: {message}");
            assert_eq!(refusal.status(), 400);
        }
    }

    #[test]
    fn a_device_does_what_it_can() {
        let simple = in_mode(2, "heat");
        for body in [json!({"hvac_mode": "cool"}), json!({"hvac_mode": "heat-cool"}), json!({"fan_timer_active": true})]
        {
            assert!(matches!(thermostat(&simple, &fields(&body), NOW), Err(Refusal::NotAllowed(_))), "{body}");
        }
        let locked = in_mode(3, "cool");
        for (celsius, allowed) in [(17.5, false), (18.0, true), (25.0, true), (25.5, false)] {
            let body = json!({ "target_temperature_c": celsius });
            assert_eq!(thermostat(&locked, &fields(&body), NOW).is_ok(), allowed, "{celsius}");
        }
    }

    #[test]
    fn thermostats_take() {
        let written = |mode: &str, body: Value| thermostat(&in_mode(0, mode), &fields(&body), NOW).expect("taken");
        let new = written("heat", json!({"target_temperature_f": 73, "label": "up", "temperature_scale": "F"}));
        assert_eq!((new.target.celsius(), new.target.fahrenheit()), (23.0, 73));
        assert_eq!((new.label.as_str(), new.scale), ("up", Scale::F));
        let new = written("heat-cool", json!({"target_temperature_low_c": 18.5}));
        assert_eq!((new.band.low.celsius(), new.band.high.celsius()), (18.5, 24.0));
        let new = written("off", json!({"hvac_mode": "heat", "target_temperature_c": 25}));
        assert_eq!((new.mode, new.previous_mode, new.target.celsius()), (Mode::Heat, None, 25.0));
        let new = written("heat", json!({"hvac_mode": "eco"}));
        assert_eq!((new.mode, new.previous_mode), (Mode::Eco, Some(Mode::Heat)));
        let new = written("heat", json!({"fan_timer_active": true, "fan_timer_duration": 30}));
        assert_eq!(new.fan_until, Some(NOW + SignedDuration::from_mins(30)));
    }

    #[test]
    fn only_a_change_is_a_sign_of_life() {
        let old = in_mode(0, "heat");
        let later = NOW + SignedDuration::from_secs(1);
        for (celsius, connection) in [(21.5, NOW), (22.0, later)] {
            let body = json!({ "target_temperature_c": celsius });
            let new = thermostat(&old, &fields(&body), later).expect("taken");
            assert_eq!(new.last_connection, connection);
        }
    }

    #[test]
    fn structures_take_and_refuse() {
        let old = Structure::numbered(0);
        let new = structure(&old, &fields(&json!({"away": "away", "name": "Cabin"}))).expect("taken");
        assert_eq!((new.away, new.name.as_str()), (Away::Away, "Cabin"));
        for body in [json!({"away": "auto"}), json!({"name": ""}), json!({"name": "n".repeat(256)}), json!({})] {
            assert!(matches!(structure(&old, &fields(&body)), Err(Refusal::WrongFormat { .. })), "{body}");
        }
        let refusal = structure(&old, &fields(&json!({"time_zone": "UTC", "away": "home"}))).expect_err("read-only");
        assert_eq!(refusal, Refusal::NoPermission { fields: vec!["time_zone".to_owned()] });
    }

    fn in_mode(number: usize, mode: &str) -> Thermostat {
        let mode = serde_json::from_value(json!(mode)).expect("a mode");
        Thermostat { mode, ..Thermostat::numbered(number, "s", NOW) }
    }

    fn fields(body: &Value) -> Map<String, Value> {
        body.as_object().expect("an object").clone()
    }
}
