//! A resource built once that every replica has, a logger, and one route that logs the body.
//!
//! `cargo run --release --example article`, then `curl -d 'hello' 127.0.0.1:8080/`.

use std::process::ExitCode;

use axum::http::StatusCode;
use axum::{Router, routing::post};
use forebay::{App, Worker};

/// What the program must know before it can serve.
struct Motto(String);

fn main() -> ExitCode {
    App::new("article")
        .preload(|_| {
            log::info!("the motto is read once");
            Ok(Motto("still waters run deep".to_owned()))
        })
        .http(replica)
        .main()
}

/// Runs once in every replica: each has its own router.
async fn replica(worker: Worker) -> forebay::Result<Router> {
    let motto = worker.preloaded::<Motto>()?;
    log::info!("replica {} knows that {}", worker.slot(), motto.0);
    Ok(Router::new().route("/", post(log_body)))
}

async fn log_body(body: String) -> StatusCode {
    log::info!("{body}");
    StatusCode::ACCEPTED
}
