//! Jobs: what runs at a time, once in the whole server, in the one process of the helper `schedule`.
//!
//! `when` knows when a job is due, `plan` decides without a clock what begins and what was missed,
//! `process` carries it out, and `memory` keeps what the next process must know.

mod memory;
mod plan;
mod process;
mod when;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use serde::de::DeserializeOwned;

use self::process::Schedule;
use self::when::{When, Zone};
use super::client::Client;
use super::declaration;
use super::traits::Interface;
use crate::app::declare::{App, Declaration, LocalFuture, Neighbours};
use crate::contract::ids::check_name;
use crate::error::Result;

/// The helper's name.
const NAME: &str = "schedule";

/// The most jobs of an application.
const JOBS_MAX: usize = 256;

/// What a helper's process is given to run.
type Jobs = Vec<&'static Job>;

type Act = Box<dyn Fn(Run) -> LocalFuture<Result<()>> + Send + Sync>;

/// Something that runs at a time: once in the whole server, however many replicas there are.
///
/// All jobs of an application run in one process, the helper `schedule`, which `status` shows with
/// what is due next. It has one thread: what computes for long belongs into
/// [`spawn_blocking`](https://docs.rs/tokio/latest/tokio/task/fn.spawn_blocking.html). A run's error, or
/// panic, is logged and costs that run.
///
/// ```
/// use std::time::Duration;
///
/// use forebay::{App, Job, Run};
///
/// let app = App::new("shop")
///     .job(Job::cron("report", "0 6 * * *", async |run: Run| {
///         log::info!("a report of the day that ends at {:?}", run.due());
///         Ok(())
///     }))
///     .job(Job::every("poll", Duration::from_secs(30), async |_| Ok(())));
/// ```
///
/// A due time never has two runs, also where a process dies, a reload replaces it (a run that is under
/// way is finished before, within `[timeouts] drain`, else cancelled), or the clock goes back by less
/// than a day. So some have none, which the log says, and [`Run::missed`]: those when the daemon was
/// down, the process was being replaced, the last run was still busy, or the clock was set forwards. What is
/// known of earlier runs is in the run directory, which a restart of the system clears where it is the default.
///
/// `call schedule '{"method":"jobs"}'` lists the jobs; `{"method":"run","params":{"job":"report"}}`
/// begins a run now.
pub struct Job {
    name: &'static str,
    when: Result<When, String>,
    overlaps: bool,
    catches_up: bool,
    act: Act,
}

/// One run of a job.
#[derive(Clone)]
pub struct Run {
    job: &'static str,
    due: Timestamp,
    missed: u64,
    neighbours: &'static Neighbours,
}

impl App {
    /// Declares a job. [`Job`] has an example.
    ///
    /// Its name is as a helper's, and no other job's. A wrong name, expression or interval is an error
    /// of the start, and of the command `check`.
    pub fn job(mut self, job: Job) -> Self {
        let known = self.helpers.iter().find_map(|helper| helper.given?.downcast_ref::<Jobs>());
        let mut jobs = known.cloned().unwrap_or_default();
        self.mistakes.extend(job.mistakes(&jobs));
        // An application is declared once in a process.
        jobs.push(Box::leak(Box::new(job)));
        self.helpers.retain(|helper| helper.given.is_none());
        self.helpers.push(Declaration { given: Some(Box::leak(Box::new(jobs))), ..declaration::<Schedule>(NAME) });
        self
    }
}

impl Job {
    /// A job that runs when the clock is as the expression says: `0 6 * * *` is every day at six.
    ///
    /// The fields are those of crontab(5): minute, hour, day of the month, month, day of the week; a
    /// sixth one in front is seconds. The hours are those of the daemon's time zone (`TZ`,
    /// `/etc/localtime`).
    pub fn cron<F>(name: &'static str, expression: &'static str, act: F) -> Self
    where
        F: AsyncFn(Run) -> Result<()> + Send + Sync + 'static,
    {
        Self::of(name, When::cron(expression), act)
    }

