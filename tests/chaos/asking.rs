//! The command `reload`, given and not waited for.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use forebay::testing::Server;

/// How the server is configured: times that a run of some seconds reaches.
pub(crate) const CONFIGURATION: &str =
    "[timeouts]\nstable = 0.2\nhang = 2\nready = 10\ndrain = 10\nstop = 30\n[restart]\nbackoff_max = 1\n";

/// What nobody can read.
const BROKEN: &str = "[timeouts]\nstable = \"for ever\"\n";

/// With so many reloads in between the helper is another one, and goes over to a new process.
const EDITION_OF: u64 = 2;

/// So many commands are open at once.
const OPEN_MAX: usize = 4;

/// Commands under way.
#[derive(Default)]
pub(crate) struct Asking {
    open: Vec<Asked>,
    /// How often it was asked for a reload that should succeed.
    asked: u64,
}

struct Asked {
    command: Child,
    /// As long as it is open so is the configuration.
    broken: bool,
    /// How many harms had been done by then.
    harms: u64,
}

/// What came of one.
pub(crate) struct Answered {
    pub(crate) said: String,
    /// What should not have come of it.
    pub(crate) complaint: Option<String>,
}

impl Asking {
    /// Gives the command; `None` when there are enough.
    pub(crate) fn ask(&mut self, server: &Server, binary: &Path, broken: bool, harms: u64) -> Option<()> {
        if self.open.len() >= OPEN_MAX {
            return None;
        }
        if broken {
            configure(server, BROKEN);
        } else {
            self.asked += 1;
            self.mend(server);
        }
        let mut command = Command::new(binary);
        command.arg("reload").arg("--run-dir").arg(server.run_dir());
        // Of its own: what ends this program by a key does not end the command.
        command.process_group(0);
        let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        self.open.push(Asked { command: command.expect("the program starts"), broken, harms });
        Some(())
    }

    pub(crate) fn is_broken(&self) -> bool {
        self.open.iter().any(|asked| asked.broken)
    }

    pub(crate) fn is_open(&self) -> bool {
        !self.open.is_empty()
    }

    /// Configures it as it should be, unless somebody is to be told that it is not.
    fn mend(&self, server: &Server) {
        if !self.is_broken() {
            configure(server, &format!("{CONFIGURATION}[keeper]\nedition = {}\n", self.asked / EDITION_OF));
        }
    }

    /// Takes in the ends of commands. `harms` is how many there have been until now.
    pub(crate) fn answers(&mut self, server: &Server, harms: u64) -> Vec<Answered> {
        let ended = |asked: &mut Asked| asked.command.try_wait().expect("wait for the command").is_some();
        let ended: Vec<Asked> = self.open.extract_if(.., ended).collect();
        let was_broken = ended.iter().any(|asked| asked.broken) || self.is_broken();
        if ended.iter().any(|asked| asked.broken) {
            self.mend(server);
        }
        ended
            .into_iter()
            .map(|asked| {
                let may_fail = asked.harms < harms || was_broken;
                let broken = asked.broken;
                let output = asked.command.wait_with_output().expect("the command's end");
                judge(&output, broken, may_fail)
            })
            .collect()
    }
}

/// Whoever asks while the configuration is broken is told so; nobody else fails for nothing.
fn judge(output: &Output, broken: bool, may_fail: bool) -> Answered {
    let text = String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned();
    let last = text.lines().last().unwrap_or_default();
    let said = format!("reload exits {}: {last}", output.status.code().unwrap_or(-1));
    let right = match output.status.code() {
        Some(0) => !broken,
        Some(1) if broken => text.contains("configuration.toml:2: `timeouts.stable`"),
        Some(1) => may_fail,
        Some(_) | None => false,
    };
    Answered { complaint: (!right).then(|| format!("{said}\n{text}")), said }
}

fn configure(server: &Server, text: &str) {
    let place = server.directory().join("configuration.toml");
    // Never half a file.
    let next = server.directory().join("configuration.next");
    fs::write(&next, text).and_then(|()| fs::rename(next, place)).expect("write the configuration");
}
