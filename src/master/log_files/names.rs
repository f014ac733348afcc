//! What rotated files are called, and which of them go.
//!
//! `PATH.20260131T235959Z`, the next one of that second `PATH.20260131T235959Z.1`; with `.gz` behind it when it is
//! compressed, `.gz.new` while that is done. The order of their stamps is the order of time. Without I/O.

use std::fmt;
use std::time::SystemTime;

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

const SECOND: &str = "%Y%m%dT%H%M%SZ";

/// When a file was rotated, in UTC, and the how manieth of that second it was.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Stamp {
    second: Timestamp,
    count: u32,
}

/// What there may be of one rotated file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Plain,
    Compressed,
    /// Somebody is writing it, or was killed while writing.
    Unfinished,
}

/// One rotated file: the bytes of each form there is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rotated {
    pub(super) stamp: Stamp,
    pub(super) plain: Option<u64>,
    pub(super) compressed: Option<u64>,
    pub(super) unfinished: Option<u64>,
}

impl Stamp {
    /// The one for now. Never one before `newest`: when the clock was set back, what is new would else be taken for
    /// the oldest, and be the first to go. `None` when a second's numbers are used up.
    pub(super) fn new(now: SystemTime, newest: Option<&Self>) -> Option<Self> {
        let now = Timestamp::try_from(now).unwrap_or(Timestamp::UNIX_EPOCH);
        let second = Timestamp::from_second(now.as_second()).unwrap_or(Timestamp::UNIX_EPOCH);
        match newest {
            Some(newest) if newest.second >= second => newest.next(),
            Some(_) | None => Some(Self { second, count: 0 }),
        }
    }

    /// The next one of the same second.
    pub(super) fn next(&self) -> Option<Self> {
        Some(Self { second: self.second, count: self.count.checked_add(1)? })
    }

    /// What stands behind `PATH.`, if it is exactly what is written there.
    pub(super) fn parse(text: &str) -> Option<(Self, Form)> {
        let (text, form) = match (text.strip_suffix(".gz"), text.strip_suffix(".gz.new")) {
            (Some(stamp), _) => (stamp, Form::Compressed),
            (None, Some(stamp)) => (stamp, Form::Unfinished),
            (None, None) => (text, Form::Plain),
        };
        let (second, count) = text.split_once('.').unwrap_or((text, "0"));
        let moment = DateTime::strptime(SECOND, second).ok()?.to_zoned(TimeZone::UTC).ok()?;
        let stamp = Self { second: moment.timestamp(), count: count.parse().ok()? };
        (stamp.to_string() == text).then_some((stamp, form))
    }
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.second.strftime(SECOND))?;
        if self.count > 0 { write!(f, ".{}", self.count) } else { Ok(()) }
    }
}

impl Form {
    pub(super) fn ending(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Compressed => ".gz",
            Self::Unfinished => ".gz.new",
        }
    }
}

impl Rotated {
    pub(super) fn new(stamp: Stamp) -> Self {
        Self { stamp, plain: None, compressed: None, unfinished: None }
    }

    pub(super) fn bytes_of(&mut self, form: Form) -> &mut Option<u64> {
        match form {
            Form::Plain => &mut self.plain,
            Form::Compressed => &mut self.compressed,
            Form::Unfinished => &mut self.unfinished,
        }
    }

    /// Whether it is yet to be compressed.
    pub(super) fn is_plain(&self) -> bool {
        self.plain.is_some() && self.compressed.is_none()
    }

    fn bytes(&self) -> u64 {
        [self.plain, self.compressed, self.unfinished].into_iter().flatten().fold(0, u64::saturating_add)
    }
}

