//! An application that does on request what applications should not: the tests' victim.
//!
//! `FIXTURE` in the environment says what goes wrong at start: `refuse`, `exit`, `complain` (and exit),
//! `panic`, `never` (ready), `exit-if FILE` (exists); `thread`, `socket`, `refuse-preload` and `endless-preload` in
//! `preload`; `threaded`, `early` (a file is opened), `exit-7` and `hang` (in a zygote) before
//! `App::main`. `as FILE`: what the file says, so that it can change from one generation to the next.

mod counted;

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::os::fd::IntoRawFd;
use std::process::ExitCode;
use std::time::Duration;

use axum::Router;
use axum::extract::Path;
use axum::http::StatusCode;
use axum::routing::{get, post};
use forebay::{App, BoxError, Preload, RequestId, Worker};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};

#[global_allocator]
static ALLOCATOR: counted::Counted = counted::Counted;

fn main() -> ExitCode {
    let is_zygote = std::env::var_os("FOREBAY_ZYGOTE").is_some();
    match fault().as_str() {
        "exit-7" if is_zygote => std::process::exit(7),
        "hang" if is_zygote => loop {
            std::thread::park();
        },
        _ => {}
    }
    if fault() == "threaded" {
        let (say, heard) = std::sync::mpsc::channel();
        let gossip = move || {
            say.send("it has its name by now").expect("somebody listens");
            std::thread::sleep(Duration::from_secs(60));
        };
        drop(std::thread::Builder::new().name("gossip".to_owned()).spawn(gossip));
        heard.recv().expect("it speaks");
    }
    let early = (fault() == "early").then(|| std::fs::File::open("/dev/zero").expect("/dev/zero"));
    let preload = move |given: &Preload| {
        if let Some(mut file) = early {
            std::io::Read::read_exact(&mut file, &mut [0; 16])?;
        }
        preload(given)
    };
    App::new("fixture").preload(preload).http(replica).main()
}

/// What is to go wrong.
fn fault() -> String {
    let fault = std::env::var("FIXTURE").unwrap_or_default();
    match fault.strip_prefix("as ") {
        Some(file) => std::fs::read_to_string(file).unwrap_or_default(),
        None => fault,
    }
}

/// What is drawn once for all workers.
struct Drawn {
    preloaded: u64,
}

fn preload(_: &Preload) -> Result<Drawn, BoxError> {
    match fault().as_str() {
        "thread" => drop(std::thread::spawn(|| std::thread::sleep(Duration::from_secs(60)))),
        "socket" => _ = std::net::UdpSocket::bind("127.0.0.1:0")?.into_raw_fd(),
        "refuse-preload" => return Err("the table is missing".into()),
        "endless-preload" => loop {
            std::thread::park();
        },
        _ => {}
    }
    // Used before the fork, so that a copy of the state would show in every worker.
    Ok(Drawn { preloaded: rand::random::<u64>() ^ fastrand::u64(..) ^ RandomState::new().hash_one(0) })
}

async fn replica(worker: Worker) -> Result<Router, BoxError> {
    let fault = fault();
    match fault.split_once(' ').unwrap_or((&fault, "")) {
        ("refuse", _) => return Err("no database".into()),
        ("exit", _) => std::process::exit(0),
        ("complain", _) => {
            (1..=5).for_each(|number| log::error!("table {number} is missing"));
            eprintln!("libdatabase: no \x1b[1mroute");
            std::process::exit(7);
        }
        ("exit-if", file) if std::path::Path::new(file).exists() => std::process::exit(0),
        ("panic", _) => panic!("the fixture panics at start"),
        ("never", _) => std::future::pending::<()>().await,
        _ => {}
    }
    let preloaded = worker.preloaded::<Drawn>()?.preloaded;
    Ok(Router::new()
        .route("/", get(async move || format!("{} {}", worker.slot(), std::process::id())))
        .route("/echo", post(echo))
        .route("/random", get(async move || random(preloaded)))
        .route("/sleep/{ms}", get(sleep))
        .route("/hold/{*file}", get(hold))
        .route("/spin", get(spin))
        .route("/exit/{code}", get(exit))
        .route("/abort", get(abort))
        .route("/panic", get(panic))
        .route("/log/{count}", get(log))
        .route("/allocations/{count}", get(allocations))
        .route("/tell/{name}/{ms}", get(tell))
        .route("/print", get(print))
        .route("/child", get(child))
        .route("/block/{ms}", get(block))
        .route("/pool/{ms}", get(pool))
        .route("/stray/{ms}", get(stray))
        .route("/leak/{mib}", get(leak)))
}

