//! The settings: every key with its default and its meaning, and what it sets.
//!
//! File keys, flags, variables, `--help`, `NAME config` and the table of CONFIGURATION.md come from here.

use std::path::PathBuf;
use std::time::Duration;

use super::account::{Account, Group};
use super::key::{Given, Key};
use super::{Settings, log, worker_count};
use crate::contract::time::ms;

/// The longest time that may be set, in seconds: a year.
const SECONDS_MAX: f64 = 366.0 * 86_400.0;

/// The most users who may control a daemon.
const CONTROL_UIDS_MAX: usize = 64;

/// The smallest and the largest ring, in bytes, both powers of two.
const RING_MIN: u64 = 64 * 1024;
const RING_MAX: u64 = 64 * 1024 * 1024;

/// The smallest and the largest head of a request that may be allowed, in bytes.
const HEADER_MIN: u32 = 8 * 1024;
const HEADER_MAX: u32 = 1024 * 1024;

/// All keys but those of `[listener.NAME]`, `[[log.target]]` and `[log.access]`, section by section.
pub(crate) const KEYS: &[Key<Settings>] = &[
    Key {
        name: "listen",
        value: "ADDRESS",
        default: "\"127.0.0.1:8080\"",
        meaning: "an address or a list of them: `ADDRESS:PORT`, `[ADDRESS]:PORT`, `unix:/PATH`",
        is_list: true,
        set: |settings, given| {
            let addresses = given.each(|one| one.text()?.parse())?;
            settings.listen = if addresses.is_empty() { Err("nowhere to listen")? } else { addresses };
            settings.is_listen_said = true;
            Ok(())
        },
    },
    Key {
        name: "workers",
        value: "N",
        default: "(one for each core)",
        meaning: "how many replicas, 1 to 1024",
        is_list: false,
        set: |settings, given| {
            settings.workers = worker_count(given.integer()?)?;
            Ok(())
        },
    },
    Key {
        name: "run_dir",
        value: "DIR",
        default: "(`/run/NAME`, else `$XDG_RUNTIME_DIR/NAME`, else a private one under the temporary directory)",
        meaning: "where locks and sockets are",
        is_list: false,
        set: |settings, given| {
            settings.run_dir = Some(path(given)?);
            Ok(())
        },
    },
    Key {
        name: "pid_file",
        value: "FILE",
        default: "(none)",
        meaning: "holds the master's process id, locked while it lives",
        is_list: false,
        set: |settings, given| {
            settings.pid_file = Some(path(given)?);
            Ok(())
        },
    },
    Key {
        name: "user",
        value: "USER",
        default: "(whoever starts it)",
        meaning: "whom all processes but the master run as; takes root",
        is_list: false,
        set: |settings, given| {
            settings.user = Some(Account::read(given)?);
            Ok(())
        },
    },
    Key {
        name: "group",
        value: "GROUP",
        default: "(the user's first)",
        meaning: "their group, and that of the run directory",
        is_list: false,
        set: |settings, given| {
            settings.group = Some(Group::read(given)?);
            Ok(())
        },
    },
    Key {
        name: "control_uids",
        value: "USER",
        default: "[]",
        meaning: "users, by name or number, who may control the daemon besides root and the master's own",
        is_list: true,
        set: |settings, given| {
            let accounts = given.each(Account::read)?;
            if accounts.len() > CONTROL_UIDS_MAX {
                return Err(format!("{} users are named, {CONTROL_UIDS_MAX} are allowed", accounts.len()));
            }
            settings.control_uids = accounts.iter().map(|account| account.uid.as_raw()).collect();
            Ok(())
        },
    },
    Key {
        name: "timeouts.ready",
        value: "SECONDS",
        default: "20",
        meaning: "for the application to load, and for a worker to get ready; at least 0.1",
        is_list: false,
        set: |settings, given| time(&mut settings.timeouts.ready, given, Duration::from_millis(100)),
    },
    Key {
        name: "timeouts.stable",
        value: "SECONDS",
        default: "1",
        meaning: "so long all new workers must live in a reload before it is committed; 0 is allowed",
        is_list: false,
        set: |settings, given| time(&mut settings.timeouts.stable, given, Duration::ZERO),
    },
    Key {
        name: "timeouts.hang",
        value: "SECONDS",
        default: "10",
        meaning: "a loop silent for so long is ended and replaced; at least 0.5",
        is_list: false,
        set: |settings, given| time(&mut settings.timeouts.hang, given, Duration::from_millis(500)),
    },
    Key {
        name: "timeouts.drain",
        value: "SECONDS",
        default: "30",
        meaning: "for the open connections of a worker that ends; what is left then is cut, with 0 all at once",
        is_list: false,
        set: |settings, given| time(&mut settings.timeouts.drain, given, Duration::ZERO),
    },
    Key {
        name: "timeouts.stop",
        value: "SECONDS",
        default: "60",
        meaning: "for the whole stop",
        is_list: false,
        set: |settings, given| time(&mut settings.timeouts.stop, given, Duration::ZERO),
    },
    Key {
        name: "restart.intensity",
        value: "N",
        default: "5",
        meaning: "so many deaths of a slot within the period are mended at once",
        is_list: false,
        set: |settings, given| {
            let wrong = |_| "a count is a number from 0 to 4294967295".to_owned();
            settings.restart.intensity = u32::try_from(given.integer()?).map_err(wrong)?;
            Ok(())
        },
    },
    Key {
        name: "restart.period",
        value: "SECONDS",
        default: "10",
        meaning: "beyond that, later and later",
        is_list: false,
        set: |settings, given| time(&mut settings.restart.period, given, Duration::ZERO),
    },
    Key {
        name: "restart.backoff_max",
        value: "SECONDS",
        default: "5",
        meaning: "but never later than this",
        is_list: false,
        set: |settings, given| time(&mut settings.restart.backoff_max, given, Duration::ZERO),
    },
    Key {
        name: "worker.max_requests",
        value: "N",
        default: "(no limit)",
        meaning: "a worker that has taken so many requests is followed by a new one, which serves before it ends; after a second at the earliest",
        is_list: false,
        set: |settings, given| {
            settings.worker.requests_max = Some(at_least_one(given.integer()?, "a number of requests")?);
            Ok(())
        },
    },
    Key {
        name: "worker.max_requests_jitter",
        value: "PERCENT",
        default: "10",
        meaning: "up to so many percent more, so that not all reach it together; 0 to 100",
        is_list: false,
        set: |settings, given| {
            let percent = u64::try_from(given.integer()?).ok().filter(|percent| *percent <= 100);
            settings.worker.requests_jitter = percent.ok_or("a number of percent is from 0 to 100")?;
            Ok(())
        },
    },
    Key {
        name: "worker.max_rss",
        value: "BYTES",
        default: "(no limit)",
        meaning: "the same for one with more resident memory, shared pages included; a number, or `\"512M\"` (K, M, G)",
        is_list: false,
        set: |settings, given| {
            settings.worker.rss_max = Some(at_least_one(given.bytes()?, "a size")?);
            Ok(())
        },
    },
    Key {
        name: "worker.max_age",
        value: "SECONDS",
        default: "(no limit)",
        meaning: "the same for one that is older; at least 1",
        is_list: false,
        set: |settings, given| {
            let mut age = Duration::ZERO;
            time(&mut age, given, Duration::from_secs(1))?;
            settings.worker.age_max = Some(age);
            Ok(())
        },
    },
    Key {
        name: "worker.slow_turn",
        value: "SECONDS",
        default: "0.1",
        meaning: "a turn of a worker's loop that takes longer is logged, with its route; 0: none is",
        is_list: false,
        set: |settings, given| time(&mut settings.worker.slow_turn, given, Duration::ZERO),
    },
    Key {
        name: "http.max_connections",
        value: "N",
        default: "8192",
        meaning: "open connections of one worker: who has so many leaves new ones to the others, then in the queue",
        is_list: false,
        set: |settings, given| count(&mut settings.http.connections, given, "a number of connections"),
    },
    Key {
        name: "http.max_connections_total",
        value: "N",
        default: "(no limit)",
        meaning: "the same for all workers together, also those that drain",
        is_list: false,
        set: |settings, given| some(&mut settings.http.connections_total, given, "a number of connections"),
    },
    Key {
        name: "http.max_requests",
        value: "N",
        default: "(no limit)",
        meaning: "requests at a time in one worker: one more is answered 503, with `Retry-After`",
        is_list: false,
        set: |settings, given| some(&mut settings.http.requests, given, "a number of requests"),
    },
    Key {
        name: "http.max_requests_per_connection",
        value: "N",
        default: "(no limit)",
        meaning: "the answer to so many says `Connection: close`; HTTP/2 gets GOAWAY",
        is_list: false,
        set: |settings, given| some(&mut settings.http.requests_per_connection, given, "a number of requests"),
    },
    Key {
        name: "http.max_streams",
        value: "N",
        default: "100",
        meaning: "requests at a time on one connection of HTTP/2, 1 to 65535",
        is_list: false,
        set: |settings, given| match u16::try_from(given.integer()?) {
            Ok(streams @ 1..) => {
                settings.http.streams = streams.into();
                Ok(())
            }
            _ => Err("a number of streams is from 1 to 65535".to_owned()),
        },
    },
    Key {
        name: "http.max_header_size",
        value: "BYTES",
        default: "\"32K\"",
        meaning: "of a request's head, 8K to 1M: a larger one is answered 431 and its connection closed",
        is_list: false,
        set: |settings, given| {
            let size = u32::try_from(given.bytes()?).ok().filter(|size| (HEADER_MIN..=HEADER_MAX).contains(size));
            settings.http.header_len = size.ok_or("a head has from 8K to 1M")?;
            Ok(())
        },
    },
    Key {
        name: "http.max_body_size",
        value: "BYTES",
        default: "\"64M\"",
        meaning: "of a request's body: a larger one is answered 413; 0: any",
        is_list: false,
        set: |settings, given| {
            settings.http.body_len = u64::try_from(given.bytes()?).map_err(|_| "a size is not negative")?;
            Ok(())
        },
    },
    Key {
        name: "http.header_timeout",
        value: "SECONDS",
        default: "20",
        meaning: "for a request's head to come, from its first byte or the connection's begin: else 408, and it is closed; at least 1, as the next four",
        is_list: false,
        set: |settings, given| patience(&mut settings.http.header_ms, given),
    },
    Key {
        name: "http.body_timeout",
        value: "SECONDS",
        default: "30",
        meaning: "for a request's body, and one second more for each KiB that has come: else 408, and it is closed",
        is_list: false,
        set: |settings, given| patience(&mut settings.http.body_ms, given),
    },
    Key {
        name: "http.request_timeout",
        value: "SECONDS",
        default: "60",
        meaning: "for the application to begin its answer, without the time that it waits for the body: else 504",
        is_list: false,
        set: |settings, given| patience(&mut settings.http.request_ms, given),
    },
    Key {
        name: "http.send_timeout",
        value: "SECONDS",
        default: "60",
        meaning: "for a client to take something of what waits for it: else it is cut",
        is_list: false,
        set: |settings, given| patience(&mut settings.http.send_ms, given),
    },
    Key {
        name: "http.keepalive_timeout",
        value: "SECONDS",
        default: "75",
        meaning: "for the next request on a connection that has answered one: else it is closed",
        is_list: false,
        set: |settings, given| patience(&mut settings.http.keepalive_ms, given),
    },
    Key {
        name: "log.level",
        value: "FILTER",
        default: "\"info\"",
        meaning: "in `RUST_LOG`'s syntax; the variable `RUST_LOG` beats the file",
        is_list: false,
        set: |settings, given| {
            settings.log_level = filter(given)?;
            Ok(())
        },
    },
    Key {
        name: "log.transport",
        value: "WAY",
        default: "\"ring\"",
        meaning: "how records reach the log helper: by `\"ring\"`, memory that each process shares with it, or by its `\"socket\"`",
        is_list: false,
        set: |settings, given| {
            settings.log_transport = log::transport(given)?;
            Ok(())
        },
    },
    Key {
        name: "log.ring",
        value: "BYTES",
        default: "\"1M\"",
        meaning: "how large that memory is, for each process; 64K to 64M, rounded up to a power of two",
        is_list: false,
        set: |settings, given| {
            let size = u64::try_from(given.bytes()?).ok().filter(|size| (RING_MIN..=RING_MAX).contains(size));
            settings.log_ring = size.ok_or("a ring has from 64K to 64M")?.next_power_of_two();
            Ok(())
        },
    },
];

