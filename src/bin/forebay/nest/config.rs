//! The section `[nest]` of the configuration file, and what it means.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use forebay::{Result, SecretFile};
use http::header::HeaderValue;
use http::{Method, Uri};
use hyper::body::Bytes;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use super::redirect::{has_sound_port, origin};
use super::upstream::Call;

/// What the simulator is asked with when no token is configured; it takes any.
const SIMULATOR_TOKEN: &str = "c.simulator";

/// The longest token file, in bytes.
const TOKEN_LEN_MAX: usize = 16 * 1024;

/// The longest time that may be set: a day.
const SECONDS_MAX: f64 = 86_400.0;

/// The shortest: below it nothing would work.
const SECONDS_MIN: f64 = 0.01;

/// The section. What is wrong in it is found when it is read.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Config {
    /// The upstream; the built-in simulator if there is none.
    #[serde(deserialize_with = "read_url")]
    pub(crate) url: Option<Uri>,
    #[serde(deserialize_with = "read_token_file")]
    pub(crate) token_file: Option<SecretFile>,
    pub(crate) protocol: Protocol,
    /// An upstream that is silent for so long is gone.
    #[serde(rename = "dead_link_s", deserialize_with = "read_time")]
    pub(crate) dead_link: Duration,
    /// The shortest and the longest delay before the next connection.
    #[serde(rename = "backoff_min_s", deserialize_with = "read_time")]
    pub(crate) backoff_min: Duration,
    #[serde(rename = "backoff_max_s", deserialize_with = "read_time")]
    pub(crate) backoff_max: Duration,
    /// The delay when the token is not accepted.
    #[serde(rename = "unauthorized_retry_s", deserialize_with = "read_time")]
    pub(crate) unauthorized_retry: Duration,
}

/// The upstream's dialect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Protocol {
    /// A `PUT` to a thermostat changes the fields it names.
    #[default]
    Nest,
    /// Paths end with `.json`; a `PUT` would replace the thermostat, so fields are changed by `PATCH`.
    Firebase,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            url: None,
            token_file: None,
            protocol: Protocol::Nest,
            dead_link: Duration::from_secs(75),
            backoff_min: Duration::from_secs(1),
            backoff_max: Duration::from_secs(60),
            unauthorized_retry: Duration::from_secs(300),
        }
    }
}

/// The section with the token in it.
pub(crate) struct Settings {
    pub(crate) url: Option<Uri>,
    pub(crate) authorization: Option<HeaderValue>,
    pub(crate) protocol: Protocol,
    pub(crate) dead_link: Duration,
    pub(crate) backoff_min: Duration,
    pub(crate) backoff_max: Duration,
    pub(crate) unauthorized_retry: Duration,
}

impl Config {
    /// Reads the token.
    pub(crate) fn settings(self) -> Result<Settings> {
        let authorization = match (&self.token_file, &self.url) {
            (Some(file), _) => Some(token(file).map_err(|why| format!("nest.token_file: {why}"))?),
            (None, Some(_)) => None,
            (None, None) => Some(bearer(SIMULATOR_TOKEN)?),
        };
        Ok(Settings {
            url: self.url,
            authorization,
            protocol: self.protocol,
            dead_link: self.dead_link,
            backoff_min: self.backoff_min,
            backoff_max: self.backoff_max,
            unauthorized_retry: self.unauthorized_retry,
        })
    }
}

impl Settings {
    /// Which upstream that is, and as whom it is asked, in words that hold no secret: a token stands
    /// in the header or in the URL's query.
    pub(crate) fn identity(&self) -> String {
        let mut hasher = DefaultHasher::new();
        self.url.as_ref().map(Uri::to_string).hash(&mut hasher);
        self.authorization.as_ref().map(HeaderValue::as_bytes).hash(&mut hasher);
        let origin = self.url.as_ref().map_or_else(|| "simulator".to_owned(), origin);
        format!("{origin} {:016x}", hasher.finish())
    }
}

impl Protocol {
    /// The call that opens the stream of the whole document.
    pub(crate) fn stream(self, base: &Uri) -> Result<Call, String> {
        let uri = below(
            base,
            match self {
                Self::Nest => "/",
                Self::Firebase => "/.json",
            },
        )?;
        Ok(Call { method: Method::GET, uri, accept: "text/event-stream", body: Bytes::new() })
    }

    /// The call that changes fields of a thermostat.
    pub(crate) fn write(self, base: &Uri, id: &str, body: Bytes) -> Result<Call, String> {
        let path = format!("/devices/thermostats/{}", encoded(id));
        let (method, path) = match self {
            Self::Nest => (Method::PUT, path),
            Self::Firebase => (Method::PATCH, format!("{path}.json")),
        };
        Ok(Call { method, uri: below(base, &path)?, accept: "application/json", body })
    }
}

