//! Which fields of a thermostat may be written, and with what. Pure.
//!
//! Only what is wrong for every thermostat is refused here. What depends on the thermostat's state,
//! such as its mode, is for the upstream to say.

use std::ops::RangeInclusive;

use serde_json::Value;

use super::failure::Failure;
use crate::nest::Fields;

/// The longest label, in bytes.
const LABEL_LEN_MAX: usize = 255;

/// What a field takes.
enum Takes {
    Number(RangeInclusive<f64>),
    Whole(RangeInclusive<u64>),
    Switch,
    Word(&'static [&'static str]),
    Text,
}

const CELSIUS: Takes = Takes::Number(9.0..=32.0);
const FAHRENHEIT: Takes = Takes::Number(50.0..=90.0);

const WRITABLE: [(&str, Takes); 11] = [
    ("fan_timer_active", Takes::Switch),
    ("fan_timer_duration", Takes::Whole(15..=960)),
    ("hvac_mode", Takes::Word(&["heat", "cool", "heat-cool", "eco", "off"])),
    ("label", Takes::Text),
    ("target_temperature_c", CELSIUS),
    ("target_temperature_f", FAHRENHEIT),
    ("target_temperature_high_c", CELSIUS),
    ("target_temperature_high_f", FAHRENHEIT),
    ("target_temperature_low_c", CELSIUS),
    ("target_temperature_low_f", FAHRENHEIT),
    ("temperature_scale", Takes::Word(&["C", "F"])),
];

/// The fields that a body asks to write.
pub(super) fn read(body: &[u8]) -> Result<Fields, Failure> {
    let value: Value = serde_json::from_slice(body).map_err(|error| Failure::bad_json(format!("no JSON: {error}")))?;
    let Value::Object(fields) = value else {
        return Err(Failure::bad_json("the body is no JSON object".to_owned()));
    };
    if fields.is_empty() {
        return Err(Failure::wrong_field(None, "the body names no field".to_owned()));
    }
    for (name, value) in &fields {
        check(name, value).map_err(|why| Failure::wrong_field(Some(name.clone()), why))?;
    }
    Ok(fields)
}

fn check(name: &str, value: &Value) -> Result<(), String> {
    let Some((_, takes)) = WRITABLE.iter().find(|(writable, _)| *writable == name) else {
        return Err(format!("`{name}` cannot be written"));
    };
    match takes {
        Takes::Number(range) => match value.as_f64() {
            Some(number) if range.contains(&number) => Ok(()),
            Some(_) | None => Err(format!("`{name}` is a number from {} to {}", range.start(), range.end())),
        },
        Takes::Whole(range) => match value.as_u64() {
            Some(number) if range.contains(&number) => Ok(()),
            Some(_) | None => Err(format!("`{name}` is a whole number from {} to {}", range.start(), range.end())),
        },
        Takes::Switch if value.is_boolean() => Ok(()),
        Takes::Switch => Err(format!("`{name}` is true or false")),
        Takes::Word(words) => match value.as_str() {
            Some(word) if words.contains(&word) => Ok(()),
            Some(_) | None => Err(format!("`{name}` is one of {}", words.join(", "))),
        },
        Takes::Text => match value.as_str() {
            Some(text) if text.len() <= LABEL_LEN_MAX => Ok(()),
            Some(_) | None => Err(format!("`{name}` is a text of at most {LABEL_LEN_MAX} bytes")),
        },
    }
}

#[cfg(test)]
mod tests {
    use axum::http::StatusCode;

    use super::*;

    #[test]
    fn bodies_are_taken_or_refused_by_field() {
        let long = format!("{{\"label\":\"{}\"}}", "x".repeat(LABEL_LEN_MAX + 1));
        let table = [
            (r#"{"target_temperature_c":21.5}"#, 200, ""),
            (r#"{"target_temperature_c":9,"target_temperature_high_f":90.0}"#, 200, ""),
            (r#"{"hvac_mode":"heat-cool","fan_timer_active":true,"label":""}"#, 200, ""),
            (r#"{"fan_timer_duration":15,"temperature_scale":"C"}"#, 200, ""),
            ("", 400, ""),
            ("{", 400, ""),
            ("21.5", 400, ""),
            ("[]", 400, ""),
            ("{\"label\":\"\u{0}\"}", 400, ""),
            ("{}", 422, ""),
            (r#"{"target_temperature_c":8.9}"#, 422, "target_temperature_c"),
            (r#"{"target_temperature_c":32.1}"#, 422, "target_temperature_c"),
            (r#"{"target_temperature_c":"21"}"#, 422, "target_temperature_c"),
            (r#"{"target_temperature_c":null}"#, 422, "target_temperature_c"),
            (r#"{"target_temperature_low_f":49}"#, 422, "target_temperature_low_f"),
            (r#"{"fan_timer_duration":15.5}"#, 422, "fan_timer_duration"),
            (r#"{"fan_timer_active":1}"#, 422, "fan_timer_active"),
            (r#"{"hvac_mode":"warm"}"#, 422, "hvac_mode"),
            (r#"{"humidity":40}"#, 422, "humidity"),
            (r#"{"target_temperature_c":20,"wrong":1}"#, 422, "wrong"),
            (&long, 422, "label"),
        ];
        for (body, status, field) in table {
            match read(body.as_bytes()) {
                Ok(fields) => assert_eq!((status, fields.is_empty()), (200, false), "{body}"),
                Err(failure) => {
                    assert_eq!(failure.status, StatusCode::from_u16(status).expect("a status"), "{body}");
                    assert_eq!(failure.field.unwrap_or_default(), field, "{body}");
                }
            }
        }
    }
}