/// The key of the log filter, which `RUST_LOG` sets too.
pub(super) const LOG_LEVEL: &str = "log.level";

/// The sections that are the master's.
pub(crate) fn sections() -> impl Iterator<Item = &'static str> + Clone {
    let mut last = None;
    let named = KEYS.iter().filter_map(Key::section);
    named.filter(move |&section| last.replace(section) != Some(section)).chain(["listener"])
}

/// A filter in RUST_LOG's syntax.
pub(super) fn filter(given: &Given<'_>) -> Result<String, String> {
    let text = given.text()?;
    super::filter::check(text)?;
    Ok(text.to_owned())
}

pub(super) fn path(given: &Given<'_>) -> Result<PathBuf, String> {
    match given.text()? {
        "" => Err("a path is wanted, this is empty".to_owned()),
        path => Ok(path.into()),
    }
}

pub(super) fn at_least_one(number: i64, what: &str) -> Result<u64, String> {
    u64::try_from(number).ok().filter(|number| *number > 0).ok_or_else(|| format!("{what} is at least 1"))
}

fn count(place: &mut u64, given: &Given<'_>, what: &str) -> Result<(), String> {
    *place = at_least_one(given.integer()?, what)?;
    Ok(())
}

fn some(place: &mut Option<u64>, given: &Given<'_>, what: &str) -> Result<(), String> {
    count(place.insert(0), given, what)
}

