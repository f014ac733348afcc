//! Where everything goes that was said: the targets, whoever follows, and what is remembered.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use super::followers::Followers;
use super::format::Names;
use super::ledger::{Ledger, Place};
use super::memory::Memory;
use super::outlet::{Change, Outlet, is_access};
use super::side::Side;
use crate::contract::orders::{LogReport, TargetGiven};
use crate::log::logger::now_us;
use crate::log::loss;
use crate::log::record::{Entry, Origin};
use crate::log::ring::LEVELS;
use crate::settings::log::Sink;
use crate::sys::descriptors::takes_a_line;

/// How long those who print are not read while the targets take nothing: a console that is slow gets all.
const OUTPUT_WAITS: Duration = Duration::from_millis(200);

/// How long a target that is no more may write what is left.
const LEAVE_WITHIN: Duration = Duration::from_secs(5);

pub(super) struct Lines {
    pub(super) ledger: Ledger,
    pub(super) memory: Memory,
    pub(super) followers: Followers,
    outlets: Vec<Outlet>,
    /// Of the last configuration, until then at most.
    leaving: Vec<(Outlet, Instant)>,
    /// Since when nothing can be taken.
    full_since: Option<Instant>,
    names: Names,
    /// Records that came over sockets, lines that were printed, and what this process says itself; and those
    /// that were lost, by level: by the word of their senders, or here.
    sent: u64,
    sent_lost: [u64; LEVELS],
    /// Targets whose files cannot be forced to the disk.
    unsynced: BTreeSet<u64>,
    /// What the master is to know.
    pub(super) reports: Vec<LogReport>,
}

impl Lines {
    pub(super) fn new(ledger: Ledger, names: Names) -> Self {
        Self {
            sent: ledger.read(Place::SENT),
            sent_lost: std::array::from_fn(|level| ledger.read(Place::sent_lost(level))),
            ledger,
            memory: Memory::default(),
            followers: Followers::default(),
            outlets: Vec::new(),
            leaving: Vec::new(),
            full_since: None,
            names,
            unsynced: BTreeSet::new(),
            reports: Vec::new(),
        }
    }

    /// From now on these, each with its memory and its file.
    pub(super) fn set_targets(&mut self, targets: &[TargetGiven], descriptors: Vec<OwnedFd>) -> io::Result<()> {
        // Where two configurations follow each other so soon, it has its place in the ledger no longer.
        self.part_from(|outlet, _| targets.iter().any(|given| given.slot == outlet.slot));
        self.commit();
        let mut descriptors = descriptors.into_iter();
        let mut next = || descriptors.next().ok_or_else(|| io::Error::other("descriptors of a target are missing"));
        let mut old = std::mem::take(&mut self.outlets);
        for given in targets {
            let memory = next()?;
            let file = matches!(given.target.sink, Sink::File(_)).then(&mut next).transpose()?.map(File::from);
            let outlet = match old.iter().position(|outlet| outlet.number == given.number) {
                Some(same) => old.swap_remove(same),
                None => Outlet::resume(given, memory, file, &self.names, &mut self.ledger)?,
            };
            self.outlets.push(outlet);
        }
        self.choose_who_is_waited_for();
        let end = Instant::now() + LEAVE_WITHIN;
        self.leaving.extend(old.into_iter().map(|outlet| (outlet, end)));
        Ok(())
    }

    /// A file shall have everything, and must not wait for a terminal that was stopped; a disk that is full
    /// must not keep the others from being told.
    fn choose_who_is_waited_for(&mut self) {
        let is_one_well = self.outlets.iter().any(|outlet| !outlet.is_troubled());
        let is_candidate = |outlet: &Outlet| !is_one_well || !outlet.is_troubled();
        let is_one_a_file = self.outlets.iter().any(|outlet| is_candidate(outlet) && outlet.is_file());
        for outlet in &mut self.outlets {
            outlet.is_waited_for = is_candidate(outlet) && (!is_one_a_file || outlet.is_file());
        }
    }

    /// Whether it is known where to write.
    pub(super) fn have_targets(&self) -> bool {
        !self.outlets.is_empty()
    }

