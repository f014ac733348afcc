//! `--daemon`, and what the service manager is told.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use forebay::testing::Server;
use nix::libc::SIGKILL;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getsid};
use serde_json::Value;
use tempfile::TempDir;

use crate::client::{example, get};

/// A daemon in the background; it is ended with this.
struct Daemon {
    scratch: TempDir,
    /// How the process that was started has ended.
    started: Output,
}

impl Daemon {
    /// Starts the fixture by a shell script whose `"$@"` is the command.
    fn start(script: &str, fault: &str, more: &[&str]) -> Self {
        let scratch = tempfile::tempdir().expect("a directory");
        let mut command = Command::new("sh");
        command.args(["-c", script, "sh"]).arg(example("fixture")).args(["serve", "--daemon"]).args(more);
        command.arg("--run-dir").arg(scratch.path().join("run")).args(["--pid-file", "pid"]);
        if !more.contains(&"--listen") {
            command.args(["--listen", "127.0.0.1:0"]);
        }
        // Until whoever was started ends and nobody holds its streams: a daemon that kept them hangs the test.
        let started = command.env("FIXTURE", fault).current_dir(scratch.path()).output().expect("sh(1) is there");
        Self { scratch, started }
    }

    fn run_dir(&self) -> PathBuf {
        self.scratch.path().join("run")
    }

    fn command(&self, words: &[&str]) -> Output {
        let mut command = Command::new(example("fixture"));
        command.args(words).arg("--run-dir").arg(self.run_dir()).output().expect("the program starts")
    }

    fn status(&self) -> Value {
        serde_json::from_slice(&self.command(&["status", "--json"]).stdout).expect("it answers")
    }

    /// As the pid file says it.
    fn pid(&self) -> Option<i32> {
        fs::read_to_string(self.scratch.path().join("pid")).ok()?.trim().parse().ok()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // The lock of the run directory names its holder; the file goes with a master that stops.
        if let Some(pid) = self.pid() {
            let _ = kill(Pid::from_raw(pid), Signal::SIGQUIT);
        }
    }
}

