//! An application that logs on request: numbered records, floods, last words, garbage in its own ring.
//!
//! Every record that counts is `record N` and a filling, N without a gap in each process, so that whoever reads
//! the log knows what is missing.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::Path;
use axum::http::StatusCode;
use axum::routing::{get, post};
use forebay::{App, BoxError, Worker};
use log::Level;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// What a record has beside its number, so that its line has some 150 bytes.
const FILLING: &str = "of many that are to be in the file, each once and in the order of its number";

/// Levels of a flood, over and over.
const LEVELS: [Level; 5] = [Level::Error, Level::Warn, Level::Info, Level::Debug, Level::Trace];

/// The number of the next record; the lock keeps two threads from changing their order between here and the log.
static NEXT: Mutex<u64> = Mutex::new(0);

fn main() -> ExitCode {
    App::new("chatter").http(replica).main()
}

async fn replica(worker: Worker) -> Result<Router, BoxError> {
    let slot = worker.slot();
    worker.on_stop(async move || {
        log::info!(target: "chatter", "the last line of worker {slot}");
        Ok(())
    });
    Ok(Router::new()
        .route("/", get(async || std::process::id().to_string()))
        .route("/number/{count}", get(number))
        .route("/levels/{rounds}", get(levels))
        .route("/flood/{ms}", get(flood))
        .route("/die/{how}", get(die))
        .route("/scribble/{what}", get(scribble))
        .route("/large/{len}", get(large))
        .route("/fields", get(fields))
        .route("/run", post(run)))
}

/// Logs so many, and answers with the process and the numbers of the first and of the one after the last.
async fn number(Path(count): Path<u64>) -> String {
    let first = say(Level::Info);
    (1..count).for_each(|_| _ = say(Level::Info));
    format!("{} {first} {}", std::process::id(), first + count)
}

/// Logs so many records of each level, from a thread of its own while the loop serves on; answers as above.
async fn levels(Path(rounds): Path<u64>) -> String {
    let logged = tokio::task::spawn_blocking(move || {
        let first = say(Level::Info);
        let last = (0..rounds).fold(first, |_, _| LEVELS.map(say)[LEVELS.len() - 1]);
        format!("{} {first} {}", std::process::id(), last + 1)
    });
    logged.await.expect("it does not panic")
}

/// The same, as fast as it can for so long.
async fn flood(Path(ms): Path<u64>) -> String {
    let flooded = tokio::task::spawn_blocking(move || {
        let end = Instant::now() + Duration::from_millis(ms);
        let first = say(Level::Info);
        let mut last = first;
        while Instant::now() < end {
            last = LEVELS.map(say)[LEVELS.len() - 1];
        }
        format!("{} {first} {}", std::process::id(), last + 1)
    });
    flooded.await.expect("it does not panic")
}

fn say(level: Level) -> u64 {
    let mut next = NEXT.lock().expect("nobody panics here");
    let number = *next;
    *next += 1;
    log::log!(target: "chatter", level, "record {number} {FILLING}");
    number
}

/// Logs its last words and is gone before anything else happens.
async fn die(Path(how): Path<String>) -> StatusCode {
    let pid = std::process::id();
    match how.as_str() {
        "kill" => {
            log::info!(target: "chatter", "last words of {pid}");
            let _ = kill(Pid::this(), Signal::SIGKILL);
        }
        "kill-error" => {
            log::error!(target: "chatter", "last words of {pid}");
            let _ = kill(Pid::this(), Signal::SIGKILL);
        }
        "abort" => {
            log::info!(target: "chatter", "last words of {pid}");
            std::process::abort();
        }
        "segv" => {
            log::info!(target: "chatter", "last words of {pid}");
            read_nothing();
        }
        // Of a thread of its own: nobody catches it, and the process lives on.
        _ => {
            let panicked = std::thread::spawn(move || panic!("last words of {pid}")).join();
            assert!(panicked.is_err(), "it panics");
        }
    }
    StatusCode::NO_CONTENT
}

/// An access to memory that is not there, as a C library makes it.
#[expect(unsafe_code, reason = "what no sound program does")]
fn read_nothing() {
    let nothing: *const u8 = std::ptr::null();
    // SAFETY: none; the kernel answers with SIGSEGV, which is what is asked for.
    let _ = unsafe { std::hint::black_box(nothing).read_volatile() };
}

/// Writes into its own ring as only an attacker would: `all` of it, or only its `head`.
async fn scribble(Path(what): Path<String>) -> Result<String, StatusCode> {
    let maps = fs::read_to_string("/proc/self/maps").map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    let ring = maps.lines().find(|line| line.contains("memfd:log ring")).ok_or(StatusCode::NOT_FOUND)?;
    let (start, end) = ring.split(' ').next().and_then(|range| range.split_once('-')).ok_or(StatusCode::NOT_FOUND)?;
    let [start, end] = [start, end].map(|text| u64::from_str_radix(text, 16).unwrap_or_default());
    let memory = File::options().write(true).open("/proc/self/mem").map_err(|_| StatusCode::FORBIDDEN)?;
    let mut garbage = vec![0; (end - start) as usize];
    rand::fill(&mut garbage[..]);
    let (at, garbage): (u64, &[u8]) = match what.as_str() {
        // Where the producer says how far it has written.
        "head" => (64, &garbage[..8]),
        // All that is behind the header: what is published next is sound again.
        "records" => (256, &garbage[256..]),
        _ => (0, &garbage),
    };
    memory.write_all_at(garbage, start + at).map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    // The next record would put some of it right: until the log helper has looked there is none.
    std::thread::sleep(Duration::from_millis(800));
    Ok(std::process::id().to_string())
}

/// One record with so long a message, its end recognisable.
async fn large(Path(len): Path<usize>) -> String {
    log::info!(target: "chatter", "large {} end", "é".repeat(len / 2));
    std::process::id().to_string()
}

/// One record with all that a record can have.
async fn fields() -> String {
    log::warn!(
        target: "chatter::fields", number = 7, text = "a \"quoted\" ] and \\ backslash", truth = true;
        "with fields\nin two lines: é"
    );
    std::process::id().to_string()
}

/// Runs a shell with this script: what it prints is this worker's.
async fn run(script: String) -> StatusCode {
    let ran = tokio::task::spawn_blocking(move || {
        let mut shell = Command::new("sh").arg("-s").stdin(Stdio::piped()).spawn()?;
        if let Some(stdin) = &mut shell.stdin {
            stdin.write_all(script.as_bytes())?;
        }
        drop(shell.stdin.take());
        shell.wait()
    });
    match ran.await {
        Ok(Ok(status)) if status.success() => StatusCode::OK,
        Ok(_) | Err(_) => StatusCode::INTERNAL_SERVER_ERROR,
    }
}
