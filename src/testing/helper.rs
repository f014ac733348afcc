//! One helper in the test's own process.

use std::marker::PhantomData;
use std::path::PathBuf;

use super::fake::Fake;
use crate::app::configuration::Configuration;
use crate::child::helper::solo::{self, Place, Solo};
use crate::child::helper::{Client, Interface};
use crate::error::Result;

/// A helper of this type on a thread of the test's process, with nothing of the daemon around it: its
/// upstream is whatever the test lets its configuration name.
///
/// Clients reach it as they do in a daemon, over its socket. It ends when this is dropped.
///
/// ```
/// # use std::cell::Cell;
/// # use forebay::{Context, Handle, Methods, Request, Result};
/// # use serde::{Deserialize, Serialize};
/// # struct Counter { count: Cell<u64>, step: u64, context: Context<Self> }
/// # #[derive(Serialize, Deserialize)]
/// # struct Add { times: u64 }
/// # #[derive(Deserialize)]
/// # struct Step { step: u64 }
/// # impl Request for Add {
/// #     const METHOD: &'static str = "add";
/// #     type Reply = u64;
/// # }
/// # impl forebay::Helper for Counter {
/// #     type Config = Step;
/// #     type Event = u64;
/// #     type Error = String;
/// #     async fn start(Step { step }: Step, context: Context<Self>) -> Result<Self> {
/// #         Ok(Self { count: Cell::new(0), step, context })
/// #     }
/// #     fn methods(methods: Methods<Self>) -> Methods<Self> {
/// #         methods.on::<Add>()
/// #     }
/// #     fn snapshot(&self) -> Vec<u64> {
/// #         vec![self.count.get()]
/// #     }
/// # }
/// # impl Handle<Add> for Counter {
/// #     async fn handle(&self, add: Add) -> Result<u64, String> {
/// #         self.count.set(self.count.get() + self.step * add.times);
/// #         self.context.publish(&self.count.get());
/// #         Ok(self.count.get())
/// #     }
/// # }
/// use forebay::{Update, testing};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<()> {
/// let counter = testing::Helper::<Counter>::named("counter").configuration("[counter]\nstep = 7").start()?;
/// let client = counter.client()?;
/// let mut news = client.subscribe()?;
/// assert!(matches!(news.next().await, Update::Snapshot { events, .. } if events == [0]));
/// assert_eq!(client.call(Add { times: 3 }).await, Ok(21));
/// assert!(matches!(news.next().await, Update::Event { event: 21, .. }));
/// # Ok(())
/// # }
/// ```
pub struct Helper<H> {
    /// `None` only within [`Helper::restart`]. It ends before its directory does.
    solo: Option<Solo>,
    place: Place,
    configuration: Configuration,
    helper: PhantomData<fn() -> H>,
}

/// A helper that is not started yet.
pub struct HelperBuilder<'a, H> {
    name: &'static str,
    configuration: String,
    others: Vec<&'a Place>,
    helper: PhantomData<fn() -> H>,
}

impl<H: crate::Helper> Helper<H> {
    /// One of this name, which its section of the configuration has too.
    #[must_use]
    pub fn named<'a>(name: &'static str) -> HelperBuilder<'a, H> {
        HelperBuilder { name, configuration: String::new(), others: Vec::new(), helper: PhantomData }
    }

    /// A client of it; to be called, and used, within a tokio runtime.
    ///
    /// # Errors
    /// None that a test would handle.
    pub fn client(&self) -> Result<Client<H>> {
        self.place.client()
    }

    /// What it has said by [`Context::note`](crate::Context::note) last.
    pub fn note(&self) -> String {
        self.solo.as_ref().map(Solo::note).unwrap_or_default()
    }

    /// Why its [`run`](crate::Helper::run) has failed, if it has: in a daemon its process ends with that.
    pub fn failure(&self) -> Option<String> {
        self.solo.as_ref().and_then(Solo::failure)
    }

    /// Where it keeps what survives its process.
    pub fn state_dir(&self) -> PathBuf {
        self.place.state_dir()
    }

    /// Ends it as a crash would, at once, and starts its successor behind the same socket.
    ///
    /// # Errors
    /// What its [`start`](crate::Helper::start) has said.
    pub fn restart(&mut self) -> Result<()> {
        // Before its successor: there is never more than one.
        drop(self.solo.take());
        self.solo = Some(self.place.start::<H>(self.configuration.clone())?);
        Ok(())
    }
}

impl<'a, H: crate::Helper> HelperBuilder<'a, H> {
    /// The configuration file's text: `[NAME]` is the helper's section.
    #[must_use]
    pub fn configuration(mut self, text: &str) -> Self {
        text.clone_into(&mut self.configuration);
        self
    }

    /// Another helper that it [asks](crate::Helper::ASKS). Those that it asks and that are not given are
    /// as if the configuration did not want them.
    #[must_use]
    pub fn beside<F: Interface>(mut self, other: &'a Fake<F>) -> Self {
        self.others.push(other.place());
        self
    }

    /// Starts it, and waits until it serves.
    ///
    /// # Errors
    /// The text is no TOML, its section is not what the helper takes, or its
    /// [`start`](crate::Helper::start) has failed.
    pub fn start(self) -> Result<Helper<H>> {
        let configuration = solo::configuration(&self.configuration)?;
        let mut place = Place::make(self.name)?;
        self.others.iter().try_for_each(|other| place.meet(other))?;
        place.lacks(H::ASKS);
        let solo = Some(place.start::<H>(configuration.clone())?);
        Ok(Helper { place, configuration, solo, helper: PhantomData })
    }
}
