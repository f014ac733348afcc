//! Why a call is not served, and the body that says so.

use hyper::StatusCode;
use serde_json::{Value, json};

/// Where the real service documents its messages.
const MESSAGES: &str = "https://developers.nest.com/reference/error-messages#";

#[derive(Debug, PartialEq)]
pub(super) enum Refusal {
    WrongFormat {
        field: String,
        value: String,
    },
    TooHigh {
        field: String,
        value: f64,
    },
    TooLow {
        field: String,
        value: f64,
    },
    /// Well formed, but not in the device's present state.
    NotAllowed(String),
    NoPermission {
        fields: Vec<String>,
    },
    LowBattery,
    Unauthorized,
    NotFound,
    WrongMethod,
    TooLarge,
    TooSlow,
    Blocked,
    Internal,
    Unavailable(&'static str),
    /// The fault that was asked for is none; the text names the known ones.
    UnknownFault(String),
}

impl Refusal {
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::WrongFormat { .. }
            | Self::TooHigh { .. }
            | Self::TooLow { .. }
            | Self::NotAllowed(_)
            | Self::NoPermission { .. }
            | Self::LowBattery
            | Self::UnknownFault(_) => StatusCode::BAD_REQUEST,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::WrongMethod => StatusCode::METHOD_NOT_ALLOWED,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::Blocked => StatusCode::TOO_MANY_REQUESTS,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// Each call has an `instance` of its own, which people quote to the service's support.
    pub(super) fn body(&self, instance: u128) -> Value {
        let (anchor, message, details) = self.words();
        json!({
            "error": message,
            "type": format!("{MESSAGES}{anchor}"),
            "message": message,
            "instance": uuid(instance),
            "details": details,
        })
    }

    fn words(&self) -> (&'static str, String, Value) {
        let none = json!({});
        match self {
            Self::WrongFormat { field, value } => (
                "format-error",
                format!("{field} '{value}' is in wrong format"),
                json!({ "field_name": field, "value": value }),
            ),
            Self::TooHigh { field, value } => (
                "temperature-too-high",
                format!("{field} value is too high: {value}"),
                json!({ "field_name": field, "value": value }),
            ),
            Self::TooLow { field, value } => (
                "temperature-too-low",
                format!("{field} value is too low: {value}"),
                json!({ "field_name": field, "value": value }),
            ),
            Self::NotAllowed(why) => ("not-allowed", why.clone(), none),
            Self::NoPermission { fields } => {
                let fields = fields.join(",");
                let message = format!("No write permission(s) for field(s): {fields}");
                ("no-write-permission", message, json!({ "fields": fields }))
            }
            Self::LowBattery => ("low-battery", "Cannot change the device: its battery is low".to_owned(), none),
            Self::Unauthorized => ("auth-error", "unauthorized".to_owned(), none),
            Self::NotFound => ("not-found", "not found".to_owned(), none),
            Self::WrongMethod => ("method-not-allowed", "method not allowed".to_owned(), none),
            Self::TooLarge => ("too-large", "request too large".to_owned(), none),
            Self::TooSlow => ("too-slow", "request too slow".to_owned(), none),
            Self::Blocked => ("blocked", "Blocked".to_owned(), none),
            Self::Internal => ("internal-error", "Internal error".to_owned(), none),
            Self::Unavailable(why) => ("service-unavailable", format!("Service unavailable: {why}"), none),
            Self::UnknownFault(why) => ("unknown-fault", why.clone(), none),
        }
    }
}

fn uuid(random: u128) -> String {
    let digits = format!("{random:032x}");
    [&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]].join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_has_the_five_fields() {
        let refusal = Refusal::NoPermission { fields: vec!["humidity".to_owned(), "name".to_owned()] };
        let body = refusal.body(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef);
        let message = "No write permission(s) for field(s): humidity,name";
        let expected = json!({
            "error": message,
            "type": "https://developers.nest.com/reference/error-messages#no-write-permission",
            "message": message,
            "instance": "01234567-89ab-cdef-0123-456789abcdef",
            "details": { "fields": "humidity,name" },
        });
        assert_eq!(body, expected);
        assert_eq!(refusal.status(), 400);
    }

    #[test]
    fn too_many_calls_are_blocked() {
        assert_eq!(Refusal::Blocked.body(0)["error"], "Blocked");
        assert_eq!(Refusal::Blocked.status(), 429);
    }
}
