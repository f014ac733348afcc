//! Clients that ask without pause, and what they lost.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::client::get;

/// Between two requests of one client: a load, not a benchmark.
const PAUSE: Duration = Duration::from_millis(1);

/// Several clients, each of which connects anew for each request.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<Tally>>,
}

/// What one client has seen.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) answered: u32,
    /// Why requests were lost: reset, refused, an empty reply.
    pub(crate) lost: Vec<String>,
    /// The longest time until an answer or a loss.
    pub(crate) longest: Duration,
}

impl Load {
    /// So many clients, asking for this path until [`Load::finish`].
    pub(crate) fn start(address: SocketAddr, path: &'static str, clients: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let client = |_| {
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || ask(address, path, &stop))
        };
        Self { clients: (0..clients).map(client).collect(), stop }
    }

    /// Ends the load; returns what each client has seen.
    pub(crate) fn finish(self) -> Vec<Tally> {
        self.stop.store(true, Ordering::Relaxed);
        self.clients.into_iter().map(|client| client.join().expect("a client does not panic")).collect()
    }
}

fn ask(address: SocketAddr, path: &str, stop: &AtomicBool) -> Tally {
    let mut tally = Tally::default();
    while !stop.load(Ordering::Relaxed) {
        let asked = Instant::now();
        match get(address, path) {
            Ok(answer) if answer.status == 200 => tally.answered += 1,
            Ok(answer) => tally.lost.push(format!("status {}", answer.status)),
            Err(error) => tally.lost.push(error.to_string()),
        }
        tally.longest = tally.longest.max(asked.elapsed());
        std::thread::sleep(PAUSE);
    }
    tally
}
