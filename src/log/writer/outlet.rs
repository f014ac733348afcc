//! One target: which records it takes, how they look there, and what is still to be written.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use env_filter::{Builder, Filter};
use log::Level;

use super::counts::Counts;
use super::datagram::{Address, Datagrams};
use super::format::{Formatter, Look, Names};
use super::ledger::{Ledger, OfTarget, Place};
use super::messages::{self, Head};
use super::pending::{LINE_LEN_MAX, Pending};
use super::stream::{Stream, Written};
use crate::contract::orders::TargetGiven;
use crate::log::encoding::cut_mark;
use crate::log::logger::now_us;
use crate::log::loss;
use crate::log::record::{ACCESS, Entry, Fields, Origin};
use crate::settings::log::{Format, Fsync, Sink, SyslogAddress, Target};

/// What a target that is new has none of.
const ZEROED: [OfTarget; 7] = [
    OfTarget::End,
    OfTarget::Done,
    OfTarget::Inode,
    OfTarget::Given,
    OfTarget::Lost,
    OfTarget::Told,
    OfTarget::Waiting,
];

/// A file is not rotated more often for its size: each one costs the master a look at its directory.
const ROTATED_EVERY: Duration = Duration::from_millis(100);

pub(super) struct Outlet {
    pub(super) number: u64,
    pub(super) name: String,
    pub(super) slot: usize,
    filter: Option<Filter>,
    is_access: bool,
    /// While it takes nothing, nothing is taken for the others either: it gets all.
    pub(super) is_waited_for: bool,
    formatter: Formatter,
    pending: Pending,
    sink: Way,
    sync: Sync,
    counts: Counts,
    /// Whether it was said that it takes nothing.
    is_troubled: bool,
    /// A file that is as large is rotated by the master.
    size_max: Option<u64>,
    /// Whether that was said of the file that it is, and when it was last said of one.
    is_said_large: bool,
    said_large: Option<Instant>,
}

enum Way {
    Stream(Stream),
    Datagrams(Datagrams),
}

/// When its file is forced to the disk.
struct Sync {
    when: Fsync,
    /// Whether something was written since the last time.
    is_due: bool,
    last: Instant,
}

/// What has changed with a write.
#[derive(Debug)]
pub(super) enum Change {
    /// From now on it takes nothing.
    Stuck(io::Error),
    /// It takes again.
    Going,
}

impl Outlet {
    /// Goes on where the last log helper stopped.
    pub(super) fn resume(
        given: &TargetGiven,
        memory: OwnedFd,
        file: Option<File>,
        names: &Names,
        ledger: &mut Ledger,
    ) -> io::Result<Self> {
        let TargetGiven { number, slot, target, is_access } = given;
        let place = |word| Place::of_target(*slot, word);
        if ledger.read(place(OfTarget::Number)) != *number {
            for word in ZEROED {
                ledger.stage(place(word), 0);
            }
            ledger.stage(place(OfTarget::Number), *number);
            ledger.commit();
        }
        let mut pending = Pending::take(memory, *slot, ledger)?;
        let way = Way::of(&target.sink, file, &mut pending, *slot, ledger);
        let mut outlet = Self {
            number: *number,
            name: target.name(),
            slot: *slot,
            filter: target.level.as_deref().map(|level| Builder::new().parse(level).build()),
            is_access: *is_access,
            is_waited_for: false,
            formatter: Formatter::new(look(target), names),
            pending,
            sink: way,
            sync: Sync { when: fsync(target), is_due: false, last: Instant::now() },
            counts: Counts::read(*slot, ledger),
            is_troubled: false,
            size_max: size_max(target),
            is_said_large: false,
            said_large: None,
        };
        outlet.count_what_waits(ledger);
        Ok(outlet)
    }

    pub(super) fn is_access(&self) -> bool {
        self.is_access
    }

    pub(super) fn is_file(&self) -> bool {
        matches!(&self.sink, Way::Stream(stream) if stream.file().is_some())
    }

    /// Whether it was said that it takes nothing.
    pub(super) fn is_troubled(&self) -> bool {
        self.is_troubled
    }

