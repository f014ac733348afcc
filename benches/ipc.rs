//! What `scripts/bench ipc` measures of forebay: calls from a worker to a helper, and a raw ping-pong
//! of 64 bytes between the same two processes.
//!
//! The program is a daemon with one worker and one helper. Whoever asks its worker over HTTP for a
//! measurement gets a rate as text, in calls a second.

use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use axum::extract::Path;
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use forebay::{App, Client, Context, Handle, Helper, Methods, Request, Result};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// What is sent and comes back, in the raw ping-pong and as a call's argument and result.
const BALL: [u8; 64] = [b'o'; 64];

/// Not counted: buffers grow.
const WARM_UP: Duration = Duration::from_millis(300);

/// The directory of the raw sockets, in the environment.
const DIRECTORY: &str = "FOREBAY_BENCH_DIR";

#[derive(Serialize, Deserialize)]
struct Echo {
    ball: String,
}

impl Request for Echo {
    const METHOD: &'static str = "echo";
    type Reply = String;
}

/// Answers calls, and two raw sockets beside them.
struct Answerer;

impl Helper for Answerer {
    type Config = ();
    type Event = ();
    type Error = String;

    async fn start(_config: (), _context: Context<Self>) -> Result<Self> {
        let on_the_loop = tokio::net::UnixListener::bind(raw("loop")?)?;
        let blocking = std::os::unix::net::UnixListener::bind(raw("blocking")?)?;
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = on_the_loop.accept().await {
                while catch(&mut stream).await.is_ok() && stream.write_all(&BALL).await.is_ok() {}
            }
        });
        std::thread::spawn(move || {
            while let Ok((mut stream, _)) = blocking.accept() {
                let mut ball = BALL;
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
    async fn handle(&self, echo: Echo) -> Result<String, String> {
        Ok(echo.ball)
    }
}

fn raw(kind: &str) -> Result<PathBuf> {
    let directory = std::env::var_os(DIRECTORY).ok_or("scripts/bench ipc starts this program")?;
    Ok(PathBuf::from(directory).join(format!("raw-{kind}.sock")))
}

fn main() -> ExitCode {
    App::new("bench-ipc")
        .helper::<Answerer>("answerer")
        .http(async |worker| {
            let client = worker.helper::<Answerer>("answerer")?;
            Ok(Router::new()
                .route("/calls/{callers}/{seconds}", get(async |path| answer(calls(client, path).await)))
                .route("/raw/{seconds}", get(async |Path(seconds)| answer(ping_pong(seconds).await)))
                .route("/blocking/{seconds}", get(async |Path(seconds)| answer(blocking(seconds).await))))
        })
        .main()
}

fn answer(rate: Result<f64>) -> Result<Json<f64>, (StatusCode, String)> {
    rate.map(Json).map_err(|error| (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")))
}

/// Calls a second of so many callers, each of which asks again when it is answered.
async fn calls(client: Client<Answerer>, Path((callers, seconds)): Path<(usize, f64)>) -> Result<f64> {
    let rate = Rate::over(seconds);
    let caller = |client: Client<Answerer>| async move {
        let mut done = 0;
        let ball = String::from_utf8(BALL.to_vec())?;
        while rate.goes_on() {
            if client.call(Echo { ball: ball.clone() }).await? != ball {
                return Err("an answer that is not what was sent".into());
            }
            done += rate.counts();
        }
        Ok(done)
    };
    let tasks: Vec<_> = (0..callers).map(|_| tokio::spawn(caller(client.clone()))).collect();
    let mut total = 0;
    for task in tasks {
        let done: Result<u64> = task.await?;
        total += done?;
    }
    Ok(rate.of(total))
}

async fn ping_pong(seconds: f64) -> Result<f64> {
    let mut stream = tokio::net::UnixStream::connect(raw("loop")?).await?;
    let (rate, mut done) = (Rate::over(seconds), 0);
    while rate.goes_on() {
        stream.write_all(&BALL).await?;
        catch(&mut stream).await?;
        done += rate.counts();
    }
    Ok(rate.of(done))
}

/// Reads a ball. There is room for more than has come: so tokio knows that it has read all, and waits for
/// the next one without a read in vain, which would make the raw ping-pong slower than it could be.
async fn catch(stream: &mut tokio::net::UnixStream) -> std::io::Result<()> {
    let (mut room, mut len) = ([0; 2 * BALL.len()], 0);
    while len < BALL.len() {
        match stream.read(&mut room[len..]).await? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            count => len += count,
        }
    }
    Ok(())
}

async fn blocking(seconds: f64) -> Result<f64> {
    tokio::task::spawn_blocking(move || ping_pong_blocking(seconds)).await?
}

fn ping_pong_blocking(seconds: f64) -> Result<f64> {
    let mut stream = std::os::unix::net::UnixStream::connect(raw("blocking")?)?;
    let (rate, mut ball, mut done) = (Rate::over(seconds), BALL, 0);
    while rate.goes_on() {
        stream.write_all(&ball)?;
        stream.read_exact(&mut ball)?;
        done += rate.counts();
    }
    Ok(rate.of(done))
}

/// A time in which is counted, after a warm-up.
#[derive(Clone, Copy)]
struct Rate {
    start: Instant,
    span: Duration,
}

impl Rate {
    fn over(seconds: f64) -> Self {
        Self { start: Instant::now() + WARM_UP, span: Duration::from_secs_f64(seconds) }
    }

    /// Before the start nothing has elapsed.
    fn goes_on(self) -> bool {
        self.start.elapsed() < self.span
    }

    /// What was just done counts once, or it was the warm-up.
    fn counts(self) -> u64 {
        u64::from(Instant::now() > self.start)
    }

    fn of(self, done: u64) -> f64 {
        done as f64 / self.start.elapsed().as_secs_f64()
    }
}
