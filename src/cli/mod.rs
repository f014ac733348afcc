//! The command line: its words, and the commands that ask a running master.

mod args;
mod client;
mod table;

use std::io::{self, Write};
use std::path::PathBuf;

pub(crate) use self::args::{Command, Invocation, parse};
use self::client::Client;
use crate::contract::control::{Nothing, SCALE, STATUS, STOP, Scale};
use crate::contract::status::Status;
use crate::error::{Context, Error, Exit};
use crate::settings::{Overrides, Settings, count_of_workers, default_run_dir, file_of};

/// Where to find the master: what was said on the command line.
#[derive(Clone, Debug, Default)]
pub(crate) struct Whom {
    pub(crate) config: Option<PathBuf>,
    pub(crate) run_dir: Option<PathBuf>,
}

/// `status`
pub(crate) fn status(program: &str, whom: &Whom, json: bool) -> Result<(), Error> {
    let status: Status = Client::connect(&run_dir(program, whom)?)?.call(STATUS, &Nothing {})?;
    let mut text = if json {
        serde_json::to_string(&status).map_err(|error| Error::because(Exit::Bug, "cannot write JSON", error))?
    } else {
        table::of(program, &status)
    };
    text.push('\n');
    print(&text)
}

/// `scale`
pub(crate) fn scale(program: &str, whom: &Whom, workers: u16) -> Result<(), Error> {
    let Scale { workers } = Client::connect(&run_dir(program, whom)?)?.call(SCALE, &Scale { workers })?;
    print(&format!("{program}: {} wanted\n", count_of_workers(workers)))
}

/// `stop`: returns when the master is gone.
pub(crate) fn stop(program: &str, whom: &Whom) -> Result<(), Error> {
    let mut client = Client::connect(&run_dir(program, whom)?)?;
    // Before the order: afterwards its id may come to mean another process.
    let master = client.master()?;
    let Nothing {} = client.call(STOP, &Nothing {})?;
    client.wait_for_the_end(master.as_ref())?;
    print(&format!("{program}: stopped\n"))
}

fn run_dir(program: &str, whom: &Whom) -> Result<PathBuf, Error> {
    let overrides = Overrides { run_dir: whom.run_dir.clone(), ..Overrides::default() };
    let named = match overrides.run_dir {
        // What the command line says needs no file that may be unreadable for this user.
        Some(run_dir) => Some(run_dir),
        None => Settings::load(file_of(program, whom.config.as_deref())?.as_deref(), &overrides)?.run_dir,
    };
    Ok(named.unwrap_or_else(|| default_run_dir(program)))
}

/// Prints, unless nobody reads any more (`| head`).
fn print(text: &str) -> Result<(), Error> {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result.or_refused(|| "cannot print".to_owned()),
    }
}
