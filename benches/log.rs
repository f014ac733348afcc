//! What `scripts/bench log` measures of forebay: workers that log, through the macros, into the log's file.
//!
//! The program is a daemon. Its helper `conductor` tells the workers what to do, all at once, and answers
//! `call` with what they report. A worker never logs faster than there is room on the way to the log helper,
//! so that nothing is refused; what it takes to find that out is not counted.

use std::cell::{Cell, RefCell};
use std::fmt::{self, Write};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::routing::get;
use forebay::{App, Client, Context, Handle, Helper, Methods, Request, Result, Update};
use nix::sys::signal::{Signal, raise};
use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

/// Records that are logged without a look whether there is room; over the socket, of one turn of the loop.
const BATCH: u64 = 256;

/// How soon is looked again where there is none.
const LOOK_AGAIN: Duration = Duration::from_micros(200);

/// Records that are formatted to see how long that takes.
const FORMATTED: u64 = 50_000;

/// Bytes of a record's message. As a line of the file it has 150.
const MESSAGE_LEN: usize = 92;
const LINE_LEN: u64 = 150;

/// Over the socket: records of a worker that are on their way at most. A sender holds five times as many.
const UNDERWAY: u64 = 4000;

/// What a period of [`Act::Pace`] has.
const PERIOD: Duration = Duration::from_micros(500);
const PERIOD_RECORDS: u64 = 10;

/// What workers are told to do, with records of these numbers.
#[derive(Clone, Serialize, Deserialize)]
struct Order {
    act: Act,
    /// All workers, or this one.
    slot: Option<u16>,
    from: u64,
    count: u64,
    /// The log's file, and how long it was before.
    file: PathBuf,
    len: u64,
    /// How many report.
    reports: usize,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
enum Act {
    /// As fast as there is room.
    Log,
    /// Ten each half of a millisecond.
    Pace,
    /// And then SIGKILL.
    Die,
}

impl Request for Order {
    const METHOD: &'static str = "order";
    type Reply = Vec<Report>;
}

/// What a worker has done.
#[derive(Clone, Serialize, Deserialize)]
struct Report {
    slot: u16,
    /// When it began, by the clock that does not jump.
    began_ns: u64,
    /// Of the processor, for all records.
    cpu_ns: u64,
    /// For one record that is only formatted.
    formatting_ns: f64,
    /// Records that were refused, and how often the log helper was woken; 0 over the socket.
    refused: u64,
    wakes: u64,
}

impl Request for Report {
    const METHOD: &'static str = "report";
    type Reply = ();
}

#[derive(Clone)]
struct Conductor(Rc<Desk>);

struct Desk {
    context: Context<Conductor>,
    reports: RefCell<Vec<Report>>,
    came: Notify,
}

impl Helper for Conductor {
    type Config = ();
    type Event = Order;
    type Error = String;

    async fn start(_: (), context: Context<Self>) -> Result<Self> {
        Ok(Self(Rc::new(Desk { context, reports: RefCell::default(), came: Notify::new() })))
    }

    fn methods(methods: Methods<Self>) -> Methods<Self> {
        methods.on::<Order>().on::<Report>()
    }
}

impl Handle<Order> for Conductor {
    async fn handle(&self, order: Order) -> Result<Vec<Report>, String> {
        self.0.reports.borrow_mut().clear();
        self.0.context.publish(&order);
        while self.0.reports.borrow().len() < order.reports {
            self.0.came.notified().await;
        }
        Ok(self.0.reports.borrow().clone())
    }
}

impl Handle<Report> for Conductor {
    async fn handle(&self, report: Report) -> Result<(), String> {
        self.0.reports.borrow_mut().push(report);
        self.0.came.notify_one();
        Ok(())
    }
}

fn main() -> ExitCode {
    App::new("bench-log")
        .helper::<Conductor>("conductor")
        .http(async |worker| {
            let client = worker.helper::<Conductor>("conductor")?;
            let mut orders = client.subscribe()?;
            let slot = worker.slot();
            tokio::spawn(async move {
                loop {
                    if let Update::Event { event, .. } = orders.next().await
                        && event.slot.is_none_or(|of| of == slot)
                    {
                        obey(slot, event, &client).await;
                    }
                }
            });
            Ok(Router::new().route("/", get(answer)))
        })
        .main()
}

/// A request that logs one line.
async fn answer() -> &'static str {
    thread_local!(static NUMBER: Cell<u64> = const { Cell::new(0) });
    let number = NUMBER.replace(NUMBER.get() + 1);
    say(&Message { producer: 0, number });
    "Hello, World!"
}

async fn obey(slot: u16, order: Order, client: &Client<Conductor>) {
    let (way, formatting_ns) = (Way::find(), formatting(slot));
    let before = way.counts();
    let began_ns = nanoseconds(ClockId::CLOCK_MONOTONIC);
    let cpu_ns = match order.act {
        Act::Log => log_fast(slot, &order, &way),
        Act::Pace => {
            let paced = order.clone();
            tokio::task::spawn_blocking(move || pace(slot, &paced)).await.unwrap_or_default()
        }
        Act::Die => {
            (order.from..order.from + order.count).for_each(|number| say(&Message { producer: slot, number }));
            let _ = raise(Signal::SIGKILL);
            0
        }
    };
    let after = way.counts();
    let (refused, wakes) = (after.0 - before.0, after.1 - before.1);
    // Where it does not come, `scripts/bench` says so.
    let _ = client.call(Report { slot, began_ns, cpu_ns, formatting_ns, refused, wakes }).await;
}

