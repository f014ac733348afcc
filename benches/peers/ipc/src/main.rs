//! The peers of `scripts/bench ipc`: who answers 64 bytes with the same 64 bytes, and who asks.
//!
//! `peer-ipc serve PEER PLACE` answers until it is ended: of redis the server itself does so.
//! `peer-ipc call PEER PLACE CALLERS SECONDS` prints how many calls a second so many callers made on
//! one connection. PEER is `tonic`, `redis` or `nats`; PLACE is a socket's path, of nats an address.
//! Each process has one thread, as forebay's have.

mod grpc;
mod nats;
mod redis;

use std::error::Error;
use std::future::Future;
use std::time::{Duration, Instant};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// What is sent and comes back.
const BALL: [u8; 64] = [7; 64];

/// Not counted: connections grow their windows and buffers.
const WARM_UP: Duration = Duration::from_millis(300);

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        match arguments[..] {
            ["serve", "tonic", place] => grpc::serve(place).await,
            ["serve", "nats", place] => nats::serve(place).await,
            ["call", peer, place, callers, seconds] => {
                let rate = call(peer, place, callers.parse()?, Duration::from_secs_f64(seconds.parse()?)).await?;
                println!("{rate:.0}");
                Ok(())
            }
            _ => Err("usage: peer-ipc serve PEER PLACE | call PEER PLACE CALLERS SECONDS".into()),
        }
    })
}

async fn call(peer: &str, place: &str, callers: usize, span: Duration) -> Result<f64> {
    match peer {
        "tonic" => measure(grpc::connect(place).await?, callers, span).await,
        "redis" => measure(redis::connect(place).await?, callers, span).await,
        "nats" => measure(nats::connect(place).await?, callers, span).await,
        _ => Err(format!("no peer {peer:?}").into()),
    }
}

/// One connection, of which every caller has a handle.
trait Caller: Clone + Send + 'static {
    /// Sends the ball and returns when it is back.
    fn call(&mut self) -> impl Future<Output = Result<()>> + Send;
}

/// Calls a second of so many callers, each of which asks again when it is answered.
async fn measure<C: Caller>(caller: C, callers: usize, span: Duration) -> Result<f64> {
    let start = Instant::now() + WARM_UP;
    let repeat = |mut caller: C| async move {
        let mut done = 0_u64;
        while start.elapsed() < span {
            caller.call().await?;
            // Before the start nothing has elapsed.
            done += u64::from(Instant::now() > start);
        }
        Ok(done)
    };
    let tasks: Vec<_> = (0..callers).map(|_| tokio::spawn(repeat(caller.clone()))).collect();
    let mut total = 0;
    for task in tasks {
        let done: Result<u64> = task.await?;
        total += done?;
    }
    Ok(total as f64 / start.elapsed().as_secs_f64())
}

/// Whether an answer is what was sent.
fn check(answer: &[u8]) -> Result<()> {
    if answer == BALL { Ok(()) } else { Err("an answer that is not what was sent".into()) }
}
