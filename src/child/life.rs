//! What workers and helpers have in common: a fresh thread with a loop that the master can see
//! turning.

use std::os::unix::net::UnixStream;
use std::sync::OnceLock;
use std::time::Duration;

use tokio::runtime;
use tokio::sync::Notify;
use tokio::task::LocalSet;

use super::boot::{self, Seat};
use super::master::Master;
use super::zygote::Loaded;
use super::{foreign, helper, turn, worker};
use crate::contract::ids::Role;
use crate::contract::scoreboard::{Record, Scoreboard};
use crate::contract::time::heartbeat_period;
use crate::error::{BoxError, Chain, Exit, Result};
use crate::log::logger;
use crate::sys::{abort, signals};

/// How soon the log's socket is asked again when it did not take all.
const BACKLOG_RETRY: Duration = Duration::from_millis(10);

/// Threads for the application's blocking code (`tokio::task::spawn_blocking`, `tokio::fs`) in each
/// process: more of it waits.
const BLOCKING_THREADS_MAX: usize = 16;

/// This process's record in the scoreboard: a process is one child, once.
static RECORD: OnceLock<(Scoreboard, u32)> = OnceLock::new();

/// Whether the log's socket did not take all.
static BACKLOG: Notify = Notify::const_new();

pub(super) fn scoreboard() -> Option<&'static Scoreboard> {
    RECORD.get().map(|(scoreboard, _)| scoreboard)
}

pub(super) fn record() -> Option<Record<'static>> {
    RECORD.get().map(|(scoreboard, number)| scoreboard.record(*number))
}

/// Runs in a process that was just forked; returns when the process may end.
pub(super) fn run(loaded: Loaded, control: UnixStream) -> Exit {
    let (seat, lock) = match boot::begin(loaded.name, &control) {
        Ok(Some(begun)) => begun,
        Ok(None) => return Exit::Done,
        Err(error) => {
            log::error!("{}", Chain(&*error));
            return Exit::Bug;
        }
    };
    if let Some((name, program)) = foreign::program(&loaded, seat.begin.role) {
        return foreign::become_program(name, program, seat, lock, &control);
    }
    // A thread of its own: what `rand`, `fastrand` and `RandomState` keep for each thread was
    // copied into every child for the main one, and is new here.
    let thread = std::thread::Builder::new().name(loaded.name.to_owned());
    let life = match thread.spawn(move || spend(seat, control, loaded)) {
        Ok(life) => life,
        Err(error) => {
            log::error!("cannot start this process's thread: {error}");
            logger::close(boot::LAST_WORDS_MS);
            return Exit::Refused;
        }
    };
    let exit = life.join().unwrap_or(Exit::Failed);
    logger::close(boot::LAST_WORDS_MS);
    drop(lock);
    exit
}

/// The thread's whole life: a loop that turns.
fn spend(seat: Seat, control: UnixStream, loaded: Loaded) -> Exit {
    logger::batch_on_this_thread();
    let mut builder = runtime::Builder::new_current_thread();
    builder.enable_all().on_thread_park(end_of_turn).max_blocking_threads(BLOCKING_THREADS_MAX);
    let outcome = builder.build().map_err(BoxError::from).and_then(|runtime| {
        abort::show_this_stack()?;
        signals::unblock_all()?;
        // A helper's state may be `!Send`.
        runtime.block_on(LocalSet::new().run_until(live(seat, control, loaded)))
    });
    match outcome {
        Ok(()) => Exit::Done,
        Err(error) => {
            log::error!("{}", Chain(&*error));
            Exit::Failed
        }
    }
}

async fn live(seat: Seat, control: UnixStream, mut loaded: Loaded) -> Result<()> {
    let Seat { begin, scoreboard, tickets, listeners } = seat;
    if let Some(keys) = tickets {
        loaded.tls.seal_with(&keys)?;
    }
    if RECORD.set((scoreboard, begin.record)).is_err() {
        return Err("this process is somebody already".into());
    }
    let master = Master::new(control)?;
    turn::watch(Duration::from_millis(begin.slow_turn_ms));
    drop(tokio::spawn(heartbeat(begin.hang_ms)));
    drop(tokio::spawn(work_off_the_backlog()));
    match begin.role {
        Role::Worker(slot, generation) => worker::live(slot, generation, begin, listeners, master, loaded).await,
        Role::Helper(name, generation) => helper::live(name, generation, begin, listeners, master, loaded).await,
        role @ (Role::Log | Role::Zygote(_)) => Err(format!("no process of this kind can be {role}").into()),
    }
}

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

/// Shows the master that the loop turns.
async fn heartbeat(hang_ms: u64) {
    let mut beats = tokio::time::interval(heartbeat_period(Duration::from_millis(hang_ms)));
    beats.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let due = beats.tick().await;
        turn::late(due.elapsed());
        if let Some(record) = record() {
            record.beat();
        }
        logger::flush();
    }
}
