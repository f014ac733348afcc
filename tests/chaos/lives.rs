//! Who lived, what was done to them, and when they were gone: what explains a lost request.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::acts::Target;
use crate::traffic::{Loss, Lost};

/// So long after a process was seen to be gone its clients may notice: the slow one looks for an answer
/// when it has sent all.
const NOTICE: Duration = Duration::from_millis(600);

/// Zygotes that were seen so shortly before count as living.
const LATELY: Duration = Duration::from_secs(1);

/// Who goes on after a long stop and lives on for so long is not ended for it any more.
const AFTERMATH: Duration = Duration::from_secs(8);

/// One process of the server.
#[derive(Debug)]
pub(crate) struct Life {
    pub(crate) pid: u32,
    /// `worker 0 generation 1`
    pub(crate) who: String,
    pub(crate) harm: Option<Harm>,
    /// When it was seen for the first and the last time, and when it was not any more.
    born: Instant,
    seen: Instant,
    gone: Option<Instant>,
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
    all: Vec<Life>,
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

    fn generation(&self) -> Option<u32> {
        self.who.split_once(" generation ")?.1.parse().ok()
    }
}

impl Lives {
    /// Takes in who lives now: pids and titles.
    pub(crate) fn observe(&mut self, now: Instant, processes: &[(u32, String)]) {
        for (pid, title) in processes {
            // A title says who it is once it has begun; the master's is its command line.
            let Some((_, who)) = title.split_once(": ") else { continue };
            let place = *self.living.entry(*pid).or_insert_with(|| {
                self.all.push(Life { pid: *pid, who: String::new(), harm: None, born: now, seen: now, gone: None });
                self.all.len() - 1
            });
            let life = &mut self.all[place];
            life.seen = now;
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

    /// It goes on: after a short stop as if nothing had been.
    pub(crate) fn let_go(&mut self, pid: u32, now: Instant, harmless: bool) {
        let Some(&place) = self.living.get(&pid) else { return };
        let harm = &mut self.all[place].harm;
        match harm {
            Some(Harm { kind: HarmKind::Stopped, .. }) if harmless => *harm = None,
            Some(Harm { kind: HarmKind::Stopped, over, .. }) => *over = Some(now),
            Some(Harm { kind: HarmKind::Killed, .. }) | None => {}
        }
    }

    /// Whoever was stopped under this pid, also if it lives.
    pub(crate) fn was_harmed(&self, pid: u32) -> bool {
        self.all.iter().any(|life| life.pid == pid && life.harm.is_some())
    }
}

/// Finds what a request was lost to. A process that dies loses at most one request of each client.
pub(crate) struct Explainer<'a> {
    lives: &'a Lives,
    /// When nothing ran.
    gaps: &'a [(Instant, Duration)],
    /// Which life has explained a loss of which client.
    used: BTreeSet<(usize, usize)>,
}

impl<'a> Explainer<'a> {
    pub(crate) fn new(lives: &'a Lives, gaps: &'a [(Instant, Duration)]) -> Self {
        Self { lives, gaps, used: BTreeSet::new() }
    }

    /// Whose death it was, and what had been done to it and when.
    pub(crate) fn explain(&mut self, client: usize, lost: &Lost) -> Option<(&'a Life, &'static str, Instant)> {
        match lost.loss {
            Loss::Reset | Loss::Empty | Loss::Cut => {}
            // Nobody's death is a reason for these.
            Loss::Refused | Loss::Late | Loss::Wrong => return None,
        }
        let lives = self.lives;
        let mut places = 0..lives.all.len();
        let found = places.find_map(|place| {
            let life = &lives.all[place];
            let fits = life.is(Target::Worker)
                && lost.worker.is_none_or(|pid| pid == life.pid)
                && !self.used.contains(&(place, client));
            let (what, since) = self.end_of(life).filter(|_| fits)?;
            let until = life.gone.map(|gone| gone + NOTICE + self.gaps_between(since, lost.ended));
            let within = since <= lost.ended && until.is_none_or(|until| lost.ended <= until);
            within.then_some((place, what, since))
        });
        let (place, what, since) = found?;
        self.used.insert((place, client));
        Some((&lives.all[place], what, since))
    }

    /// What ended it, or was about to, and since when.
    fn end_of(&self, life: &Life) -> Option<(&'static str, Instant)> {
        match life.harm {
            Some(Harm { at, kind: HarmKind::Killed, .. }) => Some(("killed", at)),
            Some(Harm { at, kind: HarmKind::Stopped, .. }) => Some(("stopped", at)),
            None => self.is_cut(life).then_some(("cut by a third generation", life.seen)),
        }
    }

    /// Whether two other generations lived at its end: then the master kills what is left of it. The log
    /// says so too, but not all of it survives its own helper's death.
    fn is_cut(&self, life: &Life) -> bool {
        let Some(gone) = life.gone else { return false };
        let lived = |zygote: &&Life| zygote.born <= gone && zygote.gone.is_none_or(|end| end + LATELY >= life.seen);
        let zygotes = self.lives.all.iter().filter(|other| other.is(Target::Zygote)).filter(lived);
        let others: BTreeSet<u32> = zygotes.filter_map(Life::generation).collect();
        others.iter().filter(|&&generation| Some(generation) != life.generation()).count() >= 2
    }

    fn gaps_between(&self, from: Instant, to: Instant) -> Duration {
        self.gaps.iter().filter(|(at, gap)| *at <= to && *at + *gap >= from).map(|(_, gap)| *gap).sum()
    }
}
