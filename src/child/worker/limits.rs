//! What clients may take of this worker, and how long.

use std::sync::OnceLock;

use crate::settings::http::Http;

/// A process is one worker, once.
static LIMITS: OnceLock<Http> = OnceLock::new();

/// From now on these.
pub(super) fn set(limits: Http) {
    LIMITS.get_or_init(|| limits);
}

pub(super) fn limits() -> &'static Http {
    LIMITS.get_or_init(Http::usual)
}
