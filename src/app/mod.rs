//! The application as its author declares it, and the program made of it.

pub(crate) mod configuration;
pub(crate) mod declare;
mod main;
pub(crate) mod secret;

pub use configuration::Configuration;
pub use declare::{App, Preload, Worker};
pub use secret::SecretFile;
