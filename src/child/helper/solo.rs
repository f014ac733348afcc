//! A helper without a daemon around it: on a thread of the process that tests it, behind a socket of
//! its own.
//!
//! Its clients go the whole way, over the protocol; only the master, the fork and the log are not there.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use serde::Serialize;
use tempfile::TempDir;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::LocalSet;

use super::bus::Bus;
use super::client::Client;
use super::server::Server;
use super::traits::{Helper, Interface, Request};
use super::{declaration, methods, run};
use crate::app::configuration::Configuration;
use crate::app::declare::{
    Birthplace, Declaration, LocalFuture, Neighbours, Program, Publish, Singleton, Unanswerable, Work,
};
use crate::app::secret::Opened;
use crate::error::{BoxError, Result};

/// How a helper's work begins, on its thread.
type Begin = Box<dyn FnOnce(Birthplace) -> LocalFuture<Result<Rc<dyn Singleton>>> + Send>;

/// Begins a request of a made-up helper.
pub(crate) type Answer = Box<dyn Fn(&[u8], u64) -> Result<LocalFuture<Vec<u8>>, Unanswerable> + Send>;

/// The name in the socket's directory, and what is beside it.
pub(crate) struct Place {
    name: &'static str,
    directory: TempDir,
    listener: UnixListener,
    /// Others whom it may ask, by name.
    others: Vec<&'static str>,
    unwanted: Vec<&'static str>,
}

/// A helper on its thread; it ends when this is dropped.
pub(crate) struct Solo {
    thread: Option<JoinHandle<()>>,
    word: UnboundedSender<Word>,
    seen: Arc<Mutex<Seen>>,
}

/// What its thread is told.
enum Word {
    Publish(Vec<u8>),
    End,
}

/// What it shows.
#[derive(Default)]
struct Seen {
    note: String,
    /// Why `run` has ended.
    failure: Option<String>,
}

impl Place {
    /// # Errors
    /// The temporary directory takes no socket.
    pub(crate) fn make(name: &'static str) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("forebay-helper-").tempdir()?;
        std::fs::create_dir(directory.path().join("state"))?;
        let listener = UnixListener::bind(directory.path().join(format!("{name}.sock")))?;
        Ok(Self { name, directory, listener, others: Vec::new(), unwanted: Vec::new() })
    }

    /// Lets the helper of this place ask another one.
    pub(crate) fn meet(&mut self, other: &Place) -> Result<()> {
        let link = self.directory.path().join(format!("{}.sock", other.name));
        std::os::unix::fs::symlink(other.directory.path().join(format!("{}.sock", other.name)), link)?;
        self.others.push(other.name);
        Ok(())
    }

    /// These are not wanted, as far as they are not there.
    pub(crate) fn lacks(&mut self, asked: &[&'static str]) {
        self.unwanted = asked.iter().copied().filter(|name| !self.others.contains(name)).collect();
    }

    pub(crate) fn state_dir(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    /// A client on the caller's tokio runtime.
    pub(crate) fn client<H: Interface>(&self) -> Result<Client<H>> {
        Client::of(&neighbours(self.directory.path(), &[self.name], Configuration::default()), self.name)
    }

    /// Starts a helper of this type here; returns when that has begun to serve.
    pub(crate) fn start<H: Helper>(&self, configuration: Configuration) -> Result<Solo> {
        let declaration = declaration::<H>(self.name);
        let Work::Own(own) = declaration.work else { return Err("a helper of this type is a program".into()) };
        self.begin(declaration, configuration, Box::new(own.start))
    }

    /// Starts one that answers as it is told.
    pub(crate) fn pretend(&self, answers: BTreeMap<&'static str, Answer>, events: Arc<Mutex<Vec<u8>>>) -> Result<Solo> {
        let begin: Begin =
            Box::new(|_| Box::pin(async { Ok(Rc::new(Pretended { answers, events }) as Rc<dyn Singleton>) }));
        self.begin(stranger(self.name), Configuration::default(), begin)
    }

    fn begin(&self, declaration: Declaration, configuration: Configuration, begin: Begin) -> Result<Solo> {
        let listener = self.listener.try_clone()?;
        listener.set_nonblocking(true)?;
        let mut neighbours = neighbours(self.directory.path(), &self.others, configuration);
        neighbours.unwanted.clone_from(&self.unwanted);
        let (word, words) = unbounded_channel();
        let (ready, has_begun) = mpsc::sync_channel(1);
        let seen = Arc::new(Mutex::new(Seen::default()));
        let stage = Stage { declaration, neighbours, state_dir: self.state_dir(), listener, seen: seen.clone(), ready };
        let thread = std::thread::Builder::new().name(self.name.to_owned());
        let thread = thread.spawn(move || stage.live(begin, words))?;
        let solo = Solo { thread: Some(thread), word, seen };
        // Its thread ends without a word only if it panics.
        has_begun.recv().map_err(|_| "the helper panicked at its start")??;
        Ok(solo)
    }
}

impl Solo {
    /// What it has noted last.
    pub(crate) fn note(&self) -> String {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).note.clone()
    }

    /// Why its `run` has ended, if it has failed.
    pub(crate) fn failure(&self) -> Option<String> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).failure.clone()
    }

    /// Tells every subscriber an event, encoded.
    pub(crate) fn publish(&self, event: Vec<u8>) {
        // Its thread lives as long as this.
        let _ = self.word.send(Word::Publish(event));
    }
}

