//! What an application says of itself: names and closures, erased to what a child runs.

use std::any::{Any, TypeId, type_name};
use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::rt::{Read, Write};

use super::configuration::Configuration;
use crate::error::Result;

/// What the application gives to the process of a helper: it is in memory when the zygote forks.
pub(crate) type Given = &'static (dyn Any + Send + Sync);

/// What `preload` built: shared by all processes of a generation, never freed.
pub(crate) type Preloaded = &'static (dyn Any + Send + Sync);

/// A future of a connection or a signal to it.
pub(crate) type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

pub(crate) type PreloadFn = Box<dyn FnOnce(&Preload) -> Result<Preloaded> + Send>;
pub(crate) type HttpFn = Box<dyn FnOnce(Worker) -> Pin<Box<dyn Future<Output = Result<Box<dyn Replica>>>>> + Send>;

/// One replica's service, as the worker's loop uses it.
pub(crate) trait Replica {
    /// Serves a connection until it ends.
    fn serve(&self, arrival: Arrival, ends: Arc<dyn Ends>) -> BoxFuture<()>;
}

/// What connections know of their worker's end, and it of them.
pub(crate) trait Ends: Send + Sync {
    /// Whether connections shall end.
    fn have_begun(&self) -> bool;
    /// Once this resolves a connection shall end with its next answer.
    fn next(&self) -> BoxFuture<()>;
    /// Once this resolves: soon, also when nothing more is asked.
    fn soon(&self) -> BoxFuture<()>;
    /// Once this resolves: now, whatever it does.
    fn now(&self) -> BoxFuture<()>;
    /// The time between the first and the last of these.
    fn limit(&self) -> Duration;
    /// One connection more is open.
    fn has_opened(&self);
    /// One fewer.
    fn has_closed(&self);
    /// One of this kind was cut.
    fn has_cut(&self, kind: Kind);
}

/// What a connection is busy with, as far as that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    WebSocket,
    /// An answer is not whole.
    Request,
}

/// A future of a process with one thread.
pub(crate) type LocalFuture<T> = Pin<Box<dyn Future<Output = T>>>;

/// What a replica does last.
pub(crate) type StopFn = Box<dyn FnOnce() -> LocalFuture<Result<()>> + Send>;

/// How a helper's life begins.
pub(crate) type HelperFn = fn(Birthplace) -> LocalFuture<Result<Rc<dyn Singleton>>>;

/// A helper as it was declared, erased to what the zygote and its process need.
#[derive(Clone, Copy)]
pub(crate) struct Declaration {
    pub(crate) name: &'static str,
    pub(crate) version: Option<&'static str>,
    pub(crate) asks: &'static [&'static str],
    /// The application's closures that it runs: those read `[app]`, and may ask every other helper.
    pub(crate) given: Option<Given>,
    pub(crate) work: Work,
}

/// What a helper's process does.
#[derive(Clone, Copy)]
pub(crate) enum Work {
    /// It runs one of the application's types.
    Own(Own),
    /// It becomes another program.
    Foreign(&'static Program),
}

/// One of the application's types.
#[derive(Clone, Copy)]
pub(crate) struct Own {
    /// For those that ask for it.
    pub(crate) kind: TypeId,
    pub(crate) is_wanted: fn(&Configuration) -> Result<bool>,
    /// Whether its section is what it takes.
    pub(crate) check: fn(&Configuration, &str) -> Result<()>,
    pub(crate) start: HelperFn,
}

/// What a program is started with.
#[derive(Debug)]
pub(crate) struct Program {
    /// Its name or path, and its arguments.
    pub(crate) command: Vec<String>,
    pub(crate) environment: BTreeMap<String, String>,
}

/// The helpers of this process's generation, and where they are reached.
#[derive(Clone, Default)]
pub(crate) struct Neighbours {
    /// What this process calls itself: `worker 0 generation 1`.
    pub(crate) caller: String,
    /// Where the sockets are.
    pub(crate) ipc_dir: PathBuf,
    /// Those that the configuration wants.
    pub(crate) wanted: Vec<Declaration>,
    /// The names of the others.
    pub(crate) unwanted: Vec<&'static str>,
    /// The application's sections of the configuration file.
    pub(crate) configuration: Configuration,
}

/// What a helper's process gives it.
pub(crate) struct Birthplace {
    pub(crate) declaration: Declaration,
    pub(crate) neighbours: &'static Neighbours,
    pub(crate) state_dir: PathBuf,
    pub(crate) publish: Rc<dyn Publish>,
    /// Tells the master what `status` shall show; false: it did not.
    pub(crate) note: Box<dyn Fn(&str) -> bool>,
}

/// Carries events from a helper to its subscribers.
pub(crate) trait Publish {
    /// One event, encoded.
    fn publish(&self, event: &[u8]);
}

/// A helper as its process's loop uses it.
pub(crate) trait Singleton {
    fn run(self: Rc<Self>) -> LocalFuture<Result<()>>;

