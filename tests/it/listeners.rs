//! Listening sockets over reloads: one that goes answers whom it has taken, one that stays is the same,
//! and a start that fails harms none.

use std::fs::{self, Permissions};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use forebay::testing::{Builder, Server};
use nix::libc::{SIGCONT, SIGHUP, SIGKILL};
use tempfile::TempDir;

use crate::client::{example, get, try_to_connect};
use crate::hangs::pause;
use crate::places::{ask, refused};
use crate::reload::{SHORT, commit, configure, is_alone, roll_back};

fn fixture() -> Builder {
    Server::of(example("fixture"))
}

// ---- an address that goes ---------------------------------------------------------------------

/// Clients in the queue of the address that goes.
const QUEUED: usize = 20;

/// Clients that the kernel has connected to an address that no generation listens on any more.
struct Queue {
    address: SocketAddr,
    /// The workers that may still take them; they stand still, as their master does.
    workers: Vec<u32>,
    clients: Vec<TcpStream>,
}

impl Queue {
    /// Removes an address that has a queue, and has the master stand still before it closes that.
    ///
    /// `None`: this machine was too busy to be in time. All go on then.
    fn leave(server: &Server) -> Option<Self> {
        configure(server, &format!("{SHORT}[listener.leaving]\naddress = \"127.0.0.1:0\"\n"));
        commit(server);
        server.wait_until("one generation", is_alone);
        let (address, workers) = (address_of(server, "leaving"), server.workers());
        workers.iter().for_each(|&worker| pause(server, worker));
        let mut clients: Vec<TcpStream> = (0..QUEUED).map(|_| asking(address).expect("a queue")).collect();
        configure(server, SHORT);
        let is_over = |server: &Server| server.log().matches(": committed").count();
        let before = is_over(server);
        server.signal(server.pid(), SIGHUP);
        // The line is written after the turn in which the old workers are told to drain.
        server.wait_for("the commit", || (is_over(server) > before).then_some(()));
        pause(server, server.pid());
        // One more: who is refused has come too late.
        match asking(address) {
            Ok(last) => clients.push(last),
            Err(_) => {
                workers.iter().chain([&server.pid()]).for_each(|&pid| server.signal(pid, SIGCONT));
                return None;
            }
        }
        Some(Self { address, workers, clients })
    }
}

/// Where this one of its listeners is.
pub(crate) fn address_of(server: &Server, name: &str) -> SocketAddr {
    let status = server.status();
    let mut listeners = status["listeners"].as_array().expect("listeners").iter();
    let found = listeners.find(|listener| listener["name"] == name).expect("a listener of this name");
    found["address"].as_str().expect("text").parse().expect("an address")
}

/// A client that has sent its request.
fn asking(address: SocketAddr) -> std::io::Result<TcpStream> {
    let mut stream = try_to_connect(address)?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")?;
    Ok(stream)
}

fn answers(clients: Vec<TcpStream>) -> Vec<String> {
    let answer = |mut client: TcpStream| {
        let mut answer = String::new();
        client.read_to_string(&mut answer).expect("an answer to its end");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer:?}");
        answer
    };
    clients.into_iter().map(answer).collect()
}

fn is_refused(address: SocketAddr) -> bool {
    TcpStream::connect(address).is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
}

#[test]
fn an_address_that_goes_answers_whom_the_kernel_had_taken() {
    let server = fixture().start();
    let Queue { address, workers, clients } = server.wait_for("a queue that is left in time", || Queue::leave(&server));
    workers.iter().for_each(|&worker| server.signal(worker, SIGCONT));
    for answer in answers(clients) {
        let body = answer.rsplit("\r\n").next().expect("a body");
        assert!(workers.iter().any(|worker| body.ends_with(&format!(" {worker}"))), "{answer}");
    }
    server.signal(server.pid(), SIGCONT);
    server.wait_for("an address that nobody has", || is_refused(address).then_some(()));
    server.wait_until("one generation", is_alone);
    assert_eq!(get(server.address(), "/").expect("an answer").status, 200);
    server.stop();
}

#[test]
fn an_address_that_goes_is_closed_whoever_keeps_a_copy_of_it() {
    let server = fixture().start();
    let Queue { address, workers, clients } = server.wait_for("a queue that is left in time", || Queue::leave(&server));
    let [busy, stuck] = workers[..] else { panic!("two workers: {workers:?}") };
    server.signal(busy, SIGCONT);
    assert_eq!(answers(clients).len(), QUEUED + 1, "by the one that goes on");
    server.signal(server.pid(), SIGCONT);
    server.wait_for("an address that nobody has", || is_refused(address).then_some(()));
    let stat = fs::read_to_string(format!("/proc/{stuck}/stat")).expect("it has its copy still");
    assert!(stat.contains(") T "), "{stat}");
    server.signal(stuck, SIGCONT);
    server.wait_until("one generation", is_alone);
    server.stop();
}

// ---- a Unix socket that stays -----------------------------------------------------------------

/// What a name in the file system leads to, and who may use it.
fn identity(path: &Path) -> (u64, u32, (u32, u32)) {
    let found = fs::symlink_metadata(path).expect("it is there");
    (found.ino(), found.mode() & 0o777, (found.uid(), found.gid()))
}

