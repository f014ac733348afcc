//! An application of jobs that last, fail and panic as its configuration says: the tests' clockwork.
//!
//! Each run writes into the journal that `[app]` names what it does: the job, its process, how many runs
//! were missed, when it was due in milliseconds, and what. `CLOCKWORK=wrong` in the environment declares
//! a job whose expression is wrong.

use std::cell::Cell;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, UNIX_EPOCH};

use axum::Router;
use forebay::{App, Context, Handle, Helper, Job, Methods, Request, Result, Run};
use serde::{Deserialize, Serialize};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    journal: PathBuf,
    /// How long a run of `slow` and `many` lasts.
    #[serde(default)]
    hold_ms: u64,
}

/// Counts for all.
struct Tally(Cell<u64>);

#[derive(Serialize, Deserialize)]
struct Next {}

impl Request for Next {
    const METHOD: &'static str = "next";
    type Reply = u64;
}

impl Helper for Tally {
    type Config = ();
    type Event = ();
    type Error = String;

    async fn start((): (), _: Context<Self>) -> Result<Self> {
        Ok(Self(Cell::new(0)))
    }

    fn methods(methods: Methods<Self>) -> Methods<Self> {
        methods.on::<Next>()
    }
}

impl Handle<Next> for Tally {
    async fn handle(&self, Next {}: Next) -> Result<u64, String> {
        self.0.set(self.0.get() + 1);
        Ok(self.0.get())
    }
}

fn write(run: &Run, what: &str) -> Result<()> {
    let settings: Settings = run.config()?;
    let due_ms = run.due().duration_since(UNIX_EPOCH)?.as_millis();
    let line = format!("{} {} {} {due_ms} {what}\n", run.job(), std::process::id(), run.missed());
    Ok(OpenOptions::new().create(true).append(true).open(settings.journal)?.write_all(line.as_bytes())?)
}

async fn count(run: Run) -> Result<()> {
    let count = run.helper::<Tally>("tally")?.call(Next {}).await?;
    write(&run, &count.to_string())
}

async fn hold(run: Run) -> Result<()> {
    write(&run, "begins")?;
    tokio::time::sleep(Duration::from_millis(run.config::<Settings>()?.hold_ms)).await;
    write(&run, "ends")
}

fn main() -> ExitCode {
    let often = Duration::from_millis(200);
    let mut app = App::new("clockwork")
        .config::<Settings>()
        .job(Job::every("beat", often, count))
        .job(Job::every("slow", often, hold))
        .job(Job::every("many", often, hold).overlapping())
        .job(Job::cron("yearly", "0 0 1 1 *", async |run: Run| write(&run, "runs")).catch_up().utc())
        .job(Job::cron("fails", "0 0 1 1 *", async |_| Err("the till is empty".into())))
        .job(Job::cron("panics", "0 0 1 1 *", async |_| panic!("as it was told")));
    if std::env::var("CLOCKWORK").is_ok_and(|fault| fault == "wrong") {
        app = app.job(Job::cron("odd", "6 o'clock", count));
    }
    app.helper::<Tally>("tally").http(async |_| Ok(Router::new())).main()
}
