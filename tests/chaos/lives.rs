//! Who lived, what was done to them, and when they were gone.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::acts::Target;

/// Who goes on after a stop and lives on for so long is not ended for it any more.
const AFTERMATH: Duration = Duration::from_secs(8);

/// One process of the server.
#[derive(Debug)]
pub(crate) struct Life {
    pub(crate) pid: u32,
    /// `worker 0 generation 1`
    pub(crate) who: String,
    pub(crate) harm: Option<Harm>,
    /// When it was not seen any more.
    pub(crate) gone: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Harm {
    pub(crate) at: Instant,
    pub(crate) kind: HarmKind,
    /// Since when it is over, if it may be survived.
    over: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HarmKind {
    Killed,
    Stopped,
}

#[derive(Default)]
pub(crate) struct Lives {
    pub(crate) all: Vec<Life>,
    /// The living, by pid: their place among all.
    living: BTreeMap<u32, usize>,
}

impl Life {
    pub(crate) fn is(&self, target: Target) -> bool {
        match target {
            Target::Worker => self.who.starts_with("worker "),
            Target::Log => self.who == "helper log",
            Target::Helper => self.who.starts_with("helper ") && self.who != "helper log",
            Target::Zygote => self.who.starts_with("zygote "),
            Target::Master => false,
        }
    }
}

impl Lives {
    /// Takes in who lives now: pids and titles.
    pub(crate) fn observe(&mut self, now: Instant, processes: &[(u32, String)]) {
        for (pid, title) in processes {
            // A title says who it is once it has begun; the master's is its command line.
            let Some((_, who)) = title.split_once(": ") else { continue };
            let place = *self.living.entry(*pid).or_insert_with(|| {
                self.all.push(Life { pid: *pid, who: String::new(), harm: None, gone: None });
                self.all.len() - 1
            });
            let life = &mut self.all[place];
            who.clone_into(&mut life.who);
            life.harm = life.harm.filter(|harm| harm.over.is_none_or(|over| now < over + AFTERMATH));
        }
        let present: BTreeSet<u32> = processes.iter().map(|(pid, _)| *pid).collect();
        for (_, place) in self.living.extract_if(.., |pid, _| !present.contains(pid)) {
            self.all[place].gone = Some(now);
        }
    }

    pub(crate) fn living(&self, target: Target) -> Vec<&Life> {
        self.living.values().map(|&place| &self.all[place]).filter(|life| life.is(target)).collect()
    }

    pub(crate) fn harm(&mut self, pid: u32, at: Instant, kind: HarmKind) {
        if let Some(&place) = self.living.get(&pid) {
            self.all[place].harm = Some(Harm { at, kind, over: None });
        }
    }

    /// It goes on after a stop, if it lives still.
    pub(crate) fn let_go(&mut self, pid: u32, now: Instant) {
        let harm = self.living.get(&pid).and_then(|&place| self.all[place].harm.as_mut());
        if let Some(Harm { kind: HarmKind::Stopped, over, .. }) = harm {
            *over = Some(now);
        }
    }

    /// Whoever was stopped under this pid, also if it lives.
    pub(crate) fn was_harmed(&self, pid: u32) -> bool {
        self.all.iter().any(|life| life.pid == pid && life.harm.is_some())
    }
}