/// How long a client is waited for, in milliseconds.
fn patience(place: &mut u64, given: &Given<'_>) -> Result<(), String> {
    let mut patience = Duration::ZERO;
    time(&mut patience, given, Duration::from_secs(1))?;
    *place = ms(patience);
    Ok(())
}

pub(super) fn time(place: &mut Duration, given: &Given<'_>, least: Duration) -> Result<(), String> {
    let seconds = given.number()?;
    if !(0.0..=SECONDS_MAX).contains(&seconds) {
        return Err("a time is a number of seconds, not negative, at most a year".to_owned());
    }
    let time = Duration::from_secs_f64(seconds);
    if time < least {
        return Err(format!("this time is at least {} seconds", least.as_secs_f64()));
    }
    *place = time;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_values_and_the_keys_differ() {
        let settings = Settings::new();
        assert_eq!(settings.timeouts.drain, Duration::from_secs(30));
        assert!(!settings.is_listen_said && settings.listen.len() == 1);
        for (number, key) in KEYS.iter().enumerate() {
            assert!(KEYS[number + 1..].iter().all(|other| other.name != key.name), "{}", key.name);
        }
        assert_eq!(sections().collect::<Vec<_>>(), ["timeouts", "restart", "worker", "http", "log", "listener"]);
    }
}
