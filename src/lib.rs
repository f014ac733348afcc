//! Your axum application in N identical forked replicas behind one listening socket.
//!
//! ```no_run
//! use std::process::ExitCode;
//!
//! use axum::{Router, routing::get};
//! use forebay::App;
//!
//! fn main() -> ExitCode {
//!     App::new("dictionary")
//!         .preload(|_| Ok(std::fs::read_to_string("/usr/share/dict/words")?)) // once, shared by all
//!         .http(async |worker| {
//!             // once in every replica
//!             let words: &'static String = worker.preloaded()?;
//!             Ok(Router::new().route("/count", get(async move || words.lines().count().to_string())))
//!         })
//!         .main() // gives the program its commands: serve, status, scale, stop, …
//! }
//! ```
//!
//! The program runs as a master that owns the socket and supervises; a zygote that has loaded the
//! application and forks; N workers, each with its own tokio loop, its own router and its own
//! connections; and a process that alone writes the log. A crash costs one replica, which is
//! replaced at once. Log with the macros of the [`log`](https://docs.rs/log) crate.

#[cfg(not(target_os = "linux"))]
compile_error!("forebay is for Linux: it builds on memfd, pidfd, epoll and fcntl record locks as Linux has them");

mod app;
mod child;
mod cli;
mod contract;
mod daemon;
mod error;
#[cfg(any(fuzzing, test))]
#[doc(hidden)]
pub mod fuzzing;
mod ipc;
mod log;
mod master;
mod settings;
mod sys;
#[cfg(feature = "testing")]
pub mod testing;

pub use app::{App, Configuration, Preload, SecretFile, Worker};
pub use child::RequestBody;
#[cfg(feature = "schedule")]
pub use child::helper::schedule::{Job, Run};
pub use child::helper::{
    Answers, CallError, Client, Context, Handle, Heard, Held, Helper, Hub, HubError, Interface, Listening, Methods,
    Question, Request, Subscription, Topic, Update,
};
pub use error::{BoxError, Result};

#[cfg(feature = "tracing")]
pub use self::log::layer::tracing_layer;
pub use self::log::request::RequestId;

/// The README's example compiles too.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
