//! One target: which records it takes, how they look there, and what is still to be written.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use env_filter::{Builder, Filter};
use log::Level;

use super::datagram::{Address, Datagrams, Sent};
use super::format::{Formatter, Look, Names};
use super::ledger::{Ledger, OfTarget, Place};
use super::pending::{LINE_LEN_MAX, Pending};
use super::stream::{Stream, Written};
use crate::contract::orders::TargetGiven;
use crate::log::encoding::cut_mark;
use crate::log::logger::now_us;
use crate::log::loss;
use crate::log::record::{ACCESS, Entry, Fields, Origin};
use crate::settings::log::{Format, Fsync, Sink, SyslogAddress, Target};

/// What a target that is new has none of.
const ZEROED: [OfTarget; 6] =
    [OfTarget::End, OfTarget::Done, OfTarget::Inode, OfTarget::Written, OfTarget::Lost, OfTarget::Told];

/// Bytes before a message that goes as a datagram: its length.
const PREFIX_LEN: usize = size_of::<u32>();

pub(super) struct Outlet {
    pub(super) number: u64,
    slot: usize,
    filter: Option<Filter>,
    is_access: bool,
    /// While it takes nothing, nothing is taken for the others either: it gets all.
    pub(super) is_waited_for: bool,
    formatter: Formatter,
    pending: Pending,
    sink: Way,
    sync: Sync,
    written: u64,
    /// Records that it did not take in time, and how many of them were told of.
    lost: u64,
    told: u64,
    /// Whether it was said that it takes nothing.
    is_troubled: bool,
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
        Ok(Self {
            number: *number,
            slot: *slot,
            filter: target.level.as_deref().map(|level| Builder::new().parse(level).build()),
            is_access: *is_access,
            is_waited_for: false,
            formatter: Formatter::new(look(target), names),
            pending,
            sink: way,
            sync: Sync { when: fsync(target), is_due: false, last: Instant::now() },
            written: ledger.read(place(OfTarget::Written)),
            lost: ledger.read(place(OfTarget::Lost)),
            told: ledger.read(place(OfTarget::Told)),
            is_troubled: false,
        })
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
            self.lost += 1;
            return;
        }
        if self.lost > self.told {
            let missing = self.lost - self.told;
            let text = format!("{missing} records are missing here: this target did not take them in time");
            self.append(&Origin::default(), &loss::entry(&text, now_us()));
            self.told = self.lost;
        }
        self.append(origin, entry);
        self.written += 1;
        self.sync.is_due |= entry.level == Level::Error || self.sync.when != Fsync::Error;
    }

    fn wants(&self, entry: &Entry<'_>) -> bool {
        self.filter.as_ref().is_none_or(|filter| entry.is_wanted_by(filter))
    }

    fn append(&mut self, origin: &Origin, entry: &Entry<'_>) {
        let is_datagram = matches!(self.sink, Way::Datagrams(_));
        let out = self.pending.stage();
        let start = out.len();
        let mut put = |entry: &Entry<'_>| {
            out.truncate(start);
            if is_datagram {
                out.extend_from_slice(&[0; PREFIX_LEN]);
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
            let len = (out.len() - start - PREFIX_LEN) as u32;
            out[start..start + PREFIX_LEN].copy_from_slice(&len.to_ne_bytes());
        }
    }

    /// What was added is to be written, once the ledger has committed.
    pub(super) fn settle(&mut self, ledger: &mut Ledger) {
        self.pending.settle(ledger);
        let counts = [(OfTarget::Written, self.written), (OfTarget::Lost, self.lost), (OfTarget::Told, self.told)];
        for (word, count) in counts {
            ledger.stage_changed(Place::of_target(self.slot, word), count);
        }
    }

    /// Writes what it takes now.
    pub(super) fn write(&mut self, ledger: &mut Ledger) -> Option<Change> {
        let failed = match &mut self.sink {
            Way::Stream(stream) => match stream.write(&mut self.pending, ledger) {
                Written::All | Written::Closed => None,
                Written::Later => return None,
                Written::Failed(error) => Some(error),
            },
            Way::Datagrams(datagrams) => match send(datagrams, &mut self.pending, ledger) {
                Sent::Done => None,
                Sent::Later => return None,
                Sent::Failed(error) => Some(error),
            },
        };
        match (failed, self.is_troubled) {
            (Some(error), false) => {
                self.is_troubled = true;
                Some(Change::Stuck(error))
            }
            (None, true) => {
                self.is_troubled = false;
                Some(Change::Going)
            }
            (Some(_), true) | (None, false) => None,
        }
    }

    /// Writes to this file from now on; what still waits goes there if the old one does not take it.
    pub(super) fn switch(&mut self, file: File, ledger: &mut Ledger) {
        if let Way::Stream(stream) = &mut self.sink {
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

/// Sends messages one by one, each once: one that cannot be sent at all is thrown away.
fn send(datagrams: &mut Datagrams, pending: &mut Pending, ledger: &Ledger) -> Sent {
    let (mut prefix, mut message, mut failed) = (Vec::new(), Vec::new(), None);
    while !pending.is_empty() {
        pending.copy(0, PREFIX_LEN, &mut prefix);
        let len = prefix.first_chunk().map_or(0, |len| u32::from_ne_bytes(*len)) as usize;
        pending.copy(PREFIX_LEN, len, &mut message);
        match datagrams.send(&message) {
            Sent::Done => {}
            Sent::Later => return Sent::Later,
            Sent::Failed(error) => failed = Some(error),
        }
        pending.advance(PREFIX_LEN + len, ledger);
    }
    failed.map_or(Sent::Done, Sent::Failed)
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

/// Whether an access record is one for the target of those, if there is one.
pub(super) fn is_access(entry: &Entry<'_>) -> bool {
    entry.target == ACCESS
}
