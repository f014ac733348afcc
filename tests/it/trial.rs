//! A server that a test harms under every kind of client, and what must hold after it whatever the harm was.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use forebay::testing::Server;
use nix::libc::{SIGKILL, SIGTERM};
use serde_json::Value;

use crate::standing::{self, Rest};
use crate::traffic::{FRESH, IDLE, KEPT, Loss, Lost, Manner, SLOW, Traffic};

/// Every kind of client, some of each.
const ALL: [(&Manner, usize); 4] = [(&FRESH, 2), (&KEPT, 3), (&SLOW, 2), (&IDLE, 2)];

/// The longest wait of a client on a busy machine; its own limit is longer.
const LONGEST: Duration = Duration::from_secs(15);

/// How long a server may take to be as it was.
const PATIENCE: Duration = Duration::from_secs(20);

/// A server under load.
pub(crate) struct Trial {
    pub(crate) server: Server,
    before: Rest,
    traffic: Traffic,
}

/// The same without load, and what was lost, with the number of the client.
pub(crate) struct Aftermath {
    pub(crate) server: Server,
    before: Rest,
    lost: Vec<(usize, Lost)>,
    closed_idle: u64,
}

/// When a worker was harmed, and when it was known to be gone.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Gone {
    pub(crate) pid: u32,
    pub(crate) from: Instant,
    pub(crate) until: Instant,
}

impl Trial {
    pub(crate) fn begin(server: Server) -> Self {
        Self::under(server, &ALL)
    }

    /// Looks at the server at rest, and returns when each of these clients has had some answers.
    pub(crate) fn under(server: Server, clients: &[(&'static Manner, usize)]) -> Self {
        let before = Rest::of(&server);
        let traffic = Traffic::start(server.address(), clients);
        let trial = Self { server, before, traffic };
        trial.go_on(2);
        trial
    }

    /// Waits until each client has asked so many more times.
    pub(crate) fn go_on(&self, count: u64) {
        let before = self.traffic.ended();
        self.server.wait_for("requests of each client", || {
            self.traffic.ended().iter().zip(&before).all(|(now, before)| *now >= before + count).then_some(())
        });
    }

    /// Ends the load. Everybody was answered, and nobody waited for too long.
    pub(crate) fn calm(self) -> Aftermath {
        let (mut lost, mut closed_idle) = (Vec::new(), 0);
        for (client, (name, tally)) in self.traffic.finish().into_iter().enumerate() {
            let (answered, closed, longest) = (tally.answered, tally.closed_idle, tally.longest.as_millis());
            println!(
                "{name} {client}: {answered} answered, lost {:?}, closed idle {closed}, longest {longest} ms",
                tally.lost
            );
            assert!(answered > 0 && tally.longest < LONGEST, "{name}: {tally:?}");
            assert_eq!(tally.lost.values().sum::<u64>(), tally.losses.len() as u64, "all of them are known");
            closed_idle += closed;
            lost.extend(tally.losses.into_iter().map(|lost| (client, lost)));
        }
        println!("{} requests lost", lost.len());
        Aftermath { server: self.server, before: self.before, lost, closed_idle }
    }
}

impl Aftermath {
    /// No request, and no connection ended without a word.
    pub(crate) fn assert_nothing_lost(&self) -> &Self {
        assert_eq!(self.closed_idle, 0, "closed between two requests");
        self.assert_lost_with(&[])
    }

    /// What was lost was on its way in one of these: at most one request of each client for each of them.
    pub(crate) fn assert_lost_with(&self, gone: &[Gone]) -> &Self {
        let mut of_each: BTreeMap<usize, usize> = BTreeMap::new();
        for (client, lost) in &self.lost {
            let explains = |gone: &&Gone| {
                lost.worker.is_none_or(|pid| pid == gone.pid) && lost.ended >= gone.from && lost.began <= gone.until
            };
            let is_broken = matches!(lost.loss, Loss::Reset | Loss::Empty | Loss::Cut);
            assert!(is_broken && gone.iter().any(|gone| explains(&gone)), "client {client}: {lost:?}, not by {gone:?}");
            *of_each.entry(*client).or_default() += 1;
        }
        assert!(of_each.values().all(|count| *count <= gone.len()), "{of_each:?} by {} deaths", gone.len());
        self
    }

    pub(crate) fn stop(self) {
        self.stop_beside(&[]);
    }

    /// All is as it was before the load; after a stop nothing is left but these, which are not the master's.
    pub(crate) fn stop_beside(mut self, strangers: &[u32]) {
        self.wait_for_rest();
        self.stop_at_once(strangers);
    }

    /// The same for a server that is not well.
    pub(crate) fn stop_at_once(&mut self, strangers: &[u32]) {
        let server = &mut self.server;
        let asked = Instant::now();
        server.signal(server.pid(), SIGTERM);
        let status = server.wait();
        println!("stopped after {} ms", asked.elapsed().as_millis());
        assert!(status.success(), "the master ended with {status}");
        let left: BTreeSet<u32> = server.processes().into_iter().map(|(pid, _)| pid).collect();
        assert_eq!(left, strangers.iter().copied().collect(), "what is left after the stop");
        strangers.iter().for_each(|&pid| server.signal(pid, SIGKILL));
        server.wait_for("the end of all", || {
            (server.processes().is_empty() && server.zombies().is_empty()).then_some(())
        });
        let mut complaints = self.before.complaints_after_the_stop(server);
        complaints.extend(standing::complaints_about_the_log(&server.log(), |_| true));
        assert!(complaints.is_empty(), "{complaints:?}");
    }

    fn wait_for_rest(&self) {
        let serves = |status: &Value| {
            let mut workers = status["workers"].as_array().into_iter().flatten();
            status["state"] == "serving" && workers.all(|worker| worker["state"] == "serving")
        };
        self.server.wait_until("rest", serves);
        self.server.wait_for("nobody dead", || self.server.zombies().is_empty().then_some(()));
        let deadline = Instant::now() + PATIENCE;
        loop {
            let leaks = self.before.leaks(&Rest::of(&self.server));
            if leaks.is_empty() {
                return;
            }
            assert!(Instant::now() < deadline, "{leaks:?}");
        }
    }
}