    /// A job that runs again and again, from 10 ms to 10 years apart, whatever the clock shows. The first
    /// run is one interval after the job was first seen; a restart does not begin the wait anew.
    pub fn every<F>(name: &'static str, interval: Duration, act: F) -> Self
    where
        F: AsyncFn(Run) -> Result<()> + Send + Sync + 'static,
    {
        Self::of(name, When::every(interval), act)
    }

    /// The hours of the expression are those of UTC.
    #[must_use]
    pub fn utc(mut self) -> Self {
        if let Ok(When::Cron(expression)) = &mut self.when {
            expression.zone = Zone::Utc;
        }
        self
    }

    /// It may run more than once at a time, up to 64 times. Without this a run that is due while the
    /// last one is busy is missed.
    #[must_use]
    pub fn overlapping(mut self) -> Self {
        self.overlaps = true;
        self
    }

    /// When runs were missed because nothing ran here, or the clock was set forwards, the last one of
    /// them is run at once. Without this none is.
    #[must_use]
    pub fn catch_up(mut self) -> Self {
        self.catches_up = true;
        self
    }

    fn of<F>(name: &'static str, when: Result<When, String>, act: F) -> Self
    where
        F: AsyncFn(Run) -> Result<()> + Send + Sync + 'static,
    {
        let act = Arc::new(act);
        let act = Box::new(move |run| -> LocalFuture<Result<()>> {
            let act = act.clone();
            Box::pin(async move { act(run).await })
        });
        Self { name, when, overlaps: false, catches_up: false, act }
    }

    /// What is wrong with it, beside those.
    fn mistakes(&self, others: &[&'static Self]) -> Vec<String> {
        let twin = others.iter().any(|other| other.name == self.name);
        let twin = twin.then(|| format!("two jobs are named {}", self.name));
        let crowd = (others.len() == JOBS_MAX).then(|| format!("there are more than {JOBS_MAX} jobs"));
        let wrong = self.when.as_ref().err().map(|why| format!("job {}: {why}", self.name));
        let name = check_name("job", self.name).err();
        [name, twin, crowd, wrong].into_iter().flatten().collect()
    }
}

impl Run {
    /// The job's name.
    pub fn job(&self) -> &'static str {
        self.job
    }

    /// When it was due: a little ago, unless it [catches up](Job::catch_up).
    pub fn due(&self) -> SystemTime {
        self.due.into()
    }

    /// How many runs were due since the last one that began, and were not begun; counting ends at some
    /// ten thousand.
    pub fn missed(&self) -> u64 {
        self.missed
    }

    /// A client of the helper of this name.
    ///
    /// # Errors
    /// As those of [`Worker::helper`](crate::Worker::helper).
    pub fn helper<H: Interface>(&self, name: &str) -> Result<Client<H>> {
        Client::of(self.neighbours, name)
    }

    /// The section `[app]` of the configuration file, as [`Worker::config`](crate::Worker::config) gives it.
    ///
    /// # Errors
    /// The section is not what `T` takes; the error names the file and the key.
    pub fn config<T: DeserializeOwned + 'static>(&self) -> Result<T> {
        self.neighbours.configuration.section("app")
    }
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Job").field("name", &self.name).field("when", &self.when).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Run {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { job, due, missed, neighbours: _ } = self;
        f.debug_struct("Run").field("job", job).field("due", due).field("missed", missed).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn nothing(_: Run) -> Result<()> {
        Ok(())
    }

    #[test]
    fn jobs_share_one_helper_which_stands_last() {
        let app = App::new("shop").job(Job::cron("report", "0 6 * * *", nothing));
        let app = app.job(Job::every("poll", Duration::from_secs(1), nothing).overlapping().catch_up());
        assert_eq!(app.helpers.iter().map(|helper| helper.name).collect::<Vec<_>>(), [NAME]);
        assert!(app.mistakes.is_empty(), "{:?}", app.mistakes);
        let jobs = app.helpers[0].given.and_then(|given| given.downcast_ref::<Jobs>()).expect("jobs");
        assert_eq!(jobs.iter().map(|job| job.name).collect::<Vec<_>>(), ["report", "poll"]);
    }

    #[test]
    fn what_is_wrong_with_jobs_is_all_told_by_name() {
        let app = App::new("shop").job(Job::cron("report", "0 25 * * *", nothing));
        let app = app.job(Job::every("report", Duration::ZERO, nothing)).job(Job::cron("Re port", "@daily", nothing));
        let words =
            ["job report: the expression \"0 25 * * *\"", "two jobs", "job report: the interval 0ns", "\"Re port\""];
        assert_eq!(app.mistakes.len(), words.len(), "{:?}", app.mistakes);
        for (mistake, words) in app.mistakes.iter().zip(words) {
            assert!(mistake.contains(words), "{mistake}");
        }
    }
}
