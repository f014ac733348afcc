//! What each process has for itself: descriptors, random numbers, its title, sealed memory.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use forebay::testing::{Builder, Server};
use nix::libc::SIGKILL;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::client::{example, get};

/// How long what a process is closing just now may be seen.
const CLOSING: Duration = Duration::from_secs(5);

/// O_CLOEXEC as /proc/PID/fdinfo shows it.
const CLOEXEC: u32 = 0o2_000_000;

fn fixture() -> Builder {
    Server::of(example("fixture"))
}

// ---- descriptors ------------------------------------------------------------------------------

/// Descriptors by what they are, with how many of each.
type Kinds = BTreeMap<String, usize>;

fn kinds(list: &[(&str, usize)]) -> Kinds {
    list.iter().filter(|(_, count)| *count > 0).map(|&(kind, count)| (kind.to_owned(), count)).collect()
}

/// What the master, the log helper, the zygote and each of so many workers have open, if each process has so many
/// rings and connections to log by.
fn of_each_role(workers: usize, ring: usize, sent: usize) -> [Kinds; 4] {
    let master = kinds(&[
        ("null", 1 + 2),
        ("log", 2),
        ("master.lock", 1),
        ("children.lock", 1),
        ("fixture", 1),
        ("memfd:configuration", 1),
        ("count of kills for memory", 1),
        ("memfd:scoreboard", 1),
        ("eventpoll", 1),
        ("listening tcp", 1),
        ("listening control.sock", 1),
        ("listening log.sock", 1),
        ("memfd:log ledger", 1),
        ("memfd:log target", 1),
        // Its own twice, as who keeps it and as who writes there.
        ("memfd:log ring", ring * (2 + 1 + workers)),
        // What wakes the log helper: to give it to others, and to use it.
        ("eventfd", 1 + ring),
        // For the signals, to the log, and to each child.
        ("unix", 2 + sent + 2 + workers),
        // Both ends of what zygotes and workers print.
        ("pipe", 2 * (1 + workers)),
    ]);
    let log = kinds(&[
        ("null", 1),
        ("log", 2),
        ("children.lock", 1),
        ("memfd:scoreboard", 1),
        ("eventpoll", 1),
        ("listening log.sock", 1),
        ("memfd:log ledger", 1),
        ("memfd:log ring", ring * (2 + workers)),
        // What others wake it by, and what its second thread would.
        ("eventfd", 2),
        // To the master; from the master, the zygote and the workers.
        ("unix", 1),
        ("log.sock", sent * (2 + workers)),
        ("pipe", 1 + workers),
    ]);
    let zygote = kinds(&[
        ("null", 1),
        ("pipe", 2),
        ("children.lock", 1),
        ("memfd:log ring", ring),
        ("eventfd", ring),
        ("unix", 1 + sent),
    ]);
    let worker = kinds(&[
        ("null", 1),
        ("pipe", 2),
        ("children.lock", 1),
        ("memfd:scoreboard", 1),
        ("eventpoll", 2),
        ("memfd:log ring", ring),
        ("eventfd", 1 + ring),
        ("listening tcp", 1),
        // To the master, to the log, and for the signals.
        ("unix", 1 + sent + 3),
    ]);
    [master, log, zygote, worker]
}

#[test]
fn every_process_has_exactly_the_descriptors_of_its_role() {
    for (workers, transport) in [(1, "ring"), (3, "ring"), (3, "socket")] {
        let configuration = format!("[log]\ntransport = \"{transport}\"\n");
        let server = fixture().workers(workers).configuration(&configuration).start();
        let workers = usize::from(workers);
        // Of a ring, and of a connection in its place.
        let (ring, sent) = if transport == "ring" { (1, 0) } else { (0, 1) };
        let [master, log, zygote, worker] = of_each_role(workers, ring, sent);
        expect(server.pid(), "master", &master);
        expect(server.helper("log"), "helper log", &log);
        expect(server.helper("zygote"), "zygote", &zygote);
        for pid in server.workers() {
            expect(pid, "worker", &worker);
        }
        // Who has worked, and who has replaced another, has what the others have.
        for _ in 0..20 {
            get(server.address(), "/log/1").expect("an answer");
        }
        let killed = server.workers()[0];
        server.signal(killed, SIGKILL);
        server
            .wait_until("a new worker", |status| status["workers"][0]["restarts"] == 1 && status["state"] == "serving");
        for pid in server.workers() {
            expect(pid, "worker", &worker);
        }
        expect(server.helper("zygote"), "zygote", &zygote);
        expect(server.helper("log"), "helper log", &log);
        expect(server.pid(), "master", &master);
        server.stop();
    }
}

