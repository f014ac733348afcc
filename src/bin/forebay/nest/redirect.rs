//! Where a redirect leads. Pure.

use http::Uri;
use http::uri::{Authority, PathAndQuery, Scheme};

/// The target of a redirect from `from`, whose `Location` may be relative to it (RFC 3986, section
/// 4.2), or why it is not followed.
pub(crate) fn target(from: &Uri, location: &str) -> Result<Uri, String> {
    let location = location.split('#').next().unwrap_or_default();
    // A query may hold a secret.
    let shown = location.split('?').next().unwrap_or_default();
    let not_followed = |why: &str| format!("the redirect to {shown:?} is not followed: {why}");
    let whole = absolute(from, location);
    let uri: Uri = whole.parse().map_err(|error| not_followed(&format!("{error}")))?;
    let Some(authority) = uri.authority() else {
        return Err(not_followed("it names no host"));
    };
    if authority.as_str().contains('@') {
        return Err(not_followed("it names a user"));
    }
    if !has_sound_port(authority) {
        return Err(not_followed("its port is none"));
    }
    let scheme = uri.scheme();
    if scheme == Some(&Scheme::HTTPS) || (scheme == Some(&Scheme::HTTP) && from.scheme() != Some(&Scheme::HTTPS)) {
        return Ok(uri);
    }
    // Whoever listens in would read the token.
    Err(not_followed("it leaves https, or is no http at all"))
}

/// Whether the port is absent or a number that a port can be: clients take any other for absent.
pub(crate) fn has_sound_port(authority: &Authority) -> bool {
    authority.port_u16().is_some() || authority.as_str() == authority.host()
}

/// Scheme, host and port, as they may be logged: never a query, which may hold a secret.
pub(crate) fn origin(uri: &Uri) -> String {
    let host = uri.authority().map_or("", Authority::as_str);
    format!("{}://{host}", uri.scheme_str().unwrap_or("http"))
}

/// `uri` at another scheme, host and port.
pub(crate) fn at_origin_of(uri: &Uri, other: &Uri) -> Uri {
    let mut parts = uri.clone().into_parts();
    parts.scheme = other.scheme().cloned();
    parts.authority = other.authority().cloned();
    parts.path_and_query = parts.path_and_query.or_else(|| Some(PathAndQuery::from_static("/")));
    Uri::from_parts(parts).unwrap_or_else(|_| uri.clone())
}

fn absolute(from: &Uri, location: &str) -> String {
    let is_absolute =
        location.split_once("://").is_some_and(|(scheme, _)| scheme.bytes().all(|b| b.is_ascii_alphanumeric()));
    let origin = origin(from);
    if is_absolute {
        location.to_owned()
    } else if location.starts_with("//") {
        format!("{}:{location}", from.scheme_str().unwrap_or("http"))
    } else if location.starts_with('/') {
        format!("{origin}{location}")
    } else if location.is_empty() || location.starts_with('?') {
        format!("{origin}{}{location}", from.path())
    } else {
        let directory = from.path().rsplit_once('/').map_or("", |(directory, _)| directory);
        format!("{origin}{directory}/{location}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_are_absolute_or_relative() {
        let table = [
            ("http://a:1/x/y?q", "http://b:2/z", Ok("http://b:2/z")),
            ("http://a:1/x/y", "http://b:2", Ok("http://b:2/")),
            ("http://a:1/x/y", "HTTPS://b/z#part", Ok("https://b/z")),
            ("http://a:1/x/y", "//b:2/z", Ok("http://b:2/z")),
            ("https://a:1/x/y", "//b:2/z", Ok("https://b:2/z")),
            ("http://a:1/x/y?q", "/z?p=://", Ok("http://a:1/z?p=://")),
            ("http://a:1/x/y?q", "z", Ok("http://a:1/x/z")),
            ("http://a:1/x/y?q", "?p", Ok("http://a:1/x/y?p")),
            ("http://a:1", "z", Ok("http://a:1/z")),
            ("https://a/", "https://b/", Ok("https://b/")),
            ("https://a/", "http://b/", Err("leaves https")),
            ("https://a/", "ftp://b/", Err("no http")),
            ("http://a/", "file:///etc/passwd", Err("")),
            ("http://a/", "http://user:word@b/", Err("names a user")),
            ("http://a/", "http://", Err("")),
            ("http://a/", "http://b:99999999/", Err("port")),
            ("http://a/", "http://[::1]:80/", Ok("http://[::1]:80/")),
            ("http://a/", "http://[::1]/", Ok("http://[::1]/")),
            ("http://a/", "/a b", Err("")),
            ("https://a/", "http://b/?auth=secret", Err("\"http://b/\" is not")),
        ];
        for (from, location, expected) in table {
            let from: Uri = from.parse().expect("a URL");
            match (target(&from, location), expected) {
                (Ok(uri), Ok(expected)) => assert_eq!(uri.to_string(), expected, "{from} {location}"),
                (Err(why), Err(word)) => assert!(why.contains(word), "{from} {location}: {why}"),
                (outcome, _) => panic!("{from} {location}: {outcome:?}"),
            }
        }
    }

    #[test]
    fn origins_show_no_secrets() {
        let uri: Uri = "https://b:2/x?auth=secret".parse().expect("a URL");
        assert_eq!(origin(&uri), "https://b:2");
        let other: Uri = "http://c".parse().expect("a URL");
        assert_eq!(at_origin_of(&uri, &other).to_string(), "http://c/x?auth=secret");
    }
}
