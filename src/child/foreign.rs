//! Helpers in another language: what the configuration says of one, and how a forked process
//! becomes it.
//!
//! `[helper.NAME] command = […]` declares one. Its process is forked like any other, is told who it
//! is, and then executes the command: the pid, the lock and the socket stay. What the program must
//! do stands in `ipc-protocol.md`.

use std::collections::BTreeMap;
use std::fs::{self, File, Metadata};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::unistd::{AccessFlags, access};
use serde::Deserialize;

use super::boot::Seat;
use super::zygote::Loaded;
use crate::app::configuration::Configuration;
use crate::app::declare::{App, Declaration, Program, Work};
use crate::contract::ids::{HelperName, Role};
use crate::contract::lock;
use crate::contract::orders::{ChildReport, IPC_DIR_VARIABLE, ROLE_VARIABLE};
use crate::error::mistakes::unknown;
use crate::error::{Exit, Result};
use crate::ipc::channel;
use crate::sys::descriptors;

/// The key that makes a section one of another program.
pub(super) const COMMAND: &str = "command";

/// So much of a command is shown, in characters.
const SHOWN_MAX: usize = 40;

/// The version of a program that says none.
pub(super) const NO_VERSION: &str = "";

/// The section of such a helper.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Section {
    command: Words,
    version: Option<String>,
    #[serde(default)]
    asks: Vec<String>,
    #[serde(default)]
    environment: Variables,
}

/// A program and its arguments, as execve(2) takes them.
#[derive(Deserialize)]
#[serde(try_from = "Vec<String>")]
struct Words(Vec<String>);

impl TryFrom<Vec<String>> for Words {
    type Error = &'static str;

    fn try_from(words: Vec<String>) -> Result<Self, &'static str> {
        if words.first().is_none_or(String::is_empty) {
            return Err("there is no program in it: it takes one and its arguments, as [\"python3\", \"x.py\"]");
        }
        if words.iter().any(|word| word.contains('\0')) { Err("there is a NUL in it") } else { Ok(Self(words)) }
    }
}

/// What a program finds in its environment besides what the daemon has in its own.
#[derive(Default, Deserialize)]
#[serde(try_from = "BTreeMap<String, String>")]
struct Variables(BTreeMap<String, String>);

impl TryFrom<BTreeMap<String, String>> for Variables {
    type Error = String;

    fn try_from(variables: BTreeMap<String, String>) -> Result<Self, String> {
        let is_variable = |name: &str| !name.is_empty() && !name.contains(['=', '\0']);
        match variables.iter().find(|(name, value)| !is_variable(name) || value.contains('\0')) {
            Some((name, _)) => Err(format!("{name:?} cannot be a variable, or its value has a NUL in it")),
            None => Ok(Self(variables)),
        }
    }
}

/// All such sections, but those of the application's own helpers: where each stands, and the helper's name.
pub(super) fn sections(configuration: &Configuration, own: &[&str]) -> Vec<(String, String)> {
    configuration.helpers_with(COMMAND, own)
}

/// All such helpers.
pub(super) fn declared(app: &App, configuration: &Configuration) -> Result<Vec<Declaration>> {
    let own: Vec<&str> = app.helpers.iter().map(|helper| helper.name).collect();
    sections(configuration, &own).iter().map(|(_, name)| declare(configuration, name)).collect()
}

/// Looks whether the section is as it should be, if there are helpers of these names.
pub(super) fn check(configuration: &Configuration, (place, name): &(String, String), names: &[&str]) -> Result<()> {
    HelperName::parse(name).map_err(|why| format!("{place}: {why}"))?;
    let Declaration { asks, work, .. } = declare(configuration, name)?;
    if let Work::Foreign(program) = work
        && !found(&program.command[0]).is_some_and(|path| is_executable(&path))
    {
        let what = format!("`command`: {:?} is no program that could be executed here", program.command[0]);
        return Err(format!("{place}: [{name}]: {what}").into());
    }
    match asks.iter().find(|asked| !names.contains(asked)) {
        Some(asked) => {
            Err(format!("{place}: [{name}]: `asks`: {}", unknown("helper", asked, names.iter().copied())).into())
        }
        None => Ok(()),
    }
}