    /// Whether it has messages for a receiver whose queue is full: it will take more in a moment, and no
    /// event tells when.
    pub(super) fn is_queueing(&self) -> bool {
        matches!(self.sink, Way::Datagrams(_)) && !self.is_troubled && !self.pending.is_empty()
    }

    pub(super) fn is_full(&self) -> bool {
        self.pending.is_full()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// Whether its file is to be looked at again soon.
    pub(super) fn is_watched(&self) -> bool {
        matches!(&self.sink, Way::Stream(stream) if stream.is_watched())
    }

    /// Adds a record, if it is one for this target. It exists with the next [`Outlet::settle`].
    pub(super) fn add(&mut self, origin: &Origin, entry: &Entry<'_>) {
        if !self.wants(entry) {
            return;
        }
        if self.pending.is_full() && !self.is_waited_for {
            self.counts.lost += 1;
            return;
        }
        let missing = self.counts.missing();
        if missing > 0 {
            self.append(&Origin::default(), &loss::entry(&loss::missing_here(missing), now_us()), missing);
            self.counts.told += missing;
        }
        self.append(origin, entry, 0);
        self.sync.is_due |= entry.level == Level::Error || self.sync.when != Fsync::Error;
    }

    fn wants(&self, entry: &Entry<'_>) -> bool {
        self.filter.as_ref().is_none_or(|filter| entry.is_wanted_by(filter))
    }

    /// `missing`: it tells that so many are.
    fn append(&mut self, origin: &Origin, entry: &Entry<'_>, missing: u64) {
        let is_datagram = matches!(self.sink, Way::Datagrams(_));
        let out = self.pending.stage();
        let start = out.len();
        let mut put = |entry: &Entry<'_>| {
            out.truncate(start);
            if is_datagram {
                out.extend_from_slice(&Head::default().bytes());
            }
            self.formatter.write(origin, entry, out);
            out.len() - start
        };
        let (mut len, mut kept) = (put(entry), entry.message.len());
        while len > LINE_LEN_MAX {
            // By as much as the whole is too long, and a little more: not all letters grow alike.
            kept = entry.message.floor_char_boundary(kept * LINE_LEN_MAX / len * 7 / 8);
            let message = format!("{}{}", &entry.message[..kept], cut_mark(entry.message.len()));
            len = put(&Entry { message: &message, fields: Fields::default(), ..*entry });
        }
        if is_datagram {
            let head = Head { len: (out.len() - start - Head::LEN) as u64, missing };
            out[start..start + Head::LEN].copy_from_slice(&head.bytes());
        }
        self.counts.given += 1;
        self.counts.waiting += 1;
    }

    /// What was added is to be written, once the ledger has committed.
    pub(super) fn settle(&mut self, ledger: &mut Ledger) {
        self.pending.settle(ledger);
        self.counts.stage(self.slot, ledger);
    }

    fn count_what_waits(&mut self, ledger: &Ledger) {
        self.counts.waiting = match &self.sink {
            Way::Stream(_) => self.pending.lines(),
            Way::Datagrams(_) => messages::count(&self.pending),
        };
        self.counts.note(self.slot, ledger);
    }

    /// Writes what it takes now.
    pub(super) fn write(&mut self, ledger: &mut Ledger) -> Option<Change> {
        // Where there was nothing to write it is not known whether it takes anything.
        let (before, is_idle) = (self.counts, self.pending.is_empty());
        let ended = match &mut self.sink {
            Way::Stream(stream) => match stream.write(&mut self.pending, ledger) {
                Written::All => (!is_idle).then_some(Ok(())),
                Written::Later => None,
                Written::Closed(lost, error) => {
                    self.counts.given -= lost;
                    self.counts.lost += lost;
                    Some(Err(error))
                }
                Written::Failed(error) => Some(Err(error)),
            },
            Way::Datagrams(datagrams) => {
                messages::send(datagrams, &mut self.pending, &mut self.counts, &mut self.formatter, ledger)
            }
        };
        if before.waiting > 0 || self.counts != before {
            self.count_what_waits(ledger);
        }
        match (ended?, self.is_troubled) {
            (Err(error), false) => {
                self.is_troubled = true;
                Some(Change::Stuck(error))
            }
            (Ok(()), true) => {
                self.is_troubled = false;
                Some(Change::Going)
            }
            (Err(_), true) | (Ok(()), false) => None,
        }
    }

