//! What runs at a time, once in the whole server: jobs.
//!
//! `jobs call schedule '{"method":"jobs"}'` lists them, `{"method":"run","params":{"job":"report"}}` begins
//! a run now, and `jobs status` says what is due next.

use std::process::ExitCode;
use std::time::Duration;

use axum::{Router, routing::get};
use forebay::{App, Job, Run};

fn main() -> ExitCode {
    App::new("jobs")
        // Every day at six. When nothing ran here then, it runs as soon as something does.
        .job(
            Job::cron("report", "0 6 * * *", async |run: Run| {
                log::info!("the report of the day, {} were missed", run.missed());
                Ok(())
            })
            .catch_up(),
        )
        // An error is logged, and costs this run.
        .job(Job::every("poll", Duration::from_secs(30), async |_| {
            log::info!("{}", std::fs::read_to_string("/proc/loadavg")?.trim());
            Ok(())
        }))
        .http(async |_| Ok(Router::new().route("/", get("Hello, World!"))))
        .main()
}
