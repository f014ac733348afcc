//! The system gives no more processes, or no more descriptors: who feels it, and for how long.

use std::fs::{self, Permissions};
use std::io::Read;
use std::net::Shutdown;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use forebay::testing::{Builder, Server};
use nix::libc::SIGKILL;
use nix::sys::resource::{Resource, getrlimit};
use serde_json::Value;
use tempfile::TempDir;

use crate::client::{copy_program, example, get};
use crate::reload::{SHORT, begin_reload, commit, configure, is_alone, reload, said};
use crate::traffic::IDLE;
use crate::trial::{Gone, Trial};

/// The limit that nobody has reached in these tests.
fn usual(resource: Resource) -> u64 {
    getrlimit(resource).expect("limits can be read").0
}

/// Sets the soft limit of another process, as its own user: root may need a capability for others.
fn limit(pid: u32, resource: &str, soft: u64) {
    let process = fs::metadata(format!("/proc/{pid}")).expect("the process lives");
    let mut command = Command::new("prlimit");
    if nix::unistd::geteuid().is_root() {
        command.uid(process.uid()).gid(process.gid());
    }
    command.args(["--pid", &pid.to_string(), &format!("--{resource}={soft}:")]);
    assert!(command.status().expect("prlimit(1) is there").success());
}

/// A program as a user who has no other process, because the kernel counts by user and does not
/// count root's. `None`, and a line that says so, where that cannot be.
fn by_a_user_of_its_own(program: PathBuf, number: u32) -> Option<(Builder, TempDir)> {
    if !nix::unistd::geteuid().is_root() {
        println!("SKIPPED: changing the user takes root");
        return None;
    }
    let uid = 500_000 + std::process::id() % 100_000 * 10 + number;
    // Whoever that is may not be able to enter the directory where this was built.
    let everyone = Permissions::from_mode(0o755);
    let scratch = tempfile::Builder::new().permissions(everyone.clone()).tempdir().expect("a directory");
    let copy = scratch.path().join(program.file_name().expect("a program's name"));
    copy_program(&program, &copy);
    fs::set_permissions(&copy, everyone).expect("let everyone run it");
    let tried = Command::new(&copy).arg("--version").uid(uid).gid(uid).stdout(Stdio::null()).status();
    if !tried.is_ok_and(|status| status.success()) {
        println!("SKIPPED: uid {uid} cannot run programs in {}", scratch.path().display());
        return None;
    }
    Some((Server::of(copy).user(uid), scratch))
}

fn count(server: &Server, text: &str) -> usize {
    server.log().lines().filter(|line| line.contains(text)).count()
}

/// Fields 14 and 15 of /proc/PID/stat, proc_pid_stat(5): what all threads of a process have used.
fn cpu_time(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process lives");
    let fields: Vec<&str> = stat.rsplit_once(')').expect("a name").1.split_ascii_whitespace().collect();
    let ticks: u64 = fields[11..13].iter().map(|field| field.parse::<u64>().expect("a number")).sum();
    Duration::from_millis(ticks * 10)
}

fn control(server: &Server) -> UnixStream {
    UnixStream::connect(server.run_dir().join("control.sock")).expect("the master listens")
}

/// Returns when the master has closed what others, who are gone, had opened to it.
fn forget_earlier_connections(server: &Server) {
    let mut last = control(server);
    last.shutdown(Shutdown::Write).expect("the connection is open");
    assert_eq!(last.read(&mut [0; 1]).expect("its end"), 0);
}

/// The numbers of its open descriptors.
fn descriptors(pid: u32) -> Vec<u64> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).expect("the process lives");
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect()
}

#[test]
fn without_processes_the_start_fails_and_says_for_whom() {
    for (processes, who) in [(1, "helper log"), (2, "zygote generation 1"), (3, "helper simulator generation 1")] {
        let Some((builder, _scratch)) = by_a_user_of_its_own(env!("CARGO_BIN_EXE_forebay").into(), processes) else {
            return;
        };
        let bound = format!("--nproc={processes}:{processes}");
        let asked = Instant::now();
        let mut server = builder.workers(1).under(&["prlimit", &bound]).launch();
        assert_eq!(server.wait().code(), Some(71));
        println!("gave up after {} ms", asked.elapsed().as_millis());
        let reason = format!("forebay: cannot start {who}: Resource temporarily unavailable (os error 11)");
        assert_eq!(server.log().lines().last(), Some(&*reason));
        assert!(!server.log().contains("serving on"));
        assert!(server.processes().is_empty());
    }
}

