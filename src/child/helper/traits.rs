//! What a helper is, in the words of the application.

use std::fmt::Display;
use std::future::{Future, pending, ready};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::context::Context;
use super::methods::Methods;
use crate::app::configuration::Configuration;
use crate::error::Result;

/// Something there can only be one of, in a process of its own: an upstream connection, a cache, a
/// device.
///
/// forebay starts it before the workers, replaces it when it dies, and carries requests and events
/// between it and everyone who asks. Its process has one thread and one tokio loop, so its state may be
/// `Rc` and `RefCell`.
///
/// In one run directory at most one process of a helper's name lives at any moment, over crashes, reloads
/// and a master that was killed: the next one is started only after the kernel has reaped the last, or,
/// where another master had made that, has shown that it is dead. So there is at most one of whatever the
/// process holds.
///
/// ```
/// use std::cell::Cell;
///
/// use forebay::{Configuration, Context, Handle, Helper, Methods, Request, Result};
/// use serde::{Deserialize, Serialize};
///
/// /// Counts for all replicas.
/// struct Counter {
///     count: Cell<u64>,
///     context: Context<Self>,
/// }
///
/// #[derive(Serialize, Deserialize)]
/// struct Add {
///     by: u64,
/// }
///
/// impl Request for Add {
///     const METHOD: &'static str = "add";
///     type Reply = u64;
/// }
///
/// impl Helper for Counter {
///     type Config = ();
///     type Event = u64;
///     type Error = String;
///
///     async fn start(_: (), context: Context<Self>) -> Result<Self> {
///         Ok(Self { count: Cell::new(0), context })
///     }
///
///     fn methods(methods: Methods<Self>) -> Methods<Self> {
///         methods.on::<Add>()
///     }
///
///     fn snapshot(&self) -> Vec<u64> {
///         vec![self.count.get()]
///     }
/// }
///
/// impl Handle<Add> for Counter {
///     async fn handle(&self, add: Add) -> Result<u64, String> {
///         let count = self.count.get().checked_add(add.by).ok_or("that is too much")?;
///         self.count.set(count);
///         self.context.publish(&count);
///         Ok(count)
///     }
/// }
///
/// let app = forebay::App::new("counting").helper::<Counter>("counter");
/// ```
pub trait Helper: Sized + 'static {
    /// The helper's version, for `status`; the application's own if not said.
    const VERSION: Option<&'static str> = None;

    /// The names of the helpers it asks: they start before it. A circle is refused at start.
    const ASKS: &'static [&'static str] = &[];

    /// Its section of the configuration file, `[NAME]` or `[helper.NAME]`; `()` if it has none.
    ///
    /// A section that is not there is read as an empty one.
    type Config: DeserializeOwned + 'static;

    /// What it tells its subscribers.
    type Event: Serialize + DeserializeOwned + Send + 'static;

    /// What it answers when a request fails.
    type Error: Display + Serialize + DeserializeOwned + Send + 'static;

    /// Whether this configuration needs the helper at all; it is not started otherwise.
    ///
    /// # Errors
    /// What the configuration says is wrong.
    fn is_wanted(_configuration: &Configuration) -> Result<bool> {
        Ok(true)
    }

    /// Builds the helper. Until it returns nobody is answered.
    ///
    /// Its error, or exceeding `[timeouts] ready` (20 s), counts as a crash. What may be away for
    /// a while, such as an upstream, is better connected in [`Helper::run`].
    fn start(config: Self::Config, context: Context<Self>) -> impl Future<Output = Result<Self>>;

    /// Runs beside the requests for the helper's whole life: the upstream connection.
    ///
    /// It is dropped when the helper ends. Its error is a crash. If it returns, the helper goes
    /// on answering.
    fn run(&self) -> impl Future<Output = Result<()>> {
        pending()
    }

    /// Ends what it has begun by itself, when its process is to end: [`Helper::run`] was dropped, and
    /// beside it the requests that were accepted are answered.
    ///
    /// Both have until `limit` (`[timeouts] drain`, 30 s); a second after that it is dropped.
    fn finish(&self, _limit: Duration) -> impl Future<Output = ()> {
        ready(())
    }

    /// The requests it handles, each by [`Methods::on`].
    fn methods(methods: Methods<Self>) -> Methods<Self> {
        methods
    }

    /// The events that tell a new subscriber how things stand; what is published later follows. A
    /// subscriber that did not keep up gets them too, instead of what it has missed, and how much that was.
    ///
    /// Where events are a state's changes, this is the latest value of each key. Where they leave nothing
    /// behind, it is empty, and whoever missed some is only told that.
    ///
    /// Change the state and [publish](Context::publish) the event without an `await` between them:
    /// then a subscriber misses nothing and sees nothing twice.
    fn snapshot(&self) -> Vec<Self::Event> {
        Vec::new()
    }
}

/// A request that travels to a helper: a method of the protocol, with its parameters as fields.
///
/// Releases mix during a reload: add fields with `#[serde(default)]`, never change or remove one.
pub trait Request: Serialize + DeserializeOwned + Send + 'static {
    /// The method's name.
    const METHOD: &'static str;

    /// Whether it may be carried out twice. If so, it is sent again when the helper died before
    /// it answered; if not, the caller gets [`CallError::OutcomeUnknown`](super::CallError).
    const IDEMPOTENT: bool = false;

    /// The answer.
    type Reply: Serialize + DeserializeOwned + Send + 'static;
}

/// How a helper answers one kind of request.
pub trait Handle<R: Request>: Helper {
    /// Answers. Requests run beside each other; a panic answers this request and no other.
    ///
    /// The future is dropped when the caller gives up, at an `await`.
    fn handle(&self, request: R) -> impl Future<Output = Result<R::Reply, Self::Error>>;
}

/// What can be asked of a helper, apart from who answers: all that a [`Client`](super::Client) knows of it.
///
/// Every [`Helper`] has one. For a helper in another language it is what its process speaks, written down:
///
/// ```
/// use forebay::{Answers, Interface, Request};
/// use serde::{Deserialize, Serialize};
///
/// /// `[helper.tariff] command = ["python3", "tariff.py"]`
/// struct Tariff;
///
/// #[derive(Serialize, Deserialize)]
/// struct Price {
///     kwh: f64,
/// }
///
/// impl Request for Price {
///     const METHOD: &'static str = "price";
///     const IDEMPOTENT: bool = true;
///     type Reply = f64;
/// }
///
/// impl Interface for Tariff {
///     /// Cents for a kilowatt-hour, when they change.
///     type Event = f64;
///     /// What it says when it refuses.
///     type Error = String;
/// }
///
/// impl Answers<Price> for Tariff {}
///
/// let app = forebay::App::new("meter").http(async |worker| {
///     let tariff = worker.helper::<Tariff>("tariff")?;
///     let price = async move || match tariff.call(Price { kwh: 2.0 }).await {
///         Ok(cents) => format!("{cents} ct"),
///         Err(error) => error.to_string(),
///     };
///     Ok(axum::Router::new().route("/", axum::routing::get(price)))
/// });
/// ```
pub trait Interface: 'static {
    /// What it tells its subscribers.
    type Event: DeserializeOwned + Send + 'static;

    /// What it answers when a request fails: the error's `data`, or its `message` where there is none.
    type Error: Display + DeserializeOwned + Send + 'static;
}

/// That a helper answers requests of this type.
pub trait Answers<R: Request>: Interface {}

impl<H: Helper> Interface for H {
    type Event = H::Event;
    type Error = H::Error;
}

impl<R: Request, H: Handle<R>> Answers<R> for H {}