/// Which of these, the oldest first, are too many: beyond so many files and so many bytes the oldest go.
///
/// One that waits to be compressed has no size yet that could count: it is about to become a tenth of it.
pub(super) fn surplus(
    files: &[Rotated],
    keep: u32,
    keep_size: Option<u64>,
    waits: impl Fn(&Rotated) -> bool,
) -> Vec<&Rotated> {
    let keep = usize::try_from(keep).unwrap_or(usize::MAX);
    let mut bytes = 0_u64;
    let is_too_much = |(number, file): &(usize, &Rotated)| {
        if *number >= keep {
            return true;
        }
        if waits(file) {
            return false;
        }
        bytes = bytes.saturating_add(file.bytes());
        keep_size.is_some_and(|most| bytes > most)
    };
    files.iter().rev().enumerate().filter(is_too_much).map(|(_, file)| file).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn only_names_of_our_own_are_read() {
        let own = [
            ("20260131T235959Z", Form::Plain),
            ("20260131T235959Z.1", Form::Plain),
            ("20260131T235959Z.gz", Form::Compressed),
            ("20260131T235959Z.12.gz", Form::Compressed),
            ("20260131T235959Z.gz.new", Form::Unfinished),
            ("20240229T000000Z.4294967295.gz.new", Form::Unfinished),
        ];
        for (text, form) in own {
            let (stamp, read) = Stamp::parse(text).expect(text);
            assert_eq!((format!("{stamp}{}", form.ending()), read), (text.to_owned(), form));
        }
        let others = [
            "",
            "1",
            "gz",
            "20260131",
            "20260131T235959",
            "20260131t235959Z",
            "20260132T235959Z",
            "20250229T000000Z",
            "20260131T235960Z",
            "20260131T246060Z",
            " 20260131T235959Z",
            "+20260131T235959Z",
            "20260131T235959Z ",
            "20260131T235959Z.",
            "20260131T235959Z.0",
            "20260131T235959Z.01",
            "20260131T235959Z.+1",
            "20260131T235959Z.-1",
            "20260131T235959Z.4294967296",
            "20260131T235959Z.1.2",
            "20260131T235959Z.bz2",
            "20260131T235959Z.gz.1",
            "20260131T235959Z.gz.gz",
            "20260131T235959Z.new",
            "20260131T235959Z.gz.new.new",
            "2026131T235959Z",
            "020260131T235959Z",
        ];
        for text in others {
            assert_eq!(Stamp::parse(text), None, "{text}");
        }
    }

    #[test]
    fn the_order_of_stamps_is_the_order_of_time() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let (mut newest, mut names) = (None, Vec::new());
        for seconds in [1_000_000_000, 1_000_000_000, 1_000_000_001, 999_999_000, 1_000_000_002] {
            let stamp = Stamp::new(at(seconds), newest.as_ref()).expect("there are more");
            assert!(newest < Some(stamp.clone()));
            names.push(stamp.to_string());
            newest = Some(stamp);
        }
        let expected =
            ["20010909T014640Z", "20010909T014640Z.1", "20010909T014641Z", "20010909T014641Z.1", "20010909T014642Z"];
        assert_eq!(names, expected);
        let (last, _) = Stamp::parse("20010909T014640Z.4294967295").expect("a stamp");
        assert_eq!(Stamp::new(at(1_000_000_000), Some(&last)), None);
    }

    /// How many are kept, of how many bytes, which of them wait, and which go.
    type Case<'a> = (u32, Option<u64>, &'a [u64], &'a [u64]);

    #[test]
    fn the_oldest_go() {
        let file = |number: u32| {
            let (stamp, _) = Stamp::parse(&format!("20260131T00000{number}Z")).expect("a stamp");
            Rotated { plain: Some(u64::from(number) * 10), ..Rotated::new(stamp) }
        };
        let files: Vec<Rotated> = (1..=4).map(file).collect();
        let table: [Case<'_>; 11] = [
            (9, None, &[], &[]),
            (4, None, &[], &[]),
            (3, None, &[], &[10]),
            (0, None, &[], &[40, 30, 20, 10]),
            (9, Some(100), &[], &[]),
            (9, Some(99), &[], &[10]),
            (9, Some(69), &[], &[30, 20, 10]),
            (9, Some(0), &[], &[40, 30, 20, 10]),
            (1, Some(99), &[], &[30, 20, 10]),
            (9, Some(35), &[40], &[20, 10]),
            (1, Some(0), &[40, 30], &[30, 20, 10]),
        ];
        for (keep, keep_size, waiting, gone) in table {
            let waits = |file: &Rotated| file.plain.is_some_and(|bytes| waiting.contains(&bytes));
            let found: Vec<u64> =
                surplus(&files, keep, keep_size, waits).into_iter().filter_map(|file| file.plain).collect();
            assert_eq!(found, gone, "{keep} {keep_size:?} {waiting:?}");
        }
    }
}
