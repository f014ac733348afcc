//! `GET /events`: Server-Sent Events, a snapshot and then each change in order.
//!
//! `snapshot` is the list of all thermostats; then come `thermostat` (the whole object),
//! `thermostat_removed`, `structure`, `structure_removed`, and `upstream` when the connection to it
//! changes. A client that was here before says the last id it has seen and gets what it missed. The
//! stream ends with its worker, and the client connects again, to one that stays.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use futures_util::stream;

use crate::mirror::Mirror;

/// So long nothing happens before a comment shows both ends that the connection lives.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(15);

const KEEP_ALIVE: Bytes = Bytes::from_static(b": keep-alive\n\n");

pub(super) async fn follow(State(mirror): State<Mirror>, headers: HeaderMap) -> Response {
    let last = headers.get("last-event-id").and_then(|id| id.to_str().ok()).and_then(|id| id.trim().parse().ok());
    let texts = stream::unfold(mirror.follow(last), async |mut follower| {
        let text = tokio::time::timeout(KEEP_ALIVE_INTERVAL, follower.next()).await.unwrap_or(KEEP_ALIVE);
        Some((Ok::<_, Infallible>(text), follower))
    });
    let headers = [
        (CONTENT_TYPE, "text/event-stream"),
        // What stands between must neither keep it nor hold it back.
        (CACHE_CONTROL, "no-cache, no-transform"),
    ];
    (headers, [("x-accel-buffering", "no")], Body::from_stream(texts)).into_response()
}
