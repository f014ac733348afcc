//! What the gateway answers.

mod events;
mod failure;
mod fields;
mod thermostats;

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, FromRef, State};
use axum::http::header::SERVER;
use axum::http::{HeaderValue, Method, StatusCode, Uri};
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Json, Router};
use forebay::{CallError, Result, Worker};
use serde_json::{Value, json};

use self::failure::Failure;
use crate::mirror::Mirror;
use crate::nest::{Nest, NestError, Set, WRITE_TIMEOUT};

/// The longest body of `POST /`, in bytes.
const LOG_LEN_MAX: usize = 1024 * 1024;

/// The longest body of a write, in bytes.
const WRITE_LEN_MAX: usize = 64 * 1024;

/// How much later than the helper itself a worker gives a write up, so that it hears the reason.
const WRITE_MARGIN: Duration = Duration::from_secs(1);

/// What handlers need.
#[derive(Clone)]
struct Gateway {
    mirror: Mirror,
    set: Setter,
}

impl FromRef<Gateway> for Mirror {
    fn from_ref(gateway: &Gateway) -> Self {
        gateway.mirror.clone()
    }
}

/// Takes a write to the upstream.
type Setter = Arc<dyn Fn(Set) -> Pin<Box<dyn Future<Output = SetOutcome> + Send>> + Send + Sync>;

type SetOutcome = Result<Value, CallError<NestError>>;

/// One replica's routes, with a mirror that the `nest` helper's events keep.
pub(crate) fn router(worker: &Worker) -> Result<Router> {
    let nest = worker.helper::<Nest>("nest")?;
    let mirror = Mirror::new();
    drop(tokio::spawn(mirror.clone().keep(nest.subscribe()?)));
    let writer = nest.with_deadline(WRITE_TIMEOUT + WRITE_MARGIN);
    let set: Setter = Arc::new(move |set| {
        let writer = writer.clone();
        Box::pin(async move { writer.call(set).await })
    });
    Ok(routes(Gateway { mirror, set }, worker.slot(), worker.generation()))
}

fn routes(gateway: Gateway, slot: u16, generation: u32) -> Router {
    let health = move |State(mirror): State<Mirror>| async move { Json(health(&mirror, slot, generation)) };
    let server = HeaderValue::try_from(format!("forebay/{slot}")).ok();
    let one = get(thermostats::one).put(thermostats::set).layer(DefaultBodyLimit::max(WRITE_LEN_MAX));
    Router::new()
        .route("/", post(log_body).layer(DefaultBodyLimit::max(LOG_LEN_MAX)))
        .route("/thermostats", get(thermostats::list))
        .route("/thermostats/{id}", one)
        .route("/events", get(events::follow))
        .route("/healthz", get(health))
        .fallback(async |uri: Uri| Failure::unknown_route(uri.path()))
        // The routes above, which have come before it; the header Allow stays.
        .method_not_allowed_fallback(async |method: Method| Failure::wrong_method(&method))
        .with_state(gateway)
        .layer(axum::middleware::map_response(move |mut response: Response| {
            if let Some(server) = &server {
                response.headers_mut().insert(SERVER, server.clone());
            }
            std::future::ready(response)
        }))
}

/// `POST /`: the body becomes a log record.
async fn log_body(body: Result<Bytes, BytesRejection>) -> Result<StatusCode, Failure> {
    let body = body?;
    log::info!(target: "body", "{}", String::from_utf8_lossy(&body));
    Ok(StatusCode::ACCEPTED)
}

/// `GET /healthz`: this worker serves; how the upstream is stands beside it.
fn health(mirror: &Mirror, slot: u16, generation: u32) -> Value {
    let upstream = mirror.link().map_or_else(|| json!({"state": "unknown"}), |link| json!(link));
    json!({"status": "ok", "worker": slot, "generation": generation, "upstream": upstream})
}

#[cfg(test)]
mod tests;