    /// Whether its file has become as large as it is to be: said once of each, and not too often.
    pub(super) fn has_become_large(&mut self, now: Instant) -> bool {
        let (Way::Stream(stream), Some(size)) = (&self.sink, self.size_max) else { return false };
        if stream.len(&self.pending).is_none_or(|len| len < size) {
            self.is_said_large = false;
            return false;
        }
        if self.is_said_large || self.said_large.is_some_and(|said| now - said < ROTATED_EVERY) {
            return false;
        }
        (self.is_said_large, self.said_large) = (true, Some(now));
        true
    }

    /// Whether the master knows that its file is too large.
    pub(super) fn waits_for_a_file(&self) -> bool {
        self.is_said_large
    }

    /// It gets nothing more; how many records it has not got, where no line there tells of them.
    pub(super) fn give_up(&mut self, ledger: &Ledger) -> u64 {
        let Counts { waiting, lost, told, .. } = self.counts;
        let missing = waiting + lost - told;
        let lost = lost + waiting;
        self.counts = Counts { given: self.counts.given - waiting, waiting: 0, lost, told: lost, before: 0 };
        self.counts.note(self.slot, ledger);
        missing
    }

    /// Writes to this file from now on; what still waits goes there if the old one does not take it.
    pub(super) fn switch(&mut self, file: File, ledger: &mut Ledger) {
        if let Way::Stream(stream) = &mut self.sink {
            self.is_said_large = false;
            let _ = stream.write(&mut self.pending, ledger);
            stream.switch(file, &self.pending, ledger);
        }
    }

    /// Standard error is another one.
    pub(super) fn console_has_moved(&mut self, ledger: &mut Ledger) {
        if let Way::Stream(stream) = &mut self.sink
            && stream.file().is_none()
        {
            stream.begin(&self.pending, ledger);
        }
    }

    /// When its file is to be forced to the disk.
    pub(super) fn sync_due(&self) -> Option<Instant> {
        let Fsync::Every(period) = self.sync.when else { return None };
        self.sync.is_due.then_some(self.sync.last + period)
    }

    /// A descriptor of the file that is to be forced to the disk now.
    pub(super) fn due_for_sync(&mut self, now: Instant) -> Option<OwnedFd> {
        let every = match self.sync.when {
            Fsync::Never => return None,
            Fsync::Error => Duration::ZERO,
            Fsync::Every(period) => period,
        };
        if !self.sync.is_due || !self.pending.is_empty() || now - self.sync.last < every {
            return None;
        }
        let Way::Stream(stream) = &self.sink else { return None };
        let file = stream.file()?.try_clone().ok()?;
        (self.sync.is_due, self.sync.last) = (false, now);
        Some(file.into())
    }
}

impl Way {
    fn of(sink: &Sink, file: Option<File>, pending: &mut Pending, slot: usize, ledger: &mut Ledger) -> Self {
        let address = match sink {
            Sink::Console => return Self::Stream(Stream::resume(None, pending, slot, ledger)),
            Sink::File(_) => return Self::Stream(Stream::resume(file, pending, slot, ledger)),
            Sink::Syslog(syslog) => match &syslog.address {
                SyslogAddress::Unix(path) => Address::Unix(path.clone()),
                SyslogAddress::Udp(address) => Address::Udp(*address),
            },
            Sink::Journald(path) => Address::Journald(path.clone()),
        };
        Self::Datagrams(Datagrams::new(address))
    }
}

