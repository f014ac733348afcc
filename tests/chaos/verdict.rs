//! Whose death each lost request was: what nobody's death explains is a fault of the server.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::acts::Target;
use crate::lives::{Harm, HarmKind, Life, Lives};
use crate::traffic::{Loss, Lost, Tally};

/// So long after a process was seen to be gone its clients may notice: the slow one looks for an answer
/// when it has sent all.
const NOTICE: Duration = Duration::from_millis(600);

/// Explains each lost request, or complains; `say` prints what happened at a time.
pub(crate) fn losses(
    lives: &Lives,
    tallies: &[(&'static str, Tally)],
    gaps: &[(Instant, Duration)],
    say: &dyn Fn(Instant, &str),
) -> Vec<String> {
    let mut explainer = Explainer { lives, gaps, used: BTreeSet::new() };
    let mut complaints = Vec::new();
    for (client, (name, tally)) in tallies.iter().enumerate() {
        // Those of whom it is known who had them come first: of the others it may have been anyone.
        let mut in_turn: Vec<_> = tally.losses.iter().collect();
        in_turn.sort_by_key(|lost| lost.worker.is_none());
        for lost in in_turn {
            let what = format!("lost by {name} {client}: {}", said(lost));
            let why = explainer.explain(client, lost);
            let why = why.map(|(life, harm, at)| {
                let before = lost.ended.saturating_duration_since(at).as_millis();
                format!("{} pid {}, {harm} {before} ms before", life.who, life.pid)
            });
            say(lost.ended, &format!("{what}: {}", why.as_deref().unwrap_or("nobody's death explains it")));
            if why.is_none() {
                complaints.push(format!("{what}, and nobody's death explains it"));
            }
        }
        let (answered, longest) = (tally.answered, tally.longest.as_millis());
        let closed = tally.closed_idle;
        println!(
            "{name} {client}: {answered} answered, lost {:?}, closed idle {closed}, longest {longest} ms",
            tally.lost
        );
        if answered == 0 || tally.lost.values().sum::<u64>() > tally.losses.len() as u64 {
            complaints.push(format!("{name}: {answered} answered, lost {:?}", tally.lost));
        }
    }
    complaints
}

fn said(lost: &Lost) -> String {
    let took = lost.ended.duration_since(lost.began).as_millis();
    let known = |number: Option<u32>| number.map_or_else(|| "unknown".to_owned(), |number| number.to_string());
    let (port, worker) = (known(lost.port.map(u32::from)), known(lost.worker));
    format!("{:?} after {took} ms, port {port}, worker pid {worker}", lost.loss)
}

/// Finds what a request was lost to. A process that dies loses at most one request of each client.
struct Explainer<'a> {
    lives: &'a Lives,
    /// When nothing ran.
    gaps: &'a [(Instant, Duration)],
    /// Which life has explained a loss of which client.
    used: BTreeSet<(usize, usize)>,
}

impl<'a> Explainer<'a> {
    /// Whose death it was, and what had been done to it and when.
    fn explain(&mut self, client: usize, lost: &Lost) -> Option<(&'a Life, &'static str, Instant)> {
        match lost.loss {
            Loss::Reset | Loss::Empty | Loss::Cut => {}
            // Nobody's death is a reason for these.
            Loss::Refused | Loss::Late | Loss::Wrong => return None,
        }
        let lives = self.lives;
        let candidates = (0..lives.all.len()).filter_map(|place| {
            let life = &lives.all[place];
            let fits = life.is(Target::Worker)
                && lost.worker.is_none_or(|pid| pid == life.pid)
                && !self.used.contains(&(place, client));
            let (what, since) = self.end_of(life).filter(|_| fits)?;
            let late = self.gaps_between(since, lost.ended);
            // What began after it was gone was never its.
            let within = life.gone.is_none_or(|gone| lost.began <= gone + late && lost.ended <= gone + late + NOTICE);
            (within && since <= lost.ended).then_some((place, what, since))
        });
        let (place, what, since) = candidates.max_by_key(|(_, _, since)| *since)?;
        self.used.insert((place, client));
        Some((&lives.all[place], what, since))
    }

    /// What ended it, or was about to, and since when.
    fn end_of(&self, life: &Life) -> Option<(&'static str, Instant)> {
        match life.harm {
            Some(Harm { at, kind: HarmKind::Killed, .. }) => Some(("killed", at)),
            Some(Harm { at, kind: HarmKind::Stopped, .. }) => Some(("stopped", at)),
            None => None,
        }
    }

    fn gaps_between(&self, from: Instant, to: Instant) -> Duration {
        self.gaps.iter().filter(|(at, gap)| *at <= to && *at + *gap >= from).map(|(_, gap)| *gap).sum()
    }
}
