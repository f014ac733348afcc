//! Every replica has a database connection of its own, opened again when it is lost.
//!
//! `DATABASE_URL=postgres://user@localhost/name cargo run --release --example db`, then
//! `curl 127.0.0.1:8080/now`; `SELECT pid, application_name FROM pg_stat_activity` shows whose is which.

use std::error::Error;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::{Router, routing::get};
use forebay::{App, Result, Worker};
use tokio::sync::Mutex;
use tokio::time::timeout;
use tokio_postgres::{Client, Config, NoTls};

/// How long the database may take to be reached, and to answer a request.
const PATIENCE: Duration = Duration::from_secs(5);

/// One replica's connection, and how to open it again.
struct Database {
    config: Config,
    client: Mutex<Arc<Client>>,
}

fn main() -> ExitCode {
    App::new("db").http(replica).main()
}

async fn replica(worker: Worker) -> Result<Router> {
    let url = std::env::var("DATABASE_URL")
        .map_err(|error| format!("DATABASE_URL must say where the database is, postgres://user@host/name: {error}"))?;
    let mut config: Config = url.parse().map_err(|error| format!("DATABASE_URL is wrong: {}", chain(&error)))?;
    // A server that vanishes without a word counts as lost.
    config.connect_timeout(PATIENCE).tcp_user_timeout(PATIENCE);
    config.application_name(format!("db worker {}", worker.slot()));
    let client = connect(&config).await.map_err(|error| format!("cannot open DATABASE_URL: {}", chain(&*error)))?;
    let database = Database { config, client: Mutex::new(client) };
    Ok(Router::new().route("/now", get(now)).with_state(Arc::new(database)))
}

async fn now(State(database): State<Arc<Database>>) -> Result<String, StatusCode> {
    let answer = timeout(PATIENCE, database.now()).await.unwrap_or_else(|late| Err(late.into()));
    answer.map_err(|error| {
        log::warn!("the database does not answer: {}", chain(&*error));
        StatusCode::SERVICE_UNAVAILABLE
    })
}

impl Database {
    async fn now(&self) -> Result<String> {
        let sql = "SELECT now()::text, current_setting('application_name'), pg_backend_pid()";
        let row = self.client().await?.query_one(sql, &[]).await?;
        let (time, name, backend): (&str, &str, i32) = (row.get(0), row.get(1), row.get(2));
        Ok(format!("{time} {name} backend {backend}\n"))
    }

    async fn client(&self) -> Result<Arc<Client>> {
        // Whoever finds it closed opens it; the others wait here.
        let mut client = self.client.lock().await;
        if client.is_closed() {
            *client = connect(&self.config).await?;
        }
        Ok(client.clone())
    }
}

/// Opens a connection; what it needs to go on is a task of the worker's loop.
async fn connect(config: &Config) -> Result<Arc<Client>> {
    let (client, connection) = config.connect(NoTls).await?;
    tokio::spawn(async {
        if let Err(error) = connection.await {
            log::warn!("the database connection is lost: {}", chain(&error));
        }
    });
    Ok(Arc::new(client))
}

/// An error with its causes: what the database says is a cause.
fn chain(error: &(dyn Error + 'static)) -> String {
    error.source().map_or_else(|| error.to_string(), |cause| format!("{error}: {}", chain(cause)))
}