fn link(pid: i32, name: &str) -> PathBuf {
    fs::read_link(format!("/proc/{pid}/{name}")).expect(name)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn the_starter_returns_when_the_workers_serve() {
    let daemon = Daemon::start("umask 027; exec \"$@\"", "", &["--workers", "2"]);
    assert_eq!(daemon.started.status.code(), Some(0), "{}", text(&daemon.started.stderr));
    assert!(text(&daemon.started.stderr).contains("serving on http://127.0.0.1:"));
    let status = daemon.status();
    assert_eq!(status["state"], "serving");
    let pid = daemon.pid().expect("a pid file");
    assert_eq!(status["pid"], pid);
    // As daemon(7) asks: a session of its own without being its leader, the root directory, no streams.
    let session = getsid(Some(Pid::from_raw(pid))).expect("its session");
    assert!(session != getsid(None).expect("ours") && session.as_raw() != pid);
    assert_eq!(link(pid, "cwd"), Path::new("/"));
    for stream in ["fd/0", "fd/1", "fd/2"] {
        assert_eq!(link(pid, stream), Path::new("/dev/null"), "{stream}");
    }
    let umask = |pid: i32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("its status");
        status.lines().find_map(|line| Some(line.strip_prefix("Umask:")?.trim().to_owned())).expect("Umask")
    };
    let worker = i32::try_from(status["workers"][0]["pid"].as_u64().expect("a worker")).expect("a pid");
    assert_eq!((umask(pid), umask(worker)), ("0000".to_owned(), "0027".to_owned()));
    let log = status["helpers"][0]["pid"].as_u64().and_then(|pid| i32::try_from(pid).ok()).expect("the log helper");
    for stream in ["fd/0", "fd/1", "fd/2"] {
        assert_eq!(link(log, stream), Path::new("/dev/null"), "{stream} of the log helper");
    }
    let output = daemon.command(&["stop"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(daemon.pid(), None, "the pid file went with it");
}

#[test]
fn what_the_starter_had_open_the_daemon_has_not() {
    // `output()` of the test waits until nobody has this copy of its pipe.
    let daemon = Daemon::start("exec 9>&1; exec \"$@\"", "", &["--workers", "1"]);
    assert_eq!(daemon.started.status.code(), Some(0));
    assert!(daemon.command(&["stop"]).status.success());
}

#[test]
fn its_log_goes_on_where_standard_error_was_led_to_a_file() {
    let daemon = Daemon::start("exec \"$@\" 2>log", "", &["--workers", "1"]);
    assert_eq!(daemon.started.status.code(), Some(0));
    let address = daemon.status()["listeners"][0]["address"].as_str().expect("text").parse().expect("an address");
    let log = || fs::read_to_string(daemon.scratch.path().join("log")).expect("a log");
    let written = |what: &str| {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !log().contains(what) {
            assert!(Instant::now() < deadline, "no {what:?} in: {}", log());
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    get(address, "/log/3").expect("an answer");
    written("record 2");
    // Another log helper writes there too.
    let helper = daemon.status()["helpers"][0]["pid"].as_u64().and_then(|pid| i32::try_from(pid).ok());
    kill(Pid::from_raw(helper.expect("a pid")), Signal::SIGKILL).expect("it lives");
    written("helper log pid");
    written("restarting");
    assert!(daemon.command(&["stop"]).status.success());
    written("] stopped");
}

#[test]
fn a_failed_start_says_why_and_ends_with_the_same_code() {
    let table: [(&str, &[&str], i32, &str); 5] = [
        ("refuse-preload", &[], 1, "fixture: fixture did not start: the table is missing"),
        ("exit", &["--restart-intensity", "0", "--workers", "1"], 1, "worker 0 generation 1: exited with 0"),
        ("", &["--listen", "127.0.0.1:0", "--listen", "unix:/nowhere/x"], 71, "cannot listen on unix:/nowhere/x"),
        ("", &["--config", "/nowhere.toml"], 78, "cannot read /nowhere.toml"),
        ("threaded", &[], 1, "cannot serve with other threads running"),
    ];
    for (fault, more, code, why) in table {
        let daemon = Daemon::start("exec \"$@\"", fault, more);
        let complaint = text(&daemon.started.stderr);
        assert_eq!(daemon.started.status.code(), Some(code), "{fault}: {complaint}");
        assert!(complaint.contains(why), "{fault}: {complaint}");
        assert_eq!(daemon.command(&["status"]).status.code(), Some(69), "{fault}");
        assert_eq!(daemon.pid(), None, "{fault}");
    }
}

#[test]
fn a_second_daemon_says_that_there_is_one() {
    let daemon = Daemon::start("exec \"$@\"", "", &["--workers", "1"]);
    assert_eq!(daemon.started.status.code(), Some(0));
    let mut second = Command::new(example("fixture"));
    second.args(["serve", "--daemon", "--listen", "127.0.0.1:0", "--run-dir"]).arg(daemon.run_dir());
    let second = second.output().expect("the program starts");
    assert_eq!(second.status.code(), Some(75));
    let expected = format!("fixture: already running (pid {})", daemon.pid().expect("a pid file"));
    assert!(text(&second.stderr).contains(&expected), "{}", text(&second.stderr));
    assert_eq!(daemon.status()["state"], "serving");
}

// ---- the service manager ----------------------------------------------------------------------

/// Where a service manager listens.
struct Manager {
    socket: UnixDatagram,
    path: PathBuf,
    _scratch: TempDir,
}

impl Manager {
    fn new() -> Self {
        let scratch = tempfile::tempdir().expect("a directory");
        let path = scratch.path().join("notify");
        let socket = UnixDatagram::bind(&path).expect("a socket");
        socket.set_read_timeout(Some(Duration::from_millis(20))).expect("a limit");
        Self { socket, path, _scratch: scratch }
    }

    /// All lines that were told until now.
    fn told(&self) -> Vec<String> {
        let mut buffer = [0; 4096];
        let mut told = Vec::new();
        while let Ok(count) = self.socket.recv(&mut buffer) {
            told.extend(text(&buffer[..count]).lines().map(str::to_owned));
        }
        told
    }
}

#[test]
fn the_service_manager_is_told_ready_how_it_goes_and_stopping() {
    let manager = Manager::new();
    let server = Server::of(example("fixture")).variable("NOTIFY_SOCKET", &manager.path).variable("WATCHDOG_PID", "1");
    let mut server = server.variable("WATCHDOG_USEC", "9").start();
    let mut told = manager.told();
    assert_eq!(told.iter().filter(|line| *line == "READY=1").count(), 1, "{told:?}");
    let address = format!("http://{}", server.address());
    let full = format!("STATUS=serving: 2 of 2 workers serve on {address}");
    assert_eq!(told.last(), Some(&full), "{told:?}");
    assert!(told.iter().any(|line| line.starts_with("STATUS=starting: 0 of 2")), "{told:?}");
    // It is between the manager and the master.
    for (pid, title) in server.processes() {
        let variables = text(&fs::read(format!("/proc/{pid}/environ")).unwrap_or_default());
        assert!(pid == server.pid() || !variables.contains("NOTIFY_SOCKET"), "{title}: {variables}");
        assert!(pid == server.pid() || !variables.contains("WATCHDOG"), "{title}: {variables}");
    }
    server.signal(server.workers()[0], SIGKILL);
    server.wait_until("a new worker", |status| status["workers"][0]["restarts"] == 1 && status["state"] == "serving");
    let deadline = Instant::now() + Duration::from_secs(20);
    told = manager.told();
    while told.last() != Some(&full) {
        assert!(Instant::now() < deadline, "{told:?}");
        told.extend(manager.told());
    }
    assert!(told.iter().any(|line| line.starts_with("STATUS=degraded: 1 of 2")), "{told:?}");
    assert!(!told.contains(&"READY=1".to_owned()), "once");
    server.signal(server.pid(), Signal::SIGTERM as i32);
    assert!(server.wait().success());
    assert!(manager.told().contains(&"STOPPING=1".to_owned()));
}

#[test]
fn a_service_manager_that_does_not_read_makes_nobody_wait() {
    let manager = Manager::new();
    let server = Server::of(example("fixture")).variable("NOTIFY_SOCKET", &manager.path).start();
    // More than its queue takes (net.unix.max_dgram_qlen).
    for restarts in 1..=20 {
        server.signal(server.workers()[0], SIGKILL);
        server.wait_until("a new worker", |status| {
            status["workers"][0]["restarts"] == restarts && status["state"] == "serving"
        });
    }
    let mut told = manager.told();
    server.signal(server.pid(), Signal::SIGTERM as i32);
    server.wait_for("the last word", || {
        told.extend(manager.told());
        told.contains(&"STOPPING=1".to_owned()).then_some(())
    });
    assert!(told.contains(&"READY=1".to_owned()), "{told:?}");
}

#[test]
fn a_start_that_fails_is_never_ready() {
    let manager = Manager::new();
    let server = Server::of(example("fixture")).variable("NOTIFY_SOCKET", &manager.path).variable("FIXTURE", "exit");
    let mut server = server.launch();
    assert_eq!(server.wait().code(), Some(1));
    let told = manager.told();
    assert!(!told.is_empty() && !told.contains(&"READY=1".to_owned()), "{told:?}");
}