    /// Ends what it has begun by itself, within so long.
    fn finish(self: Rc<Self>, _limit: Duration) -> LocalFuture<Result<()>> {
        Box::pin(async { Ok(()) })
    }

    /// Appends the array of events that tell how things stand.
    fn snapshot(&self, out: &mut Vec<u8>) -> Result<()>;

    /// Begins a request; the future gives the last two elements of the response, encoded.
    fn call(self: Rc<Self>, method: &str, params: &[u8], now_ms: u64) -> Result<LocalFuture<Vec<u8>>, Unanswerable>;
}

/// Why a request was not begun.
#[derive(Debug)]
pub(crate) enum Unanswerable {
    /// There is no such method; these there are.
    NoMethod(Vec<&'static str>),
    BadParams(String),
    /// Reading its parameters panicked.
    Panicked,
    /// Its deadline has passed.
    TooLate,
}

/// A connection's bytes, whatever carries them.
pub(crate) trait Duplex: Read + Write + Send + Unpin {
    /// Whether there is something to be read, also what the loop has not been told of.
    fn has_unread(&self) -> bool;
    /// Whether the client has said that it sends nothing more, and all it sent is read.
    fn has_ended(&self) -> bool;
    /// Whether what there is to be read may be the beginning of HTTP/2.
    fn may_be_http2(&self) -> bool;
    /// What is not sent yet is thrown away with its end: a client that takes nothing would keep it in the kernel.
    fn forget_unsent(&self);
    /// Ready when something may be read, or the end; nothing is kept in memory until then.
    fn poll_readable(&mut self, context: &mut Context<'_>) -> Poll<()>;
}

/// A connection.
pub(crate) type Stream = Box<dyn Duplex>;

/// A connection, and where it comes from; from a Unix socket: nowhere.
pub(crate) type Arrived = (Stream, Option<SocketAddr>);

/// A connection as a listener has taken it.
pub(crate) enum Arrival {
    Open(Arrived),
    /// Something comes before HTTP; `None`: it did not, and the connection is closed.
    Opening(BoxFuture<Option<Arrived>>),
}

impl Arrival {
    /// Puts something between the connection and HTTP.
    pub(crate) fn through(self, layer: impl FnOnce(Stream) -> Stream + Send + 'static) -> Self {
        match self {
            Self::Open((stream, peer)) => Self::Open((layer(stream), peer)),
            Self::Opening(opening) => {
                Self::Opening(Box::pin(async move { opening.await.map(|(stream, peer)| (layer(stream), peer)) }))
            }
        }
    }

