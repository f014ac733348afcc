//! An application whose helper does on request what helpers should not: the tests' other victim.
//!
//! `KEEPER` in the environment says what goes wrong at start: `refuse`, `panic`, `never` (ready),
//! `slow` (starts only while the file `KEEPER_GATE` is not there), `circle`, `stranger` (asks for
//! what nobody declared); `shy` panics when it should say how things stand. Each process of the helper takes a lock that the kernel gives to one at
//! a time, and writes into a journal what it begins: `state/keeper.journal` in the run directory.

use std::cell::Cell;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{Path as Segments, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use forebay::{App, CallError, Client, Context, Handle, Helper, Methods, Request, Result};
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

/// How long a call of most routes may take.
const PATIENCE: Duration = Duration::from_secs(15);

/// Calls at once of `/flood`.
const FLOOD_MAX: u64 = 3000;

struct Keeper {
    context: Context<Self>,
    journal: PathBuf,
    count: Cell<u64>,
    _alone: Flock<File>,
}

/// Answers with its number after so long; what it does must not be done twice.
#[derive(Serialize, Deserialize)]
struct Slow {
    number: u64,
    ms: u64,
}

/// The same, and may be done twice.
#[derive(Serialize, Deserialize)]
struct Again {
    number: u64,
    ms: u64,
}

/// Panics.
#[derive(Serialize, Deserialize)]
struct Panic {}

/// Never lets the helper's loop turn again.
#[derive(Serialize, Deserialize)]
struct Spin {}

/// Answers with so many bytes after so long.
#[derive(Serialize, Deserialize)]
struct Long {
    len: usize,
    ms: u64,
}

/// Is refused.
#[derive(Serialize, Deserialize)]
struct Refuse {}

/// Publishes so many events of so many bytes, all with the count as their number.
#[derive(Serialize, Deserialize)]
struct Publish {
    events: u64,
    len: usize,
}

/// What is published.
#[derive(Serialize, Deserialize)]
struct Note {
    number: u64,
    text: String,
}

impl Request for Slow {
    const METHOD: &'static str = "slow";
    type Reply = u64;
}

impl Request for Again {
    const METHOD: &'static str = "again";
    const IDEMPOTENT: bool = true;
    type Reply = u64;
}

impl Request for Panic {
    const METHOD: &'static str = "panic";
    type Reply = ();
}

impl Request for Spin {
    const METHOD: &'static str = "spin";
    type Reply = ();
}

impl Request for Long {
    const METHOD: &'static str = "long";
    type Reply = String;
}

impl Request for Refuse {
    const METHOD: &'static str = "refuse";
    type Reply = ();
}

impl Request for Publish {
    const METHOD: &'static str = "publish";
    type Reply = u64;
}

/// Its section, `[keeper]`: with another edition the helper is another one, and a reload hands it over.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    #[serde(default, rename = "edition")]
    _edition: u64,
}

impl Helper for Keeper {
    type Config = Settings;
    type Event = Note;
    type Error = String;

