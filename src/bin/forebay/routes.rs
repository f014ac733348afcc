//! What the gateway answers.

use axum::body::Bytes;
use axum::extract::DefaultBodyLimit;
use axum::http::header::SERVER;
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Json, Router};
use forebay::Worker;
use serde::Serialize;

/// The longest body of `POST /`, in bytes.
const BODY_LEN_MAX: usize = 1024 * 1024;

#[derive(Serialize)]
struct Health {
    status: &'static str,
    worker: u16,
    generation: u32,
}

/// One replica's routes.
pub(crate) fn router(worker: Worker) -> Router {
    let health =
        move || async move { Json(Health { status: "ok", worker: worker.slot(), generation: worker.generation() }) };
    let server = HeaderValue::try_from(format!("forebay/{}", worker.slot())).ok();
    Router::new()
        .route("/", post(log_body))
        .route("/healthz", get(health))
        .layer(DefaultBodyLimit::max(BODY_LEN_MAX))
        .layer(axum::middleware::map_response(move |mut response: Response| {
            if let Some(server) = &server {
                response.headers_mut().insert(SERVER, server.clone());
            }
            std::future::ready(response)
        }))
}

/// `POST /`: the body becomes a log record.
async fn log_body(body: Bytes) -> StatusCode {
    log::info!(target: "body", "{}", String::from_utf8_lossy(&body));
    StatusCode::ACCEPTED
}
