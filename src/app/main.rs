//! The program made of an application: which role this process has, and who plays it.
//!
//! The only file that knows all rooms.

use std::ffi::CString;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::ExitCode;

use super::declare::App;
use crate::child;
use crate::cli::{self, Command, Invocation};
use crate::contract::orders::ZYGOTE_VARIABLE;
use crate::daemon::{self, Side};
use crate::error::mistakes::Mistakes;
use crate::error::{Chain, Error, Exit};
use crate::log::printable::Printable;
use crate::master::{self, Identity, Launch};
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
                complain(name, &error);
                error.exit.into()
            }
        }
    }
}

/// Prints an error, every line of it under the program's name.
fn complain(name: &str, error: &Error) {
    for line in Chain(error).to_string().lines().map(|text| Printable { text, line_break: "" }) {
        // A closed terminal is no reason for another end.
        let _ = writeln!(std::io::stderr(), "{name}: {line}");
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
    if !matches!(command, Command::Serve { .. }) {
        signals::unblock_all().map_err(refuse)?;
    }
    match command {
        Command::Serve { flags, daemon } => return serve(&app, whom.config, flags, daemon),
        Command::Check(flags) => {
            let (file, overrides) = sources(app.name, whom.config, flags)?;
            let words = master::check(app.identity(), file.as_deref(), &overrides)?;
            cli::print(&format!("{}: {words}\n", app.name))?;
        }
        Command::Config => cli::config(app.name, app.example)?,
        Command::Status { json } => cli::status(app.name, &whom, json)?,
        Command::Scale(workers) => cli::scale(app.name, &whom, workers)?,
        Command::Reload { timeout } => return cli::reload(app.name, &whom, timeout),
        Command::Restart { helper, timeout } => cli::restart(app.name, &whom, helper, timeout)?,
        Command::Call { helper, json, timeout } => return cli::call(app.name, &whom, &helper, &json, timeout),
        Command::Events { helper, count } => cli::events(app.name, &whom, &helper, count)?,
        Command::Log(command) => cli::log(app.name, &whom, command)?,
        Command::Stop => cli::stop(app.name, &whom)?,
    }
    Ok(Exit::Done)
}

fn serve(app: &App, config: Option<PathBuf>, flags: Overrides, in_background: bool) -> Result<Exit, Error> {
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
    let (file, overrides) = sources(app.name, config, flags)?;
    let (settings, mistakes) = Settings::read(file.as_deref(), &overrides);
    if !mistakes.is_empty() {
        // It finds them too, and the application's with them.
        master::check(app.identity(), file.as_deref(), &overrides)?;
    }
    // Before the directory changes.
    let program = master::program_path()?;
    // What `pkill NAME` looks for, also when the program was started by another name.
    let name = CString::new(app.name).map_err(|error| Error::because(Exit::Failed, "wrong name", error))?;
    nix::sys::prctl::set_name(&name).map_err(|error| refuse(error.into()))?;
    title::free_the_environment();
    title::set(&format!("{}: master", app.name));
    let launch = Launch { identity: app.identity(), program, overrides, umask: None, when_serving: None };
    if !in_background {
        return master::serve(launch, settings).map(|()| Exit::Done);
    }
    match daemon::detach()? {
        Side::Starter(exit) => Ok(exit),
        Side::Daemon(daemon) => {
            let (umask, told) = (Some(daemon.umask), daemon.clone());
            let when_serving: Box<dyn FnOnce() -> io::Result<OwnedFd>> = Box::new(move || told.serving());
            let outcome = master::serve(Launch { umask, when_serving: Some(when_serving), ..launch }, settings);
            if let Err(error) = &outcome {
                complain(app.name, error);
            }
            let exit = outcome.map_or_else(|error| error.exit, |()| Exit::Done);
            daemon.tell(exit);
            Ok(exit)
        }
    }
}

/// The configuration file, and what beats it.
fn sources(name: &str, config: Option<PathBuf>, flags: Overrides) -> Result<(Option<PathBuf>, Overrides), Error> {
    let mut mistakes = Mistakes::default();
    let overrides = Overrides::of_environment(name, &mut mistakes).and(flags);
    mistakes.into_result()?;
    Ok((file_of(name, config), overrides))
}

impl App {
    fn identity(&self) -> Identity {
        Identity { name: self.name, version: self.version }
    }
}

fn refuse(error: std::io::Error) -> Error {
    Error::because(Exit::Refused, "cannot start", error)
}