fn look(target: &Target) -> Look {
    match (&target.sink, target.format) {
        (Sink::Syslog(syslog), _) => Look::Syslog { facility: syslog.facility },
        (Sink::Journald(_), _) => Look::Journald,
        (Sink::Console | Sink::File(_), Format::Json) => Look::Json,
        (Sink::Console | Sink::File(_), Format::Common) => Look::Common,
        (Sink::Console, Format::Text) => Look::text_on(&io::stderr()),
        (Sink::File(_), Format::Text) => Look::Text { colours: false },
    }
}

fn fsync(target: &Target) -> Fsync {
    match &target.sink {
        Sink::File(file) => file.fsync,
        Sink::Console | Sink::Syslog(_) | Sink::Journald(_) => Fsync::Never,
    }
}

fn size_max(target: &Target) -> Option<u64> {
    match &target.sink {
        Sink::File(file) => file.size,
        Sink::Console | Sink::Syslog(_) | Sink::Journald(_) => None,
    }
}

/// Whether an access record is one for the target of those, if there is one.
pub(super) fn is_access(entry: &Entry<'_>) -> bool {
    entry.target == ACCESS
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;
    use std::path::Path;
    use std::time::Duration;

    use super::*;
    use crate::log::writer::pending;
    use crate::settings::log::SyslogSink;
    use crate::sys::memory::HeldBytes;

    struct Kit {
        ledger: Ledger,
        outlet: Outlet,
    }

    impl Kit {
        fn new(sink: Sink, file: Option<File>) -> Self {
            let target = Target { sink, format: Format::Text, level: None };
            let given = TargetGiven { number: 7, slot: 0, target, is_access: false };
            let memory = HeldBytes::make("test", pending::LEN).expect("memory");
            let names = Names { program: "test".to_owned(), host: String::new() };
            let mut ledger = Ledger::create().expect("ledger");
            let outlet = Outlet::resume(&given, memory, file, &names, &mut ledger).expect("a target");
            Self { ledger, outlet }
        }

        fn syslog(path: &Path) -> Self {
            Self::new(Sink::Syslog(SyslogSink { address: SyslogAddress::Unix(path.into()), facility: 3 }), None)
        }

        fn add(&mut self, message: &str) {
            self.outlet.add(&Origin::default(), &loss::entry(message, now_us()));
            self.outlet.settle(&mut self.ledger);
            self.ledger.commit();
        }

        fn write(&mut self) -> Option<Change> {
            self.outlet.write(&mut self.ledger)
        }

        /// Written and lost, as `status` has them.
        fn counts(&self) -> (u64, u64) {
            let Counts { given, waiting, lost, .. } = Counts::read(0, &self.ledger);
            (given - waiting, lost)
        }
    }

    #[test]
    fn a_receiver_that_was_away_is_told_once_what_it_has_missed() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("log");
        let mut kit = Kit::syslog(&path);
        kit.add("first");
        assert!(kit.write().is_none() && kit.counts() == (0, 0), "it is waited for");
        let Way::Datagrams(datagrams) = &mut kit.outlet.sink else { panic!("a syslog") };
        datagrams.lose_patience();
        assert!(matches!(kit.write(), Some(Change::Stuck(_))));
        for message in ["second", "third"] {
            assert!((0..3).all(|_| kit.write().is_none()), "it is as it was");
            kit.add(message);
        }
        assert!(kit.write().is_none());
        assert_eq!(kit.counts(), (0, 3));
        let receiver = UnixDatagram::bind(&path).expect("bind");
        receiver.set_read_timeout(Some(Duration::from_secs(10))).expect("timeout");
        // It is looked for from time to time.
        let end = Instant::now() + Duration::from_secs(10);
        let going = std::iter::repeat_with(|| kit.write()).take_while(|_| Instant::now() < end).flatten().next();
        assert!(matches!(going, Some(Change::Going)), "{going:?}");
        kit.add("fourth");
        assert!(kit.write().is_none());
        for said in ["3 records are missing here: this target did not take them in time", "fourth"] {
            let mut buffer = [0; 1024];
            let len = receiver.recv(&mut buffer).expect("a datagram");
            assert!(String::from_utf8_lossy(&buffer[..len]).ends_with(said), "{said}");
        }
        assert_eq!(kit.counts(), (2, 3));
    }
}
