//! Reloads as those outside see them: who has asked, what is told on the way, what follows.
//!
//! The supervisor decides; here is what a run takes (`release.rs`); whom its result goes to stands in
//! `verdict.rs`.

use std::time::Instant;

use mio::Token;

use super::control::WAITING_MAX;
use super::pid_file::Succession;
use super::release::{self, Held, Release};
use super::supervisor::{Event, Progress, ReloadOutcome, View};
use super::verdict::{Awaited, Verdict};
use super::{Master, report};
use crate::contract::control::Reloaded;
use crate::contract::ids::{Generation, HelperName, ReloadNumber, Role};
use crate::contract::status::ReloadStatus;
use crate::contract::time::ms;
use crate::error::Chain;
use crate::settings::{count_of_workers, file_of};

/// Who waits for which run, and how the last one ended.
#[derive(Default)]
pub(super) struct Rollout {
    /// Who asks in this step: a connection and the id of its request. `None` in it: a signal.
    asking: Option<Option<(Token, u32)>>,
    /// A few at most: the run under way, the one after it, the one whose result is not told yet.
    pub(super) waiting: Vec<Promised>,
    under_way: Option<UnderWay>,
    /// The number of workers that someone has asked for, and that ends with the next run.
    scaled: Option<u16>,
    pub(super) asked: u64,
    pub(super) finished: u64,
    pub(super) last: Option<ReloadStatus>,
    /// The run that is over, and whose result is not told yet.
    pub(super) awaited: Option<Awaited>,
    /// Whether the file that counts them is behind.
    pub(super) is_unwritten: bool,
}

/// Who is told how a run ends.
pub(super) struct Promised {
    pub(super) number: ReloadNumber,
    /// So many have asked, signals and those included that are gone.
    pub(super) count: u64,
    /// A connection and the id of its request.
    pub(super) askers: Vec<(Token, u32)>,
}

/// A run that was begun and is not over. What it was prepared with stays, also while it has no process.
struct UnderWay {
    generation: Generation,
    began: Instant,
    /// The number of workers that was asked for since then: it is a wish for the new generation too.
    scaled: Option<u16>,
}

impl Master {
    /// Someone wants a reload: a request of the control socket, or a signal.
    pub(super) fn ask_for_reload(&mut self, asker: Option<(Token, u32)>) {
        self.rollout.asking = Some(asker);
        self.step(Event::Reload);
    }

    /// Whoever asks for a reload now waits for this run.
    pub(super) fn promise(&mut self, number: ReloadNumber) {
        let Some(asker) = self.rollout.asking.take() else { return };
        self.rollout.asked += 1;
        // Once for all that ask in a turn.
        self.rollout.is_unwritten = true;
        match self.rollout.waiting.iter_mut().find(|promised| promised.number == number) {
            Some(promised) => {
                promised.count += 1;
                promised.askers.extend(asker);
            }
            None => self.rollout.waiting.push(Promised { number, count: 1, askers: asker.into_iter().collect() }),
        }
    }

    /// Whether one more may wait for the result of a reload; whoever is gone waits no more.
    pub(super) fn is_room_for_an_asker(&mut self) -> bool {
        let control = &self.control;
        for promised in &mut self.rollout.waiting {
            promised.askers.retain(|(token, _)| control.owns(*token));
        }
        self.rollout.waiting.iter().map(|promised| promised.askers.len()).sum::<usize>() < WAITING_MAX
    }

    /// Gets all that this generation is started from.
    pub(super) fn prepare(&mut self, generation: Generation) -> Event {
        self.rollout.under_way = Some(UnderWay { generation, began: Instant::now(), scaled: None });
        match self.next_release() {
            Ok(release) => {
                self.warn_of_the_program();
                let policy = release.policy();
                self.releases.insert(generation, release);
                Event::Prepared(policy)
            }
            Err(error) => Event::NotPrepared(Chain(&error).to_string()),
        }
    }

    fn next_release(&mut self) -> Result<Release, crate::error::Error> {
        let serving = self.releases.get(&self.serving).expect("invariant: the serving generation has a release");
        // A file that was there and is gone is no word for the defaults.
        let file = serving.settings.file.clone().or_else(|| file_of(self.identity.name, None));
        let settings = release::read(file.as_deref(), &self.overrides)?;
        let program = (self.program.as_path(), self.identity.name);
        let held = Held {
            pid_file: self.pid_file.as_ref(),
            run_dir: &self.run_dir,
            listeners: &mut self.listeners,
            targets: &mut self.log.targets,
        };
        serving.follow(program, self.umask, settings, held)
    }

    /// Tells those who wait how far it has come.
    pub(super) fn tell_progress(&mut self, number: ReloadNumber, progress: &Progress) {
        let promised = self.rollout.waiting.iter().filter(|promised| promised.number == number);
        let askers = promised.flat_map(|promised| &promised.askers).map(|(token, _)| *token);
        self.control.tell_step(askers, report::said(progress), Instant::now());
        if *progress == Progress::Begun {
            self.notifier.reloading();
        }
    }

    /// So many workers are wanted from now on, whatever the settings say.
    pub(super) fn scaled(&mut self, workers: u16) {
        self.rollout.scaled = Some(workers).filter(|&workers| workers != self.settings.workers);
        if let Some(run) = &mut self.rollout.under_way {
            run.scaled = Some(workers);
        }
    }

