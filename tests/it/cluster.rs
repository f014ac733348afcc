//! A PostgreSQL of one test's own: Debian's programs, a private directory, a Unix socket in it, no TCP.

use std::fs::{self, File};
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User, geteuid};
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};
use tokio_postgres::{Client, NoTls};

/// How long a state may take that a test waits for, and how often it is looked at.
const PATIENCE: Duration = Duration::from_secs(20);
const LOOK: Duration = Duration::from_millis(5);

/// Where Debian has the programs of each version: `15/bin/initdb`.
const VERSIONS: &str = "/usr/lib/postgresql";

/// The cluster with one connection of its own, which looks at the others.
pub(crate) struct Cluster {
    observer: Client,
    runtime: Runtime,
    postgres: Postgres,
}

/// A connection of a client: what it calls itself, and the process that serves it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Connection {
    pub(crate) name: String,
    pub(crate) backend: i32,
}

/// The server's process, ended when dropped; while a test panics, its log is printed too.
struct Postgres {
    process: Child,
    directory: TempDir,
}

impl Cluster {
    /// Makes a cluster and starts it; anybody who can reach the socket may be any user.
    pub(crate) fn start() -> Self {
        let mut postgres = Postgres::start();
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        let url = postgres.url("postgres");
        let mut answer = None;
        wait_until(|| {
            let ended = postgres.process.try_wait().expect("wait for it");
            assert_eq!(ended, None, "PostgreSQL did not start");
            answer = Some(runtime.block_on(tokio_postgres::connect(&url, NoTls)));
            matches!(answer, Some(Ok(_)))
        });
        let (observer, connection) = answer.expect("it was asked").expect("PostgreSQL lets its tests in");
        runtime.spawn(connection);
        Self { observer, runtime, postgres }
    }

    /// Where it is, for this user of it.
    pub(crate) fn url(&self, user: &str) -> String {
        self.postgres.url(user)
    }

    /// Has it carry this out.
    pub(crate) fn execute(&self, sql: &str) {
        self.runtime.block_on(self.observer.batch_execute(sql)).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }

    /// All connections but our own, in the order of their names.
    pub(crate) fn connections(&self) -> Vec<Connection> {
        let sql = "SELECT application_name, pid FROM pg_stat_activity \
                   WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()";
        let rows = self.runtime.block_on(self.observer.query(sql, &[])).expect("it answers");
        let mut connections: Vec<Connection> =
            rows.iter().map(|row| Connection { name: row.get(0), backend: row.get(1) }).collect();
        connections.sort();
        connections
    }

    /// Waits until the connections are as wished, and returns them.
    pub(crate) fn wait_until(&self, what: &str, wish: impl Fn(&[Connection]) -> bool) -> Vec<Connection> {
        let mut seen = Vec::new();
        let came = wait_until(|| {
            seen = self.connections();
            wish(&seen)
        });
        assert!(came, "waited {} s for {what}, not {seen:?}", PATIENCE.as_secs());
        seen
    }
}

impl Postgres {
    fn start() -> Self {
        let programs = programs();
        let directory = tempfile::Builder::new().prefix("forebay-db-").tempdir().expect("a directory");
        let log = File::create(directory.path().join("log")).expect("make the log file");
        // It refuses to run as root.
        let user = geteuid().is_root().then(unprivileged);
        if let Some(user) = &user {
            chown(directory.path(), Some(user.uid.as_raw()), Some(user.gid.as_raw())).expect("chown takes root");
        }
        let command = |program: &str| {
            let mut command = Command::new(programs.join(program));
            command.arg("-D").arg(directory.path().join("data")).current_dir(directory.path()).stdin(Stdio::null());
            if let Some(user) = &user {
                command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
            }
            command
        };
        let mut initdb = command("initdb");
        initdb.args(["--username=postgres", "--auth=trust", "--encoding=UTF8", "--no-locale", "--no-sync"]);
        let made = initdb.output().expect("initdb starts");
        assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        let mut postgres = command("postgres");
        postgres.arg("-k").arg(directory.path());
        for setting in ["listen_addresses=", "port=5432", "fsync=off", "max_connections=20", "shared_buffers=16MB"] {
            postgres.args(["-c", setting]);
        }
        postgres.stdout(log.try_clone().expect("share the log file")).stderr(log);
        Self { process: postgres.spawn().expect("postgres starts"), directory }
    }

    fn url(&self, user: &str) -> String {
        let directory = self.directory.path().display().to_string();
        format!("postgres://{user}@{}:5432/postgres", directory.replace('/', "%2F"))
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = fs::read(self.directory.path().join("log")).unwrap_or_default();
            eprintln!("---- PostgreSQL's log:\n{}----", String::from_utf8_lossy(&log));
        }
        if matches!(self.process.try_wait(), Ok(None)) {
            // An immediate shutdown: it ends its processes, if need be by SIGKILL after 5 s, then itself.
            let _ = kill(Pid::from_raw(self.process.id().cast_signed()), Signal::SIGQUIT);
        }
        wait_until(|| !matches!(self.process.try_wait(), Ok(None)));
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The programs of the newest version.
fn programs() -> PathBuf {
    let versions = fs::read_dir(VERSIONS).into_iter().flatten().flatten();
    let usable = versions.filter(|version| version.path().join("bin/initdb").exists());
    let newest = usable.max_by_key(|version| version.file_name().to_str().and_then(|name| name.parse::<u32>().ok()));
    let newest = newest.unwrap_or_else(|| panic!("no {VERSIONS}/*/bin/initdb: install Debian's package postgresql"));
    newest.path().join("bin")
}

/// Debian's user for databases, else the one for nothing.
fn unprivileged() -> User {
    let users = ["postgres", "nobody"].into_iter();
    users.filter_map(|name| User::from_name(name).ok().flatten()).next().expect("every system has nobody")
}

/// Waits for a state; false when it has not come.
fn wait_until(mut is_so: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        if is_so() {
            return true;
        }
        std::thread::sleep(LOOK);
    }
    false
}
