//! The process of the helper `schedule`: looks at the clocks, begins the runs, and says how they end.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use super::memory;
use super::plan::{Begin, Moment, Order, Plan, Step};
use super::{Jobs, Run};
use crate::child::helper::context::Context;
use crate::child::helper::methods::Methods;
use crate::child::helper::traits::{Handle, Helper, Request};
use crate::child::panics::Caught;
use crate::error::{Chain, Result};

/// So much of a run's error is remembered, in characters.
const OUTCOME_LEN_MAX: usize = 200;

/// The helper.
pub(super) struct Schedule(Rc<Desk>);

/// What the runs and the requests share.
struct Desk {
    context: Context<Schedule>,
    jobs: &'static Jobs,
    plan: RefCell<Plan>,
    local: TimeZone,
    /// A run has begun or ended.
    changed: Notify,
    is_ending: Cell<bool>,
    cannot_write: Cell<bool>,
}

/// Lists the jobs.
#[derive(Serialize, Deserialize)]
pub(super) struct List {}

/// Begins a run now.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RunNow {
    job: String,
}

/// How a job stands; times are RFC 3339.
#[derive(Serialize, Deserialize)]
pub(super) struct Standing {
    job: String,
    when: String,
    last_begun: Option<String>,
    last_outcome: Option<String>,
    next_due: Option<String>,
    /// Since the last one begun.
    missed: u64,
    running: u32,
}

impl Request for List {
    const METHOD: &'static str = "jobs";
    const IDEMPOTENT: bool = true;
    type Reply = Vec<Standing>;
}

impl Request for RunNow {
    const METHOD: &'static str = "run";
    type Reply = Standing;
}

impl Helper for Schedule {
    type Config = ();
    type Event = ();
    type Error = String;

    async fn start((): (), context: Context<Self>) -> Result<Self> {
        let jobs: &'static Jobs = context.given().ok_or("a schedule without jobs")?;
        let known = memory::read(context.state_dir()).unwrap_or_else(|error| {
            log::error!("what was remembered of the jobs is unreadable and forgotten: {}", Chain(&*error));
            Default::default()
        });
        for name in known.keys().filter(|name| jobs.iter().all(|job| job.name != *name)) {
            log::info!("job {name}: forgotten, there is none of this name any more");
        }
        let mut orders = Vec::new();
        for job in jobs {
            let (name, overlaps, catches_up) = (job.name, job.overlaps, job.catches_up);
            orders.push(Order { name, when: job.when.clone()?, overlaps, catches_up });
        }
        let local = TimeZone::system();
        let (plan, steps) = Plan::new(orders, known, local.clone(), Moment::now());
        let desk = Rc::new(Desk {
            context,
            jobs,
            plan: RefCell::new(plan),
            local,
            changed: Notify::new(),
            is_ending: Cell::new(false),
            cannot_write: Cell::new(false),
        });
        desk.remember();
        desk.carry_out(steps);
        Ok(Self(desk))
    }

    async fn run(&self) -> Result<()> {
        loop {
            self.0.look();
            let sleep = self.0.plan.borrow().sleep(Moment::now());
            tokio::select! {
                () = tokio::time::sleep(sleep) => {}
                () = self.0.changed.notified() => {}
            }
        }
    }

    async fn finish(&self, limit: Duration) {
        let desk = &self.0;
        desk.is_ending.set(true);
        for (name, _) in desk.running() {
            log::info!("job {name}: runs, and has {} s to end", limit.as_secs_f64());
        }
        let ended = async {
            while !desk.running().is_empty() {
                desk.changed.notified().await;
            }
        };
        if tokio::time::timeout(limit, ended).await.is_ok() {
            return;
        }
        for (name, job) in desk.running() {
            log::warn!("job {name}: cancelled after {} s", limit.as_secs_f64());
            desk.plan.borrow_mut().ended(job, "cancelled".to_owned());
        }
        desk.remember();
    }

    fn methods(methods: Methods<Self>) -> Methods<Self> {
        methods.on::<List>().on::<RunNow>()
    }
}

impl Handle<List> for Schedule {
    async fn handle(&self, List {}: List) -> Result<Vec<Standing>, String> {
        Ok(self.0.standings())
    }
}

impl Handle<RunNow> for Schedule {
    async fn handle(&self, RunNow { job }: RunNow) -> Result<Standing, String> {
        if self.0.is_ending.get() {
            return Err("this process ends: ask again".to_owned());
        }
        self.0.look();
        let begin = self.0.plan.borrow_mut().run_now(&job, Moment::now())?;
        let number = begin.job;
        self.0.remember();
        self.0.begin(begin);
        self.0.changed.notify_one();
        Ok(self.0.standings().swap_remove(number))
    }
}