#[test]
fn a_worker_that_cannot_be_forked_comes_as_soon_as_it_can() {
    let Some((builder, _scratch)) = by_a_user_of_its_own(example("fixture"), 4) else { return };
    let trial = Trial::begin(builder.start());
    let server = &trial.server;
    let (address, zygote, workers) = (server.address(), server.helper("zygote"), server.workers());
    limit(zygote, "nproc", 1);
    let from = Instant::now();
    server.signal(workers[0], SIGKILL);
    let refused =
        "worker 0 generation 1: cannot start: Resource temporarily unavailable (os error 11); trying again in ";
    server.wait_for("some tries", || (count(server, refused) > 1).then_some(()));
    let status = server.status();
    let worker = &status["workers"][0];
    assert_eq!(
        (&status["state"], &worker["state"], &worker["pid"]),
        (&"degraded".into(), &"waiting".into(), &Value::Null)
    );
    assert_eq!(worker["last_exit"], "killed by SIGKILL");
    trial.go_on(2);
    assert_eq!(get(address, "/sleep/0").expect("an answer").body, workers[1].to_string());
    // A bounded look: it is tried several times a second, and not said so each time.
    let before = count(server, refused);
    std::thread::sleep(Duration::from_secs(2));
    let lines = count(server, refused) - before;
    assert!(lines <= 1, "{lines} lines in 2 s");
    limit(zygote, "nproc", usual(Resource::RLIMIT_NPROC));
    let relieved = Instant::now();
    // By the log: a question to the master would be an event.
    server.wait_for("the worker", || (count(server, "] worker 0 generation 1 pid ") == 3).then_some(()));
    let took = relieved.elapsed();
    println!("refilled {} ms after the relief", took.as_millis());
    assert!(took < Duration::from_secs(5), "{} ms", took.as_millis());
    server.wait_until("serving", |status| status["state"] == "serving");
    assert_eq!(server.workers()[1], workers[1]);
    let aftermath = trial.calm();
    aftermath.assert_lost_with(&[Gone { pid: workers[0], from, until: Instant::now() }]);
    aftermath.stop();
}