/// A URL that all paths are below. A query stays with every call, as Firebase's `?auth=`.
pub(crate) fn base(url: &str) -> Result<Uri, String> {
    // A query may hold a secret.
    let shown = url.split('?').next().unwrap_or_default();
    let wrong = |why: &str| format!("{shown:?} {why}");
    let uri: Uri = url.trim().parse().map_err(|error| wrong(&format!("is no URL: {error}")))?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.host().is_none_or(str::is_empty) {
        return Err(wrong("is no URL of http or https"));
    }
    if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        // Not shown: what stands beside the user is likely a password.
        return Err("the URL names a user: put the token into nest.token_file".to_owned());
    }
    if !uri.authority().is_some_and(has_sound_port) {
        return Err(wrong("has no port that is one"));
    }
    Ok(uri)
}

fn below(base: &Uri, path: &str) -> Result<Uri, String> {
    let prefix = base.path().trim_end_matches('/');
    // Firebase's root is `/.json`, a place below it `/place.json`.
    let path = if prefix.is_empty() || path != "/.json" { format!("{prefix}{path}") } else { format!("{prefix}.json") };
    let query = base.query().map(|query| format!("?{query}")).unwrap_or_default();
    let mut parts = base.clone().into_parts();
    let whole = format!("{path}{query}").parse().map_err(|error| format!("no path: {path}: {error}"))?;
    parts.path_and_query = Some(whole);
    Uri::from_parts(parts).map_err(|error| format!("no URL with the path {path}: {error}"))
}

/// An id as one segment of a path. RFC 3986, section 2.3.
fn encoded(id: &str) -> String {
    let mut segment = String::new();
    for byte in id.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            segment.push(char::from(byte));
        } else {
            segment.push_str(&format!("%{byte:02X}"));
        }
    }
    segment
}

/// The header that the file's content makes.
fn token(file: &SecretFile) -> Result<HeaderValue, String> {
    let shown = file.path().display();
    let text = file.read_to_string(TOKEN_LEN_MAX).map_err(|error| format!("cannot read {shown}: {error}"))?;
    bearer(text.trim()).map_err(|why| format!("{shown} {why}"))
}

fn bearer(token: &str) -> Result<HeaderValue, &'static str> {
    if token.is_empty() {
        return Err("is empty");
    }
    let mut value = HeaderValue::try_from(format!("Bearer {token}")).map_err(|_| "holds what no token has")?;
    // Kept out of debugging output.
    value.set_sensitive(true);
    Ok(value)
}

fn read_url<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Uri>, D::Error> {
    base(&String::deserialize(deserializer)?).map(Some).map_err(D::Error::custom)
}

/// Looks into the file, so that a wrong one is found before anything starts.
fn read_token_file<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SecretFile>, D::Error> {
    let file = SecretFile::deserialize(deserializer)?;
    token(&file).map_err(D::Error::custom)?;
    Ok(Some(file))
}

