//! The hub: topics and keys that all processes of the server share, through one helper.
//!
//! `wire` is what is said, `board` decides, `helper` is its process; `client` is what an application
//! holds, with `office`, its process's session, and `ear`, what one listener has not heard yet.

mod board;
mod client;
mod ear;
mod helper;
mod office;
mod wire;

use std::fmt;

use serde::Serialize;
use serde::de::DeserializeOwned;

pub use self::client::{Held, Hub, Listening};
pub use self::ear::Heard;
use self::helper::Exchange;
use super::client::Client;
use super::context::Context;
use super::traits::Helper;
use crate::app::declare::{App, Worker};
use crate::error::Result;

/// The helper's name.
const NAME: &str = "hub";

/// What is said under one name: [`Hub::publish`] to whoever listens by [`Hub::subscribe`].
///
/// Releases mix during a reload: add fields with `#[serde(default)]`, never change or remove one.
pub trait Topic: 'static {
    /// Its name, in at most 64 bytes.
    const NAME: &'static str;

    /// What is said.
    type Message: Serialize + DeserializeOwned + Send + 'static;
}

/// What is asked of the one process that holds a key: [`Hub::request`], and [`Hub::answer`] there.
pub trait Question: 'static {
    /// Its name, in at most 64 bytes.
    const NAME: &'static str;

    /// What is asked.
    type Ask: Serialize + DeserializeOwned + Send + 'static;

    /// What is answered.
    type Reply: Serialize + DeserializeOwned + Send + 'static;
}

/// Why the hub does not do it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HubError {
    /// No process holds the key, or the one that did has ended before it was told: nothing was done.
    NobodyThere,
    /// A limit, in a sentence.
    Refused(String),
}

impl fmt::Display for HubError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NobodyThere => f.write_str("nobody holds this key"),
            Self::Refused(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for HubError {}

impl App {
    /// Declares the helper `hub`, through which all processes of the server talk: [`Hub`] has an example.
    ///
    /// A reload keeps its process, as long as forebay's version is the same. `call hub
    /// '{"method":"topics"}'` lists what there is.
    pub fn hub(self) -> Self {
        self.helper::<Exchange>(NAME)
    }
}

impl Worker {
    /// This replica's place in the [hub](App::hub). Ask once and clone it: all clones share a session.
    ///
    /// # Errors
    /// The application has not declared it.
    pub fn hub(&self) -> Result<Hub> {
        let client = || Client::<Exchange>::of(self.neighbours, NAME);
        Ok(Hub::new(client()?, client()?, &self.neighbours.caller))
    }
}

impl<H: Helper> Context<H> {
    /// This helper's place in the [hub](App::hub). Ask once and clone it: all clones share a session.
    ///
    /// # Errors
    /// `"hub"` is not among those this helper [asks](Helper::ASKS), or the application has not declared it.
    pub fn hub(&self) -> Result<Hub> {
        let client = || -> Result<_> { Ok(self.helper::<Exchange>(NAME)?.ok_or("the hub is always wanted")?) };
        Ok(Hub::new(client()?, client()?, self.caller()))
    }
}