/// The helper of this name; the error names file, line and key.
fn declare(configuration: &Configuration, name: &str) -> Result<Declaration> {
    let Section { command, version, asks, environment } = configuration.section(name)?;
    let leak = |text: String| -> &'static str { Box::leak(text.into_boxed_str()) };
    let asks: Vec<&'static str> = asks.into_iter().map(leak).collect();
    Ok(Declaration {
        // A zygote loads one configuration, once.
        name: leak(name.to_owned()),
        version: version.map(leak),
        asks: Box::leak(asks.into_boxed_slice()),
        given: None,
        work: Work::Foreign(Box::leak(Box::new(Program { command: command.0, environment: environment.0 }))),
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

fn is_executable(path: &Path) -> bool {
    path.is_file() && access(path, AccessFlags::X_OK).is_ok()
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
    let listener = UnixListener::from(listeners.pop().ok_or("a helper without its socket")?);
    // As systemd passes one: loops that want it otherwise set it.
    listener.set_nonblocking(false)?;
    // The master's pid is this process's parent since `Begin` has come: a double fork is over then.
    set_pdeathsig(Some(Signal::SIGTERM))?;
    if channel::is_over(control)? {
        // It died before the kernel was asked to tell.
        return Ok(Exit::Done);
    }
    channel::send(control, &ChildReport::Note { text: shown(program) })?;
    // `control` is none of these: when it came to the zygote, that had a 3 already.
    let kept = descriptors::pass_on(listener.into(), held)?;
    // It went with the descriptor that it was taken by.
    lock::hold(&kept)?;
    Err(command(name, program, &begin.ipc_dir, &begin.state_dir, &begin.role).exec().into())
}

/// What `status` shows of it: its words, as far as a line has room.
fn shown(program: &Program) -> String {
    let (first, rest) = program.command.split_first().expect("invariant: `Words` has a program");
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
        .env(IPC_DIR_VARIABLE, ipc_dir)
        .env("FOREBAY_STATE_DIR", state_dir)
        .env(ROLE_VARIABLE, role.to_string());
    command
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::secret::Opened;

    fn declared(text: &str) -> Result<Declaration> {
        declare(&Configuration::parse("x.toml", text, Opened::default())?, "tariff")
    }

    #[test]
    fn every_key_is_documented() {
        let wrong = declared("[helper.tariff]\ncommand = ['x']\ncolour = 1").err().expect("no such key").to_string();
        let keys: Vec<&str> = wrong.split('`').skip(3).step_by(2).collect();
        assert_eq!(keys.len(), 4, "{wrong}");
        let example = crate::settings::example("forebay", None);
        for key in keys {
            assert!(include_str!("../../CONFIGURATION.md").contains(&format!("| `helper.NAME.{key}` |")), "{key}");
            assert!(example.contains(&format!("#{key} = ")), "{key}");
        }
    }

    #[test]
    fn a_section_is_read_and_what_is_wrong_has_its_place() {
        let text = "[helper.tariff]\ncommand = ['python3', 'x.py']\nversion = '1.2'\nasks = ['nest']\nenvironment = { A = 'b' }";
        let helper = declared(text).expect("as it should be");
        let Work::Foreign(program) = helper.work else { panic!("another program") };
        assert_eq!((helper.version, helper.asks, &program.command[1][..]), (Some("1.2"), &["nest"][..], "x.py"));
        for wrong in ["command = []", "command = ['']", "command = 'x'", "command = [\"x\\u0000\"]"] {
            let error = declared(&format!("[helper.tariff]\n{wrong}")).err().expect(wrong).to_string();
            assert!(error.starts_with("x.toml:2: [tariff]: ") && error.contains("`command`"), "{error}");
        }
        for variable in ["'A=B' = 'x'", "'' = 'x'", "A = \"x\\u0000\"", "A = 3"] {
            let error = declared(&format!("[helper.tariff]\ncommand = ['x']\nenvironment = {{ {variable} }}"));
            assert!(error.err().expect(variable).to_string().starts_with("x.toml:3: "), "{variable}");
        }
    }

    #[test]
    fn another_file_is_another_build_and_the_same_one_is_not() {
        let directory = tempfile::tempdir().expect("a directory");
        let script = directory.path().join("x.py");
        let of = |command: &[&str]| {
            let command = command.iter().map(|word| (*word).to_owned()).collect();
            build(&Program { command, environment: BTreeMap::new() })
        };
        let path = script.to_str().expect("UTF-8");
        fs::write(&script, "1").expect("write");
        let before = of(&["sh", path, "--flag"]);
        assert_eq!(of(&["sh", path, "--flag"]), before);
        // Its length differs; its time may not.
        fs::write(&script, "22").expect("write");
        assert_ne!(of(&["sh", path, "--flag"]), before);
        assert_ne!(of(&["sh"]), of(&["cat"]));
        assert_eq!(of(&["no such program"]), of(&["nor this one"]));
    }

    #[test]
    fn a_long_command_is_shown_as_far_as_a_line_has_room() {
        let shown = |words: &[&str]| {
            let command = words.iter().map(|word| (*word).to_owned()).collect();
            shown(&Program { command, environment: BTreeMap::new() })
        };
        assert_eq!(shown(&["/usr/bin/python3", "x.py"]), "python3 x.py");
        assert_eq!(shown(&["x", &"é".repeat(50)]).chars().count(), SHOWN_MAX + 1);
    }
}