#[test]
fn a_helper_has_its_own_socket_and_nothing_of_the_workers() {
    let server = Server::of(example("counter")).workers(2).start();
    let helper = kinds(&[
        ("null", 1),
        ("pipe", 2),
        ("children.lock", 1),
        ("memfd:scoreboard", 1),
        ("eventpoll", 2),
        ("memfd:log ring", 1),
        ("eventfd", 2),
        ("listening counter.sock", 1),
        // To the master, and a copy of it for notes, and for the signals.
        ("unix", 2 + 3),
        // From the workers.
        ("counter.sock", 2),
    ]);
    // To the helper a worker has what another one has to the log in place of a ring.
    let [.., worker] = of_each_role(2, 1, 1);
    expect(server.helper("counter"), "helper counter", &helper);
    for pid in server.workers() {
        expect(pid, "worker", &worker);
    }
    server.signal(server.helper("counter"), SIGKILL);
    server.wait_until("a new helper", |status| {
        let mut helpers = status["helpers"].as_array().into_iter().flatten();
        status["state"] == "serving" && helpers.any(|helper| helper["name"] == "counter" && helper["restarts"] == 1)
    });
    expect(server.helper("counter"), "helper counter", &helper);
    for pid in server.workers() {
        expect(pid, "worker", &worker);
    }
    server.stop();
}

#[test]
fn what_the_program_was_started_with_stays_with_the_master() {
    let server = fixture().under(&["sh", "-c", "exec \"$@\" 9</dev/zero", "sh"]).start();
    assert_eq!(fs::read_link(format!("/proc/{}/fd/9", server.pid())).expect("its descriptor"), Path::new("/dev/zero"));
    for (pid, title) in server.processes().into_iter().filter(|&(pid, _)| pid != server.pid()) {
        let open: Vec<String> = descriptors(pid).into_iter().map(|descriptor| descriptor.target).collect();
        assert!(!open.iter().any(|target| target == "/dev/zero"), "{title}: {open:?}");
    }
    server.stop();
}

#[test]
fn what_the_application_opens_before_main_is_its_own_to_use() {
    let server = fixture().variable("FIXTURE", "early").start();
    assert_eq!(get(server.address(), "/").expect("an answer").status, 200);
    server.stop();
}

/// One open descriptor of a process.
struct Descriptor {
    number: u32,
    target: String,
    flags: u32,
}

/// Waits until a process has exactly these, and all that it opened itself closed on exec.
fn expect(pid: u32, role: &str, expected: &Kinds) {
    let deadline = Instant::now() + CLOSING;
    let inherited = inherited();
    loop {
        let mut seen = Kinds::new();
        let mut open_across_exec = Vec::new();
        for descriptor in descriptors(pid) {
            if inherited.contains(&(descriptor.number, descriptor.target.clone())) {
                continue;
            }
            if descriptor.number > 2 && descriptor.flags & CLOEXEC == 0 {
                open_across_exec.push(descriptor.target.clone());
            }
            *seen.entry(kind(&descriptor.target)).or_default() += 1;
        }
        if seen == *expected && open_across_exec.is_empty() {
            return;
        }
        let late = Instant::now() > deadline;
        assert!(!late, "{role} {pid} has {seen:?}\nexpected {expected:?}\nopen across exec {open_across_exec:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn descriptors(pid: u32) -> Vec<Descriptor> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).expect("a living process");
    let read = |entry: fs::DirEntry| {
        let number: u32 = entry.file_name().to_str()?.parse().ok()?;
        // Closed in between is none.
        let target = fs::read_link(entry.path()).ok()?.display().to_string();
        let info = fs::read_to_string(format!("/proc/{pid}/fdinfo/{number}")).ok()?;
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:"))?.trim().to_owned();
        Some(Descriptor { number, target, flags: u32::from_str_radix(&flags, 8).ok()? })
    };
    entries.filter_map(|entry| read(entry.ok()?)).collect()
}

/// What the tests were started with themselves, and pass on to all they start.
fn inherited() -> Vec<(u32, String)> {
    let own = descriptors(std::process::id()).into_iter();
    own.filter(|own| own.number > 2 && own.flags & CLOEXEC == 0).map(|own| (own.number, own.target)).collect()
}

/// What a descriptor is: the name of a file, or what kind of object of the kernel.
fn kind(target: &str) -> String {
    if target == "/dev/null" {
        return "null".to_owned();
    }
    if let Some(inode) = target.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']')) {
        return socket_kind(inode);
    }
    if target.starts_with("pipe:") {
        return "pipe".to_owned();
    }
    let name = target.strip_prefix("anon_inode:").unwrap_or(target).trim_end_matches(" (deleted)");
    match name.rsplit('/').next().unwrap_or(name).trim_matches(['[', ']']) {
        // Which of them there is depends on the machine.
        "memory.events" | "memory.oom_control" | "vmstat" => "count of kills for memory".to_owned(),
        name => name.to_owned(),
    }
}