    /// A run is over: what follows from it, and how many workers its generation shall have, if that is
    /// another number than its settings'.
    pub(super) fn reloaded(
        &mut self,
        number: ReloadNumber,
        generation: Generation,
        outcome: ReloadOutcome,
    ) -> Option<u16> {
        let run = self.rollout.under_way.take();
        let took_ms = run.as_ref().map_or(0, |run| ms(run.began.elapsed()));
        let meanwhile = run.and_then(|run| run.scaled);
        let (result, culprit, workers) = match outcome {
            ReloadOutcome::Committed { kept } => {
                let notes = self.commit(generation, &kept, meanwhile);
                let kept = kept.iter().map(|&name| self.kept(name)).collect();
                (Ok(Reloaded { generation: generation.0, kept, took_ms, notes }), None, meanwhile)
            }
            ReloadOutcome::RolledBack { who, reason } => {
                self.give_up(generation);
                (Err(who.map_or_else(|| reason.clone(), |who: Role| format!("{who}: {reason}"))), who, None)
            }
        };
        self.notifier.reloaded();
        self.judge(Verdict { number, generation, took_ms, result }, culprit);
        workers.filter(|&workers| workers != self.settings.workers)
    }

    /// This generation serves now: what its settings say of the master itself. Returns what of them is
    /// not in force, and what is not any more.
    fn commit(&mut self, generation: Generation, kept: &[HelperName], meanwhile: Option<u16>) -> Vec<String> {
        self.serving = generation;
        let Some(release) = self.releases.get_mut(&generation) else { return Vec::new() };
        let old = std::mem::replace(&mut self.settings, release.settings.clone());
        std::mem::take(&mut release.pid_file).succeed(&mut self.pid_file);
        let targets = std::mem::take(&mut release.targets);
        self.listeners.keep(&release.listeners, self.service, Instant::now());
        if self.log.targets.commit(targets) {
            self.retarget();
        }
        if old.log_level != self.settings.log_level {
            let is_kept = |role: Role| matches!(role, Role::Helper(name, _) if kept.contains(&name));
            self.refilter(is_kept);
        }
        if old.control_uids != self.settings.control_uids {
            self.control.allow(self.settings.control_uids.clone());
            self.revoke_followers();
            if let Err(error) = self.run_dir.open_to_all(!self.settings.control_uids.is_empty()) {
                log::error!(target: "forebay", "{}", Chain(&error));
            }
        }
        let notes = self.notes_of_settings(meanwhile);
        for note in &notes {
            log::info!(target: "forebay", "{generation}: {note}");
        }
        notes
    }

    /// Nothing of this generation is needed any more but by processes that are on their way out.
    fn give_up(&mut self, generation: Generation) {
        if let Some(release) = self.releases.get_mut(&generation) {
            release.pid_file = Succession::Same;
            self.log.targets.give_up(&std::mem::take(&mut release.targets));
        }
        if let Some(serving) = self.releases.get(&self.serving) {
            self.listeners.keep(&serving.listeners, self.service, Instant::now());
        }
        self.forget_the_gone();
    }

    /// Lets go of generations that serve no more, are not being tried, and have no process.
    pub(super) fn forget_the_gone(&mut self) {
        let View { places, .. } = self.supervisor.view();
        let lives = |generation: Generation| {
            let is_its = |role: Role| role.generation() == Some(generation);
            places.iter().any(|place| is_its(place.role)) || self.children.iter().any(|(_, child)| is_its(child.role))
        };
        let tried = self.rollout.under_way.as_ref().map(|run| run.generation);
        let is_of_use = |generation| generation == self.serving || Some(generation) == tried || lives(generation);
        let is_gone = |generation: &Generation| !is_of_use(*generation);
        let gone: Vec<Generation> = self.releases.keys().copied().filter(is_gone).collect();
        for generation in gone {
            self.releases.remove(&generation);
            self.offers.forget(generation, &self.run_dir);
        }
        self.forget_outputs();
    }

    /// `nest, release 1.3`
    fn kept(&self, name: HelperName) -> String {
        match self.offers.version(self.serving, name) {
            Some(version) if !version.is_empty() => format!("{name}, release {version}"),
            Some(_) | None => name.to_string(),
        }
    }

    /// What the file says and something else beats, and what ends with this reload.
    fn notes_of_settings(&mut self, meanwhile: Option<u16>) -> Vec<String> {
        let mut notes = self.overrides.beaten(&self.settings);
        let (scaled, configured) = (self.rollout.scaled.take(), self.settings.workers);
        let is_other = |count: &u16| *count != configured;
        let note = match (meanwhile, scaled) {
            (Some(count), _) => Some(count).filter(is_other).map(|count| {
                let count = count_of_workers(count);
                format!("`workers`: {configured} configured, scaled to {count} while this reload was under way")
            }),
            (None, Some(count)) => {
                let count = count_of_workers(count);
                Some(format!("`workers`: {configured}, as configured; it was scaled to {count}"))
            }
            (None, None) => None,
        };
        notes.extend(note);
        notes
    }
}
