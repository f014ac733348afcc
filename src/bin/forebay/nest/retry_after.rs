//! `Retry-After`: when the upstream may be asked again, remembered for each method and across
//! restarts of this process. Another upstream, or another token, has not asked for anything yet.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// An upstream that asks for more than a day has made a mistake.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(86_400);

/// The file in the helper's state directory, and the name under which it is written.
const FILE: &str = "retry-after.json";
const NEW_FILE: &str = "retry-after.json.new";

/// A file longer than this is not ours.
const FILE_LEN_MAX: u64 = 4096;

/// What is asked of the upstream; each has its own limit there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    /// The stream.
    Get,
    /// A write.
    Put,
}

/// When each method may be used again, in Unix milliseconds, as it stands in the file.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Times {
    /// Who has asked for it.
    #[serde(default)]
    upstream: String,
    #[serde(rename = "GET", default, skip_serializing_if = "Option::is_none")]
    get: Option<u64>,
    #[serde(rename = "PUT", default, skip_serializing_if = "Option::is_none")]
    put: Option<u64>,
}

/// What the upstream has asked for.
pub(crate) struct RetryAfter {
    directory: PathBuf,
    times: Times,
}

impl RetryAfter {
    /// What the last process remembered of this upstream. A file that makes no sense is as good as
    /// none.
    pub(crate) fn load(directory: &Path, upstream: String) -> Self {
        let file = directory.join(FILE);
        let times = read(&file).unwrap_or_else(|why| {
            log::warn!("ignoring {}: {why}", file.display());
            Times::default()
        });
        let times = if times.upstream == upstream { times } else { Times { upstream, ..Times::default() } };
        Self { directory: directory.to_owned(), times }
    }

    /// How long `method` must not be used yet.
    pub(crate) fn remaining(&self, method: Method, now: SystemTime) -> Option<Duration> {
        let until = match method {
            Method::Get => self.times.get,
            Method::Put => self.times.put,
        };
        let until = UNIX_EPOCH.checked_add(Duration::from_millis(until?))?;
        // The clock may have been set back since the file was written.
        let remaining = until.duration_since(now).ok()?.min(RETRY_AFTER_MAX);
        (!remaining.is_zero()).then_some(remaining)
    }

    /// From now on `method` is not used for `delay`; none is not worth remembering.
    pub(crate) fn remember(&mut self, method: Method, delay: Duration, now: SystemTime) {
        if delay.is_zero() {
            return;
        }
        let until = now.duration_since(UNIX_EPOCH).unwrap_or_default() + delay.min(RETRY_AFTER_MAX);
        let until = u64::try_from(until.as_millis()).ok();
        match method {
            Method::Get => self.times.get = until,
            Method::Put => self.times.put = until,
        }
        if let Err(error) = write(&self.directory, &self.times) {
            log::warn!("cannot remember Retry-After in {}: {error}", self.directory.display());
        }
    }
}

/// The header's value: seconds, or a date. RFC 9110, section 10.2.3.
pub(crate) fn parse(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    let delay = if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        // More digits than a number has are a mistake of the upstream, and still mean: late.
        value.parse().map_or(RETRY_AFTER_MAX, Duration::from_secs)
    } else {
        httpdate::parse_http_date(value).ok()?.duration_since(now).unwrap_or_default()
    };
    Some(delay.min(RETRY_AFTER_MAX))
}

/// The delay in whole seconds, not shorter than it is: what a client is told.
pub(crate) fn whole_seconds(delay: Duration) -> u64 {
    delay.as_secs() + u64::from(delay.subsec_nanos() > 0)
}

fn read(file: &Path) -> Result<Times, String> {
    match fs::metadata(file) {
        Ok(metadata) if metadata.len() > FILE_LEN_MAX => return Err(format!("it has {} bytes", metadata.len())),
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Times::default()),
        Err(error) => return Err(error.to_string()),
    }
    let bytes = fs::read(file).map_err(|error| error.to_string())?;
    serde_json::from_slice(&bytes).map_err(|error| error.to_string())
}