/// Holds the loop for so long.
async fn block(Path(ms): Path<u64>) -> String {
    std::thread::sleep(Duration::from_millis(ms));
    std::process::id().to_string()
}

/// Blocks a thread of the pool instead.
async fn pool(Path(ms): Path<u64>) -> String {
    let slept = tokio::task::spawn_blocking(move || std::thread::sleep(Duration::from_millis(ms)));
    slept.await.expect("it does not panic");
    std::process::id().to_string()
}

/// A task of the application's own holds the loop, and no request does.
async fn stray(Path(ms): Path<u64>) {
    drop(tokio::spawn(async move { std::thread::sleep(Duration::from_millis(ms)) }));
}

/// Uses so much more memory, for good.
async fn leak(Path(mib): Path<usize>) -> String {
    let leaked: &'static [u8] = vec![1; mib << 20].leak();
    format!("{} {}", std::process::id(), leaked.len())
}

/// What was sent, and who sends it back.
async fn echo(body: String) -> ([(&'static str, String); 1], String) {
    ([("worker-pid", std::process::id().to_string())], body)
}

/// Numbers from every generator that keeps state.
fn random(preloaded: u64) -> String {
    let map: HashMap<u8, u8> = HashMap::new();
    let hashed = map.hasher().hash_one(1);
    let pid = std::process::id();
    format!("{pid} {preloaded} {} {} {hashed}", rand::random::<u64>(), fastrand::u64(..))
}

async fn sleep(Path(ms): Path<u64>) -> String {
    tokio::time::sleep(Duration::from_millis(ms)).await;
    std::process::id().to_string()
}

/// Answers once the file exists, and logs that as its last word.
async fn hold(Path(file): Path<String>) -> String {
    while !std::path::Path::new("/").join(&file).exists() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    log::info!(target: "fixture", "let go by {file}");
    std::process::id().to_string()
}

/// A loop that never turns again.
async fn spin() {
    loop {
        std::hint::spin_loop();
    }
}

async fn exit(Path(code): Path<i32>) {
    std::process::exit(code)
}

async fn abort() {
    std::process::abort()
}

async fn panic() -> StatusCode {
    panic!("the fixture panics in a handler")
}

async fn log(Path(count): Path<u32>) -> String {
    for number in 0..count {
        log::info!(target: "fixture", "record {number}");
    }
    std::process::id().to_string()
}

/// How often this thread asks for memory while it logs so many records, once it has logged some.
async fn allocations(Path(count): Path<u32>) -> String {
    let log = || (0..count).for_each(|number| log::info!(target: "fixture", number; "counted {number}"));
    log();
    let before = counted::asked();
    log();
    (counted::asked() - before).to_string()
}

/// Logs before and after it has waited, when it is dropped, and from a task of its own; answers with its id.
async fn tell(id: RequestId, Path((name, ms)): Path<(String, u64)>) -> String {
    struct Farewell(String);

    impl Drop for Farewell {
        fn drop(&mut self) {
            log::info!(target: "fixture", "{} is dropped", self.0);
        }
    }

    let name = Farewell(name);
    log::info!(target: "fixture", "{} begins", name.0);
    let spawned = format!("{} is apart", name.0);
    drop(tokio::spawn(async move { log::info!(target: "fixture", "{spawned}") }));
    tokio::time::sleep(Duration::from_millis(ms)).await;
    log::info!(target: "fixture", "{} ends", name.0);
    id.to_string()
}

async fn print() {
    println!("printed by the fixture");
    eprintln!("complained by the fixture");
}

/// A process of the worker's own that keeps everything open, this connection too.
async fn child() -> String {
    for entry in std::fs::read_dir("/proc/self/fd").into_iter().flatten().flatten() {
        if let Some(number) = entry.file_name().to_str().and_then(|name| name.parse().ok()) {
            keep_across_exec(number);
        }
    }
    let child = std::process::Command::new("sleep").arg("30").spawn();
    child.map_or_else(|error| error.to_string(), |child| child.id().to_string())
}

#[expect(unsafe_code, reason = "what no sound program does: descriptors by number")]
fn keep_across_exec(number: std::os::fd::RawFd) {
    // SAFETY: fcntl refuses a number that is not open; it touches no memory.
    let descriptor = unsafe { std::os::fd::BorrowedFd::borrow_raw(number) };
    let _ = fcntl(descriptor, FcntlArg::F_SETFD(FdFlag::empty()));
}
