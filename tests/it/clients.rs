//! Clients in other languages, written from `ipc-protocol.md` alone: `tests/clients`. They check the vectors, a
//! running daemon, and what becomes of whoever breaks each rule.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use forebay::testing::Server;

use crate::client::example;

const PAGE: &str = include_str!("../../ipc-protocol.md");

/// Who may not ask: a user that no daemon runs as.
const NOBODY: u32 = 65534;

/// A language, and how its client is started.
struct Language {
    name: &'static str,
    program: &'static str,
    script: &'static str,
    /// What must be there, as `scripts/test` installs it.
    package: PathBuf,
}

/// Where the packages are that the clients need.
pub(crate) fn installed() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("clients")
}

impl Language {
    fn python() -> Self {
        let package = installed().join("python/msgpack");
        Self { name: "Python", program: "python3", script: "python/check.py", package }
    }

    fn javascript() -> Self {
        let package = installed().join("node/node_modules/@msgpack/msgpack");
        Self { name: "JavaScript", program: "node", script: "node/check.js", package }
    }

    /// Lets the client check something; returns the rules that it has seen broken.
    fn check(&self, words: &[&str]) -> BTreeSet<String> {
        let (name, package) = (self.name, self.package.display());
        assert!(self.package.exists(), "the client in {name} needs {package}: scripts/test installs it");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(self.script);
        let output = Command::new(self.program)
            .arg(script)
            .args(words)
            .env("PYTHONPATH", installed().join("python"))
            .env("NODE_PATH", installed().join("node/node_modules"))
            // The source tree stays as it is.
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .output()
            .unwrap_or_else(|error| panic!("{} starts: {error}", self.program));
        let said = String::from_utf8_lossy(&output.stdout);
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "the client in {name}, {words:?}: {}\n{said}{complaint}", output.status);
        println!("the client in {name}, {}: {} checks", words[0], said.lines().count());
        let rules = said.lines().filter_map(|line| line.split(' ').nth(1)).filter(|rule| *rule != "--");
        rules.map(str::to_owned).collect()
    }

    /// The gateway, its log and its control socket.
    fn check_the_gateway(&self) -> BTreeSet<String> {
        let server = Server::of(env!("CARGO_BIN_EXE_forebay")).workers(1).start();
        crate::simulator::first_thermostat(&server);
        let (run_dir, name) = (server.run_dir().to_str().expect("text"), self.name);
        let rules = self.check(&["nest", run_dir, "a word of its own"]);
        for (level, word) in [("INFO ", "said"), ("WARN ", "warned")] {
            server.wait_for_log(&format!("{level} clients a client in {name}] {word} in {name}: a word of its own"));
        }
        server.stop();
        rules
    }

    /// Everything that a helper may be asked, well or badly; and who may not ask.
    fn check_a_helper(&self) -> BTreeSet<String> {
        let server = Server::of(example("keeper")).workers(1).start();
        let run_dir = server.run_dir().to_str().expect("text");
        let pid = server.helper("keeper");
        let mut rules = self.check(&["keeper", run_dir]);
        server.wait_for_log(&format!("the connection of a client in {} is closed: ", self.name));
        if nix::unistd::geteuid().is_root() {
            let ipc = server.run_dir().join("ipc");
            let sockets = ["ipc/keeper.sock", "ipc/log.sock", "control.sock"].map(|name| server.run_dir().join(name));
            let directories = [server.directory().to_owned(), server.run_dir().to_owned(), ipc];
            for path in directories.iter().chain(&sockets) {
                fs::set_permissions(path, Permissions::from_mode(0o777)).expect("chmod");
            }
            rules.extend(self.check(&["stranger", run_dir, &NOBODY.to_string()]));
        } else {
            println!("SKIPPED: becoming another user takes root");
            rules.extend(["U1", "U2"].map(str::to_owned));
        }
        assert_eq!(server.helper("keeper"), pid, "the helper lives");
        rules
    }

    /// The vectors, the daemon, and that no rule of the page was left out.
    fn check_everything(&self) {
        let mut rules = self.check(&["vectors"]);
        rules.extend(self.check_the_gateway());
        rules.extend(self.check_a_helper());
        let (_, table) = PAGE.split_once("\n| rule | who must keep it |").expect("the rules");
        let rows = table.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
        assert_eq!(rules, rows.map(str::to_owned).collect(), "the rules that were checked, and those of the page");
    }
}

#[test]
fn a_client_in_python_finds_what_the_page_says() {
    Language::python().check_everything();
}

#[test]
fn a_client_in_javascript_finds_what_the_page_says() {
    Language::javascript().check_everything();
}
