//! `/thermostats`: reads are answered from this worker's mirror, writes by the upstream.

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection};
use axum::extract::{Path, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};

use super::Gateway;
use super::failure::Failure;
use super::fields;
use crate::mirror::{Found, Mirror};
use crate::nest::Set;

/// `GET /thermostats`: all of them, sorted by id.
pub(super) async fn list(State(mirror): State<Mirror>) -> Result<Response, Failure> {
    mirror.list().map(json).ok_or_else(Failure::not_ready)
}

/// `GET /thermostats/{id}`.
pub(super) async fn one(
    State(mirror): State<Mirror>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Response, Failure> {
    let Path(id) = id?;
    find(&mirror, &id).map(json)
}

/// `PUT /thermostats/{id}`: writes fields, and answers what the upstream says it has written.
pub(super) async fn set(
    State(Gateway { mirror, set }): State<Gateway>,
    id: Result<Path<String>, PathRejection>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Failure> {
    let Path(id) = id?;
    let fields = fields::read(&body?)?;
    find(&mirror, &id)?;
    let echo = set(Set { id, fields }).await?;
    Ok(Json(echo).into_response())
}

fn find(mirror: &Mirror, id: &str) -> Result<Bytes, Failure> {
    match mirror.one(id) {
        Found::Yes(thermostat) => Ok(thermostat),
        Found::No => Err(Failure::unknown_thermostat(id)),
        Found::NotReady => Err(Failure::not_ready()),
    }
}

fn json(text: Bytes) -> Response {
    ([(CONTENT_TYPE, "application/json")], text).into_response()
}
