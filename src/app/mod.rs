//! The application as its author declares it, and the program made of it.

pub(crate) mod declare;
mod main;

pub use declare::{App, Preload, Worker};
