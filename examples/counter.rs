//! One counter for all replicas: a helper, asked by every worker.
//!
//! `curl -X POST localhost:8080/add/3` answers with the new count, whichever worker takes it;
//! `counter call counter '{"method":"add","params":{"by":3}}'` does the same from a script.

use std::cell::Cell;
use std::process::ExitCode;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::{Router, routing::post};
use forebay::{App, CallError, Client, Context, Handle, Helper, Methods, Request, Result};
use serde::{Deserialize, Serialize};

/// Counts for all replicas.
struct Counter {
    count: Cell<u64>,
    context: Context<Self>,
}

#[derive(Serialize, Deserialize)]
struct Add {
    by: u64,
}

impl Request for Add {
    const METHOD: &'static str = "add";
    type Reply = u64;
}

impl Helper for Counter {
    type Config = ();
    type Event = u64;
    type Error = String;

    async fn start(_config: (), context: Context<Self>) -> Result<Self> {
        Ok(Self { count: Cell::new(0), context })
    }

    fn methods(methods: Methods<Self>) -> Methods<Self> {
        methods.on::<Add>()
    }

    fn snapshot(&self) -> Vec<u64> {
        vec![self.count.get()]
    }
}

impl Handle<Add> for Counter {
    async fn handle(&self, add: Add) -> Result<u64, String> {
        let count = self.count.get().checked_add(add.by).ok_or("that is too much")?;
        self.count.set(count);
        self.context.publish(&count);
        Ok(count)
    }
}

async fn add(State(counter): State<Client<Counter>>, Path(by): Path<u64>) -> (StatusCode, String) {
    match counter.call(Add { by }).await {
        Ok(count) => (StatusCode::OK, format!("{count}\n")),
        Err(CallError::Failed(why)) => (StatusCode::CONFLICT, format!("{why}\n")),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")),
    }
}

fn main() -> ExitCode {
    App::new("counter")
        .helper::<Counter>("counter")
        .http(async |worker| {
            let counter = worker.helper::<Counter>("counter")?;
            Ok(Router::new().route("/add/{by}", post(add)).with_state(counter))
        })
        .main()
}
