//! What `scripts/bench fanout` measures: one helper's events to ten thousand subscriptions in four workers.
//!
//! The helper publishes at a pace that it is told. Each worker counts what its subscriptions get, and
//! reports it to the helper, which `call` asks for the sum.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use forebay::{App, Client, Context, Handle, Helper, Methods, Request, Result, Subscription, Update};
use serde::{Deserialize, Serialize};
use tokio::time::MissedTickBehavior;

/// Subscriptions of each worker.
const SUBSCRIPTIONS: u64 = 2500;

/// How often a worker reports.
const REPORT: Duration = Duration::from_millis(50);

/// A subscription of this number, in every worker, is not read while the variable is set.
const STOPPED: u64 = 7;
const STOPPED_VARIABLE: &str = "FOREBAY_BENCH_STOPPED";

/// Publishes; adds up.
struct Source {
    context: Context<Self>,
    pace: Cell<f64>,
    counts: RefCell<BTreeMap<u16, Counts>>,
}

#[derive(Clone, Copy, Default, Serialize, Deserialize)]
struct Counts {
    /// Events that subscriptions have got.
    delivered: u64,
    /// Events that were left out for one that did not keep up.
    missed: u64,
}

/// So many events a second.
#[derive(Serialize, Deserialize)]
struct Pace {
    events: f64,
}

impl Request for Pace {
    const METHOD: &'static str = "pace";
    type Reply = ();
}

/// What a worker has counted until now.
#[derive(Serialize, Deserialize)]
struct Report {
    slot: u16,
    counts: Counts,
}

impl Request for Report {
    const METHOD: &'static str = "report";
    const IDEMPOTENT: bool = true;
    type Reply = ();
}

/// What all have.
#[derive(Serialize, Deserialize)]
struct Total {}

impl Request for Total {
    const METHOD: &'static str = "total";
    type Reply = Counts;
}

impl Helper for Source {
    type Config = ();
    type Event = String;
    type Error = String;

    async fn start(_: (), context: Context<Self>) -> Result<Self> {
        Ok(Self { context, pace: Cell::new(0.0), counts: RefCell::default() })
    }

    async fn run(&self) -> Result<()> {
        let mut ticks = tokio::time::interval(Duration::from_millis(1));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (event, mut owed) = ("o".repeat(64), 0.0);
        loop {
            let before = tokio::time::Instant::now();
            ticks.tick().await;
            owed += self.pace.get() * before.elapsed().as_secs_f64();
            while owed >= 1.0 {
                owed -= 1.0;
                self.context.publish(&event);
            }
        }
    }

    fn methods(methods: Methods<Self>) -> Methods<Self> {
        methods.on::<Pace>().on::<Report>().on::<Total>()
    }
}

impl Handle<Pace> for Source {
    async fn handle(&self, Pace { events }: Pace) -> Result<(), String> {
        self.pace.set(events);
        Ok(())
    }
}

impl Handle<Report> for Source {
    async fn handle(&self, Report { slot, counts }: Report) -> Result<(), String> {
        self.counts.borrow_mut().insert(slot, counts);
        Ok(())
    }
}

impl Handle<Total> for Source {
    async fn handle(&self, _: Total) -> Result<Counts, String> {
        let counts = self.counts.borrow();
        let sum = |of: fn(&Counts) -> u64| counts.values().map(of).sum();
        Ok(Counts { delivered: sum(|counts| counts.delivered), missed: sum(|counts| counts.missed) })
    }
}

/// What this worker's subscriptions have got.
#[derive(Default)]
struct Got {
    delivered: AtomicU64,
    missed: AtomicU64,
}

async fn read(mut news: Subscription<String>, got: Arc<Got>) {
    loop {
        match news.next().await {
            Update::Event { .. } => got.delivered.fetch_add(1, Ordering::Relaxed),
            Update::Snapshot { missed, .. } => got.missed.fetch_add(missed, Ordering::Relaxed),
        };
    }
}

async fn report(slot: u16, source: Client<Source>, got: Arc<Got>) {
    loop {
        tokio::time::sleep(REPORT).await;
        let count = |of: &AtomicU64| of.load(Ordering::Relaxed);
        let counts = Counts { delivered: count(&got.delivered), missed: count(&got.missed) };
        // The next one tells it too.
        let _ = source.call(Report { slot, counts }).await;
    }
}

fn main() -> ExitCode {
    App::new("bench-fanout")
        .helper::<Source>("source")
        .http(async |worker| {
            let source = worker.helper::<Source>("source")?;
            let (got, has_stopped) = (Arc::new(Got::default()), std::env::var_os(STOPPED_VARIABLE).is_some());
            for number in 0..SUBSCRIPTIONS {
                let news = source.subscribe()?;
                if has_stopped && number == STOPPED {
                    // Not dropped: it is subscribed and never looks.
                    Box::leak(Box::new(news));
                } else {
                    tokio::spawn(read(news, got.clone()));
                }
            }
            tokio::spawn(report(worker.slot(), source, got));
            Ok(Router::new())
        })
        .main()
}