fn is_served(path: &Path) {
    assert!(ask(path).expect("an answer").starts_with("HTTP/1.1 200"));
}

/// A directory that others may pass.
fn open_directory() -> TempDir {
    tempfile::Builder::new().permissions(Permissions::from_mode(0o755)).tempdir().expect("a directory")
}

#[test]
fn a_unix_socket_is_the_same_after_a_reload_and_after_one_that_fails() {
    let scratch = open_directory();
    let (path, fault) = (scratch.path().join("app.sock"), scratch.path().join("fault"));
    // Started as root it is the user's who serves.
    let is_root = nix::unistd::geteuid().is_root();
    let user = if is_root { "user = \"nobody\"\n" } else { "" };
    let text = |mode: &str| {
        format!("{user}{SHORT}[listener.local]\naddress = \"unix:{}\"\nmode = \"{mode}\"\n", path.display())
    };
    let server = fixture()
        .configuration(&text("0606"))
        .variable("FIXTURE", format!("as {}", fault.display()))
        .run_dir(scratch.path().join("run"))
        .start();
    let before = identity(&path);
    assert_eq!(before.1, 0o606);
    assert!(!is_root || before.2.0 == 65534, "{before:?}");
    let is_as_before = |when: &str| {
        assert_eq!(identity(&path), before, "{when}");
        is_served(&path);
    };
    commit(&server);
    is_as_before("after a reload");
    configure(&server, &format!("workers = 0\n{}", text("0600")));
    roll_back(&server);
    is_as_before("after a configuration that was refused");
    let taken = TcpListener::bind("127.0.0.1:0").and_then(|listener| Ok((listener.local_addr()?, listener)));
    let (other, _taken) = taken.expect("a port");
    configure(&server, &format!("{}[listener.taken]\naddress = \"{other}\"\n", text("0600")));
    assert!(roll_back(&server).contains(&format!("cannot listen on {other}")));
    is_as_before("after another listener was refused");
    configure(&server, &text("0600"));
    fs::write(&fault, "refuse").expect("write");
    assert!(roll_back(&server).contains("no database"));
    is_as_before("after new workers that failed");
    fs::remove_file(&fault).expect("remove");
    commit(&server);
    assert_eq!(identity(&path), (before.0, 0o600, before.2), "the same one, as it is wanted now");
    is_served(&path);
    server.stop();
    assert!(!path.exists());
}

/// A daemon that listens on these.
fn listening(paths: &[&Path]) -> Builder {
    let one =
        |(number, path): (usize, &&Path)| format!("[listener.l{number}]\naddress = \"unix:{}\"\n", path.display());
    fixture().workers(1).configuration(&paths.iter().enumerate().map(one).collect::<String>())
}

#[test]
fn a_start_that_fails_harms_no_socket_and_is_in_nobodys_way() {
    let scratch = open_directory();
    let place = |name: &str| scratch.path().join(name);
    let (theirs, fresh, run) = (place("theirs.sock"), place("fresh.sock"), place("run"));
    let first = listening(&[&theirs]).start();
    let before = identity(&theirs);
    let busy = first.address();
    let table = [
        ("its run directory", listening(&[&fresh]).run_dir(first.run_dir()), 75, "already running"),
        ("its socket", listening(&[&fresh, &theirs]), 71, "another process listens there"),
        ("its port", listening(&[&theirs, &fresh]).listen(busy), 71, "Address already in use"),
        ("its port, last", listening(&[&fresh]).argument("--listen").argument(busy.to_string()), 71, "in use"),
        (
            "a wrong setting",
            listening(&[&theirs]).variable("FIXTURE_TIMEOUTS_STABLE", "never"),
            78,
            "a number is wanted",
        ),
        ("no table", listening(&[&fresh]).variable("FIXTURE", "refuse-preload"), 1, "the table is missing"),
        ("no database", listening(&[&fresh]).variable("FIXTURE", "refuse"), 1, "no database"),
    ];
    for (what, second, code, why) in table {
        let second = if code == 75 { second } else { second.run_dir(&run) };
        let (ended, log) = refused(second);
        assert_eq!(ended, Some(code), "{what}: {log}");
        assert!(log.contains(why), "{what}: {log}");
        assert_eq!(identity(&theirs), before, "{what}");
        is_served(&theirs);
        assert!(!fresh.exists(), "{what}: {log}");
        let next = listening(&[&fresh]).run_dir(&run).start();
        is_served(&fresh);
        next.stop();
    }
    first.stop();
}

#[test]
fn a_start_that_is_killed_leaves_a_socket_that_the_next_one_replaces() {
    let scratch = open_directory();
    let (path, run) = (scratch.path().join("app.sock"), scratch.path().join("run"));
    let mut killed = listening(&[&path]).run_dir(&run).variable("FIXTURE", "endless-preload").launch();
    let loads = || killed.processes().iter().any(|(_, title)| title.contains("zygote"));
    killed.wait_for("a start that is under way", || (path.exists() && loads()).then_some(()));
    killed.signal(killed.pid(), SIGKILL);
    killed.wait();
    assert!(path.exists(), "nobody was left to remove it");
    let next = listening(&[&path]).run_dir(&run).start();
    is_served(&path);
    next.stop();
    assert!(!path.exists());
}
