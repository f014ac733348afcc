//! The release after `ledger.rs`: a request with a note, a reply with a count. What is new has a
//! default, so that either release's workers can ask either release's helper.

use std::cell::Cell;
use std::process::ExitCode;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::{Router, routing::get};
use forebay::{App, Client, Context, Handle, Helper, Methods, Request, Result};
use serde::{Deserialize, Serialize};

struct Ledger {
    sum: Cell<u64>,
    count: Cell<u64>,
}

#[derive(Serialize, Deserialize)]
struct Add {
    by: u64,
    #[serde(default)]
    note: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct Sum {
    sum: u64,
    #[serde(default)]
    count: Option<u64>,
}

impl Request for Add {
    const METHOD: &'static str = "add";
    const IDEMPOTENT: bool = true;
    type Reply = Sum;
}

impl Helper for Ledger {
    const VERSION: Option<&'static str> = Some("8");
    type Config = ();
    type Event = u64;
    type Error = String;

    async fn start((): (), _: Context<Self>) -> Result<Self> {
        Ok(Self { sum: Cell::new(0), count: Cell::new(0) })
    }

    fn methods(methods: Methods<Self>) -> Methods<Self> {
        methods.on::<Add>()
    }
}

impl Handle<Add> for Ledger {
    async fn handle(&self, Add { by, note }: Add) -> Result<Sum, String> {
        self.sum.set(self.sum.get() + by);
        self.count.set(self.count.get() + 1);
        log::debug!("{}", note.unwrap_or_default());
        Ok(Sum { sum: self.sum.get(), count: Some(self.count.get()) })
    }
}

async fn add(State(ledger): State<Client<Ledger>>, Path(by): Path<u64>) -> (StatusCode, String) {
    match ledger.call(Add { by, note: Some("from the next release".to_owned()) }).await {
        Ok(Sum { sum, count }) => (StatusCode::OK, format!("{sum} {}", count.unwrap_or(0))),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
    }
}

fn main() -> ExitCode {
    App::new("ledger")
        .helper::<Ledger>("ledger")
        .http(async |worker| {
            let ledger = worker.helper::<Ledger>("ledger")?;
            Ok(Router::new().route("/add/{by}", get(add)).with_state(ledger))
        })
        .main()
}
