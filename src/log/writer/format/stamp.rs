//! The time of a record as text, made anew only when another second begins.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::Offset;

const SECOND_US: u64 = 1_000_000;

/// `2023-11-14T22:13:20`.
const RFC3339_LEN: usize = 19;

/// `14/Nov/2023:22:13:20 +0000`.
const COMMON_LEN: usize = 26;

const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

pub(super) struct Stamp {
    /// When the second began, in microseconds.
    start_us: i64,
    rfc3339: [u8; RFC3339_LEN],
    common: [u8; COMMON_LEN],
}

impl Stamp {
    pub(super) fn new() -> Self {
        let mut stamp = Self { start_us: 0, rfc3339: [0; RFC3339_LEN], common: [0; COMMON_LEN] };
        stamp.renew(0);
        stamp
    }

    /// `2023-11-14T22:13:20`, in UTC.
    pub(super) fn second(&mut self, time_us: i64) -> &[u8; RFC3339_LEN] {
        self.turn(time_us);
        &self.rfc3339
    }

    /// `14/Nov/2023:22:13:20 +0000`, as the Common Log Format has it.
    pub(super) fn common(&mut self, time_us: i64) -> &[u8; COMMON_LEN] {
        self.turn(time_us);
        &self.common
    }

    /// Appends `2023-11-14T22:13:20.999999Z`.
    pub(super) fn write_microseconds(&mut self, time_us: i64, out: &mut Vec<u8>) {
        let mut rest = self.turn(time_us);
        let mut fraction = *b".000000Z";
        for digit in fraction[1..=6].iter_mut().rev() {
            *digit = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
        out.extend_from_slice(&self.rfc3339);
        out.extend_from_slice(&fraction);
    }

    /// Comes to this time, and says what it has beyond the whole second.
    fn turn(&mut self, time_us: i64) -> u32 {
        let beyond = time_us.wrapping_sub(self.start_us) as u64;
        if beyond < SECOND_US { beyond as u32 } else { self.renew(time_us) }
    }

    #[cold]
    fn renew(&mut self, time_us: i64) -> u32 {
        let (time_us, civil) = civil(time_us);
        let beyond = time_us.rem_euclid(SECOND_US as i64);
        self.start_us = time_us - beyond;
        copy(&format!("{civil:.0}"), &mut self.rfc3339);
        let (day, month, year) = (civil.day(), MONTHS[civil.month() as usize - 1], civil.year());
        let (hour, minute, second) = (civil.hour(), civil.minute(), civil.second());
        copy(&format!("{day:02}/{month}/{year:04}:{hour:02}:{minute:02}:{second:02} +0000"), &mut self.common);
        beyond as u32
    }
}

/// The time in UTC; 1970 for one whose year has no four digits, which all the formats demand.
fn civil(time_us: i64) -> (i64, DateTime) {
    Timestamp::from_microsecond(time_us)
        .map(|timestamp| (time_us, Offset::UTC.to_datetime(timestamp)))
        .ok()
        .filter(|(_, civil)| civil.year() >= 0)
        .unwrap_or_else(|| (0, Offset::UTC.to_datetime(Timestamp::UNIX_EPOCH)))
}

/// Both have one length, as years have four digits.
fn copy(text: &str, to: &mut [u8]) {
    to.iter_mut().zip(text.bytes()).for_each(|(to, byte)| *to = byte);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(stamp: &mut Stamp, time_us: i64) -> (String, String) {
        let mut out = Vec::new();
        stamp.write_microseconds(time_us, &mut out);
        let common = stamp.common(time_us).to_vec();
        assert_eq!(stamp.second(time_us)[..], out[..RFC3339_LEN]);
        (String::from_utf8(out).expect("text"), String::from_utf8(common).expect("text"))
    }

    #[test]
    fn times_come_in_any_order() {
        let table = [
            (1_700_000_000_999_999, "2023-11-14T22:13:20.999999Z", "14/Nov/2023:22:13:20 +0000"),
            (1_700_000_001_000_000, "2023-11-14T22:13:21.000000Z", "14/Nov/2023:22:13:21 +0000"),
            (1_700_000_000_000_007, "2023-11-14T22:13:20.000007Z", "14/Nov/2023:22:13:20 +0000"),
            (0, "1970-01-01T00:00:00.000000Z", "01/Jan/1970:00:00:00 +0000"),
            (-1, "1969-12-31T23:59:59.999999Z", "31/Dec/1969:23:59:59 +0000"),
            (-62_135_596_800_000_000, "0001-01-01T00:00:00.000000Z", "01/Jan/0001:00:00:00 +0000"),
            (253_402_207_200_000_000, "9999-12-30T22:00:00.000000Z", "30/Dec/9999:22:00:00 +0000"),
            (-62_198_755_200_000_000, "1970-01-01T00:00:00.000000Z", "01/Jan/1970:00:00:00 +0000"),
            (i64::MAX, "1970-01-01T00:00:00.000000Z", "01/Jan/1970:00:00:00 +0000"),
            (i64::MIN, "1970-01-01T00:00:00.000000Z", "01/Jan/1970:00:00:00 +0000"),
        ];
        let mut stamp = Stamp::new();
        for (time_us, precise, common) in table {
            assert_eq!(all(&mut stamp, time_us), (precise.to_owned(), common.to_owned()), "{time_us}");
            assert_eq!(all(&mut Stamp::new(), time_us), (precise.to_owned(), common.to_owned()), "{time_us}");
        }
    }
}
