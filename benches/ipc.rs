//! Calls from a worker to a helper, beside a raw ping-pong of 64 bytes between the same two
//! processes.
//!
//! `cargo bench --bench ipc` prints one line for each measurement. The program starts itself as a
//! daemon with one worker and one helper; the worker measures, and writes what it found to a file.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use axum::Router;
use forebay::{App, Client, Context, Handle, Helper, Methods, Request, Result};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// How long each measurement lasts.
const ROUND: Duration = Duration::from_secs(2);

/// Each is measured so often, in turn; the best counts, because others use this machine too.
const ROUNDS: usize = 3;

/// The file for the results, in the worker's environment.
const RESULTS: &str = "FOREBAY_BENCH_RESULTS";

#[derive(Serialize, Deserialize)]
struct Echo {
    number: u64,
}

impl Request for Echo {
    const METHOD: &'static str = "echo";
    type Reply = u64;
}

/// Answers calls, and two raw sockets beside them.
struct Answerer;

impl Helper for Answerer {
    type Config = ();
    type Event = ();
    type Error = String;

    async fn start(_config: (), context: Context<Self>) -> Result<Self> {
        let on_the_loop = tokio::net::UnixListener::bind(raw(context.state_dir(), "loop"))?;
        let blocking = std::os::unix::net::UnixListener::bind(raw(context.state_dir(), "blocking"))?;
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = on_the_loop.accept().await {
                let mut ball = [0; 64];
                while stream.read_exact(&mut ball).await.is_ok() && stream.write_all(&ball).await.is_ok() {}
            }
        });
        std::thread::spawn(move || {
            while let Ok((mut stream, _)) = blocking.accept() {
                let mut ball = [0; 64];
                while stream.read_exact(&mut ball).is_ok() && stream.write_all(&ball).is_ok() {}
            }
        });
        Ok(Self)
    }

    fn methods(methods: Methods<Self>) -> Methods<Self> {
        methods.on::<Echo>()
    }
}

impl Handle<Echo> for Answerer {
    async fn handle(&self, echo: Echo) -> Result<u64, String> {
        Ok(echo.number)
    }
}

fn raw(directory: &Path, kind: &str) -> PathBuf {
    directory.join(format!("raw-{kind}.sock"))
}

fn main() -> ExitCode {
    if std::env::args().any(|argument| argument == "--bench") {
        return match orchestrate() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("ipc: {error}");
                ExitCode::FAILURE
            }
        };
    }
    App::new("bench-ipc")
        .helper::<Answerer>("answerer")
        .http(async |worker| {
            let client = worker.helper::<Answerer>("answerer")?;
            if let Some(results) = std::env::var_os(RESULTS) {
                let results = PathBuf::from(results);
                let state = results.with_file_name("run").join("state");
                tokio::spawn(async move {
                    let report = measure(client, &state).await.unwrap_or_else(|error| format!("failed: {error}\n"));
                    // Renamed when it is whole: whoever waits for it reads all of it.
                    let part = results.with_extension("part");
                    std::fs::write(&part, report).and_then(|()| std::fs::rename(&part, &results))
                });
            }
            Ok(Router::new())
        })
        .main()
}

/// Starts the daemon, waits for its results, stops it.
fn orchestrate() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let (run_dir, results) = (directory.path().join("run"), directory.path().join("results"));
    let program = std::env::current_exe()?;
    let mut daemon = Command::new(&program)
        .args(["serve", "--workers", "1", "--listen", "127.0.0.1:0", "--run-dir"])
        .arg(&run_dir)
        .env(RESULTS, &results)
        .env("RUST_LOG", "warn")
        .spawn()?;
    let deadline = Instant::now() + ROUND * 5 * u32::try_from(ROUNDS)? + Duration::from_secs(30);
    while !results.exists() && Instant::now() < deadline && daemon.try_wait()?.is_none() {
        std::thread::sleep(Duration::from_millis(50));
    }
    let report = std::fs::read_to_string(&results);
    Command::new(&program).args(["stop", "--run-dir"]).arg(&run_dir).output()?;
    daemon.wait()?;
    print!("{}", report?);
    Ok(())
}

/// All measurements, in turn, so often; a line for the best of each.
async fn measure(client: Client<Answerer>, state: &Path) -> Result<String> {
    let mut best = [0.0_f64; 5];
    for _ in 0..ROUNDS {
        let blocking = raw(state, "blocking");
        best[0] = best[0].max(tokio::task::spawn_blocking(move || ping_pong_blocking(&blocking)).await??);
        best[1] = best[1].max(ping_pong(&raw(state, "loop")).await?);
        for (place, callers) in [(2, 1), (3, 16), (4, 256)] {
            best[place] = best[place].max(calls(&client, callers).await?);
        }
    }
    let mut report = String::new();
    report += &format!("raw ping-pong, blocking      {:>9.0} /s\n", best[0]);
    report += &format!("raw ping-pong, on the loops  {:>9.0} /s\n", best[1]);
    let ratio = best[2] / best[1];
    report += &format!("calls, 1 caller              {:>9.0} /s   {ratio:.2} of the raw one on the loops\n", best[2]);
    report += &format!("calls, 16 callers            {:>9.0} /s\n", best[3]);
    report += &format!("calls, 256 callers           {:>9.0} /s\n", best[4]);
    Ok(report)
}

/// Calls a second of so many independent callers.
async fn calls(client: &Client<Answerer>, callers: usize) -> Result<f64> {
    let start = Instant::now();
    let caller = |number: usize| {
        let client = client.clone();
        tokio::spawn(async move {
            let mut done = 0_u64;
            while start.elapsed() < ROUND {
                let number = number as u64 + done;
                if client.call(Echo { number }).await != Ok(number) {
                    return None;
                }
                done += 1;
            }
            Some(done)
        })
    };
    let tasks: Vec<_> = (0..callers).map(caller).collect();
    let mut total = 0;
    for task in tasks {
        total += task.await?.ok_or("a call failed")?;
    }
    Ok(total as f64 / start.elapsed().as_secs_f64())
}

async fn ping_pong(path: &Path) -> Result<f64> {
    let mut stream = tokio::net::UnixStream::connect(path).await?;
    let (start, mut ball, mut done) = (Instant::now(), [7; 64], 0_u64);
    while start.elapsed() < ROUND {
        stream.write_all(&ball).await?;
        stream.read_exact(&mut ball).await?;
        done += 1;
    }
    Ok(done as f64 / start.elapsed().as_secs_f64())
}

fn ping_pong_blocking(path: &Path) -> Result<f64> {
    let mut stream = std::os::unix::net::UnixStream::connect(path)?;
    let (start, mut ball, mut done) = (Instant::now(), [7; 64], 0_u64);
    while start.elapsed() < ROUND {
        stream.write_all(&ball)?;
        stream.read_exact(&mut ball)?;
        done += 1;
    }
    Ok(done as f64 / start.elapsed().as_secs_f64())
}