    async fn start(_: Settings, context: Context<Self>) -> Result<Self> {
        match std::env::var("KEEPER").as_deref() {
            Ok("refuse") => return Err("the cellar is locked".into()),
            Ok("panic") => panic!("the keeper panics at start"),
            Ok("never") => std::future::pending().await,
            Ok(_) | Err(_) => {}
        }
        if let Some(gate) = std::env::var_os("KEEPER_GATE") {
            while Path::new(&gate).exists() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        let journal = context.state_dir().join("keeper.journal");
        let lock = File::create(context.state_dir().join("keeper.lock"))?;
        let Ok(alone) = Flock::lock(lock, FlockArg::LockExclusiveNonblock) else {
            write(&journal, "two at once");
            return Err("another keeper lives".into());
        };
        Ok(Self { context, journal, count: Cell::new(0), _alone: alone })
    }

    fn methods(methods: Methods<Self>) -> Methods<Self> {
        methods.on::<Slow>().on::<Again>().on::<Panic>().on::<Spin>().on::<Publish>().on::<Long>().on::<Refuse>()
    }

    fn snapshot(&self) -> Vec<Note> {
        assert!(std::env::var_os("KEEPER").is_none_or(|fault| fault != "shy"), "the keeper panics in its snapshot");
        vec![Note { number: self.count.get(), text: String::new() }]
    }
}

impl Keeper {
    async fn answer(&self, method: &str, number: u64, ms: u64) -> u64 {
        whisper(&format!("{method} {number}"));
        write(&self.journal, &format!("{method} {number}"));
        tokio::time::sleep(Duration::from_millis(ms)).await;
        number
    }
}

impl Handle<Slow> for Keeper {
    async fn handle(&self, Slow { number, ms }: Slow) -> Result<u64, String> {
        Ok(self.answer("slow", number, ms).await)
    }
}

impl Handle<Again> for Keeper {
    async fn handle(&self, Again { number, ms }: Again) -> Result<u64, String> {
        Ok(self.answer("again", number, ms).await)
    }
}

impl Handle<Panic> for Keeper {
    async fn handle(&self, _: Panic) -> Result<(), String> {
        panic!("the keeper panics in a request")
    }
}

impl Handle<Spin> for Keeper {
    async fn handle(&self, _: Spin) -> Result<(), String> {
        loop {
            std::hint::spin_loop();
        }
    }
}

impl Handle<Long> for Keeper {
    async fn handle(&self, Long { len, ms }: Long) -> Result<String, String> {
        tokio::time::sleep(Duration::from_millis(ms)).await;
        Ok("x".repeat(len))
    }
}

impl Handle<Refuse> for Keeper {
    async fn handle(&self, _: Refuse) -> Result<(), String> {
        Err("as it was told".to_owned())
    }
}

impl Handle<Publish> for Keeper {
    async fn handle(&self, Publish { events, len }: Publish) -> Result<u64, String> {
        for _ in 0..events {
            let number = self.count.get() + 1;
            self.count.set(number);
            self.context.publish(&Note { number, text: "x".repeat(len) });
        }
        Ok(self.count.get())
    }
}

/// One line, whoever else writes.
fn write(journal: &Path, line: &str) {
    let file = OpenOptions::new().create(true).append(true).open(journal);
    file.and_then(|mut file| file.write_all(format!("{line}\n").as_bytes())).expect("write the journal");
}

/// Asks for what nobody declared.
struct Stranger;

impl Helper for Stranger {
    const ASKS: &'static [&'static str] = &["keeper", "nobody"];
    type Config = ();
    type Event = ();
    type Error = String;

    async fn start((): (), _: Context<Self>) -> Result<Self> {
        Ok(Self)
    }
}

/// Asks whoever asks it.
struct Circle<const RIGHT: bool>;

impl<const RIGHT: bool> Helper for Circle<RIGHT> {
    const ASKS: &'static [&'static str] = if RIGHT { &["keeper", "left"] } else { &["right"] };
    type Config = ();
    type Event = ();
    type Error = String;

    async fn start((): (), _: Context<Self>) -> Result<Self> {
        Ok(Self)
    }
}

/// Logs, at two levels that are not logged as a rule.
fn whisper(text: &str) {
    log::trace!(target: "keeper::whisper", "{text} is whispered");
    log::debug!(target: "keeper", "{text} is said");
}

/// An answer of a route: what the call gave.
fn shown<T: std::fmt::Display>(outcome: Result<T, CallError<String>>) -> (StatusCode, String) {
    match outcome {
        Ok(value) => (StatusCode::OK, value.to_string()),
        Err(error) => (status(&error), error.to_string()),
    }
}

fn status(error: &CallError<String>) -> StatusCode {
    match error {
        CallError::OutcomeUnknown => StatusCode::BAD_GATEWAY,
        CallError::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        CallError::Overloaded => StatusCode::SERVICE_UNAVAILABLE,
        CallError::Failed(_) | CallError::Panicked | CallError::NotHandled(_) | CallError::BadRequest(_) => {
            StatusCode::INTERNAL_SERVER_ERROR
        }
    }
}

/// Asks so many times at once; answers what became of each, and how long the first refusal took.
async fn flood(keeper: Client<Keeper>, calls: u64) -> String {
    let began = Instant::now();
    let mut asked = tokio::task::JoinSet::new();
    for number in 0..calls.min(FLOOD_MAX) {
        let keeper = keeper.clone();
        asked.spawn(async move {
            match keeper.call(Again { number, ms: 0 }).await {
                Ok(answer) => assert_eq!(answer, number, "the answer of another call"),
                Err(error) => return Err((status(&error), began.elapsed())),
            }
            Ok(())
        });
    }
    let outcomes = asked.join_all().await;
    let refused: Vec<Duration> = outcomes.iter().filter_map(|outcome| outcome.err()).map(overloaded).collect();
    let longest = refused.iter().max().map_or(0, Duration::as_millis);
    format!("{} answered, {} refused within {longest} ms", outcomes.len() - refused.len(), refused.len())
}

fn overloaded((status, took): (StatusCode, Duration)) -> Duration {
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "refused for another reason");
    took
}

/// What became of the calls of a storm.
#[derive(Default, Serialize)]
struct Storm {
    answered: u64,
    /// Of requests that may not be done twice.
    unknown: u64,
    /// Answered with another call's number.
    wrong: u64,
    /// Failed in another way.
    failed: u64,
    /// Of a call that was answered, and of one that was not, in milliseconds.
    longest_ms: u64,
}

