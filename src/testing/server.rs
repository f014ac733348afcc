//! A server under test: started, watched, broken and stopped.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use super::processes;

/// How long a server may take to reach a state that a test waits for.
const PATIENCE: Duration = Duration::from_secs(20);

/// How often a state is looked at while waiting for it.
const LOOK: Duration = Duration::from_millis(5);

/// How a server is started.
#[derive(Debug)]
pub struct Builder {
    binary: PathBuf,
    workers: u16,
    configuration: String,
    arguments: Vec<OsString>,
    variables: Vec<(OsString, OsString)>,
    user: Option<u32>,
    wrapper: Vec<OsString>,
    run_dir: Option<PathBuf>,
    address: SocketAddr,
}

/// A running server in a directory, on a port and in a process group of its own.
///
/// What it prints goes to a file, see [`Server::log`]. Dropping it ends every process of the
/// group; while a test panics, the log is printed too.
#[derive(Debug)]
pub struct Server {
    binary: PathBuf,
    directory: TempDir,
    run_dir: PathBuf,
    master: Child,
    status: Option<ExitStatus>,
}

impl Builder {
    /// So many workers; 2 if never said.
    #[must_use]
    pub fn workers(mut self, count: u16) -> Self {
        self.workers = count;
        self
    }

    /// A configuration file with this text.
    #[must_use]
    pub fn configuration(mut self, text: &str) -> Self {
        text.clone_into(&mut self.configuration);
        self
    }

    /// One more argument of `serve`.
    #[must_use]
    pub fn argument(mut self, argument: impl Into<OsString>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// One more environment variable.
    #[must_use]
    pub fn variable(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.variables.push((name.into(), value.into()));
        self
    }

    /// Starts as this user instead of the test's own; takes root.
    #[must_use]
    pub fn user(mut self, uid: u32) -> Self {
        self.user = Some(uid);
        self
    }

    /// Starts the program through another command, which gets its path and arguments at the end:
    /// `["nice", "-n", "5"]`, `["sh", "-c", "exec \"$@\" <&-", "sh"]`.
    ///
    /// A command that does not `exec` it (`unshare --fork`) is what [`Server::pid`] and
    /// [`Server::wait`] mean then: stop such a server by `server.command(&["stop"])`.
    #[must_use]
    pub fn under(mut self, words: &[&str]) -> Self {
        self.wrapper = words.iter().map(OsString::from).collect();
        self
    }

    /// A run directory other than `run` in the server's own directory: one that another server
    /// has, or had.
    #[must_use]
    pub fn run_dir(mut self, path: impl Into<PathBuf>) -> Self {
        self.run_dir = Some(path.into());
        self
    }

    /// Listens there instead of on a free port of 127.0.0.1: where another server did.
    #[must_use]
    pub fn listen(mut self, address: SocketAddr) -> Self {
        self.address = address;
        self
    }

    /// Starts the server and waits until all workers serve.
    ///
    /// # Panics
    /// When it ends instead, or does not come to that within 20 s; the log is printed.
    #[must_use]
    pub fn start(self) -> Server {
        let mut server = self.launch();
        let deadline = Instant::now() + PATIENCE;
        // Before the look at its end: whoever serves and then dies is a matter of the test.
        while !server.is_serving() {
            if let Some(status) = server.ended() {
                panic!("invariant: the server serves: the master ended with {status}");
            }
            assert!(Instant::now() < deadline, "waited {} s for serving", PATIENCE.as_secs());
            std::thread::sleep(LOOK);
        }
        server
    }

    /// Starts the server and waits for nothing.
    ///
    /// # Panics
    /// When the binary cannot be started.
    #[must_use]
    pub fn launch(self) -> Server {
        let directory = tempfile::Builder::new().prefix("forebay-test-").tempdir().expect("a directory");
        if let Some(uid) = self.user {
            std::os::unix::fs::chown(directory.path(), Some(uid), Some(uid)).expect("chown takes root");
        }
        let configuration = directory.path().join("configuration.toml");
        fs::write(&configuration, &self.configuration).expect("write the configuration");
        let log = File::create(directory.path().join("log")).expect("make the log file");
        let run_dir = self.run_dir.unwrap_or_else(|| directory.path().join("run"));
        let mut words = self.wrapper.into_iter().chain([self.binary.clone().into_os_string()]);
        let mut command = Command::new(words.next().expect("there is the binary at least"));
        command
            .args(words)
            .arg("serve")
            .args(["--listen", &self.address.to_string()])
            .args(["--workers", &self.workers.to_string()])
            .arg("--config")
            .arg(&configuration)
            .arg("--run-dir")
            .arg(&run_dir)
            .args(&self.arguments)
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("share the log file"))
            .stderr(log)
            .process_group(0);
        if let Some(uid) = self.user {
            command.uid(uid).gid(uid);
        }
        let master =
            command.spawn().unwrap_or_else(|error| panic!("invariant: {} starts: {error}", self.binary.display()));
        Server { binary: self.binary, directory, run_dir, master, status: None }
    }
}

impl Server {
    /// A server of this program, which calls `App::main`.
    pub fn of(binary: impl Into<PathBuf>) -> Builder {
        Builder {
            binary: binary.into(),
            workers: 2,
            configuration: String::new(),
            arguments: Vec::new(),
            variables: Vec::new(),
            user: None,
            wrapper: Vec::new(),
            run_dir: None,
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
        }
    }

    /// The master's process id.
    pub fn pid(&self) -> u32 {
        self.master.id()
    }

    /// The directory of this server: `run`, `configuration.toml`, `log` and what a test puts there.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The run directory.
    pub fn run_dir(&self) -> &Path {
        &self.run_dir
    }