/// Whoever reads sees the old file or the new one, whole.
fn write(directory: &Path, times: &Times) -> std::io::Result<()> {
    let new = directory.join(NEW_FILE);
    let mut file = fs::File::create(&new)?;
    file.write_all(&serde_json::to_vec(times)?)?;
    file.sync_all()?;
    fs::rename(new, directory.join(FILE))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn load(directory: &Path) -> RetryAfter {
        RetryAfter::load(directory, "http://a 1".to_owned())
    }

    fn now() -> SystemTime {
        UNIX_EPOCH + 1_700_000_000 * SECOND
    }

    #[test]
    fn the_header_is_seconds_or_a_date() {
        let date = |time| httpdate::fmt_http_date(time);
        let table = [
            ("120".to_owned(), Some(120 * SECOND)),
            (" 0 ".to_owned(), Some(Duration::ZERO)),
            ("99999999".to_owned(), Some(RETRY_AFTER_MAX)),
            ("9".repeat(40), Some(RETRY_AFTER_MAX)),
            (date(now() + 90 * SECOND), Some(90 * SECOND)),
            (date(now() - 90 * SECOND), Some(Duration::ZERO)),
            (String::new(), None),
            ("-3".to_owned(), None),
            ("1.5".to_owned(), None),
            ("soon".to_owned(), None),
        ];
        for (value, expected) in table {
            assert_eq!(parse(&value, now()), expected, "{value}");
        }
    }

    #[test]
    fn methods_are_remembered_apart_and_by_the_next_process() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut first = load(directory.path());
        assert_eq!(first.remaining(Method::Get, now()), None);
        first.remember(Method::Put, 60 * SECOND, now());
        assert_eq!(first.remaining(Method::Get, now()), None);
        first.remember(Method::Get, 5 * SECOND, now());

        let next = load(directory.path());
        assert_eq!(next.remaining(Method::Put, now() + 20 * SECOND), Some(40 * SECOND));
        assert_eq!(next.remaining(Method::Put, now() + 60 * SECOND), None);
        assert_eq!(next.remaining(Method::Get, now() + 20 * SECOND), None);
        assert_eq!(next.remaining(Method::Put, UNIX_EPOCH), Some(RETRY_AFTER_MAX));
        assert!(!directory.path().join(NEW_FILE).exists());
    }

    #[test]
    fn garbage_is_ignored_and_overwritten() {
        let long = vec![b' '; usize::try_from(FILE_LEN_MAX).expect("small") + 1];
        for garbage in [&b""[..], b"{", b"[]", b"{\"GET\":-1}", b"{\"GET\":\"x\"}", b"\xff\xfe", &long] {
            let directory = tempfile::tempdir().expect("a directory");
            fs::write(directory.path().join(FILE), garbage).expect("write");
            let mut loaded = load(directory.path());
            assert_eq!(loaded.remaining(Method::Get, now()), None);
            loaded.remember(Method::Get, SECOND, now());
            assert!(load(directory.path()).remaining(Method::Get, now()).is_some());
        }
    }

    #[test]
    fn another_upstream_has_asked_for_nothing() {
        let directory = tempfile::tempdir().expect("a directory");
        load(directory.path()).remember(Method::Get, SECOND, now());
        let mut other = RetryAfter::load(directory.path(), "http://b 2".to_owned());
        assert_eq!(other.remaining(Method::Get, now()), None);
        other.remember(Method::Put, SECOND, now());
        assert_eq!(load(directory.path()).remaining(Method::Put, now()), None);
        let back = RetryAfter::load(directory.path(), "http://b 2".to_owned());
        assert_eq!((back.remaining(Method::Get, now()), back.remaining(Method::Put, now())), (None, Some(SECOND)));
    }

    #[test]
    fn no_delay_is_not_written() {
        let directory = tempfile::tempdir().expect("a directory");
        load(directory.path()).remember(Method::Get, Duration::ZERO, now());
        assert!(!directory.path().join(FILE).exists());
    }

    #[test]
    fn a_far_date_in_the_file_is_capped() {
        let directory = tempfile::tempdir().expect("a directory");
        fs::write(
            directory.path().join(FILE),
            format!("{{\"upstream\":\"http://a 1\",\"GET\":{},\"later\":1}}", u64::MAX),
        )
        .expect("write");
        let loaded = load(directory.path());
        assert_eq!(loaded.remaining(Method::Get, now()), Some(RETRY_AFTER_MAX));
    }

    #[test]
    fn clients_are_told_whole_seconds() {
        for (ms, expected) in [(0, 0), (1, 1), (1000, 1), (1001, 2)] {
            assert_eq!(whole_seconds(Duration::from_millis(ms)), expected);
        }
    }
}
