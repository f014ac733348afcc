//! Clients that make workers log, and know what was logged.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::client::get;

/// Between two requests of one client.
const PAUSE: Duration = Duration::from_millis(1);

/// The numbers of the records that were logged, by process, and how long it took.
#[derive(Debug, Default)]
pub(super) struct Logged {
    pub(super) of: BTreeMap<u64, Vec<Range<u64>>>,
    /// The longest time until an answer.
    pub(super) longest: Duration,
    pub(super) refused: Vec<String>,
}

/// Several clients that ask without end.
pub(super) struct Writers {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<Logged>>,
}

impl Writers {
    /// So many clients; each request logs so many records.
    pub(super) fn start(address: SocketAddr, clients: usize, records: u32) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let client = |_| {
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || {
                let mut logged = Logged::default();
                while !stop.load(Ordering::Relaxed) {
                    logged.ask(address, &format!("/number/{records}"));
                    std::thread::sleep(PAUSE);
                }
                logged
            })
        };
        Self { clients: (0..clients).map(client).collect(), stop }
    }

    /// Ends the load; what it has made.
    pub(super) fn finish(self) -> Logged {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Logged::default();
        for client in self.clients {
            all.merge(client.join().expect("a client does not panic"));
        }
        all
    }
}

impl Logged {
    /// One request more.
    pub(super) fn ask(&mut self, address: SocketAddr, path: &str) {
        let asked = Instant::now();
        match get(address, path) {
            Ok(answer) if answer.status == 200 => {
                let numbers: Vec<u64> = answer.body.split(' ').filter_map(|word| word.parse().ok()).collect();
                let [pid, first, end] = numbers[..] else { panic!("three numbers: {}", answer.body) };
                self.of.entry(pid).or_default().push(first..end);
            }
            Ok(answer) => self.refused.push(format!("status {}", answer.status)),
            Err(error) => self.refused.push(error.to_string()),
        }
        self.longest = self.longest.max(asked.elapsed());
    }

    pub(super) fn merge(&mut self, other: Self) {
        other.of.into_iter().for_each(|(pid, ranges)| self.of.entry(pid).or_default().extend(ranges));
        self.longest = self.longest.max(other.longest);
        self.refused.extend(other.refused);
    }

    /// How many records.
    pub(super) fn total(&self) -> u64 {
        self.of.values().flatten().map(|range| range.end - range.start).sum()
    }

    /// Everybody was answered.
    pub(super) fn assert_served(&self) {
        assert!(self.refused.is_empty(), "{} requests failed: {:?}", self.refused.len(), self.refused.first());
        assert!(self.total() > 0, "there was a load");
    }
}
