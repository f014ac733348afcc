//! Helpers: processes for what there can only be one of, and the way to them.
//!
//! A helper runs on a tokio loop of one thread: its `run` beside the requests of all its clients.
//! `traits` is what an application writes; `methods`, `server` and `bus` carry it; `client` is the
//! other end, in workers and in other helpers.

mod bus;
mod client;
mod connection;
mod context;
mod hub;
mod methods;
#[cfg(feature = "schedule")]
pub(crate) mod schedule;
mod server;
#[cfg(feature = "testing")]
pub(crate) mod solo;
mod traits;

use std::any::TypeId;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::rc::Rc;
use std::time::Duration;

use self::bus::Bus;
pub use self::client::{CallError, Client, Subscription, Update};
pub use self::context::Context;
pub use self::hub::{Heard, Held, Hub, HubError, Listening, Question, Topic};
pub use self::methods::Methods;
use self::server::Server;
pub use self::traits::{Answers, Handle, Helper, Interface, Request};
use super::master::{Ending, Master};
use super::panics;
use super::zygote::Loaded;
use crate::app::declare::{App, Birthplace, Declaration, LocalFuture, Own, Singleton, Unanswerable, Work, Worker};
use crate::contract::ids::{Generation, HelperName, Role};
use crate::contract::orders::{Begin, ChildReport};
use crate::error::Result;
use crate::ipc::frame;
#[cfg(feature = "testing")]
pub(crate) use crate::ipc::frame::encoded;

/// How long after the drain limit what a helper has begun may last: the master ends it another second later.
const FINISH_GRACE: Duration = Duration::from_secs(1);

/// How much longer than the workers a helper without master may last.
const ORPHANED_GRACE: Duration = Duration::from_secs(2);

impl App {
    /// Declares a helper: one process of this type, which everyone reaches by this name.
    ///
    /// The name has 1 to 31 characters of a-z, 0-9, `_` and `-`, begins with a letter, and is not
    /// one of forebay's own processes. The helper's settings are the section of that name.
    /// [`Helper`] has an example.
    pub fn helper<H: Helper>(mut self, name: &'static str) -> Self {
        self.helpers.push(declaration::<H>(name));
        self
    }
}

impl Worker {
    /// A client of the helper of this name. Ask once and clone it: all clones share a connection.
    ///
    /// # Errors
    /// No such helper was declared or configured, it is of another type, or the configuration does not
    /// want it.
    pub fn helper<H: Interface>(&self, name: &str) -> Result<Client<H>> {
        Client::of(self.neighbours, name)
    }
}

/// What the zygote and the helper's process need of the type.
fn declaration<H: Helper>(name: &'static str) -> Declaration {
    Declaration {
        name,
        version: H::VERSION,
        asks: H::ASKS,
        given: None,
        work: Work::Own(Own {
            kind: TypeId::of::<H>(),
            is_wanted: H::is_wanted,
            check: |configuration, name| configuration.section::<H::Config>(name).map(drop),
            start: |place| Box::pin(start::<H>(place)),
        }),
    }
}

async fn start<H: Helper>(place: Birthplace) -> Result<Rc<dyn Singleton>> {
    let config = place.neighbours.configuration.section(place.declaration.name)?;
    let helper = Rc::new(H::start(config, Context::new(place)).await?);
    Ok(Rc::new(Running { helper, methods: Methods::of() }))
}

/// A helper that was started.
struct Running<H> {
    helper: Rc<H>,
    methods: Methods<H>,
}

impl<H: Helper> Singleton for Running<H> {
    fn run(self: Rc<Self>) -> LocalFuture<Result<()>> {
        Box::pin(async move { self.helper.run().await })
    }

    fn finish(self: Rc<Self>, limit: Duration) -> LocalFuture<Result<()>> {
        Box::pin(async move {
            self.helper.finish(limit).await;
            Ok(())
        })
    }

    fn snapshot(&self, out: &mut Vec<u8>) -> Result<()> {
        Ok(frame::append(&self.helper.snapshot(), out)?)
    }

    fn call(self: Rc<Self>, method: &str, params: &[u8], now_ms: u64) -> Result<LocalFuture<Vec<u8>>, Unanswerable> {
        self.methods.begin(self.helper.clone(), method, params, now_ms)
    }
}

/// One helper's whole life.
pub(super) async fn live(
    name: HelperName,
    generation: Generation,
    begin: Begin,
    mut listeners: Vec<OwnedFd>,
    mut master: Master,
    loaded: Loaded,
) -> Result<()> {
    let neighbours = loaded.neighbours(&begin);
    let declared = neighbours.wanted.iter().find(|known| known.name == name.as_str());
    let declaration = *declared.ok_or_else(|| format!("no helper {name} was declared"))?;
    let listener = listeners.pop().ok_or("a helper without its socket")?;
    let bus = Rc::new(Bus::new());
    let place = Birthplace {
        declaration,
        neighbours,
        state_dir: begin.state_dir,
        publish: bus.clone(),
        note: Box::new(master.noter()?),
    };
    let Work::Own(own) = declaration.work else { return Err(format!("the helper {name} is another program").into()) };
    let started = panics::named("start", (own.start)(place)).await;
    let singleton = started.inspect_err(|error| master.refuse(&**error))?;
    let listener = UnixListener::from(listener);
    // Its last owner may have been another program.
    listener.set_nonblocking(true)?;
    let listener = tokio::net::UnixListener::from_std(listener)?;
    let version = declaration.version.unwrap_or(loaded.version).to_owned();
    let server = Server::new(listener, singleton.clone(), bus, Role::Helper(name, generation).to_string(), version);
    master.report(&ChildReport::Ready);
    if master.says_accept().await?.is_none() {
        return Ok(());
    }
    serve(server, singleton, &mut master, Duration::from_millis(begin.drain_ms)).await
}

/// Serves until told to end: then the upstream is let go first, and what was accepted is answered.
async fn serve(server: Server, singleton: Rc<dyn Singleton>, master: &mut Master, drain_limit: Duration) -> Result<()> {
    let ending = async {
        let ending = master.says_drain().await;
        if ending == Ending::Orphaned {
            // Workers finish their requests now, and ask for it.
            let _ = tokio::time::timeout(drain_limit + ORPHANED_GRACE, server.is_left()).await;
        }
    };
    tokio::select! {
        biased;
        () = ending => {}
        error = run(singleton.clone()) => return Err(error),
        error = server.accept() => return Err(error.into()),
    }
    tokio::join!(server.drain(drain_limit), finish(singleton, drain_limit));
    Ok(())
}

/// Lets it end what it has begun.
async fn finish(singleton: Rc<dyn Singleton>, limit: Duration) {
    let finishing = panics::named("finish", singleton.finish(limit));
    match tokio::time::timeout(limit + FINISH_GRACE, finishing).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => log::error!("{error}"),
        Err(_) => log::error!("finish: cut {} s after the drain limit", FINISH_GRACE.as_secs()),
    }
}

/// Runs the upstream; returns only its failure.
async fn run(singleton: Rc<dyn Singleton>) -> crate::error::BoxError {
    match panics::named("run", singleton.run()).await {
        Ok(()) => std::future::pending().await,
        Err(error) => error,
    }
}