    /// A record that came over a socket or is a line of output, which nobody else counts.
    pub(super) fn add_sent(&mut self, origin: &Origin, entry: &Entry<'_>) {
        match loss::told(entry) {
            Some(lost) => self.sent_lost.iter_mut().zip(lost).for_each(|(sum, more)| *sum = sum.saturating_add(more)),
            None => self.sent += 1,
        }
        self.add(origin, entry);
    }

    pub(super) fn add(&mut self, origin: &Origin, entry: &Entry<'_>) {
        if !self.is_only_for_access(entry) {
            self.memory.note(&origin.name, entry);
        }
        self.add_unremembered(origin, entry);
    }

    /// The same for one that others of its process are known to follow.
    pub(super) fn add_unremembered(&mut self, origin: &Origin, entry: &Entry<'_>) {
        let is_access = self.is_only_for_access(entry);
        if !is_access {
            self.followers.add(origin, entry);
        }
        let takers = self.outlets.iter_mut().filter(|outlet| outlet.is_access() == is_access);
        takers.for_each(|outlet| outlet.add(origin, entry));
    }

    fn is_only_for_access(&self, entry: &Entry<'_>) -> bool {
        is_access(entry) && self.outlets.iter().any(Outlet::is_access)
    }

    /// A line of this process's own.
    pub(super) fn warn(&mut self, message: &str) {
        self.add_sent(&Origin::default(), &loss::entry(message, now_us()));
    }

    /// Whether to come back later with more.
    pub(super) fn is_full(&self) -> bool {
        self.outlets.iter().any(|outlet| outlet.is_waited_for && outlet.is_full())
    }

    /// Whether what is printed is taken, be it to be dropped.
    pub(super) fn take_output(&self) -> bool {
        !self.is_full() || self.full_since.is_some_and(|since| since.elapsed() >= OUTPUT_WAITS)
    }

    /// Whether another file is to come soon.
    pub(super) fn wait_for_a_file(&self) -> bool {
        self.outlets.iter().any(Outlet::waits_for_a_file)
    }

