//! `load ADDRESS`: clients that count every request they lose, for an application that echoes what is
//! posted to `/echo`. The last line is what it has seen, as JSON.

mod pauses;
#[allow(dead_code, reason = "other programs use it too, each its part")]
mod traffic;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use serde_json::{Value, json};

use crate::pauses::Pauses;
use crate::traffic::{FRESH, IDLE, KEPT, Lost, SLOW, Tally, Traffic};

/// Clients of a server that echoes what is posted to `/echo`; they never ask twice for one answer. Exits
/// 0 only if no request was lost.
#[derive(Parser)]
struct Arguments {
    address: SocketAddr,
    /// End after so long; else when standard input ends
    #[arg(long, value_name = "N")]
    seconds: Option<u64>,
    /// Clients that connect anew for each request
    #[arg(long, value_name = "N", default_value_t = 1)]
    fresh: usize,
    /// Clients that keep a connection
    #[arg(long, value_name = "N", default_value_t = 1)]
    kept: usize,
    /// Clients that send their bodies slowly
    #[arg(long, value_name = "N", default_value_t = 1)]
    slow: usize,
    /// Clients that hold eight connections each, idle most of the time
    #[arg(long, value_name = "N", default_value_t = 1)]
    idle: usize,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let Arguments { address, fresh, kept, slow, idle, .. } = arguments;
    let pauses = Pauses::watch();
    let traffic = Traffic::start(address, &[(&FRESH, fresh), (&KEPT, kept), (&SLOW, slow), (&IDLE, idle)]);
    wait_for_the_end(arguments.seconds.map(Duration::from_secs));
    let mut seen: BTreeMap<&str, Tally> = BTreeMap::new();
    for (name, tally) in traffic.finish() {
        seen.entry(name).or_default().add(tally);
    }
    for (at, gap) in pauses.finish() {
        println!("{}: nothing ran for {} ms", wall(at), gap.as_millis());
    }
    for (name, tally) in &seen {
        tally.losses.iter().for_each(|lost| println!("{}: {name} {}", wall(lost.ended), said(lost)));
        println!("{name}: {} answered, lost: {:?}, longest {} ms", tally.answered, tally.lost, ms(tally.longest));
    }
    let all: BTreeMap<&str, Value> = seen.iter().map(|(&name, tally)| (name, shown(tally))).collect();
    println!("{}", json!(all));
    ExitCode::from(u8::from(seen.values().any(|tally| !tally.lost.is_empty())))
}

fn wait_for_the_end(limit: Option<Duration>) {
    match limit {
        Some(limit) => std::thread::sleep(limit),
        // An error is an end too.
        None => _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink()),
    }
}

fn said(lost: &Lost) -> String {
    let known = |number: Option<u32>| number.map_or_else(|| "unknown".to_owned(), |number| number.to_string());
    let took = ms(lost.ended.duration_since(lost.began));
    let (port, worker) = (known(lost.port.map(u32::from)), known(lost.worker));
    format!("lost a request: {:?} after {took} ms, port {port}, worker pid {worker}", lost.loss)
}

fn shown(tally: &Tally) -> Value {
    let lost: BTreeMap<String, u64> =
        tally.lost.iter().map(|(loss, &count)| (format!("{loss:?}").to_lowercase(), count)).collect();
    json!({
        "answered": tally.answered,
        "lost": lost,
        "told": tally.told,
        "closed_idle": tally.closed_idle,
        "longest_ms": ms(tally.longest),
    })
}

/// As the log of a server shows the time.
fn wall(at: Instant) -> String {
    let ago = jiff::SignedDuration::try_from(at.elapsed()).unwrap_or_default();
    format!("{:.3}", jiff::Timestamp::now() - ago)
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
