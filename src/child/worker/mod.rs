//! A worker: one replica of the application, on a tokio loop of one thread.
//!
//! It says ready when the application's closure has returned, takes connections when told so, and
//! drains when told so, when TERM comes, or when the master is gone.

mod accept;
mod drain;
mod guard;
mod http;
mod master;

use std::future::poll_fn;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::OnceLock;
use std::task::Poll;
use std::time::Duration;

use tokio::runtime;
use tokio::sync::Notify;

use self::drain::Drain;
use self::master::Master;
use super::boot::{self, Seat};
use crate::app::declare::{HttpFn, Preloaded, Replica, Worker};
use crate::contract::ids::Role;
use crate::contract::orders::WorkerReport;
use crate::contract::scoreboard::{Record, Scoreboard};
use crate::error::{BoxError, Chain, Exit, Result};
use crate::log::logger;
use crate::sys::signals;

/// This process's record in the scoreboard: a process is one worker, once.
static RECORD: OnceLock<(Scoreboard, u32)> = OnceLock::new();

fn record() -> Option<Record<'static>> {
    RECORD.get().map(|(scoreboard, number)| scoreboard.record(*number))
}

/// Runs in a process that was just forked; returns when the process may end.
pub(super) fn run(name: &str, control: UnixStream, http: HttpFn, preloaded: Option<Preloaded>) -> Exit {
    let (seat, _lock) = match boot::begin(name, &control) {
        Ok(Some(begun)) => begun,
        Ok(None) => return Exit::Done,
        Err(error) => {
            log::error!("{}", Chain(&*error));
            return Exit::Bug;
        }
    };
    // A thread of its own: what `rand`, `fastrand` and `RandomState` keep for each thread was
    // copied into every child for the main one, and is new here.
    let thread = std::thread::Builder::new().name(name.to_owned());
    let worker = match thread.spawn(move || replica(seat, control, http, preloaded)) {
        Ok(worker) => worker,
        Err(error) => {
            log::error!("cannot start the replica's thread: {error}");
            logger::close(boot::LAST_WORDS_MS);
            return Exit::Refused;
        }
    };
    let exit = worker.join().unwrap_or(Exit::Failed);
    logger::close(boot::LAST_WORDS_MS);
    exit
}

/// The replica's whole life.
fn replica(seat: Seat, control: UnixStream, http: HttpFn, preloaded: Option<Preloaded>) -> Exit {
    logger::batch_on_this_thread();
    let built = runtime::Builder::new_current_thread().enable_all().on_thread_park(end_of_turn).build();
    let outcome = built.map_err(BoxError::from).and_then(|runtime| {
        signals::unblock_all()?;
        runtime.block_on(live(seat, control, http, preloaded))
    });
    match outcome {
        Ok(()) => Exit::Done,
        Err(error) => {
            log::error!("{}", Chain(&*error));
            Exit::Failed
        }
    }
}

/// Whether the log's socket did not take all.
static BACKLOG: Notify = Notify::const_new();

/// How soon it is asked again.
const BACKLOG_RETRY: Duration = Duration::from_millis(10);

/// What the socket does not take now is offered again soon, whatever else happens.
fn end_of_turn() {
    if logger::flush() {
        BACKLOG.notify_one();
    }
}

async fn work_off_the_backlog() {
    loop {
        BACKLOG.notified().await;
        tokio::time::sleep(BACKLOG_RETRY).await;
    }
}

async fn live(seat: Seat, control: UnixStream, http: HttpFn, preloaded: Option<Preloaded>) -> Result<()> {
    let Seat { begin, scoreboard, listeners } = seat;
    let Role::Worker(slot, generation) = begin.role else {
        return Err(format!("{} is no worker", begin.role).into());
    };
    if RECORD.set((scoreboard, begin.record)).is_err() {
        return Err("this process is a worker already".into());
    }
    let drain = Drain::new(Duration::from_millis(begin.drain_ms));
    let mut master = Master::new(control)?;
    drop(tokio::spawn(heartbeat(begin.hang_ms)));
    drop(tokio::spawn(work_off_the_backlog()));
    let worker = Worker { slot: slot.0, generation: generation.0, preloaded };
    let replica = match start(http, worker).await {
        Ok(replica) => replica,
        Err(error) => {
            master.report(&WorkerReport::Refused { reason: Chain(&*error).to_string() });
            return Err(error);
        }
    };
    master.report(&WorkerReport::Ready);
    if master.says_accept(&drain).await? {
        let replica: Rc<dyn Replica> = Rc::from(replica);
        tokio::select! {
            biased;
            () = master.says_drain(&drain) => {}
            error = accept::all(listeners, replica, drain.clone()) => return Err(error),
        }
    }
    drain.finish().await;
    Ok(())
}

/// Runs the application's closure; its panic is its error.
async fn start(http: HttpFn, worker: Worker) -> Result<Box<dyn Replica>> {
    let mut future = http(worker);
    poll_fn(|context| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(context))) {
        Ok(poll) => poll,
        Err(_) => Poll::Ready(Err("http panicked: its message is in the log".into())),
    })
    .await
}

/// Shows the master that the loop turns.
async fn heartbeat(hang_ms: u64) {
    let period = Duration::from_millis((hang_ms / 8).clamp(10, 1000));
    let mut beats = tokio::time::interval(period);
    beats.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        beats.tick().await;
        if let Some(record) = record() {
            record.beat();
        }
        logger::flush();
    }
}