    /// Waits until HTTP can be spoken.
    pub(crate) async fn open(self) -> Option<Arrived> {
        match self {
            Self::Open(arrived) => Some(arrived),
            Self::Opening(opening) => opening.await,
        }
    }
}

/// An application: what runs once in a generation, and what runs in every replica.
///
/// Nothing of it runs in the master. The [crate's page](crate) has an example.
#[must_use = "an application does nothing until `main` is called"]
pub struct App {
    pub(crate) name: &'static str,
    pub(crate) version: &'static str,
    /// Whether the section `[app]` is what it should be.
    pub(crate) check: Option<fn(&Configuration) -> Result<()>>,
    pub(crate) example: Option<&'static str>,
    pub(crate) preload: Option<PreloadFn>,
    pub(crate) helpers: Vec<Declaration>,
    /// What is wrong with what was declared: a start tells all of it, and so does `check`.
    pub(crate) mistakes: Vec<String>,
    pub(crate) http: Option<HttpFn>,
}

impl App {
    /// An application of this name.
    ///
    /// The name appears in process titles, in the log, and as the default of paths: `/run/NAME`,
    /// `/etc/NAME.toml`.
    pub fn new(name: &'static str) -> Self {
        let version = env!("CARGO_PKG_VERSION");
        let (helpers, mistakes) = (Vec::new(), Vec::new());
        Self { name, version, check: None, example: None, preload: None, helpers, mistakes, http: None }
    }

    /// The application's version, for `--version` and `status`; forebay's own if never said.
    ///
    /// ```
    /// let app = forebay::App::new("hello").version(env!("CARGO_PKG_VERSION"));
    /// ```
    pub fn version(mut self, version: &'static str) -> Self {
        self.version = version;
        self
    }

    /// Says what the section `[app]` of the configuration file is: every start, and the command
    /// `check`, read it as this before anything else runs. [`Worker::config`] gives it to a replica.
    ///
    /// ```
    /// #[derive(serde::Deserialize)]
    /// #[serde(deny_unknown_fields)]
    /// struct Settings {
    ///     database: String,
    /// }
    ///
    /// let app = forebay::App::new("shop").config::<Settings>();
    /// ```
    pub fn config<T: serde::de::DeserializeOwned + 'static>(mut self) -> Self {
        self.check = Some(|configuration| configuration.section::<T>("app").map(drop));
        self
    }

    /// The application's part of what the command `config` prints: its sections, as TOML with
    /// comments.
    ///
    /// ```
    /// let app = forebay::App::new("shop").config_example("[app]\n# Where the goods are.\n#database = \"…\"");
    /// ```
    pub fn config_example(mut self, text: &'static str) -> Self {
        self.example = Some(text);
        self
    }

    /// Builds something once in a generation, before any worker exists.
    ///
    /// All workers share its memory (copy-on-write) and get it by [`Worker::preloaded`]. It runs
    /// in the zygote on a thread of its own. What it may not leave behind: other threads, and
    /// open sockets, pipes or event descriptors, which all workers would share; both are refused
    /// by name. An error fails the start. So does exceeding `[timeouts] ready` (20 s).
    ///
    /// ```
    /// let app = forebay::App::new("dictionary").preload(|_| {
    ///     let words: Vec<String> = std::fs::read_to_string("words")?.lines().map(Into::into).collect();
    ///     Ok(words)
    /// });
    /// ```
    pub fn preload<T, F>(mut self, build: F) -> Self
    where
        T: Send + Sync + 'static,
        F: FnOnce(&Preload) -> Result<T> + Send + 'static,
    {
        self.preload = Some(Box::new(|preload| {
            let built: &'static T = Box::leak(Box::new(build(preload)?));
            Ok(built as Preloaded)
        }));
        self
    }
}

/// Where [`App::preload`] runs.
#[derive(Debug)]
pub struct Preload {
    pub(crate) generation: u32,
}

impl Preload {
    /// The generation that is being loaded, counted from 1.
    pub fn generation(&self) -> u32 {
        self.generation
    }
}

/// One replica, given to the closure of `App::http`.
#[derive(Clone, Copy)]
pub struct Worker {
    pub(crate) slot: u16,
    pub(crate) generation: u32,
    pub(crate) preloaded: Option<Preloaded>,
    pub(crate) neighbours: &'static Neighbours,
    /// Makes a future that resolves when this replica drains.
    pub(crate) draining: &'static (dyn Fn() -> BoxFuture<()> + Send + Sync),
    /// Takes what this replica does last.
    pub(crate) on_stop: &'static (dyn Fn(StopFn) + Send + Sync),
}

impl Worker {
    /// This replica's place, from 0 to the number of workers less one. The processes in it change.
    pub fn slot(&self) -> u16 {
        self.slot
    }

