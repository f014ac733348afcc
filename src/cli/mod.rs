//! The command line: its words, and the commands that ask a running master.

mod args;
mod client;
mod flags;
mod helper;
mod log;
mod table;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub(crate) use self::args::{Command, Invocation, parse};
use self::client::Client;
use self::helper::{Call, Line};
pub(crate) use self::log::log;
use crate::contract::control::{
    Nothing, PROGRESS, RELOAD, RESTART, Reloaded, Restart, SCALE, SOCKET, STATUS, STOP, Scale, Step,
};
use crate::contract::ids::HelperName;
use crate::contract::status::{HelperStatus, Status};
use crate::error::mistakes::Mistakes;
use crate::error::{Context, Error, Exit};
use crate::log::printable::Printable;
use crate::settings::{Overrides, Settings, count_of_workers, default_run_dir, example, file_of};

/// How often a command that waits looks again.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

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
    if json { show(&text).map(drop) } else { print(&text) }
}

/// `scale`
pub(crate) fn scale(program: &str, whom: &Whom, workers: u16) -> Result<(), Error> {
    let Scale { workers } = Client::connect(&run_dir(program, whom)?)?.call(SCALE, &Scale { workers })?;
    print(&format!("{program}: {} wanted\n", count_of_workers(workers)))
}

/// `reload`: shows how far it has come, and returns with its result.
pub(crate) fn reload(program: &str, whom: &Whom, timeout: Duration) -> Result<Exit, Error> {
    let mut client = Client::connect(&run_dir(program, whom)?)?;
    let mut show = |Step { text }: Step| print(&format!("{program}: {text}\n"));
    let reloaded: Option<Reloaded> = client.follow(RELOAD, &Nothing {}, PROGRESS, &mut show, timeout)?;
    let Some(Reloaded { generation, kept, took_ms, notes }) = reloaded else {
        let limit = timeout.as_secs_f64();
        let what =
            format!("the reload is not over after {limit} s: it goes on, `{program} status` will show its result");
        return Err(Error::new(Exit::Busy, what));
    };
    let kept = if kept.is_empty() { String::new() } else { format!(", kept: {}", kept.join("; ")) };
    for note in notes {
        print(&format!("{program}: {note}\n"))?;
    }
    print(&format!("{program}: generation {generation} serves after {took_ms} ms{kept}\n"))?;
    Ok(Exit::Done)
}

