//! Which request the code that runs now belongs to: what is logged meanwhile carries its id.
//!
//! A worker polls each request's handler, and the body of its answer, within its [`Scope`]. It holds for
//! the thread and for the poll: what the application spawns is on its own.

use std::cell::Cell;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::marker::PhantomData;

use http::HeaderMap;
use http::header::HeaderName;

/// The longest id, in bytes.
const LEN_MAX: usize = 64;

/// The digits of one that is made here.
const DIGITS: usize = 16;

/// From one number to the next: odd, so that all come before one comes again, and large, so that two in a
/// row look different at first sight.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

static HEADER: HeaderName = HeaderName::from_static("x-request-id");

const NONE: RequestId = RequestId { bytes: [0; LEN_MAX], len: 0 };

thread_local! {
    static CURRENT: Cell<RequestId> = const { Cell::new(NONE) };
    /// The number of the last id that was made here. A worker's thread is younger than the process, so that
    /// it draws its own start.
    static LAST: Cell<u64> = Cell::new(RandomState::new().hash_one(0));
}

/// The id of a request, by which its lines in the log are found.
///
/// It is what the client says in `x-request-id`, if that is 1 to 64 visible characters of ASCII, else 16
/// hexadecimal digits that no other request has. All that a handler logs carries it, across its awaits too,
/// and so does what is logged while the answer's body is made. What is spawned does not: neither tasks
/// (`tokio::spawn`, `spawn_blocking`, threads) nor a WebSocket's after its upgrade. Give them the id
/// yourself if they shall say it.
///
/// With the feature `axum` it is an extractor:
///
/// ```
/// use axum::{Router, routing::get};
/// use forebay::RequestId;
///
/// let app = forebay::App::new("shop").http(async |_| {
///     let order = async |id: RequestId| format!("The order is placed. If it does not come, say {id}.");
///     Ok(Router::new().route("/", get(order)))
/// });
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct RequestId {
    bytes: [u8; LEN_MAX],
    len: u8,
}

impl RequestId {
    /// Of the request whose handler, or whose answer's body, runs now; `None` anywhere else.
    ///
    /// ```
    /// // In a handler it is some.
    /// assert_eq!(forebay::RequestId::current(), None);
    /// ```
    pub fn current() -> Option<Self> {
        Some(CURRENT.get()).filter(|id| id.len > 0)
    }

    /// As it is logged.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..self.len.into()]).unwrap_or_default()
    }

    /// Of a request with this head.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        headers.get(&HEADER).and_then(|value| Self::taken_over(value.as_bytes())).unwrap_or_else(Self::made)
    }

    fn taken_over(said: &[u8]) -> Option<Self> {
        if said.is_empty() || said.len() > LEN_MAX || !said.iter().all(u8::is_ascii_graphic) {
            return None;
        }
        let mut id = Self { len: said.len() as u8, ..NONE };
        id.bytes[..said.len()].copy_from_slice(said);
        Some(id)
    }

    fn made() -> Self {
        let number = LAST.get().wrapping_add(STEP);
        LAST.set(number);
        let mut id = Self { len: DIGITS as u8, ..NONE };
        let (high, low) = id.bytes[..DIGITS].split_at_mut(DIGITS / 2);
        high.copy_from_slice(&digits((number >> 32) as u32));
        low.copy_from_slice(&digits(number as u32));
        id
    }
}

/// A number in hexadecimal digits, all eight at once: every request takes two of these.
fn digits(number: u32) -> [u8; DIGITS / 2] {
    // To one digit in each byte, in halves.
    let spread = u64::from(number);
    let spread = (spread << 16 | spread) & 0x0000_ffff_0000_ffff;
    let spread = (spread << 8 | spread) & 0x00ff_00ff_00ff_00ff;
    let spread = (spread << 4 | spread) & 0x0f0f_0f0f_0f0f_0f0f;
    // 1 for each digit above 9: six more carries.
    let letters = ((spread + 0x0606_0606_0606_0606) >> 4) & 0x0101_0101_0101_0101;
    let from_nine_to_a = u64::from(b'a' - b'0' - 10);
    (spread + 0x3030_3030_3030_3030 + letters * from_nine_to_a).to_be_bytes()
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RequestId").field(&self.as_str()).finish()
    }
}

