//! Helpers in another language: what the configuration says of one, and how a forked process
//! becomes it.
//!
//! `[helper.NAME] command = […]` declares one. Its process is forked like any other, is told who it
//! is, and then executes the command: the pid, the lock and the socket stay. What the program must
//! do stands in `ipc-protocol.md`.

use std::collections::BTreeMap;
use std::fs::{self, File, Metadata};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use serde::Deserialize;

use super::boot::Seat;
use super::zygote::Loaded;
use crate::app::configuration::Configuration;
use crate::app::declare::{App, Declaration, Program, Work};
use crate::contract::ids::{HelperName, Role};
use crate::contract::lock;
use crate::contract::orders::ChildReport;
use crate::error::{Exit, Result};
use crate::ipc::channel;
use crate::sys::descriptors;

/// The key that makes a section one of another program.
const COMMAND: &str = "command";

/// So much of a command is shown, in characters.
const SHOWN_MAX: usize = 40;

/// What is shown as the version of a program that has none.
pub(super) const NO_VERSION: &str = "-";

/// The section of such a helper.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Section {
    command: Vec<String>,
    version: Option<String>,
    #[serde(default)]
    asks: Vec<String>,
    #[serde(default)]
    environment: BTreeMap<String, String>,
}

/// The names of all such helpers; those of the application have sections of their own making.
pub(super) fn names(configuration: &Configuration, own: &[&str]) -> Vec<String> {
    configuration.helpers_with(COMMAND, own)
}

/// All such helpers.
pub(super) fn declared(app: &App, configuration: &Configuration) -> Result<Vec<Declaration>> {
    let own: Vec<&str> = app.helpers.iter().map(|helper| helper.name).collect();
    names(configuration, &own).iter().map(|name| declare(configuration, name)).collect()
}

/// The helper of this name; the error names file, line and key.
pub(super) fn declare(configuration: &Configuration, name: &str) -> Result<Declaration> {
    let Section { command, version, asks, environment } = configuration.section(name)?;
    HelperName::parse(name)?;
    let wrong = |what: &str| format!("[helper.{name}]: {what}");
    if command.first().is_none_or(String::is_empty) {
        return Err(wrong("`command` is empty: it takes a program and its arguments, as [\"python3\", \"x.py\"]").into());
    }
    // What execve(2) cannot pass on.
    let is_passable = |text: &str| !text.contains('\0');
    let is_variable = |name: &str| !name.is_empty() && !name.contains('=') && is_passable(name);
    if !command.iter().all(|word| is_passable(word)) {
        return Err(wrong("`command` has a NUL in it").into());
    }
    if let Some(name) = environment.iter().find(|(name, value)| !is_variable(name) || !is_passable(value)) {
        return Err(wrong(&format!("`environment` has the variable {:?}, which cannot be passed on", name.0)).into());
    }
    let leak = |text: String| -> &'static str { Box::leak(text.into_boxed_str()) };
    let asks: Vec<&'static str> = asks.into_iter().map(leak).collect();
    Ok(Declaration {
        // A zygote loads one configuration, once.
        name: leak(name.to_owned()),
        version: version.map(leak),
        asks: Box::leak(asks.into_boxed_slice()),
        work: Work::Foreign(Box::leak(Box::new(Program { command, environment }))),
    })
}

/// What tells one release of a program from another: the files that its command names.
///
/// They are not read: one that was written anew, or moved into the place of another, counts as another.
pub(super) fn build(program: &Program) -> String {
    let mut hasher = DefaultHasher::new();
    let mut words = program.command.iter();
    let executable = words.next().and_then(|name| found(name));
    for path in executable.into_iter().chain(words.map(PathBuf::from)) {
        if let Some(file) = fs::metadata(&path).ok().filter(Metadata::is_file) {
            let identity = (file.dev(), file.ino(), file.size(), file.mtime(), file.mtime_nsec());
            (path, identity).hash(&mut hasher);
        }
    }
    format!("{:016x}", hasher.finish())
}

/// Where execvp(3) finds a program.
fn found(name: &str) -> Option<PathBuf> {
    if name.contains('/') {
        return Some(PathBuf::from(name));
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|directory| directory.join(name)).find(|candidate| candidate.is_file())
}

/// The program that this process shall become, if it shall.
pub(super) fn program(loaded: &Loaded, role: Role) -> Option<(HelperName, &'static Program)> {
    let Role::Helper(name, _) = role else { return None };
    let helper = loaded.company.wanted.iter().find(|helper| helper.name == name.as_str())?;
    match helper.work {
        Work::Foreign(program) => Some((name, program)),
        Work::Own(_) => None,
    }
}

/// Becomes the program. Returns only if that cannot be, and has told the master why.
pub(super) fn become_program(
    name: HelperName,
    program: &Program,
    seat: Seat,
    held: File,
    control: &UnixStream,
) -> Exit {
    match execute(name, program, seat, held, control) {
        Ok(exit) => exit,
        Err(error) => {
            let reason = format!("cannot run {:?}: {error}", program.command[0]);
            // The master is gone if it does not take this.
            let _ = channel::send(control, &ChildReport::Refused { reason });
            Exit::Failed
        }
    }
}

fn execute(name: HelperName, program: &Program, seat: Seat, held: File, control: &UnixStream) -> Result<Exit> {
    let Seat { begin, mut listeners, .. } = seat;
    let listener: OwnedFd = listeners.pop().ok_or("a helper without its socket")?;
    // The master's pid is this process's parent since `Begin` has come: a double fork is over then.
    set_pdeathsig(Some(Signal::SIGTERM))?;
    if channel::is_over(control)? {
        // It died before the kernel was asked to tell.
        return Ok(Exit::Done);
    }
    channel::send(control, &ChildReport::Note { text: shown(program) })?;
    // `control` is none of these: when it came to the zygote, that had a 3 already.
    let kept = descriptors::pass_on(listener, held)?;
    // It went with the descriptor that it was taken by.
    lock::hold(&kept)?;
    Err(command(name, program, &begin.ipc_dir, &begin.state_dir, &begin.role).exec().into())
}

/// What `status` shows of it: its words, as far as a line has room.
fn shown(program: &Program) -> String {
    let (first, rest) = program.command.split_first().expect("invariant: `declare` has refused an empty command");
    let name = first.rsplit('/').next().unwrap_or(first);
    let text: Vec<&str> = std::iter::once(name).chain(rest.iter().map(String::as_str)).collect();
    let text = text.join(" ");
    match text.char_indices().nth(SHOWN_MAX) {
        Some((cut, _)) => format!("{}…", &text[..cut]),
        None => text,
    }
}

fn command(name: HelperName, program: &Program, ipc_dir: &Path, state_dir: &Path, role: &Role) -> Command {
    let mut command = Command::new(&program.command[0]);
    command
        .args(&program.command[1..])
        .envs(&program.environment)
        // sd_listen_fds(3).
        .env("LISTEN_FDS", "1")
        .env("LISTEN_PID", std::process::id().to_string())
        .env("LISTEN_FDNAMES", name.as_str())
        .env("FOREBAY_IPC_DIR", ipc_dir)
        .env("FOREBAY_STATE_DIR", state_dir)
        .env("FOREBAY_ROLE", role.to_string());
    command
}