/// Keeps so many calls in flight for so long, one half of which may be done twice.
async fn storm(keeper: Client<Keeper>, callers: u64, ms: u64) -> axum::Json<Storm> {
    let until = Instant::now() + Duration::from_millis(ms);
    let mut asked = tokio::task::JoinSet::new();
    for caller in 0..callers.min(FLOOD_MAX) {
        let keeper = keeper.clone();
        asked.spawn(async move {
            let mut seen = Storm::default();
            for number in (caller << 32).. {
                let began = Instant::now();
                if began > until {
                    break;
                }
                let outcome = match caller % 2 {
                    0 => keeper.call(Again { number, ms: 5 }).await,
                    _ => keeper.call(Slow { number, ms: 5 }).await,
                };
                match outcome {
                    Ok(answer) if answer == number => seen.answered += 1,
                    Ok(_) => seen.wrong += 1,
                    Err(CallError::OutcomeUnknown) if caller % 2 == 1 => seen.unknown += 1,
                    Err(_) => seen.failed += 1,
                }
                seen.longest_ms = seen.longest_ms.max(u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX));
            }
            seen
        });
    }
    axum::Json(asked.join_all().await.into_iter().fold(Storm::default(), |sum, one| Storm {
        answered: sum.answered + one.answered,
        unknown: sum.unknown + one.unknown,
        wrong: sum.wrong + one.wrong,
        failed: sum.failed + one.failed,
        longest_ms: sum.longest_ms.max(one.longest_ms),
    }))
}

fn echoed(body: String) -> ([(&'static str, String); 1], String) {
    ([("worker-pid", std::process::id().to_string())], body)
}

type Asked = State<Client<Keeper>>;

fn routes(keeper: Client<Keeper>) -> Router {
    let slow = async |State(keeper): Asked, Segments((number, ms)): Segments<(u64, u64)>| {
        shown(keeper.with_deadline(PATIENCE).call(Slow { number, ms }).await)
    };
    let again = async |State(keeper): Asked, Segments((number, ms)): Segments<(u64, u64)>| {
        whisper(&format!("asking {number}"));
        shown(keeper.with_deadline(PATIENCE).call(Again { number, ms }).await)
    };
    // With the deadline that every client has who says nothing.
    let plain =
        async |State(keeper): Asked, Segments(number): Segments<u64>| shown(keeper.call(Again { number, ms: 0 }).await);
    let brief = async |State(keeper): Asked, Segments(ms): Segments<u64>| {
        shown(keeper.with_deadline(Duration::from_millis(ms)).call(Again { number: 0, ms: 0 }).await)
    };
    let panic = async |State(keeper): Asked| shown(keeper.call(Panic {}).await.map(|()| "no panic"));
    let spin = async |State(keeper): Asked| shown(keeper.call(Spin {}).await.map(|()| "an end"));
    let publish = async |State(keeper): Asked, Segments((events, len)): Segments<(u64, usize)>| {
        shown(keeper.call(Publish { events, len }).await)
    };
    let many =
        async |State(keeper): Asked, Segments(calls): Segments<u64>| flood(keeper.with_deadline(PATIENCE), calls).await;
    let storming = async |State(keeper): Asked, Segments((callers, ms)): Segments<(u64, u64)>| {
        storm(keeper.with_deadline(PATIENCE), callers, ms).await
    };
    // What was sent, and who sends it back; the second one asks first.
    let echo = async |body: String| echoed(body);
    let ask = async |State(keeper): Asked, body: String| {
        let asked = keeper.with_deadline(PATIENCE).call(Again { number: 0, ms: 0 }).await;
        asked.map(|_| echoed(body)).map_err(|error| (status(&error), error.to_string()))
    };
    Router::new()
        .route("/echo", post(echo))
        .route("/ask", post(ask))
        .route("/slow/{number}/{ms}", get(slow))
        .route("/again/{number}/{ms}", get(again))
        .route("/plain/{number}", get(plain))
        .route("/brief/{ms}", get(brief))
        .route("/panic", get(panic))
        .route("/spin", get(spin))
        .route("/publish/{events}/{len}", get(publish))
        .route("/flood/{calls}", get(many))
        .route("/storm/{callers}/{ms}", get(storming))
        .with_state(keeper)
}

fn main() -> ExitCode {
    let app = App::new("keeper").helper::<Keeper>("keeper");
    let app = match std::env::var("KEEPER").as_deref() {
        Ok("circle") => app.helper::<Circle<true>>("right").helper::<Circle<false>>("left"),
        Ok("stranger") => app.helper::<Stranger>("stranger"),
        Ok(_) | Err(_) => app,
    };
    app.http(async |worker| Ok(routes(worker.helper::<Keeper>("keeper")?))).main()
}