/// A socket by its inode, in the tables of proc_pid_net(5).
fn socket_kind(inode: &str) -> String {
    let unix = fs::read_to_string("/proc/net/unix").expect("a table");
    for line in unix.lines() {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        if fields.get(6) == Some(&inode) {
            let name = fields.get(7).map_or("unix", |path| path.rsplit('/').next().unwrap_or(path));
            // __SO_ACCEPTCON of the kernel.
            let listens = fields[3] == "00010000";
            return if listens { format!("listening {name}") } else { name.to_owned() };
        }
    }
    let tcp = fs::read_to_string("/proc/net/tcp").expect("a table");
    for line in tcp.lines() {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        if fields.get(9) == Some(&inode) {
            return if fields[3] == "0A" { "listening tcp".to_owned() } else { "tcp".to_owned() };
        }
    }
    "another socket".to_owned()
}

// ---- shared memory ----------------------------------------------------------------------------

#[test]
fn shared_memory_can_be_cut_or_changed_by_nobody_not_even_root() {
    let server = fixture().configuration("workers = 2 # for all to see\n").start();
    let open = |name: &str| {
        let found = descriptors(server.pid()).into_iter().find(|descriptor| kind(&descriptor.target) == name);
        let path = format!("/proc/{}/fd/{}", server.pid(), found.expect("the master has it").number);
        OpenOptions::new().read(true).write(true).open(path).expect("open it anew")
    };
    for name in ["memfd:scoreboard", "memfd:configuration", "memfd:log ring", "memfd:log ledger", "memfd:log target"] {
        let memory = open(name);
        let before = memory.metadata().expect("its metadata");
        assert_eq!(before.mode() & 0o777, 0o600, "{name}");
        for len in [0, before.len() - 1, before.len() + 4096] {
            let refused = memory.set_len(len).expect_err("sealed");
            assert_eq!(refused.kind(), ErrorKind::PermissionDenied, "{name}: {len}");
        }
        assert_eq!(memory.metadata().expect("its metadata").len(), before.len());
    }
    let refused = open("memfd:configuration").write(b"w").expect_err("sealed");
    assert_eq!(refused.kind(), ErrorKind::PermissionDenied);
    assert_eq!(get(server.address(), "/").expect("an answer").status, 200);
    server.stop();
}

// ---- random numbers ---------------------------------------------------------------------------

#[test]
fn random_numbers_differ_in_all_workers_and_what_preload_drew_is_the_same() {
    let server = fixture().workers(4).start();
    let mut draws = Draws::default();
    let first = server.workers();
    draws.collect(&server, &first);
    // The replacement is forked from the same zygote, and would draw what the first one drew.
    server.signal(first[0], SIGKILL);
    server.wait_until("a new worker", |status| status["workers"][0]["restarts"] == 1 && status["state"] == "serving");
    let second = server.workers();
    assert_ne!(first[0], second[0]);
    draws.collect(&server, &second);
    assert_eq!(draws.preloaded.len(), 1, "one draw for all: {:?}", draws.preloaded);
    server.stop();
}

/// Everything that workers have drawn: a copied generator would repeat its first draws.
#[derive(Default)]
struct Draws {
    seen: BTreeSet<u64>,
    preloaded: BTreeSet<u64>,
}

impl Draws {
    /// Lets all of these workers draw at least once.
    fn collect(&mut self, server: &Server, workers: &[u32]) {
        let address = server.address();
        let mut drawn = BTreeSet::new();
        server.wait_for("draws of all workers", || {
            let answer = get(address, "/random").expect("an answer").body;
            let numbers: Vec<u64> = answer.split(' ').map(|word| word.parse().expect("a number")).collect();
            let [pid, preloaded, draws @ ..] = &numbers[..] else { panic!("{answer}") };
            self.preloaded.insert(*preloaded);
            assert_eq!(draws.len(), 3, "rand, fastrand, RandomState");
            for draw in draws {
                assert!(self.seen.insert(*draw), "{draw} was drawn twice");
            }
            drawn.insert(u32::try_from(*pid).expect("a pid"));
            workers.iter().all(|worker| drawn.contains(worker)).then_some(())
        });
    }
}

// ---- preload ----------------------------------------------------------------------------------

#[test]
fn what_preload_may_not_leave_behind_fails_the_start_by_name() {
    let table: [(&str, &[&str]); 3] = [
        ("socket", &["preload left descriptor ", " (socket:[", "]) open", "open it in http"]),
        ("thread", &["preload left threads behind that no worker would have: preload"]),
        ("refuse-preload", &["the table is missing"]),
    ];
    for (fault, words) in table {
        let mut server = fixture().variable("FIXTURE", fault).launch();
        assert_eq!(server.wait().code(), Some(1), "{fault}");
        let log = server.log();
        let reason = log.lines().find(|line| line.starts_with("fixture: fixture did not start: "));
        let reason = reason.unwrap_or_else(|| panic!("{fault}: no reason at the end of the log"));
        for word in words {
            assert!(reason.contains(word), "{fault}: {reason}");
        }
        server.wait_for("the end of all processes", || {
            (server.processes().is_empty() && server.zombies().is_empty()).then_some(())
        });
    }
}

