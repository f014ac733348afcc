//! Where to listen.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

/// The longest path of a Unix socket, in bytes: unix(7), less its NUL.
const UNIX_PATH_LEN_MAX: usize = 107;

/// An address of a listener: `127.0.0.1:8080`, `[::1]:8080`, `unix:/run/app.sock`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    Tcp(SocketAddr),
    /// An absolute path.
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return socket_path(path, "unix:/run/app.sock").map(Self::Unix);
        }
        text.parse().map(Self::Tcp).map_err(|_| {
            format!(
                "`{text}` is no address: write ADDRESS:PORT, as 127.0.0.1:8080, 0.0.0.0:80 or [::1]:8080, \
                 or unix:/PATH"
            )
        })
    }
}

/// Where a Unix socket is; `example` is one that is written as it should be.
pub(super) fn socket_path(path: &str, example: &str) -> Result<PathBuf, String> {
    if !path.starts_with('/') || path.ends_with('/') || path.contains('\0') {
        return Err(format!("`{path}` names no socket: write an absolute path, as {example}"));
    }
    if path.len() > UNIX_PATH_LEN_MAX {
        let len = path.len();
        return Err(format!("the path of this socket has {len} bytes, {UNIX_PATH_LEN_MAX} are allowed"));
    }
    Ok(path.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_reads_as_it_is_written() {
        for text in ["127.0.0.1:8080", "[::1]:81", "0.0.0.0:0", "unix:/run/a b.sock"] {
            assert_eq!(text.parse::<Address>().expect(text).to_string(), text);
        }
        let long = format!("unix:/{}", "x".repeat(UNIX_PATH_LEN_MAX));
        for text in ["8080", ":8080", "localhost:80", "127.0.0.1", "::1:80", "unix:", "unix:a.sock", "unix:/a/", &long]
        {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }
}
