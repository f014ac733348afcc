//! Where the log goes: the targets as the settings want them, with what the master holds for each.
//!
//! A target that two configurations have alike is one, and keeps what it has still to write.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use super::file_identity::{FileIdentity, place};
use super::log_files::LogFiles;
use crate::contract::orders::TargetGiven;
use crate::error::{Context, Error, Exit};
use crate::log::writer::ledger::{Ledger, OfTarget, Place, TARGETS_MAX};
use crate::log::writer::pending;
use crate::settings::log::{Sink, Target};
use crate::settings::{Service, Settings};
use crate::sys::memory::HeldBytes;

/// How often files are looked at: whether they are where they were, too large, or too old.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The targets of one configuration.
#[derive(Debug, Default)]
pub(super) struct Chosen {
    targets: Vec<Held>,
}

#[derive(Debug)]
pub(super) struct Held {
    pub(super) given: TargetGiven,
    /// What is to be written there and is not yet; it outlives every log helper.
    memory: OwnedFd,
}

/// All that are open.
#[derive(Default)]
pub(super) struct Targets {
    in_force: Chosen,
    pub(super) files: LogFiles,
    next_number: u64,
    /// Of the last configuration: something may still be written from their slots.
    leaving: Vec<TargetGiven>,
    /// When files were looked at last.
    pub(super) looked: Option<Instant>,
}

impl Targets {
    /// Opens what these settings want and is not open.
    pub(super) fn choose(&mut self, settings: &Settings, service: Service) -> Result<Chosen, Error> {
        let wanted = settings.targets.iter().map(|target| (target, false));
        let wanted = wanted.chain(settings.access.iter().map(|target| (target, true)));
        let mut chosen = Chosen::default();
        for (target, is_access) in wanted {
            let held = self.held(target, is_access, &chosen).and_then(|held| {
                let opened = self.opened(&held, service);
                // Also if it was not: then there is nothing to be given up of it.
                chosen.targets.push(held);
                opened
            });
            if let Err(error) = held.and_then(|()| self.are_others(&chosen)) {
                self.give_up(&chosen);
                return Err(error);
            }
        }
        Ok(chosen)
    }

    /// Whether the last of them is no file that another one of them is, by whatever name.
    fn are_others(&self, chosen: &Chosen) -> Result<(), Error> {
        let Some((last, others)) = chosen.targets.split_last() else { return Ok(()) };
        let identity = |held: &Held| self.files.identity(held.given.number);
        let Some(its) = identity(last) else { return Ok(()) };
        match others.iter().find(|other| identity(other) == Some(its)) {
            Some(other) => Err(one_file(&other.name(), &last.name())),
            None => Ok(()),
        }
    }

    fn held(&mut self, target: &Target, is_access: bool, chosen: &Chosen) -> Result<Held, Error> {
        let cannot = || "cannot make memory for the log".to_owned();
        let same = |held: &&Held| held.given.target == *target && held.given.is_access == is_access;
        if let Some(held) = self.in_force.targets.iter().find(same) {
            return Ok(Held { given: held.given.clone(), memory: held.memory.try_clone().or_refused(cannot)? });
        }
        let is_taken = |slot: usize| {
            let both = self.in_force.targets.iter().chain(&chosen.targets);
            self.leaving.iter().any(|given| given.slot == slot) || both.into_iter().any(|held| held.given.slot == slot)
        };
        let slot = (0..TARGETS_MAX).find(|&slot| !is_taken(slot));
        let slot = slot.ok_or_else(|| io::Error::other("too many targets")).or_refused(cannot)?;
        self.next_number += 1;
        let given = TargetGiven { number: self.next_number, slot, target: target.clone(), is_access };
        Ok(Held { given, memory: HeldBytes::make("log target", pending::LEN).or_refused(cannot)? })
    }

    fn opened(&mut self, held: &Held, service: Service) -> Result<(), Error> {
        match &held.given.target.sink {
            Sink::File(file) if self.files.path(held.given.number).is_none() => {
                self.files.add(held.given.number, file, service)
            }
            Sink::File(_) | Sink::Console | Sink::Syslog(_) | Sink::Journald(_) => Ok(()),
        }
    }

    /// These are not wanted after all.
    pub(super) fn give_up(&mut self, chosen: &Chosen) {
        let is_in_force = |number| self.in_force.targets.iter().any(|held| held.given.number == number);
        let numbers: Vec<u64> =
            chosen.targets.iter().map(|held| held.given.number).filter(|&number| !is_in_force(number)).collect();
        numbers.into_iter().for_each(|number| self.files.remove(number));
    }