    /// Where it listens.
    ///
    /// # Panics
    /// When the server does not answer.
    pub fn address(&self) -> SocketAddr {
        let status = self.status();
        let address = status["listeners"][0]["address"].as_str().expect("an address");
        address.parse().expect("an address with a port")
    }

    /// The process ids of the workers, by slot.
    ///
    /// # Panics
    /// When the server does not answer, or a slot has no process.
    pub fn workers(&self) -> Vec<u32> {
        let status = self.status();
        let workers = status["workers"].as_array().expect("workers");
        workers.iter().map(|worker| pid_of(worker).expect("a worker in every slot")).collect()
    }

    /// The process id of a helper: `log`, `zygote`.
    ///
    /// # Panics
    /// When the server does not answer, or the helper has no process.
    pub fn helper(&self, name: &str) -> u32 {
        let status = self.status();
        let mut helpers = status["helpers"].as_array().expect("helpers").iter();
        helpers.find(|helper| helper["name"] == name).and_then(pid_of).expect("a process of this helper")
    }

    /// What `status --json` says.
    ///
    /// # Panics
    /// When the server does not answer.
    pub fn status(&self) -> Value {
        let output = self.command(&["status", "--json"]);
        serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|_| panic!("invariant: status answers: {}", String::from_utf8_lossy(&output.stderr)))
    }

    /// Runs a command of the program on this server: `["scale", "3"]`.
    ///
    /// # Panics
    /// When the program cannot be started.
    pub fn command(&self, words: &[&str]) -> Output {
        let mut command = Command::new(&self.binary);
        command.args(words).arg("--run-dir").arg(&self.run_dir);
        command.output().expect("the program starts")
    }

    /// Everything that it has printed.
    pub fn log(&self) -> String {
        let bytes = fs::read(self.directory.path().join("log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Waits until the status is as wished, and returns it.
    ///
    /// # Panics
    /// When it is not within 20 s.
    pub fn wait_until(&self, what: &str, wish: impl Fn(&Value) -> bool) -> Value {
        self.wait_for(what, || {
            let output = self.command(&["status", "--json"]);
            serde_json::from_slice(&output.stdout).ok().filter(|status| wish(status))
        })
    }

    fn is_serving(&self) -> bool {
        let output = self.command(&["status", "--json"]);
        serde_json::from_slice(&output.stdout).is_ok_and(|status: Value| status["state"] == "serving")
    }

    /// Waits until it has printed this.
    ///
    /// # Panics
    /// When it has not within 20 s.
    pub fn wait_for_log(&self, text: &str) {
        self.wait_for(&format!("{text:?} in the log"), || self.log().contains(text).then_some(()));
    }

    /// Waits until there is something.
    ///
    /// # Panics
    /// When there is nothing within 20 s.
    pub fn wait_for<T>(&self, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = look() {
                return found;
            }
            assert!(Instant::now() < deadline, "waited {} s for {what}", PATIENCE.as_secs());
            std::thread::sleep(LOOK);
        }
    }

    /// Sends a signal to one of its processes.
    ///
    /// # Panics
    /// When there is no such signal. A process that is gone is none.
    pub fn signal(&self, pid: u32, signal: i32) {
        let signal = Signal::try_from(signal).expect("a signal");
        let _ = kill(Pid::from_raw(pid.cast_signed()), signal);
    }

    /// Sends a signal to all of its processes, as a terminal does.
    ///
    /// # Panics
    /// When there is no such signal.
    pub fn signal_all(&self, signal: i32) {
        let signal = Signal::try_from(signal).expect("a signal");
        let _ = killpg(Pid::from_raw(self.master.id().cast_signed()), signal);
    }

    /// Its living processes: id and title.
    pub fn processes(&self) -> Vec<(u32, String)> {
        let members = processes::of_group(self.master.id()).into_iter();
        members.filter(|member| member.state != 'Z').map(|member| (member.pid, member.title)).collect()
    }

    /// Its dead processes that nobody has waited for.
    pub fn zombies(&self) -> Vec<u32> {
        let members = processes::of_group(self.master.id()).into_iter();
        members.filter(|member| member.state == 'Z').map(|member| member.pid).collect()
    }

    /// How the master has ended; `None` while it lives.
    ///
    /// # Panics
    /// When the system does not say.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            self.status = self.master.try_wait().expect("wait for the master");
        }
        self.status
    }

    /// Waits for the master's end and returns how it ended.
    ///
    /// # Panics
    /// When it does not end within 20 s.
    pub fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.ended() {
                return status;
            }
            assert!(Instant::now() < deadline, "waited {} s for the master's end", PATIENCE.as_secs());
            std::thread::sleep(LOOK);
        }
    }

    /// Stops the server by TERM and checks what must hold after every test: it exits 0, nothing of
    /// it is left, and nothing has panicked.
    ///
    /// # Panics
    /// When one of that does not hold.
    pub fn stop(mut self) {
        self.signal(self.pid(), Signal::SIGTERM as i32);
        let status = self.wait();
        assert!(status.success(), "the master ended with {status}");
        self.wait_for("the end of all processes", || processes::of_group(self.master.id()).is_empty().then_some(()));
        let log = self.log();
        assert!(!log.contains("panicked at"), "something panicked");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let mut text = String::new();
            for member in processes::of_group(self.master.id()) {
                let _ = writeln!(text, "  {} {} {}", member.pid, member.state, member.title);
            }
            eprintln!("---- processes:\n{text}---- log:\n{}----", self.log());
        }
        self.signal_all(Signal::SIGKILL as i32);
        let _ = self.master.wait();
    }
}

fn pid_of(process: &Value) -> Option<u32> {
    u32::try_from(process["pid"].as_u64()?).ok()
}