    /// The generation this replica belongs to, counted from 1.
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// The section `[app]` of the configuration file; one that is not there is read as an empty one.
    ///
    /// # Errors
    /// The section is not what `T` takes; the error names the file and the key.
    pub fn config<T: serde::de::DeserializeOwned + 'static>(&self) -> Result<T> {
        self.neighbours.configuration.section("app")
    }

    /// Resolves when this replica begins to drain, for what the application does in the background.
    ///
    /// Connections need nothing of the application: a WebSocket's client is sent Close with 1001
    /// (going away), an answer of `text/event-stream` ends, HTTP/2 gets GOAWAY, and every other
    /// answer is finished. What is left at `[timeouts] drain` (30 s) is cut.
    pub fn draining(&self) -> impl Future<Output = ()> + Send + use<> {
        (self.draining)()
    }

    /// Has this replica do something before it ends: write what it still holds, close its database.
    ///
    /// It runs on the replica's loop when the last connection has ended or was cut, also when the
    /// master is gone; several run one after the other, in the order in which they were given. All
    /// of them together have until 1 s after the drain limit (`[timeouts] drain`, 30 s from the
    /// beginning of the drain); what has not finished then is dropped at its next `await`, with a
    /// line in the log. So is told what fails or panics; the next one runs nonetheless. It does not
    /// run when the closure of `App::http` has failed, in a replica that crashes, and where the
    /// daemon is stopped at once. A replica takes 64 of them; one beyond is logged and left out.
    ///
    /// ```
    /// use std::{fs::File, io::Write};
    ///
    /// use axum::{Router, routing::post};
    ///
    /// let app = forebay::App::new("journal").http(async |worker| {
    ///     let journal: &'static File = Box::leak(Box::new(File::create(format!("journal.{}", worker.slot()))?));
    ///     worker.on_stop(async move || Ok(journal.sync_all()?));
    ///     let write = async move |line: String| _ = { journal }.write_all(line.as_bytes());
    ///     Ok(Router::new().route("/", post(write)))
    /// });
    /// ```
    pub fn on_stop<F>(&self, act: F)
    where
        F: AsyncFnOnce() -> Result<()> + Send + 'static,
    {
        (self.on_stop)(Box::new(|| Box::pin(async move { act().await })));
    }

    /// What [`App::preload`] returned, the same for all replicas of a generation.
    ///
    /// # Errors
    /// There was no `preload`, or it returned another type.
    pub fn preloaded<T: 'static>(&self) -> Result<&'static T> {
        let wanted = type_name::<T>();
        let built = self.preloaded.ok_or_else(|| format!("no preload built the {wanted} that is asked for"))?;
        Ok(built.downcast_ref().ok_or_else(|| format!("preload built something else than {wanted}"))?)
    }
}

impl std::fmt::Debug for Worker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Worker").field("slot", &self.slot).field("generation", &self.generation).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn preloaded_gives_the_type_that_was_built_and_no_other() {
        let built: Preloaded = Box::leak(Box::new(7_u32));
        let neighbours = Box::leak(Box::new(Neighbours::default()));
        let (draining, on_stop) = (&|| Box::pin(async {}) as BoxFuture<()>, &|_| {});
        let worker = Worker { slot: 0, generation: 1, preloaded: Some(built), neighbours, draining, on_stop };
        assert_eq!(worker.preloaded::<u32>().ok(), Some(&7));
        assert!(worker.preloaded::<u64>().is_err());
    }
}