/// `restart`: returns when the helper's new process serves.
pub(crate) fn restart(program: &str, whom: &Whom, helper: String, timeout: Duration) -> Result<(), Error> {
    let deadline = Instant::now() + timeout;
    let mut client = Client::connect(&run_dir(program, whom)?)?;
    let before = find(client.call(STATUS, &Nothing {})?, &helper).and_then(|found| found.pid);
    let Nothing {} = client.call(RESTART, &Restart { helper: helper.clone() })?;
    loop {
        let status: Status = client.call(STATUS, &Nothing {})?;
        let ends = (status.state == "stopping").then(|| "the daemon is stopping".to_owned());
        let found = find(status, &helper);
        let back = found.as_ref().filter(|found| found.state == "serving" && found.pid != before);
        if let Some(pid) = back.and_then(|found| found.pid) {
            return print(&format!("{program}: helper {helper} restarted, pid {pid}\n"));
        }
        let late = (Instant::now() >= deadline).then(|| format!("not back within {} s", timeout.as_secs_f64()));
        if let Some(why) = ends.or(late) {
            let state = found.as_ref().map_or("gone", |found| found.state.as_str());
            let last = found.as_ref().and_then(|found| found.last_exit.as_deref());
            let last = last.map_or_else(String::new, |last| format!(", its last process: {last}"));
            let what = format!("helper {helper} is not restarted: {why}, it is {state}{last}");
            return Err(Error::new(Exit::Failed, what));
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}

fn find(status: Status, helper: &str) -> Option<HelperStatus> {
    status.helpers.into_iter().find(|found| found.name == helper)
}

/// `call`: prints the result, or the error that the helper answers with, as JSON.
pub(crate) fn call(program: &str, whom: &Whom, helper: &str, json: &str, limit: Duration) -> Result<Exit, Error> {
    let call = Call::parse(json)?;
    let run_dir = run_dir(program, whom)?;
    let Some(mut line) = Line::connect(&run_dir, helper_name(helper)?, program)? else {
        return Err(no_such_helper(&run_dir, helper));
    };
    match line.call(&call, limit)? {
        Ok(result) => show(&format!("{result}\n")).map(|_| Exit::Done),
        Err(error) => {
            show(&format!("{error}\n"))?;
            Err(line.refused(&error))
        }
    }
}

/// `events`: prints what a helper publishes, over its restarts too.
pub(crate) fn events(program: &str, whom: &Whom, helper: &str, count: Option<u64>) -> Result<(), Error> {
    let run_dir = run_dir(program, whom)?;
    let name = helper_name(helper)?;
    let mut left = count.unwrap_or(u64::MAX);
    if left == 0 {
        return Ok(());
    }
    let mut was_there = false;
    loop {
        let Some(mut line) = Line::connect(&run_dir, name, program)? else {
            return Err(if was_there {
                Error::new(Exit::NotRunning, "the daemon has stopped")
            } else {
                no_such_helper(&run_dir, helper)
            });
        };
        was_there = true;
        let done = line.events(|update| {
            left -= 1;
            Ok(show(&format!("{update}\n"))? && left > 0)
        })?;
        if done {
            return Ok(());
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}

fn helper_name(helper: &str) -> Result<HelperName, Error> {
    HelperName::parse(helper).map_err(|why| Error::new(Exit::Usage, why))
}

/// Nobody listens under this name: there is no such helper, or no daemon.
fn no_such_helper(run_dir: &Path, helper: &str) -> Error {
    let status = Client::connect(run_dir).and_then(|mut client| client.call::<_, Status>(STATUS, &Nothing {}));
    match status {
        Ok(status) => {
            let others = |name: &&str| !["log", "zygote"].contains(name);
            let names: Vec<&str> = status.helpers.iter().map(|found| found.name.as_str()).filter(others).collect();
            let known = if names.is_empty() { "there is none".to_owned() } else { names.join(", ") };
            Error::new(Exit::Failed, format!("no helper {helper:?} can be asked; these can: {known}"))
        }
        Err(error) => error,
    }
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

/// `config`: prints an example of the configuration file; `more` is the application's part.
pub(crate) fn config(program: &str, more: Option<&str>) -> Result<(), Error> {
    print(&example(program, more))
}

/// Where the daemon is. A mistake elsewhere in the configuration must not hide a running one.
fn run_dir(program: &str, whom: &Whom) -> Result<PathBuf, Error> {
    // What the command line says needs no file that may be unreadable for this user.
    if let Some(run_dir) = &whom.run_dir {
        return Ok(run_dir.clone());
    }
    let mut mistakes = Mistakes::default();
    let variables = Overrides::of_environment(program, &mut mistakes);
    let (settings, more) = Settings::read(file_of(program, whom.config.clone()).as_deref(), &variables);
    mistakes.append(more);
    match settings.run_dir {
        Some(run_dir) => Ok(run_dir),
        None if whom.config.is_some() => mistakes.into_result().map(|()| default_run_dir(program)),
        None => {
            // A daemon of another user's that this one may control.
            let system = Path::new("/run").join(program);
            let is_there = system.join(SOCKET).exists();
            Ok(if is_there { system } else { default_run_dir(program) })
        }
    }
}

/// Prints words, unless nobody reads any more (`| head`). Some of them are others': of children, of a
/// file's keys.
pub(crate) fn print(text: &str) -> Result<(), Error> {
    show(&Printable { text, line_break: "\n" }.to_string()).map(drop)
}

/// Prints as it is; false: nobody reads any more.
fn show(text: &str) -> Result<bool, Error> {
    let mut out = io::stdout();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        result => result.map(|()| true).or_refused(|| "cannot print".to_owned()),
    }
}
