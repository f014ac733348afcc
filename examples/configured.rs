//! An application with settings of its own, and a secret that only root may read.
//!
//! ```toml
//! [app]
//! greeting = "Hello"
//! key_file = "/etc/configured/key"   # opened by the master
//! ```

use std::process::ExitCode;

use axum::{Router, routing::get};
use forebay::{App, SecretFile};
use serde::Deserialize;

/// The section `[app]`; `configured check` reads it too.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    greeting: String,
    key_file: Option<SecretFile>,
}

fn main() -> ExitCode {
    App::new("configured")
        .config::<Settings>()
        .http(async |worker| {
            let settings: Settings = worker.config()?;
            let key = settings.key_file.map(|file| file.read_to_string(1024)).transpose()?;
            log::debug!("the key has {} bytes", key.map_or(0, |key| key.len()));
            Ok(Router::new().route("/", get(async move || settings.greeting.clone())))
        })
        .main()
}
