//! A release with one helper, and the next one (`ledger_next.rs`), whose messages have more fields.

use std::cell::Cell;
use std::process::ExitCode;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::{Router, routing::get};
use forebay::{App, Client, Context, Handle, Helper, Methods, Request, Result};
use serde::{Deserialize, Serialize};

struct Ledger {
    sum: Cell<u64>,
}

#[derive(Serialize, Deserialize)]
struct Add {
    by: u64,
}

#[derive(Serialize, Deserialize)]
struct Sum {
    sum: u64,
}

impl Request for Add {
    const METHOD: &'static str = "add";
    // Over a hand-over it may be asked again.
    const IDEMPOTENT: bool = true;
    type Reply = Sum;
}

impl Helper for Ledger {
    const VERSION: Option<&'static str> = Some("7");
    type Config = ();
    type Event = u64;
    type Error = String;

    async fn start((): (), _: Context<Self>) -> Result<Self> {
        Ok(Self { sum: Cell::new(0) })
    }

    fn methods(methods: Methods<Self>) -> Methods<Self> {
        methods.on::<Add>()
    }
}

impl Handle<Add> for Ledger {
    async fn handle(&self, Add { by }: Add) -> Result<Sum, String> {
        self.sum.set(self.sum.get() + by);
        Ok(Sum { sum: self.sum.get() })
    }
}

async fn add(State(ledger): State<Client<Ledger>>, Path(by): Path<u64>) -> (StatusCode, String) {
    match ledger.call(Add { by }).await {
        Ok(Sum { sum }) => (StatusCode::OK, sum.to_string()),
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