/// Where no worker has given the request one (in a test of a router), it is made here.
#[cfg(feature = "axum")]
impl<S: Sync> axum::extract::FromRequestParts<S> for RequestId {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut http::request::Parts, _: &S) -> Result<Self, Self::Rejection> {
        Ok(Self::current().unwrap_or_else(|| Self::of(&parts.headers)))
    }
}

/// Gives the id of the request that the code which runs now belongs to; an empty one: to none.
pub(crate) fn current<T>(use_it: impl FnOnce(&str) -> T) -> T {
    use_it(CURRENT.get().as_str())
}

/// From now on the code that runs on this thread belongs to this request, until what is returned is dropped.
pub(crate) fn enter(id: RequestId) -> Scope {
    Scope { before: CURRENT.replace(id), of_this_thread: PhantomData }
}

/// As long as this lives. Those of a thread end in the reverse order of their beginning.
#[must_use]
pub(crate) struct Scope {
    before: RequestId,
    of_this_thread: PhantomData<*const ()>,
}

impl Drop for Scope {
    fn drop(&mut self) {
        CURRENT.set(self.before);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::panic;

    use http::HeaderValue;

    use super::*;

    fn now() -> String {
        current(str::to_owned)
    }

    fn id(text: &str) -> RequestId {
        RequestId::taken_over(text.as_bytes()).expect("visible")
    }

    #[test]
    fn what_a_client_says_is_taken_over_if_it_is_plain() {
        let longest = "~".repeat(LEN_MAX);
        let table: [(&[u8], bool); 9] = [
            (b"7b1f-42", true),
            (b"!", true),
            (longest.as_bytes(), true),
            (b"", false),
            (&[b'x'; LEN_MAX + 1], false),
            (b"a b", false),
            (b"a\tb", false),
            ("é".as_bytes(), false),
            (b"\x7f", false),
        ];
        for (said, is_taken) in table {
            // Not all of these can be a header's value, and none of them matters the less.
            let taken = RequestId::taken_over(said);
            assert_eq!(taken.is_some(), is_taken, "{said:?}");
            assert!(taken.is_none_or(|taken| taken.as_str().as_bytes() == said), "{said:?}");
        }
        let headers = HeaderMap::from_iter([(HEADER.clone(), HeaderValue::from_static("7b1f-42"))]);
        assert_eq!(RequestId::of(&headers).to_string(), "7b1f-42");
        let headers = HeaderMap::from_iter([(HEADER.clone(), HeaderValue::from_static("7 b"))]);
        assert_eq!(RequestId::of(&headers).as_str().len(), DIGITS);
    }

    #[test]
    fn no_two_that_are_made_are_the_same() {
        let make = || (0..1000).map(|_| RequestId::made().to_string()).collect::<Vec<_>>();
        let others = std::thread::spawn(make).join().expect("it does not panic");
        let all: HashSet<String> = make().into_iter().chain(others).collect();
        assert_eq!(all.len(), 2000);
        let is_hexadecimal = |id: &String| id.len() == DIGITS && id.bytes().all(|byte| byte.is_ascii_hexdigit());
        assert!(all.iter().all(is_hexadecimal));
    }

    #[test]
    fn a_number_is_written_with_all_its_digits() {
        for number in [0x00ab_cdef_0123_4567, 0, u64::MAX, 0x8899_aabb_90a0_9a09] {
            LAST.set(u64::wrapping_sub(number, STEP));
            assert_eq!(RequestId::made().as_str(), format!("{number:016x}"));
        }
    }

    #[test]
    fn one_request_within_another_gives_its_place_back() {
        assert_eq!((now().as_str(), RequestId::current()), ("", None));
        {
            let _outer = enter(id("outer"));
            {
                let _inner = enter(id("inner"));
                assert_eq!(now(), "inner");
            }
            assert_eq!(RequestId::current(), Some(id("outer")));
            let elsewhere = std::thread::spawn(now).join().expect("it does not panic");
            assert_eq!(elsewhere, "", "another thread's work is another's");
        }
        assert_eq!(now(), "");
    }

    #[test]
    fn a_panic_ends_it_too() {
        let caught = panic::catch_unwind(|| {
            let _scope = enter(id("panics"));
            panic::resume_unwind(Box::new(()));
        });
        assert!(caught.is_err());
        assert_eq!(now(), "");
    }
}