    /// Whether somebody's queue is full.
    pub(super) fn are_queueing(&self) -> bool {
        self.outlets.iter().any(Outlet::is_queueing)
    }

    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.outlets.iter().chain(self.leaving.iter().map(|(outlet, _)| outlet)).all(Outlet::is_empty)
    }

    /// What was added is to be written.
    pub(super) fn commit(&mut self) {
        self.outlets.iter_mut().for_each(|outlet| outlet.settle(&mut self.ledger));
        self.ledger.stage_changed(Place::SENT, self.sent);
        for (level, lost) in self.sent_lost.iter().enumerate() {
            self.ledger.stage_changed(Place::sent_lost(level), *lost);
        }
        self.ledger.commit();
    }

    /// Commits, and writes what the targets take now.
    pub(super) fn write(&mut self, side: &Side) {
        let now = Instant::now();
        self.part_from(|outlet, end| outlet.is_empty() || now >= end);
        self.commit();
        let mut changes = Vec::new();
        for outlet in &mut self.outlets {
            changes.extend(outlet.write(&mut self.ledger).map(|change| (outlet.number, change)));
            if outlet.has_become_large(now) {
                self.reports.push(LogReport::Large { target: outlet.number });
            }
            if let Some(file) = outlet.due_for_sync(now) {
                side.sync(outlet.number, file);
            }
        }
        for (outlet, _) in &mut self.leaving {
            let _ = outlet.write(&mut self.ledger);
        }
        self.followers.write();
        if !changes.is_empty() {
            self.choose_who_is_waited_for();
        }
        self.full_since = if self.is_full() { self.full_since.or(Some(now)) } else { None };
        changes.into_iter().for_each(|(number, change)| self.report(number, change));
    }

    /// Those of the last configuration that this is true of get nothing more; what they have not got is said.
    fn part_from(&mut self, is_over: impl Fn(&Outlet, Instant) -> bool) {
        let over: Vec<_> = self.leaving.extract_if(.., |(outlet, end)| is_over(outlet, *end)).collect();
        for (mut outlet, _) in over {
            let (missing, name) = (outlet.give_up(&self.ledger), outlet.name);
            if missing > 0 {
                self.warn(&format!("{missing} records are not in {name}, which the log goes to no more"));
            }
        }
    }

    /// Whether a file is to be looked at again soon.
    pub(super) fn is_watched(&self) -> bool {
        self.outlets.iter().any(Outlet::is_watched)
    }

    /// When what was written is to be forced to the disk, if nothing else happens.
    pub(super) fn sync_due(&self) -> Option<Instant> {
        self.outlets.iter().filter_map(Outlet::sync_due).min()
    }

    /// Its file was forced to the disk, or could not be. Told when it changes: a line of level error that told it
    /// each time would have it forced to the disk again.
    pub(super) fn synced(&mut self, target: u64, outcome: Result<(), String>) {
        let reason = match outcome {
            Ok(()) if self.unsynced.remove(&target) => None,
            Err(reason) if self.unsynced.insert(target) => Some(format!("it cannot be forced to the disk: {reason}")),
            Ok(()) | Err(_) => return,
        };
        self.reports.push(LogReport::Trouble { target, reason });
    }

    fn report(&mut self, target: u64, change: Change) {
        let reason = match change {
            Change::Stuck(error) => Some(error.to_string()),
            Change::Going => None,
        };
        // Where nobody else would be told.
        if let Some(reason) = &reason
            && self.outlets.iter().all(Outlet::is_troubled)
            && takes_a_line(io::stderr().as_fd())
        {
            // Whoever does not read there is told nowhere.
            let _ = writeln!(io::stderr(), "the log cannot be written: {reason}");
        }
        self.reports.push(LogReport::Trouble { target, reason });
    }

    /// Writes to this file from now on.
    pub(super) fn switch(&mut self, target: u64, file: OwnedFd) {
        self.commit();
        if let Some(outlet) = self.outlets.iter_mut().find(|outlet| outlet.number == target) {
            outlet.switch(File::from(file), &mut self.ledger);
        }
    }

    /// Standard error is another one.
    pub(super) fn console_has_moved(&mut self) {
        self.outlets.iter_mut().for_each(|outlet| outlet.console_has_moved(&mut self.ledger));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::writer::pending;
    use crate::settings::log::{FileSink, Format, Fsync, Target};
    use crate::sys::memory::HeldBytes;

    #[test]
    fn a_disk_that_takes_nothing_is_told_of_once() {
        let names = Names { program: "test".to_owned(), host: String::new() };
        let mut lines = Lines::new(Ledger::create().expect("a ledger"), names);
        for outcome in [Ok(()), Err("full"), Err("full"), Ok(()), Ok(()), Err("full")] {
            lines.synced(3, outcome.map_err(str::to_owned));
        }
        let told = lines.reports.iter().map(|report| matches!(report, LogReport::Trouble { reason: Some(_), .. }));
        assert_eq!(told.collect::<Vec<_>>(), [true, false, true]);
    }

    #[test]
    fn what_a_target_has_not_got_when_it_is_no_more_is_said() {
        let poll = mio::Poll::new().expect("a poll");
        let side = Side::new(mio::Waker::new(poll.registry(), mio::Token(0)).expect("a waker"));
        let names = Names { program: "test".to_owned(), host: String::new() };
        let mut lines = Lines::new(Ledger::create().expect("a ledger"), names);
        let full = File::options().append(true).open("/dev/full").expect("a device");
        let memory = HeldBytes::make("test", pending::LEN).expect("memory");
        lines.set_targets(&[a_file(1, 0, "/dev/full")], vec![memory, full.into()]).expect("a target");
        (0..3).for_each(|_| lines.add(&Origin::named("x", 1), &loss::entry("lost", 1)));
        lines.write(&side);
        lines.set_targets(&[], Vec::new()).expect("no target");
        lines.write(&side);
        assert_eq!(lines.memory.recall(""), Vec::<String>::new(), "it has some time");
        lines.leaving[0].1 = Instant::now();
        lines.write(&side);
        let said = "WARN forebay: 3 records are not in /dev/full, which the log goes to no more";
        assert_eq!(lines.memory.recall(""), [said]);
    }

    fn a_file(number: u64, slot: usize, path: &str) -> TargetGiven {
        let (keep, compress, fsync) = (1, false, Fsync::Never);
        let file = FileSink { path: path.into(), size: None, age: None, keep, keep_size: None, compress, fsync };
        let target = Target { sink: Sink::File(file), format: Format::Text, level: None };
        TargetGiven { number, slot, target, is_access: false }
    }
}
