//! A helper in another language, asked with types: `examples/tariff.py` knows what electricity costs.
//!
//! It takes a configuration that starts it:
//!
//! ```toml
//! [helper.tariff]
//! command = ["python3", "examples/tariff.py"]
//! ```
//!
//! `curl localhost:8080/price/2` answers with the price of two kilowatt-hours, whichever worker takes it,
//! and `curl -X POST localhost:8080/change/29.5` changes it for all.

use std::process::ExitCode;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Router, response::Result as Answer};
use forebay::{Answers, App, CallError, Client, Interface, Request, Update};
use serde::{Deserialize, Serialize};

/// What `examples/tariff.py` answers and tells.
struct Tariff;

impl Interface for Tariff {
    /// Cents for a kilowatt-hour.
    type Event = f64;
    type Error = String;
}

#[derive(Serialize, Deserialize)]
struct Price {
    kwh: f64,
}

impl Request for Price {
    const METHOD: &'static str = "price";
    const IDEMPOTENT: bool = true;
    type Reply = f64;
}

impl Answers<Price> for Tariff {}

#[derive(Serialize, Deserialize)]
struct Change {
    cents: f64,
}

impl Request for Change {
    const METHOD: &'static str = "change";
    type Reply = ();
}

impl Answers<Change> for Tariff {}

async fn price(State(tariff): State<Client<Tariff>>, Path(kwh): Path<f64>) -> Answer<String> {
    let cents = tariff.call(Price { kwh }).await.map_err(refused)?;
    Ok(format!("{cents} ct\n"))
}

async fn change(State(tariff): State<Client<Tariff>>, Path(cents): Path<f64>) -> Answer<()> {
    Ok(tariff.call(Change { cents }).await.map_err(refused)?)
}

fn refused(error: CallError<String>) -> (StatusCode, String) {
    let status = match &error {
        CallError::Failed(_) => StatusCode::UNPROCESSABLE_ENTITY,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    };
    (status, format!("{error}\n"))
}

/// Says in the log what the helper tells its subscribers.
async fn follow(tariff: Client<Tariff>) -> Result<(), CallError<String>> {
    let mut news = tariff.subscribe()?;
    loop {
        match news.next().await {
            Update::Snapshot { events, .. } => log::info!("the tariff is {events:?} ct"),
            Update::Event { event, .. } => log::info!("the tariff is now {event} ct"),
        }
    }
}

fn routes(tariff: Client<Tariff>) -> Router {
    Router::new().route("/price/{kwh}", get(price)).route("/change/{cents}", post(change)).with_state(tariff)
}

fn main() -> ExitCode {
    App::new("meter")
        .http(async |worker| {
            let tariff = worker.helper::<Tariff>("tariff")?;
            tokio::spawn(follow(tariff.clone()));
            Ok(routes(tariff))
        })
        .main()
}

#[cfg(test)]
mod tests {
    use axum::body::{Body, to_bytes};
    use axum::http::Request;
    use forebay::testing::Fake;
    use tower_service::Service;

    use super::*;

    /// The routes, and a tariff that this test made up.
    #[tokio::test]
    async fn a_price_is_shown_and_a_refusal_too() {
        let refuse = async |Change { cents }| Err(format!("{cents} ct is not a price"));
        let tariff = Fake::<Tariff>::named("tariff").on(async |Price { kwh }| Ok(kwh * 10.0)).on(refuse);
        let tariff = tariff.start().expect("a fake");
        let mut routes = routes(tariff.client().expect("its client"));
        for (method, path, status, text) in
            [("GET", "/price/2.5", 200, "25 ct\n"), ("POST", "/change/-1", 422, "-1 ct is not a price\n")]
        {
            let request = Request::builder().method(method).uri(path).body(Body::empty()).expect("a request");
            let answer = routes.call(request).await.expect("an answer");
            assert_eq!(answer.status(), status);
            assert_eq!(to_bytes(answer.into_body(), 1000).await.expect("a body"), text);
        }
    }
}