    /// These are in force from now on; whether they are others.
    pub(super) fn commit(&mut self, chosen: Chosen) -> bool {
        let old = std::mem::replace(&mut self.in_force, chosen);
        let is_kept = |held: &Held| self.in_force.targets.iter().any(|kept| kept.given.number == held.given.number);
        let gone: Vec<&Held> = old.targets.iter().filter(|held| !is_kept(held)).collect();
        let is_other = !gone.is_empty() || old.targets.len() != self.in_force.targets.len();
        self.leaving = gone.iter().map(|held| held.given.clone()).collect();
        gone.iter().for_each(|held| self.files.remove(held.given.number));
        is_other
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Held> {
        self.in_force.targets.iter()
    }

    pub(super) fn get(&self, number: u64) -> Option<&Held> {
        self.iter().find(|held| held.given.number == number)
    }

    /// Those that are files.
    pub(super) fn file_numbers(&self) -> Vec<u64> {
        let is_file = |held: &&Held| matches!(held.given.target.sink, Sink::File(_));
        self.iter().filter(is_file).map(|held| held.given.number).collect()
    }

    /// What goes with the order to write to them.
    pub(super) fn descriptors(&self) -> io::Result<Vec<OwnedFd>> {
        let mut all = Vec::new();
        for held in self.iter() {
            all.push(held.memory.as_fd().try_clone_to_owned()?);
            if let Sink::File(_) = held.given.target.sink {
                all.push(self.files.descriptor(held.given.number)?);
            }
        }
        Ok(all)
    }

    /// Who has not got how many records, at the very end, where no line of its own tells of all of them.
    pub(super) fn missing(&self, ledger: &Ledger) -> Vec<(String, u64)> {
        let all = self.iter().map(|held| &held.given).chain(&self.leaving);
        let missing = |given: &TargetGiven| {
            let [waiting, lost, told] =
                [OfTarget::Waiting, OfTarget::Lost, OfTarget::Told].map(|word| count(given, ledger, word));
            if lost > told { waiting + lost } else { waiting }
        };
        all.map(|given| (given.target.name(), missing(given))).filter(|(_, missing)| *missing > 0).collect()
    }

    /// When files are to be looked at next.
    pub(super) fn due(&self) -> Option<Instant> {
        self.looked.map(|looked| looked + LOOK_EVERY)
    }
}

impl Held {
    /// How many records were written to it, and how many it did not take in time, by the log helper's word.
    pub(super) fn counts(&self, ledger: &Ledger) -> (u64, u64) {
        let count = |word| count(&self.given, ledger, word);
        (count(OfTarget::Given).saturating_sub(count(OfTarget::Waiting)), count(OfTarget::Lost))
    }

    pub(super) fn kind(&self) -> &'static str {
        match &self.given.target.sink {
            Sink::Console => "console",
            Sink::File(_) => "file",
            Sink::Syslog(_) => "syslog",
            Sink::Journald(_) => "journald",
        }
    }

    /// As people know it.
    pub(super) fn name(&self) -> String {
        self.given.target.name()
    }
}

/// What of the files that these settings want a start would refuse, as far as can be seen; makes nothing.
pub(super) fn look(settings: &Settings) -> Vec<Error> {
    let mut seen: Vec<(&Path, (FileIdentity, &OsStr))> = Vec::new();
    let mut wrong = Vec::new();
    for target in settings.targets.iter().chain(&settings.access) {
        let Sink::File(file) = &target.sink else { continue };
        wrong.extend(LogFiles::look(file).err());
        let Some(place) = place(&file.path) else { continue };
        match seen.iter().find(|(_, other)| *other == place) {
            Some((other, _)) => wrong.push(one_file(&other.display().to_string(), &target.name())),
            None => seen.push((&file.path, place)),
        }
    }
    wrong
}

fn one_file(one: &str, other: &str) -> Error {
    Error::new(Exit::Config, format!("two targets of the log are one file: {one} and {other}: keep one"))
}

/// What the log helper has last said of a target, if it has begun with it.
fn count(given: &TargetGiven, ledger: &Ledger, word: OfTarget) -> u64 {
    let read = |word| ledger.read(Place::of_target(given.slot, word));
    // Until then the place is that of another one.
    if read(OfTarget::Number) == given.number { read(word) } else { 0 }
}