// ---- titles -----------------------------------------------------------------------------------

/// The command lines of a server's processes as ps(1) gets them, without the closing NUL.
fn titles(server: &Server) -> BTreeSet<String> {
    server.processes().into_iter().map(|(pid, _)| title(pid)).collect()
}

fn title(pid: u32) -> String {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).expect("a living process");
    let text = bytes.strip_suffix(b"\0").unwrap_or(&bytes);
    String::from_utf8(text.to_vec()).expect("text")
}

fn expected_titles(workers: usize) -> BTreeSet<String> {
    let others = ["master", "helper log", "zygote generation 1"].map(str::to_owned);
    let workers = (0..workers).map(|slot| format!("worker {slot} generation 1"));
    others.into_iter().chain(workers).map(|role| format!("fixture: {role}")).collect()
}

#[test]
fn titles_are_exact_however_the_program_was_started() {
    let plain = fixture();
    let large_environment = fixture().variable("FILLER", "x".repeat(100_000));
    let many_arguments = (0..60).fold(fixture(), |builder, _| builder.argument("--listen=127.0.0.1:0"));
    let no_environment = fixture().under(&["env", "-i"]);
    for builder in [plain, large_environment, many_arguments, no_environment] {
        let server = builder.workers(3).start();
        assert_eq!(titles(&server), expected_titles(3));
        server.stop();
    }
}

#[test]
fn a_name_alone_starts_it_with_exact_titles_and_the_defaults() {
    let unshare = |words: &[&str]| {
        let mut command = Command::new("unshare");
        command.arg("--mount").args(words).stdin(Stdio::null());
        command
    };
    if !unshare(&["true"]).status().is_ok_and(|status| status.success()) {
        return println!("SKIPPED: a mount namespace takes root");
    }
    let scratch = tempfile::tempdir().expect("a directory");
    let configuration = scratch.path().join("fixture.toml");
    fs::write(&configuration, "listen = \"127.0.0.1:0\"\nworkers = 1\n").expect("write");
    let log = fs::File::create(scratch.path().join("log")).expect("make the log file");
    let line = "mount -t tmpfs none /run && mount -t tmpfs none /etc && cp \"$1\" /etc && exec -a f \"$2\"";
    let mut command = unshare(&["bash", "-c", line, "bash"]);
    command.arg(&configuration).arg(example("fixture")).env_remove("RUST_LOG");
    command.stdout(log.try_clone().expect("share the log file")).stderr(log).process_group(0);
    let mut started = Started(command.spawn().expect("unshare(1) starts"));
    let pid = started.0.id();
    let log = || fs::read_to_string(scratch.path().join("log")).unwrap_or_default();
    let deadline = Instant::now() + Duration::from_secs(20);
    while !log().contains("serving on ") {
        assert!(Instant::now() < deadline, "it does not serve: {}", log());
        std::thread::sleep(Duration::from_millis(5));
    }
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).expect("a living master");
    let pids = children.split_ascii_whitespace().map(|pid| pid.parse().expect("a pid")).chain([pid]);
    assert_eq!(pids.map(title).collect::<BTreeSet<_>>(), expected_titles(1));
    // Its run directory is in its own /run.
    let run_dir = format!("/proc/{pid}/root{}", "/run/fixture");
    let stop = Command::new(example("fixture")).args(["stop", "--run-dir", &run_dir]).output();
    assert!(stop.expect("the program starts").status.success(), "{}", log());
    assert!(started.0.wait().expect("wait").success(), "{}", log());
}

/// A process group that ends with the test.
struct Started(std::process::Child);

impl Drop for Started {
    fn drop(&mut self) {
        let _ = killpg(Pid::from_raw(self.0.id().cast_signed()), Signal::SIGKILL);
        let _ = self.0.wait();
    }
}

/// Where the kernel refuses CLONE_PARENT: the workers are the master's children all the same.
#[test]
fn where_siblings_cannot_be_cloned_a_double_fork_makes_them() {
    let server = fixture().variable("FOREBAY_FAULT_NO_CLONE_PARENT", "1").start();
    server.signal(server.workers()[0], SIGKILL);
    server.wait_until("a new worker", |status| status["workers"][0]["restarts"] == 1 && status["state"] == "serving");
    for pid in server.workers() {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("its status");
        let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")).expect("its parent").trim();
        assert_eq!(parent, server.pid().to_string());
    }
    assert_eq!(server.zombies(), [0_u32; 0]);
    server.stop();
}
