//! One error type for the library's own failures, and the exit codes.
//!
//! `Display` says operation and subject, `source()` the cause; whoever prints an error prints
//! the chain. Applications return [`BoxError`], so that `?` works on anything.

pub(crate) mod mistakes;

use std::error::Error as StdError;
use std::fmt;
use std::io::{self, ErrorKind};

/// Any error, as closures of an application return it.
pub type BoxError = Box<dyn StdError + Send + Sync>;

/// What closures of an application return.
pub type Result<T, E = BoxError> = std::result::Result<T, E>;

/// How a command ends, after sysexits(3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    /// It was carried out.
    Done = 0,
    /// It was carried out and failed.
    Failed = 1,
    /// The command line is wrong.
    Usage = 64,
    /// No master answers.
    NotRunning = 69,
    /// A bug of ours.
    Bug = 70,
    /// The system refused: bind, fork, open.
    Refused = 71,
    /// Already running, or busy: try again.
    Busy = 75,
    /// Not allowed.
    NoPermission = 77,
    /// The configuration is wrong.
    Config = 78,
}

impl Exit {
    /// The exit that a master's answer names; one of a later release counts as a failure.
    pub(crate) fn from_code(code: u8) -> Self {
        let all = [
            Self::Done,
            Self::Failed,
            Self::Usage,
            Self::NotRunning,
            Self::Bug,
            Self::Refused,
            Self::Busy,
            Self::NoPermission,
            Self::Config,
        ];
        all.into_iter().find(|&exit| exit as u8 == code).unwrap_or(Self::Failed)
    }
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// An operation that failed, how the program ends for it, and why.
#[derive(Debug)]
pub(crate) struct Error {
    pub(crate) exit: Exit,
    what: String,
    source: Option<BoxError>,
}

impl Error {
    pub(crate) fn new(exit: Exit, what: impl Into<String>) -> Self {
        Self { exit, what: what.into(), source: None }
    }

    pub(crate) fn because(exit: Exit, what: impl Into<String>, source: impl Into<BoxError>) -> Self {
        Self { exit, what: what.into(), source: Some(source.into()) }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_ref().map(|source| &**source as _)
    }
}

/// Says what was being done when a system call failed.
pub(crate) trait Context<T> {
    /// The system refused `what`, or did not allow it.
    fn or_refused(self, what: impl FnOnce() -> String) -> Result<T, Error>;
}

impl<T, E: Into<BoxError>> Context<T> for std::result::Result<T, E> {
    fn or_refused(self, what: impl FnOnce() -> String) -> Result<T, Error> {
        self.map_err(|source| {
            let source = source.into();
            let denied =
                source.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == ErrorKind::PermissionDenied);
            Error::because(if denied { Exit::NoPermission } else { Exit::Refused }, what(), source)
        })
    }
}

/// Prints an error with its causes: `cannot bind 127.0.0.1:80: permission denied`.
pub(crate) struct Chain<'a>(pub(crate) &'a (dyn StdError + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_names_operation_and_cause() {
        let cause = std::io::Error::from_raw_os_error(libc::EACCES);
        let error = Error::because(Exit::Refused, "cannot bind 127.0.0.1:80", cause);
        assert_eq!(Chain(&error).to_string(), "cannot bind 127.0.0.1:80: Permission denied (os error 13)");
    }
}
