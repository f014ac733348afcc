//! How a request fails: a status, and a JSON body that says why.

use axum::Json;
use axum::extract::rejection::{BytesRejection, PathRejection};
use axum::http::header::RETRY_AFTER;
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use forebay::CallError;
use serde_json::{Value, json};

use crate::nest::NestError;

/// When a client may come again after what passes by itself, in seconds.
const SOON_S: u64 = 1;

/// `{"error": …, "message": …, "field": …}`, or what the upstream said.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) status: StatusCode,
    error: &'static str,
    message: String,
    pub(super) field: Option<String>,
    retry_after_s: Option<u64>,
    /// The upstream's own body, if it is an object.
    upstream: Option<Value>,
}

impl Failure {
    fn new(status: StatusCode, error: &'static str, message: impl Into<String>) -> Self {
        Self { status, error, message: message.into(), field: None, retry_after_s: None, upstream: None }
    }

    fn soon(self) -> Self {
        Self { retry_after_s: Some(SOON_S), ..self }
    }

    fn saying(self, body: Value) -> Self {
        Self { upstream: Some(body).filter(Value::is_object), ..self }
    }

    pub(super) fn bad_json(message: String) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_json", message)
    }

    pub(super) fn wrong_field(field: Option<String>, message: String) -> Self {
        Self { field, ..Self::new(StatusCode::UNPROCESSABLE_ENTITY, "wrong_field", message) }
    }

    pub(super) fn unknown_thermostat(id: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "unknown_thermostat", format!("there is no thermostat {id}"))
    }

    pub(super) fn not_ready() -> Self {
        let message = "the upstream has told nothing yet";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "not_ready", message).soon()
    }

    pub(super) fn unknown_route(path: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "unknown_route", format!("there is nothing at {path}"))
    }

    pub(super) fn wrong_method(method: &Method) -> Self {
        let message = format!("{method} means nothing here: the header Allow says what does");
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "wrong_method", message)
    }

    /// What extracting a request's parts says.
    fn rejected(status: StatusCode, message: String) -> Self {
        let error = if status == StatusCode::PAYLOAD_TOO_LARGE { "too_large" } else { "bad_request" };
        Self::new(status, error, message)
    }
}

impl From<PathRejection> for Failure {
    fn from(rejection: PathRejection) -> Self {
        Self::rejected(rejection.status(), rejection.body_text())
    }
}

impl From<BytesRejection> for Failure {
    fn from(rejection: BytesRejection) -> Self {
        Self::rejected(rejection.status(), rejection.body_text())
    }
}

impl From<NestError> for Failure {
    fn from(error: NestError) -> Self {
        let message = error.to_string();
        match error {
            NestError::NotReady => Self::not_ready(),
            NestError::UnknownThermostat { id } => Self::unknown_thermostat(&id),
            NestError::Refused { status: 404, body } => {
                Self::new(StatusCode::NOT_FOUND, "unknown_thermostat", message).saying(body)
            }
            NestError::Refused { status: 400..=499, body } => {
                Self::new(StatusCode::BAD_REQUEST, "refused", message).saying(body)
            }
            NestError::Refused { .. } => Self::new(StatusCode::BAD_GATEWAY, "upstream_failed", message),
            NestError::RateLimited { retry_after_s, body } => {
                let failure = Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limited", message).saying(body);
                Self { retry_after_s, ..failure }
            }
            NestError::Unauthorized => Self::new(StatusCode::BAD_GATEWAY, "unauthorized", message),
            NestError::Unreachable { .. } => Self::new(StatusCode::SERVICE_UNAVAILABLE, "unreachable", message).soon(),
            NestError::Overloaded => Self::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", message).soon(),
        }
    }
}

impl From<CallError<NestError>> for Failure {
    fn from(error: CallError<NestError>) -> Self {
        let bad_gateway = |error, message: &str| Self::new(StatusCode::BAD_GATEWAY, error, message);
        let unavailable = |error, message: &str| Self::new(StatusCode::SERVICE_UNAVAILABLE, error, message).soon();
        match error {
            CallError::Failed(error) => error.into(),
            CallError::DeadlineExceeded => {
                let message = "the upstream's answer did not come in time: the write may have been carried out";
                Self::new(StatusCode::GATEWAY_TIMEOUT, "deadline_exceeded", message)
            }
            CallError::Overloaded => unavailable("overloaded", "too many requests wait for the upstream"),
            CallError::OutcomeUnknown => bad_gateway(
                "outcome_unknown",
                "the process that writes to the upstream died: the write may or may not have been carried out",
            ),
            CallError::Panicked => bad_gateway("failed", "the write failed: its message is in the log"),
            CallError::NotHandled(what) | CallError::BadRequest(what) => bad_gateway("failed", &what),
        }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let body = self.upstream.unwrap_or_else(|| {
            let mut body = json!({"error": self.error, "message": self.message});
            if let Some(field) = self.field {
                body["field"] = Value::String(field);
            }
            body
        });
        let mut response = (self.status, Json(body)).into_response();
        if let Some(seconds) = self.retry_after_s {
            response.headers_mut().insert(RETRY_AFTER, seconds.into());
        }
        response
    }
}
