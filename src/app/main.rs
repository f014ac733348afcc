//! The program made of an application: which role this process has, and who plays it.
//!
//! The only file that knows all rooms.

use std::ffi::CString;
use std::io::Write;
use std::process::ExitCode;

use super::declare::App;
use crate::child;
use crate::cli::{self, Command, Invocation};
use crate::contract::orders::ZYGOTE_VARIABLE;
use crate::error::{Chain, Error, Exit};
use crate::master::{self, Identity};
use crate::settings::{Overrides, Settings, file_of};
use crate::sys::{process, signals, title};

impl App {
    /// Runs the program: reads the command line and does what it says, `serve` if it says nothing.
    ///
    /// Call it as the last expression of a plain `fn main() -> ExitCode`, with no other thread
    /// running: this process forks. Under `#[tokio::main]` it refuses to serve and says so.
    ///
    /// ```no_run
    /// use std::process::ExitCode;
    ///
    /// use axum::{Router, routing::get};
    ///
    /// fn main() -> ExitCode {
    ///     forebay::App::new("hello")
    ///         .http(async |_| Ok(Router::new().route("/", get("Hello, World!"))))
    ///         .main()
    /// }
    /// ```
    pub fn main(self) -> ExitCode {
        let name = self.name;
        match run(self) {
            Ok(exit) => exit.into(),
            Err(error) => {
                // A closed terminal is no reason for another end.
                let _ = writeln!(std::io::stderr(), "{name}: {}", Chain(&error));
                error.exit.into()
            }
        }
    }
}

fn run(app: App) -> Result<Exit, Error> {
    if std::env::var_os(ZYGOTE_VARIABLE).is_some() {
        return Ok(child::zygote::run(app));
    }
    // Before anything else: a signal sent now waits until the master has its handlers.
    signals::block_all().map_err(refuse)?;
    let Invocation { whom, command } = match cli::parse(app.name, app.version, std::env::args_os()) {
        Ok(invocation) => invocation,
        Err(exit) => return Ok(exit),
    };
    if !matches!(command, Command::Serve(_)) {
        signals::unblock_all().map_err(refuse)?;
    }
    match command {
        Command::Serve(overrides) => serve(&app, whom.config.as_deref(), &overrides)?,
        Command::Status { json } => cli::status(app.name, &whom, json)?,
        Command::Scale(workers) => cli::scale(app.name, &whom, workers)?,
        Command::Restart { helper, timeout } => cli::restart(app.name, &whom, helper, timeout)?,
        Command::Call { helper, json, timeout } => return cli::call(app.name, &whom, &helper, &json, timeout),
        Command::Events { helper, count } => cli::events(app.name, &whom, &helper, count)?,
        Command::Stop => cli::stop(app.name, &whom)?,
    }
    Ok(Exit::Done)
}

fn serve(app: &App, config: Option<&std::path::Path>, overrides: &Overrides) -> Result<(), Error> {
    let threads = process::threads().map_err(refuse)?;
    if threads.len() > 1 {
        let others = threads[1..].join(", ");
        let what = format!(
            "cannot serve with other threads running ({others}): forebay forks its workers; call \
             `App::main` from a plain `fn main`, without #[tokio::main]"
        );
        return Err(Error::new(Exit::Failed, what));
    }
    if app.http.is_none() {
        return Err(Error::new(Exit::Failed, "the application has nothing to serve: call `App::http`"));
    }
    let settings = Settings::load(file_of(app.name, config)?.as_deref(), overrides)?;
    // What `pkill NAME` looks for, also when the program was started by another name.
    let name = CString::new(app.name).map_err(|error| Error::because(Exit::Failed, "wrong name", error))?;
    nix::sys::prctl::set_name(&name).map_err(|error| refuse(error.into()))?;
    title::free_the_environment();
    title::set(&format!("{}: master", app.name));
    master::serve(Identity { name: app.name, version: app.version }, settings)
}

fn refuse(error: std::io::Error) -> Error {
    Error::because(Exit::Refused, "cannot start", error)
}