fn read_time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let seconds = f64::deserialize(deserializer)?;
    if (SECONDS_MIN..=SECONDS_MAX).contains(&seconds) {
        return Ok(Duration::from_secs_f64(seconds));
    }
    Err(D::Error::custom(format!("{seconds} is no time from {SECONDS_MIN} to {SECONDS_MAX} seconds")))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn calls_have_the_paths_of_the_protocol() {
        let table = [
            (Protocol::Nest, "http://a:1", "http://a:1/", "PUT http://a:1/devices/thermostats/x-1_%2F%C3%BC"),
            (
                Protocol::Nest,
                "https://a/home/",
                "https://a/home/",
                "PUT https://a/home/devices/thermostats/x-1_%2F%C3%BC",
            ),
            (
                Protocol::Firebase,
                "https://a/?auth=b",
                "https://a/.json?auth=b",
                "PATCH https://a/devices/thermostats/x-1_%2F%C3%BC.json?auth=b",
            ),
            (
                Protocol::Firebase,
                "https://a/homes/1",
                "https://a/homes/1.json",
                "PATCH https://a/homes/1/devices/thermostats/x-1_%2F%C3%BC.json",
            ),
        ];
        for (protocol, url, stream, write) in table {
            let base = base(url).expect("a URL");
            assert_eq!(protocol.stream(&base).expect("a call").uri.to_string(), stream);
            let call = protocol.write(&base, "x-1_/ü", Bytes::new()).expect("a call");
            assert_eq!(format!("{} {}", call.method, call.uri), write);
        }
    }

    #[test]
    fn what_is_wrong_is_named_when_it_is_read() {
        let directory = tempfile::tempdir().expect("a directory");
        let empty = directory.path().join("empty");
        fs::write(&empty, "\n").expect("write");
        let empty = format!("token_file = '{}'", empty.display());
        let table = [
            ("url = 'nest'", "`url`", "\"nest\""),
            ("url = ''", "`url`", "\"\""),
            ("url = 'ftp://a'", "`url`", "http or https"),
            ("url = 'http://user:pass@a'", "`url`", "names a user"),
            ("url = 'http://a:99999'", "`url`", "port"),
            ("url = 'nest?auth=secret'", "`url`", "\"nest\""),
            ("url = 7", "`url`", "string"),
            ("protocol = 'nset'", "`protocol`", "firebase"),
            ("dead_link_s = -1", "`dead_link_s`", "-1 is no time"),
            ("dead_link_s = 0", "`dead_link_s`", "0.01 to 86400 seconds"),
            ("backoff_min_s = nan", "`backoff_min_s`", "no time"),
            ("backoff_max_s = inf", "`backoff_max_s`", "no time"),
            ("unauthorized_retry_s = 'x'", "`unauthorized_retry_s`", "string"),
            ("token_file = '/nowhere/token'", "`token_file`", "/nowhere/token"),
            (&*empty, "`token_file`", "empty is empty"),
        ];
        for (text, key, word) in table {
            // As the section comes: without its place in the file.
            let section: toml::Value = toml::Value::Table(text.parse().expect("TOML"));
            let why = Config::deserialize(section).expect_err(text).to_string();
            assert!(why.contains(key) && why.contains(word), "{text}: {why}");
            assert!(!why.contains("pass") && !why.contains("secret"), "{why}");
        }
    }

    #[test]
    fn the_section_says_what_it_says() {
        let config: Config = toml::from_str("url = ' http://a '\ndead_link_s = 7\nbackoff_min_s = 0.5").expect("valid");
        assert_eq!(config.url.map(|url| url.to_string()).as_deref(), Some("http://a/"));
        assert_eq!((config.dead_link, config.backoff_min), (Duration::from_secs(7), Duration::from_millis(500)));
        assert_eq!(config.backoff_max, Config::default().backoff_max);
    }

    #[test]
    fn the_token_comes_from_a_file_that_can_be_read_again() {
        let why = toml::from_str::<Config>("token_file = '/dev/null'").expect_err("a device").to_string();
        assert!(why.contains("/dev/null: it is no regular file"), "{why}");
    }

    #[test]
    fn an_identity_is_of_one_upstream_and_one_token_and_shows_neither_secret() {
        let identity = |url: Option<&str>, token: &str| {
            let config = Config { url: url.map(|url| base(url).expect("a URL")), ..Config::default() };
            let authorization = Some(bearer(token).expect("a token"));
            Settings { authorization, ..config.settings().expect("settings") }.identity()
        };
        let first = identity(Some("https://a/?auth=b"), "c");
        assert!(first.starts_with("https://a ") && !first.contains("auth"), "{first}");
        assert_eq!(first, identity(Some("https://a/?auth=b"), "c"));
        for other in [
            identity(Some("https://a/?auth=c"), "c"),
            identity(Some("https://a/?auth=b"), "d"),
            identity(Some("https://b/?auth=b"), "c"),
            identity(None, "c"),
        ] {
            assert_ne!(first, other);
        }
    }

    #[test]
    fn the_token_is_trimmed_and_never_shown() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("token");
        let read = |content: &[u8]| {
            fs::write(&file, content).expect("write");
            toml::from_str::<Config>(&format!("token_file = '{}'", file.display()))
        };
        let config = read(b"\n c.secret \r\n").expect("a token");
        let authorization = config.settings().expect("settings").authorization.expect("a header");
        assert_eq!(authorization.as_bytes(), b"Bearer c.secret");
        assert!(!format!("{authorization:?}").contains("secret"));
        for content in [&b""[..], b" \n", b"a\nb", b"\xff"] {
            let why = read(content).expect_err("refused").to_string();
            assert!(why.contains(&file.display().to_string()), "{why}");
        }
    }

    #[test]
    fn the_reference_and_the_example_list_the_keys() {
        let error = toml::from_str::<Config>("wrong = 1").expect_err("no such key").to_string();
        let (_, known) = error.split_once("expected ").expect("what is known");
        let known: Vec<&str> = known.split('`').skip(1).step_by(2).collect();
        let reference = include_str!("../../../../CONFIGURATION.md");
        let (_, table) = reference.split_once("\n| `[nest]` key |").expect("the table");
        let rows = table.lines().skip(2).take_while(|line| line.starts_with("| "));
        let listed: Vec<&str> = rows.filter_map(|row| row.split('`').nth(1)).collect();
        assert_eq!(listed, known);
        let example = include_str!("example.toml").lines().filter_map(|line| line.strip_prefix('#')?.split_once(" = "));
        assert_eq!(example.map(|(key, _)| key).collect::<Vec<_>>(), known);
    }

    #[test]
    fn only_the_simulator_has_a_token_of_its_own() {
        assert!(Config::default().settings().expect("settings").authorization.is_some());
        let config = Config { url: Some(Uri::from_static("http://a")), ..Config::default() };
        assert!(config.settings().expect("settings").authorization.is_none());
    }
}
