//! When a job is due: a cron expression on the wall clock, or an interval.

use std::fmt;
use std::time::Duration;

use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use jiff::Timestamp;
use jiff::tz::TimeZone;

/// The shortest interval and the longest.
const INTERVAL_MIN: Duration = Duration::from_millis(10);
const INTERVAL_MAX: Duration = Duration::from_secs(10 * 366 * 24 * 60 * 60);

/// So many due times are counted one by one; of more it is only known that there are more.
pub(super) const COUNT_MAX: u64 = 10_000;

/// When a job is due.
#[derive(Clone, Debug)]
pub(super) enum When {
    Cron(Box<Expression>),
    Every(Duration),
}

/// A cron expression, and where its hours are.
#[derive(Clone, Debug)]
pub(super) struct Expression {
    text: &'static str,
    cron: Cron,
    pub(super) zone: Zone,
}

/// Whose time of day.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Zone {
    /// The daemon's.
    #[default]
    Local,
    Utc,
}

/// The due times that have passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Passed {
    pub(super) count: u64,
    pub(super) latest: Timestamp,
}

impl When {
    /// The expression as cron(8) knows it, with a field for seconds in front if there are six; or why not.
    pub(super) fn cron(text: &'static str) -> Result<Self, String> {
        let parser = CronParser::builder().seconds(Seconds::Optional).year(Year::Disallowed).build();
        let refuse = |why: String| format!("the expression {text:?} is wrong: {why}");
        let cron = parser.parse(text).map_err(|error| refuse(error.to_string()))?;
        let expression = Expression { text, cron, zone: Zone::Local };
        match expression.after(Timestamp::now(), &TimeZone::UTC) {
            Some(_) => Ok(Self::Cron(Box::new(expression))),
            None => Err(refuse("that day never comes".to_owned())),
        }
    }

    pub(super) fn every(interval: Duration) -> Result<Self, String> {
        if (INTERVAL_MIN..=INTERVAL_MAX).contains(&interval) {
            return Ok(Self::Every(interval));
        }
        Err(format!(
            "the interval {interval:?} is wrong: it takes {} ms at least, 10 years at most",
            INTERVAL_MIN.as_millis()
        ))
    }
}

impl fmt::Display for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cron(expression) if expression.zone == Zone::Utc => write!(f, "{} UTC", expression.text),
            Self::Cron(expression) => f.write_str(expression.text),
            Self::Every(interval) => write!(f, "every {interval:?}"),
        }
    }
}

impl Expression {
    /// The first due time after this one; `None` where the calendar ends.
    pub(super) fn after(&self, time: Timestamp, local: &TimeZone) -> Option<Timestamp> {
        let next = self.cron.find_next_occurrence(&time.to_zoned(self.zone(local)), false);
        next.ok().map(|next| next.timestamp())
    }

    /// The due times after the first time, up to the second.
    pub(super) fn between(&self, after: Timestamp, until: Timestamp, local: &TimeZone) -> Option<Passed> {
        let mut passed: Option<Passed> = None;
        let mut time = after;
        while let Some(latest) = self.after(time, local).filter(|due| *due <= until) {
            let count = passed.map_or(1, |passed| passed.count + 1);
            passed = Some(Passed { count, latest });
            time = latest;
            if count == COUNT_MAX {
                let last = self.cron.find_previous_occurrence(&until.to_zoned(self.zone(local)), true);
                return Some(Passed { count, latest: last.map_or(latest, |last| last.timestamp()) });
            }
        }
        passed
    }

    fn zone(&self, local: &TimeZone) -> TimeZone {
        match self.zone {
            Zone::Local => local.clone(),
            Zone::Utc => TimeZone::UTC,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(text: &str) -> Timestamp {
        text.parse().expect(text)
    }

    fn expression(text: &'static str) -> Expression {
        match When::cron(text) {
            Ok(When::Cron(expression)) => *expression,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_expression_has_five_fields_or_six_with_seconds() {
        let table = [
            ("0 6 * * *", "2026-11-24T06:00:00Z"),
            ("*/20 * * * * *", "2026-11-23T09:00:20Z"),
            ("30 9 * * *", "2026-11-23T09:30:00Z"),
            ("0 0 29 2 *", "2028-02-29T00:00:00Z"),
            ("@hourly", "2026-11-23T10:00:00Z"),
        ];
        for (text, next) in table {
            let found = expression(text).after(time("2026-11-23T09:00:00.5Z"), &TimeZone::UTC);
            assert_eq!(found, Some(time(next)), "{text}");
        }
        for wrong in ["", "6 o'clock", "61 * * * *", "0 6 * *", "0 0 0 1 1 * 2027", "0 0 30 2 *"] {
            let error = When::cron(wrong).expect_err(wrong);
            assert!(error.contains(&format!("{wrong:?}")), "{error}");
        }
    }

    #[test]
    fn hours_are_those_of_the_daemon_unless_it_is_said() {
        let local = TimeZone::fixed(jiff::tz::offset(2));
        let mut six = expression("0 6 * * *");
        assert_eq!(six.after(time("2026-11-23T00:00:00Z"), &local), Some(time("2026-11-23T04:00:00Z")));
        six.zone = Zone::Utc;
        assert_eq!(six.after(time("2026-11-23T00:00:00Z"), &local), Some(time("2026-11-23T06:00:00Z")));
    }

    #[test]
    fn what_has_passed_is_counted_up_to_a_limit() {
        let (minutely, from) = (expression("* * * * *"), time("2026-11-23T09:00:00Z"));
        let between = |until: &str| minutely.between(from, time(until), &TimeZone::UTC);
        assert_eq!(between("2026-11-23T09:00:59Z"), None);
        let passed = |count, latest| Some(Passed { count, latest: time(latest) });
        assert_eq!(between("2026-11-23T09:01:00Z"), passed(1, "2026-11-23T09:01:00Z"));
        assert_eq!(between("2026-11-23T09:03:59Z"), passed(3, "2026-11-23T09:03:00Z"));
        assert_eq!(between("2027-11-23T09:03:59Z"), passed(COUNT_MAX, "2027-11-23T09:03:00Z"));
    }

    #[test]
    fn an_interval_is_no_moment_and_no_age() {
        for (interval, is_one) in [(0, false), (9, false), (10, true), (86_400_000, true), (u64::MAX, false)] {
            assert_eq!(When::every(Duration::from_millis(interval)).is_ok(), is_one, "{interval}");
        }
    }
}