fn log_fast(slot: u16, order: &Order, way: &Way) -> u64 {
    let (mut number, end, mut cpu_ns) = (order.from, order.from + order.count, 0);
    while number < end {
        while !way.has_room(order, number - order.from) {
            std::thread::sleep(LOOK_AGAIN);
            log::logger().flush();
        }
        let before = nanoseconds(ClockId::CLOCK_THREAD_CPUTIME_ID);
        let batch = number..end.min(number + BATCH);
        number = batch.end;
        batch.for_each(|number| say(&Message { producer: slot, number }));
        // What the end of a turn does.
        log::logger().flush();
        cpu_ns += nanoseconds(ClockId::CLOCK_THREAD_CPUTIME_ID) - before;
    }
    cpu_ns
}

fn pace(slot: u16, order: &Order) -> u64 {
    let (start, before) = (Instant::now(), nanoseconds(ClockId::CLOCK_THREAD_CPUTIME_ID));
    for period in 0..order.count / PERIOD_RECORDS {
        let first = order.from + period * PERIOD_RECORDS;
        (first..first + PERIOD_RECORDS).for_each(|number| say(&Message { producer: slot, number }));
        let next = PERIOD * (period as u32 + 1);
        std::thread::sleep(next.saturating_sub(start.elapsed()));
    }
    nanoseconds(ClockId::CLOCK_THREAD_CPUTIME_ID) - before
}

/// How records go, to see whether there is room for more.
enum Way {
    /// Through the process's own ring: `src/log/ring` says what is in it.
    Ring(File),
    Socket,
}

/// Words of a ring.
const CAPACITY_AT: usize = 1;
const HEAD_AT: usize = 8;
const REFUSED_AT: usize = 10;
const WAKES_AT: usize = 15;
const TAIL_AT: usize = 16;
const WORDS: usize = 17;

/// More than a record of ours takes in a ring.
const RECORD_WORDS: u64 = 24;

impl Way {
    fn find() -> Self {
        let found = fs::read_dir("/proc/self/fd").into_iter().flatten().flatten().find(|descriptor| {
            fs::read_link(descriptor.path()).is_ok_and(|name| name.to_string_lossy().starts_with("/memfd:log ring"))
        });
        found.and_then(|descriptor| File::open(descriptor.path()).ok()).map_or(Self::Socket, Self::Ring)
    }

    fn words(&self) -> Option<[u64; WORDS]> {
        let Self::Ring(memory) = self else { return None };
        let mut bytes = [0; 8 * WORDS];
        memory.read_exact_at(&mut bytes, 0).ok()?;
        let (chunks, _) = bytes.as_chunks();
        let words: [u64; WORDS] = std::array::from_fn(|word| u64::from_ne_bytes(chunks[word]));
        assert_eq!(words[0], u64::from_be_bytes(*b"fbyring1"), "a ring of another layout");
        Some(words)
    }

    /// Records refused, and wake-ups, until now.
    fn counts(&self) -> (u64, u64) {
        let Some(words) = self.words() else { return (0, 0) };
        (words[REFUSED_AT..WAKES_AT].iter().sum(), words[WAKES_AT])
    }

    /// For a batch after so many records.
    fn has_room(&self, order: &Order, count: u64) -> bool {
        if let Some(words) = self.words() {
            // Three quarters are for records of all levels.
            return words[HEAD_AT] - words[TAIL_AT] + BATCH * RECORD_WORDS <= words[CAPACITY_AT] * 3 / 4;
        }
        let written = fs::metadata(&order.file).map_or(0, |found| found.len()).saturating_sub(order.len);
        // Of all workers together, and they are all as far as this one.
        written / LINE_LEN + UNDERWAY * order.reports as u64 >= count * order.reports as u64
    }
}

/// A message of one length, with numbers to format.
struct Message {
    producer: u16,
    number: u64,
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { producer, number } = self;
        let (order, took_us) = (number * 7 % 1_000_000, number * 31 % 100_000);
        write!(f, "{producer}:{number:08} GET /orders/{order:06} 200 {took_us:05} us ")?;
        f.write_str(&PAD[..MESSAGE_LEN - FRAME_LEN])
    }
}

/// What the message has before it is filled up.
const FRAME_LEN: usize = "0:00000000 GET /orders/000000 200 00000 us ".len();
const PAD: &str = "from the house at the corner, by the usual way and in the usual time, as always, and so on";

fn say(message: &Message) {
    log::info!(target: "bench", "{message}");
}

/// Nanoseconds of the processor for formatting a message into memory that is there.
fn formatting(producer: u16) -> f64 {
    let (mut scratch, before) = (String::new(), nanoseconds(ClockId::CLOCK_THREAD_CPUTIME_ID));
    for number in 0..FORMATTED {
        scratch.clear();
        let _ = write!(scratch, "{}", std::hint::black_box(Message { producer, number }));
        std::hint::black_box(&scratch);
    }
    (nanoseconds(ClockId::CLOCK_THREAD_CPUTIME_ID) - before) as f64 / FORMATTED as f64
}

fn nanoseconds(clock: ClockId) -> u64 {
    clock_gettime(clock).map_or(0, |time| time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64)
}