impl Drop for Solo {
    fn drop(&mut self) {
        let _ = self.word.send(Word::End);
        if let Some(thread) = self.thread.take() {
            // What panicked there has been told there.
            let _ = thread.join();
        }
    }
}

/// What the thread needs.
struct Stage {
    declaration: Declaration,
    neighbours: Neighbours,
    state_dir: PathBuf,
    listener: UnixListener,
    seen: Arc<Mutex<Seen>>,
    ready: mpsc::SyncSender<Result<()>>,
}

impl Stage {
    fn live(self, begin: Begin, words: UnboundedReceiver<Word>) {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let ready = self.ready.clone();
        let lived = runtime
            .enable_all()
            .build()
            .map_err(BoxError::from)
            .and_then(|runtime| LocalSet::new().block_on(&runtime, self.serve(begin, words)));
        if let Err(error) = lived {
            // Nobody waits for it any more once it has begun.
            let _ = ready.try_send(Err(error));
        }
    }

    async fn serve(self, begin: Begin, mut words: UnboundedReceiver<Word>) -> Result<()> {
        let Self { declaration, neighbours, state_dir, listener, seen, ready } = self;
        let bus = Rc::new(Bus::new());
        let noted = seen.clone();
        let place = Birthplace {
            declaration,
            // A test's process has few of them.
            neighbours: Box::leak(Box::new(neighbours)),
            state_dir,
            publish: bus.clone(),
            note: Box::new(move |text| {
                text.clone_into(&mut noted.lock().unwrap_or_else(PoisonError::into_inner).note);
                true
            }),
        };
        let singleton = begin(place).await?;
        let listener = tokio::net::UnixListener::from_std(listener)?;
        let name = format!("helper {}", declaration.name);
        let server = Server::new(listener, singleton.clone(), bus.clone(), name, "test".to_owned());
        ready.send(Ok(())).map_err(|_| "nobody waits for the helper")?;
        let obey = async {
            while let Some(Word::Publish(event)) = words.recv().await {
                bus.publish(&event);
            }
        };
        tokio::select! {
            () = obey => Ok(()),
            error = server.accept() => Err(error.into()),
            error = run(singleton) => {
                seen.lock().unwrap_or_else(PoisonError::into_inner).failure = Some(error.to_string());
                Err(error)
            }
        }
    }
}

/// Answers as a test tells it.
struct Pretended {
    answers: BTreeMap<&'static str, Answer>,
    /// The array that is its snapshot.
    events: Arc<Mutex<Vec<u8>>>,
}

impl Singleton for Pretended {
    fn run(self: Rc<Self>) -> LocalFuture<Result<()>> {
        Box::pin(async { Ok(()) })
    }

    fn snapshot(&self, out: &mut Vec<u8>) -> Result<()> {
        out.extend_from_slice(&self.events.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(())
    }

    fn call(self: Rc<Self>, method: &str, params: &[u8], now_ms: u64) -> Result<LocalFuture<Vec<u8>>, Unanswerable> {
        match self.answers.get(method) {
            Some(answer) => answer(params, now_ms),
            None => Err(Unanswerable::NoMethod(self.answers.keys().copied().collect())),
        }
    }
}

/// What begins requests of this type with that answer.
pub(crate) fn answer<R, E>(handle: impl AsyncFn(R) -> Result<R::Reply, E> + Send + Sync + 'static) -> Answer
where
    R: Request,
    E: Display + Serialize + 'static,
{
    let handle = Arc::new(handle);
    Box::new(move |params, now_ms| {
        let handle = handle.clone();
        methods::answer(params, now_ms, async move |request: R| handle(request).await)
    })
}

/// A configuration file with this text, which names no other files.
pub(crate) fn configuration(text: &str) -> Result<Configuration> {
    Configuration::parse("the configuration", text, Opened::default())
}

fn neighbours(ipc_dir: &Path, names: &[&'static str], configuration: Configuration) -> Neighbours {
    let wanted = names.iter().map(|name| stranger(name)).collect();
    Neighbours { caller: "test".to_owned(), ipc_dir: ipc_dir.to_owned(), wanted, unwanted: Vec::new(), configuration }
}

/// A helper of whatever type its client says.
fn stranger(name: &'static str) -> Declaration {
    static PROGRAM: Program = Program { command: Vec::new(), environment: BTreeMap::new() };
    Declaration { name, version: None, asks: &[], given: None, work: Work::Foreign(&PROGRAM) }
}