#[test]
fn a_reload_that_cannot_fork_leaves_all_as_it_was_and_works_after_the_relief() {
    let Some((builder, _scratch)) = by_a_user_of_its_own(example("fixture"), 7) else { return };
    let trial = Trial::begin(builder.configuration("[timeouts]\nstable = 0\n").start());
    let server = &trial.server;
    let workers = server.workers();
    limit(server.pid(), "nproc", 1);
    let output = server.command(&["reload"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("generation 2: ") && said.contains("Resource temporarily unavailable"), "{said}");
    assert_eq!(server.wait_until("serving", |status| status["state"] == "serving")["generation"], 1);
    assert_eq!(server.workers(), workers);
    limit(server.pid(), "nproc", usual(Resource::RLIMIT_NPROC));
    assert_eq!(server.command(&["reload"]).status.code(), Some(0));
    server.wait_until("one generation", is_alone);
    let aftermath = trial.calm();
    aftermath.assert_nothing_lost();
    aftermath.stop();
}

#[test]
fn a_worker_that_is_refused_its_thread_counts_as_not_born() {
    let Some((builder, _scratch)) = by_a_user_of_its_own(example("fixture"), 4) else { return };
    let server = builder.start();
    // Master, log helper, zygote, and the other worker's two: room for a process without a thread.
    limit(server.helper("zygote"), "nproc", 6);
    server.signal(server.workers()[0], SIGKILL);
    server.wait_for_log("worker 0 generation 1: cannot start: the system refuses it a thread; trying again in ");
    limit(server.helper("zygote"), "nproc", usual(Resource::RLIMIT_NPROC));
    let status = server.wait_until("serving", |status| status["state"] == "serving");
    assert_eq!(status["workers"][0]["last_exit"], "killed by SIGKILL", "the refusals are no deaths");
    server.stop();
}

#[test]
fn a_worker_without_descriptors_waits_for_some() {
    let server = Server::of(example("fixture")).workers(1).start();
    let (address, worker) = (server.address(), server.workers()[0]);
    limit(worker, "nofile", 3);
    let client = |_| std::thread::spawn(move || get(address, "/"));
    let clients: Vec<_> = (0..8).map(client).collect();
    let line = "worker 0 generation 1] cannot accept: Too many open files (os error 24); trying again every 100 ms";
    server.wait_for("the reason in the log", || (count(&server, line) > 0).then_some(()));
    // A bounded look at what does not happen: it does not spin, does not end, does not repeat itself.
    let before = cpu_time(worker);
    std::thread::sleep(Duration::from_secs(1));
    let used = cpu_time(worker) - before;
    println!("{} ms of processor time in 1 s without descriptors", used.as_millis());
    assert!(used < Duration::from_millis(100), "{} ms in 1 s", used.as_millis());
    assert_eq!(server.workers(), [worker]);
    assert_eq!(count(&server, "Too many open files"), 1);
    limit(worker, "nofile", usual(Resource::RLIMIT_NOFILE));
    for client in clients {
        let answer = client.join().expect("a client does not panic").expect("it only had to wait");
        assert_eq!(answer.body, format!("0 {worker}"));
    }
    server.stop();
}

#[test]
fn a_worker_without_descriptors_leaves_the_queue_to_others_and_nothing_is_lost() {
    let trial = Trial::begin(Server::of(example("fixture")).start());
    let server = &trial.server;
    let workers = server.workers();
    limit(workers[0], "nofile", 3);
    let line = "worker 0 generation 1] cannot accept: Too many open files (os error 24); trying again every 100 ms";
    server.wait_for("the reason in the log", || (count(server, line) > 0).then_some(()));
    // Until it has lost its connections to the other one: each is used a few times only.
    trial.go_on(5 * IDLE.connections as u64);
    let before = cpu_time(workers[0]);
    // A bounded look at what does not happen: it does not spin, does not end, does not repeat itself.
    std::thread::sleep(Duration::from_secs(1));
    let used = cpu_time(workers[0]) - before;
    println!("{} ms of processor time in 1 s without descriptors", used.as_millis());
    assert!(used < Duration::from_millis(200), "{} ms in 1 s", used.as_millis());
    assert_eq!(server.workers(), workers);
    assert_eq!(count(server, "Too many open files"), 1);
    limit(workers[0], "nofile", usual(Resource::RLIMIT_NOFILE));
    server.wait_for("an answer of it", || {
        get(server.address(), "/").expect("an answer").body.starts_with("0 ").then_some(())
    });
    let aftermath = trial.calm();
    aftermath.assert_nothing_lost();
    aftermath.stop();
}

#[test]
fn a_master_without_descriptors_answers_and_refills_later() {
    let trial = Trial::begin(Server::of(example("fixture")).start());
    let server = &trial.server;
    let (master, workers) = (server.pid(), server.workers());
    forget_earlier_connections(server);
    let taken = descriptors(master);
    limit(master, "nofile", (0..).find(|number| !taken.contains(number)).expect("one is free"));
    for _ in 0..5 {
        assert_eq!(server.status()["state"], "serving");
    }
    forget_earlier_connections(server);
    let from = Instant::now();
    server.signal(workers[0], SIGKILL);
    server.wait_for_log("worker 0 generation 1: cannot start: Too many open files (os error 24); trying again in ");
    for _ in 0..5 {
        let status = server.status();
        // Now and then the dead one's descriptor and one of the reserve are enough for the next.
        assert!(status["state"] == "degraded" || status["state"] == "serving");
        assert!(status["workers"][1]["rss_bytes"].as_u64() > Some(0), "there are descriptors for /proc too");
    }
    limit(master, "nofile", usual(Resource::RLIMIT_NOFILE));
    let relieved = Instant::now();
    // Of the reserve it may have been made before the relief.
    server.wait_for("the worker", || (count(server, "] worker 0 generation 1 pid ") >= 3).then_some(()));
    println!("refilled {} ms after the relief", relieved.elapsed().as_millis());
    assert!(relieved.elapsed() < Duration::from_secs(5));
    server.wait_until("serving", |status| status["state"] == "serving");
    assert_eq!(server.workers()[1], workers[1]);
    let aftermath = trial.calm();
    aftermath.assert_lost_with(&[Gone { pid: workers[0], from, until: Instant::now() }]);
    aftermath.stop();
}

/// Leaves the master so many free numbers for descriptors.
fn leave_descriptors(master: u32, free: usize) {
    let taken = descriptors(master);
    let first = (0..).filter(|number| !taken.contains(number)).nth(free);
    limit(master, "nofile", first.expect("numbers have no end"));
}

#[test]
fn a_reload_that_lacks_a_descriptor_at_whatever_step_leaves_all_as_it_was() {
    let server = Server::of(example("fixture")).configuration("[timeouts]\nstable = 0\n").start();
    forget_earlier_connections(&server);
    let (master, before) = (server.pid(), descriptors(server.pid()).len());
    let is_alone = |status: &Value| status["state"] == "serving" && is_alone(status);
    // With more and more of them it comes further and further, and with enough of them to its end.
    for free in 0.. {
        let workers = server.workers();
        forget_earlier_connections(&server);
        leave_descriptors(master, free);
        let output = reload(&server);
        let status = server.wait_until("one generation that serves", is_alone);
        assert!(status["workers"][1]["rss_bytes"].as_u64() > Some(0), "there are descriptors for /proc too");
        assert_eq!(get(server.address(), "/").expect("an answer").status, 200);
        limit(master, "nofile", usual(Resource::RLIMIT_NOFILE));
        forget_earlier_connections(&server);
        if output.status.success() {
            // Who found no descriptor for memory to log into logs over the socket; the next ones have it again.
            assert!(reload(&server).status.success());
        }
        // The memory that the ended have logged into is closed when the log helper has taken all of it.
        let what = format!("as many descriptors as before, {free}: {}", said(&output));
        server.wait_for(&what, || (descriptors(master).len() == before).then_some(()));
        if output.status.success() {
            println!("{free} descriptors are enough");
            break;
        }
        assert_eq!(output.status.code(), Some(1), "{free}: {}", said(&output));
        assert!(said(&output).to_lowercase().contains("too many open files"), "{free}: {}", said(&output));
        assert_eq!(server.workers(), workers, "{free}: {}", said(&output));
    }
    commit(&server);
    server.wait_until("one generation", is_alone);
    forget_earlier_connections(&server);
    assert_eq!(descriptors(master).len(), before);
    server.stop();
}

#[test]
fn whoever_waits_for_a_reload_takes_nobody_the_last_descriptor() {
    let server = Server::of(example("fixture")).configuration("[timeouts]\nstable = 3\n").start();
    forget_earlier_connections(&server);
    let (master, before, workers) = (server.pid(), descriptors(server.pid()).len(), server.workers());
    let ask = || begin_reload(&server);
    let first = ask();
    server.wait_for_log("reload 1 generation 2: new workers accept");
    forget_earlier_connections(&server);
    leave_descriptors(master, 0);
    // More than there are in reserve, and while they ask and after it there is room for a question.
    let others: Vec<_> = (0..5).map(|_| ask()).collect();
    let is_over = || server.log().contains("reload 1 generation 2: committed");
    let mut answers = 0;
    while !is_over() {
        let status = server.status();
        let serving = status["workers"].as_array().expect("workers").iter().filter(|one| one["state"] == "serving");
        let serving: Vec<u64> = serving.filter_map(|one| one["pid"].as_u64()).collect();
        // The line in the log may come after the answer that knows of the commit.
        let is_committed = status["reloads_finished"] != 0;
        assert!(is_committed || workers.iter().all(|&pid| serving.contains(&pid.into())), "{status}");
        answers += 1;
    }
    println!("{answers} answers");
    assert!(answers > 10, "{answers} answers");
    let first = first.wait_with_output().expect("its end");
    assert_eq!(first.status.code(), Some(0), "{}", said(&first));
    for other in others {
        let output = other.wait_with_output().expect("its end");
        assert_eq!(output.status.code(), Some(1), "{}", said(&output));
        assert!(said(&output).contains("too many open files: nobody can wait"), "{}", said(&output));
    }
    // Who says nothing makes room.
    let silent: Vec<UnixStream> = (0..3).map(|_| control(&server)).collect();
    assert_eq!(server.status()["generation"], 2);
    drop(silent);
    limit(master, "nofile", usual(Resource::RLIMIT_NOFILE));
    configure(&server, SHORT);
    commit(&server);
    server.wait_until("one generation", is_alone);
    forget_earlier_connections(&server);
    assert_eq!(descriptors(master).len(), before);
    server.stop();
}