impl Desk {
    /// Begins what is due.
    fn look(self: &Rc<Self>) {
        let now = Moment::now();
        let steps = self.plan.borrow_mut().tick(now);
        // Before a run begins: whatever happens to this process, it is not begun again.
        if steps.iter().any(|step| matches!(step, Step::Begin(_))) {
            self.remember();
        }
        self.carry_out(steps);
        let next = self.plan.borrow().upcoming(now);
        self.context.note(&match next {
            Some((name, due)) => format!("next: {name} at {}", self.short(due, now.wall)),
            None => "no job is ever due".to_owned(),
        });
    }

    fn carry_out(self: &Rc<Self>, steps: Vec<Step>) {
        for step in steps {
            let name = |job: usize| self.jobs[job].name;
            match step {
                Step::Begin(begin) => self.begin(begin),
                Step::Missed { job, count, since } => {
                    let runs = if count == 1 { "run" } else { "runs" };
                    log::warn!("job {}: {count} {runs} missed since {}", name(job), self.long(since));
                }
                Step::Busy { job } => log::warn!("job {}: a run is missed, the last one is still busy", name(job)),
                Step::Unfinished { job, begun } => {
                    log::warn!("job {}: the run of {} did not end with its process", name(job), self.long(begun));
                }
            }
        }
    }

    fn begin(self: &Rc<Self>, Begin { job, due, missed }: Begin) {
        let (desk, declared) = (self.clone(), self.jobs[job]);
        let run = Run { job: declared.name, due, missed, neighbours: self.context.neighbours() };
        log::debug!("job {}: begins", declared.name);
        drop(tokio::task::spawn_local(async move {
            let outcome = match Caught::new(async { (declared.act)(run).await }).await {
                Ok(Ok(())) => "done".to_owned(),
                Ok(Err(error)) => {
                    let why = Chain(&*error).to_string();
                    log::error!("job {}: failed: {why}", declared.name);
                    format!("failed: {}", why.chars().take(OUTCOME_LEN_MAX).collect::<String>())
                }
                Err(_) => {
                    log::error!("job {}: panicked: its message is above", declared.name);
                    "panicked".to_owned()
                }
            };
            log::debug!("job {}: {outcome}", declared.name);
            desk.plan.borrow_mut().ended(job, outcome);
            desk.remember();
            desk.changed.notify_one();
        }));
    }

    /// Writes what the next process must know. A run begins also where that fails: a full disk stops no job.
    fn remember(&self) {
        let plan = self.plan.borrow();
        let jobs = plan.places().iter().map(|place| (place.order.name, &place.memory));
        match memory::write(self.context.state_dir(), jobs) {
            Ok(()) => self.cannot_write.set(false),
            Err(error) if self.cannot_write.replace(true) => log::debug!("{}", Chain(&*error)),
            Err(error) => log::error!("what the jobs have done cannot be written down: {}", Chain(&*error)),
        }
    }

    /// The jobs that run: name and number.
    fn running(&self) -> Vec<(&'static str, usize)> {
        let plan = self.plan.borrow();
        let places = plan.places().iter().enumerate();
        places.filter(|(_, place)| place.running > 0).map(|(number, place)| (place.order.name, number)).collect()
    }

    fn standings(&self) -> Vec<Standing> {
        let now = Moment::now();
        let standing = |place: &super::plan::Place| Standing {
            job: place.order.name.to_owned(),
            when: place.order.when.to_string(),
            last_begun: place.memory.begun.map(|begun| begun.to_string()),
            last_outcome: place.memory.outcome.clone(),
            next_due: place.due(now).map(|due| due.to_string()),
            missed: place.missed,
            running: place.running,
        };
        self.plan.borrow().places().iter().map(standing).collect()
    }

    /// `06:00`, as far as that says it.
    fn short(&self, time: Timestamp, now: Timestamp) -> String {
        let (then, now) = (time.to_zoned(self.local.clone()), now.to_zoned(self.local.clone()));
        let day = if then.date() == now.date() { String::new() } else { format!("{} ", then.date()) };
        let seconds = if then.second() == 0 { String::new() } else { format!(":{:02}", then.second()) };
        format!("{day}{:02}:{:02}{seconds}", then.hour(), then.minute())
    }

    fn long(&self, time: Timestamp) -> String {
        let then = time.to_zoned(self.local.clone());
        format!("{} {:02}:{:02}:{:02}", then.date(), then.hour(), then.minute(), then.second())
    }
}

impl Moment {
    fn now() -> Self {
        Self { wall: Timestamp::now(), steady: Instant::now() }
    }
}
