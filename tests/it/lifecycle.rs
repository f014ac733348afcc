//! Start, stop, and signals.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Barrier;
use std::time::{Duration, Instant};

use forebay::testing::{Builder, Server};
use nix::libc::{SIGHUP, SIGINT, SIGKILL, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
use serde_json::Value;

use crate::client::{copy_program, example, get};
use crate::held::Held;
use crate::load::Load;

/// What "at once" may take on a busy machine; every limit of the daemon's own is longer.
const AT_ONCE: Duration = Duration::from_secs(5);

fn fixture() -> Builder {
    Server::of(example("fixture"))
}

/// How many lines of the log hold this.
fn count(server: &Server, text: &str) -> usize {
    server.log().lines().filter(|line| line.contains(text)).count()
}

/// Waits until no process of the server is left.
fn wait_for_nobody(server: &Server) {
    server.wait_for("the end of all processes", || {
        (server.processes().is_empty() && server.zombies().is_empty()).then_some(())
    });
}

/// A command of the program that talks to no server of a test.
fn run(words: &[&str]) -> Output {
    Command::new(example("fixture")).args(words).stdin(Stdio::null()).output().expect("the program starts")
}

fn complaint(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// A process that is there and has not ended: not a zombie.
fn is_alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

// ---- stop -------------------------------------------------------------------------------------

#[test]
fn term_finishes_the_request_in_flight_and_its_last_word_is_in_the_log() {
    let mut server = fixture().start();
    let held = Held::start(&server, "release");
    server.signal(server.pid(), SIGTERM);
    server.wait_for_log("stopping: finishing open requests");
    // The idle worker is gone and the busy one is not: the stop has got as far as it can.
    server.wait_for_log(": exited with 0\n");
    assert!(!held.is_answered() && server.ended().is_none(), "one waits for the other");
    let worker = held.let_go();
    assert!(server.wait().success());
    wait_for_nobody(&server);
    assert_eq!(count(&server, "] let go by "), 1, "what a worker logs while it drains");
    assert_eq!(count(&server, &format!(" pid {worker}: exited with 0")), 1);
    assert_eq!(count(&server, "panicked"), 0);
}

#[test]
fn stop_under_load_loses_no_line_of_any_worker() {
    let mut server = fixture().workers(4).start();
    let address = server.address();
    let clients: Vec<_> = (0..8).map(|_| std::thread::spawn(move || get(address, "/log/2000"))).collect();
    server.wait_for_log("] record 1999");
    server.signal(server.pid(), SIGTERM);
    assert!(server.wait().success());
    let answered = clients.into_iter().filter_map(|client| client.join().expect("no panic").ok()).count();
    assert!(answered > 0);
    // A request that was refused because the server was gone by then has logged nothing.
    let mut lines: BTreeMap<String, Vec<u32>> = BTreeMap::new();
    for line in server.log().lines().filter(|line| line.contains(" fixture worker ")) {
        let (head, number) = line.rsplit_once("] record ").expect("its shape");
        let worker = head.rsplit_once(" fixture ").expect("its origin").1;
        lines.entry(worker.to_owned()).or_default().push(number.parse().expect("a number"));
    }
    let written: usize = lines.values().map(Vec::len).sum();
    assert!(written >= answered * 2000, "{written} lines of {answered} requests");
    for (worker, numbers) in lines {
        let whole: Vec<u32> = (0..2000).cycle().take(numbers.len()).collect();
        assert!(numbers == whole && numbers.len() % 2000 == 0, "{worker}: {} lines", numbers.len());
    }
    wait_for_nobody(&server);
}

#[test]
fn a_second_term_stops_at_once() {
    let mut server = fixture().start();
    let held = Held::start(&server, "never");
    server.signal(server.pid(), SIGTERM);
    server.wait_for_log("stopping: finishing open requests");
    assert!(!held.is_answered());
    let asked = Instant::now();
    server.signal(server.pid(), SIGTERM);
    assert!(server.wait().success());
    assert!(asked.elapsed() < AT_ONCE, "{} ms", asked.elapsed().as_millis());
    assert_eq!(count(&server, "] stopping at once"), 1);
    wait_for_nobody(&server);
}

#[test]
fn quit_stops_at_once() {
    let mut server = fixture().start();
    let held = Held::start(&server, "never");
    let asked = Instant::now();
    server.signal(server.pid(), SIGQUIT);
    assert!(server.wait().success());
    assert!(asked.elapsed() < AT_ONCE, "{} ms", asked.elapsed().as_millis());
    assert!(!held.is_answered() || count(&server, "] let go by ") == 0);
    assert_eq!(count(&server, "] stopping at once"), 1);
    wait_for_nobody(&server);
}

#[test]
fn the_stop_command_returns_when_the_master_is_gone_and_not_before() {
    let mut server = fixture().start();
    let held = Held::start(&server, "release");
    let (program, run_dir) = (example("fixture"), server.run_dir().to_owned());
    let pid = server.pid();
    let stop = std::thread::spawn(move || {
        let output = Command::new(program).arg("stop").arg("--run-dir").arg(run_dir).output();
        (output.expect("the program starts"), is_alive(pid))
    });
    server.wait_for_log(": exited with 0\n");
    assert!(!stop.is_finished(), "a request is in flight");
    held.let_go();
    let (output, alive) = stop.join().expect("no panic");
    assert!(output.status.success(), "{}", complaint(&output));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "fixture: stopped\n");
    assert!(!alive, "the master is gone");
    assert!(server.wait().success());
    wait_for_nobody(&server);
    assert!(!server.run_dir().join("control.sock").exists(), "nobody answers there any more");
}

#[test]
fn ctrl_c_in_a_terminal_is_one_graceful_stop() {
    let mut server = fixture().start();
    let held = Held::start(&server, "release");
    server.signal_all(SIGINT);
    server.wait_for_log(": exited with 0\n");
    assert!(!held.is_answered() && server.ended().is_none());
    held.let_go();
    assert!(server.wait().success());
    wait_for_nobody(&server);
    assert_eq!(count(&server, "] stopping"), 1, "one stop, and a graceful one");
    assert_eq!(count(&server, "restarting"), 0);
}

#[test]
fn term_before_the_first_worker_is_ready_is_a_clean_stop() {
    for fault in ["never", "endless-preload"] {
        let mut server = fixture().variable("FIXTURE", fault).launch();
        server.wait_until("all that can be there", |status| {
            let booting = |process: &Value| process["state"] == "booting";
            let workers = status["workers"].as_array().is_some_and(|workers| workers.iter().all(booting));
            let zygote = status["helpers"].as_array().is_some_and(|helpers| helpers.iter().any(booting));
            if fault == "never" { workers } else { zygote }
        });
        server.signal(server.pid(), SIGTERM);
        assert!(server.wait().success(), "{fault}");
        wait_for_nobody(&server);
        assert_eq!(count(&server, "panicked"), 0);
    }
}

// ---- signals ----------------------------------------------------------------------------------

#[test]
fn signals_to_the_whole_group_are_answered_once_by_the_master_and_disturb_nobody() {
    let server = fixture().start();
    let load = Load::start(server.address(), "/", 4);
    let mut before = server.processes();
    before.sort_unstable();
    let table = [(SIGUSR1, "SIGUSR1"), (SIGUSR2, "SIGUSR2")];
    for (signal, name) in table {
        // As `pkill` does: one after the other.
        for (pid, _) in &before {
            server.signal(*pid, signal);
        }
        server.wait_for_log(&format!(" forebay] {name}: "));
    }
    for (signal, name) in table {
        // As a terminal does.
        server.signal_all(signal);
        server.wait_for(&format!("a second {name}"), || (count(&server, &format!("] {name}: ")) == 2).then_some(()));
    }
    let mut after = server.processes();
    after.sort_unstable();
    assert_eq!(before, after);
    // `pkill -HUP` is one reload: the master's.
    for (pid, _) in &before {
        server.signal(*pid, SIGHUP);
    }
    server.wait_for_log("reload 1 generation 2: committed");
    server.signal_all(SIGHUP);
    server.wait_for_log("reload 2 generation 3: committed");
    for tally in load.finish() {
        assert!(tally.lost.is_empty() && tally.answered > 0, "{tally:?}");
    }
    for (_, name) in table {
        assert_eq!(count(&server, &format!("] {name}: ")), 2, "{name}: one line each time");
    }
    assert_eq!(count(&server, ": begun"), 2);
    server.stop();
}

#[test]
fn term_to_one_worker_drains_and_replaces_it_and_nobody_else_notices() {
    let server = fixture().workers(3).start();
    let held = Held::start(&server, "release");
    let before = server.workers();
    let busy =
        server.status()["workers"].as_array().expect("workers").iter().position(|worker| worker["connections"] == 1);
    let slot = busy.expect("someone has the request");
    let load = Load::start(server.address(), "/", 4);
    server.signal(before[slot], SIGTERM);
    server.wait_for_log("SIGTERM: draining");
    assert!(!held.is_answered());
    assert_eq!(held.let_go(), before[slot], "it finishes what it has");
    let status = server.wait_until("a new worker", |status| {
        status["workers"][slot]["restarts"] == 1 && status["workers"][slot]["state"] == "serving"
    });
    assert_eq!(status["workers"][slot]["last_exit"], "exited with 0");
    let after = server.workers();
    for other in 0..3 {
        assert_eq!(after[other] == before[other], other != slot, "slot {other}");
    }
    for tally in load.finish() {
        assert!(tally.lost.is_empty() && tally.answered > 0, "{tally:?}");
    }
    server.stop();
}

#[test]
fn a_connection_taken_before_the_drain_has_its_first_request_answered() {
    let server = fixture().workers(1).start();
    let mut stream = TcpStream::connect(server.address()).expect("connect");
    server.wait_until("the worker has taken it", |status| status["workers"][0]["connections"] == 1);
    let _silent = TcpStream::connect(server.address()).expect("connect");
    server.wait_until("the worker has taken it", |status| status["workers"][0]["connections"] == 2);
    server.signal(server.workers()[0], SIGTERM);
    server.wait_for_log("SIGTERM: draining");
    stream.write_all(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n").expect("write");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer and the end");
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(answer.contains("connection: close\r\n"), "{answer}");
    server.wait_until("who says nothing holds nobody up beyond the limit", |status| {
        status["workers"][0]["restarts"] == 1
    });
    server.stop();
}

#[test]
fn every_process_is_found_by_the_name_of_the_program() {
    let server = fixture().start();
    let names: BTreeMap<u32, String> = server
        .processes()
        .into_iter()
        .map(|(pid, _)| (pid, fs::read_to_string(format!("/proc/{pid}/comm")).expect("a name")))
        .collect();
    assert_eq!(names.len(), 5, "master, log helper, zygote, two workers: {names:?}");
    assert!(names.values().all(|name| name == "fixture\n"), "{names:?}");
    server.stop();
}

#[test]
fn signals_of_the_first_moments_wait_for_the_master() {
    // env(1) starts it with these blocked, as a service manager may: none is lost or kills it.
    let blocked = ["env", "--block-signal=HUP,TERM,INT,USR1,USR2,QUIT"];
    for signal in [SIGTERM, SIGINT, SIGQUIT] {
        let mut server = fixture().under(&blocked).launch();
        server.wait_for("env(1)", || is_blocked_or_caught(server.pid(), signal).then_some(()));
        server.signal(server.pid(), SIGHUP);
        server.signal(server.pid(), signal);
        assert!(server.wait().success(), "signal {signal}");
        wait_for_nobody(&server);
    }
}

#[test]
fn a_signal_at_any_moment_of_the_start_leaves_nothing_behind() {
    for step in 0..40_u64 {
        let mut server = fixture().launch();
        // The moments of a start, one after the other: this is what is looked at, not a wait.
        std::thread::sleep(Duration::from_micros(step * 500));
        let ready = is_blocked_or_caught(server.pid(), SIGTERM) || server.run_dir().exists();
        server.signal(server.pid(), SIGHUP);
        server.signal(server.pid(), SIGTERM);
        let status = server.wait();
        assert!(status.success() || !ready, "after {step} half milliseconds: {status}");
        wait_for_nobody(&server);
        assert_eq!(count(&server, "panicked"), 0);
    }
}

#[test]
fn from_its_first_trace_on_a_start_is_ready_for_signals() {
    for _ in 0..20 {
        let mut server = fixture().launch();
        let deadline = Instant::now() + AT_ONCE;
        // Without any sleep: the handlers are there a moment later.
        while !server.run_dir().exists() {
            assert!(Instant::now() < deadline, "no run directory");
        }
        server.signal(server.pid(), SIGHUP);
        server.signal(server.pid(), SIGTERM);
        assert!(server.wait().success());
        wait_for_nobody(&server);
    }
}

/// Whether the process is past its first line, SigBlk and SigCgt of proc_pid_status(5).
fn is_blocked_or_caught(pid: u32, signal: i32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let mask = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
    };
    // HUP is sent first, and would kill it as well.
    [signal, SIGHUP].iter().all(|signal| (mask("SigBlk:") | mask("SigCgt:")) >> (signal - 1) & 1 == 1)
}

// ---- terminals and pipes ----------------------------------------------------------------------

#[test]
fn it_serves_without_standard_streams() {
    let mut server = fixture().under(&["sh", "-c", "exec \"$@\" <&- >&- 2>&-", "sh"]).start();
    let held = Held::start(&server, "release");
    assert_eq!(get(server.address(), "/print").expect("an answer").status, 200);
    server.signal(server.pid(), SIGTERM);
    held.let_go();
    assert!(server.wait().success());
    wait_for_nobody(&server);
}

#[test]
fn it_serves_on_when_the_reader_of_its_log_is_gone() {
    let code = tempfile::NamedTempFile::new().expect("a file");
    let line = format!("{{ \"$@\" 2>&1; echo $? >{}; }} | head -n 1", code.path().display());
    let mut server = fixture().under(&["sh", "-c", &line, "sh"]).start();
    let address = server.address();
    server.wait_for_log(": starting, run directory ");
    server.wait_for("the end of head", || {
        server.processes().iter().all(|(_, title)| !title.starts_with("head")).then_some(())
    });
    let pids = |server: &Server| (server.workers(), server.helper("log"), server.helper("zygote"));
    let before = pids(&server);
    for _ in 0..20 {
        assert_eq!(get(address, "/log/50").expect("an answer").status, 200);
        assert_eq!(get(address, "/print").expect("an answer").status, 200);
    }
    assert_eq!(pids(&server), before, "nobody has died of it");
    assert!(server.command(&["stop"]).status.success());
    assert!(server.wait().success());
    wait_for_nobody(&server);
    assert_eq!(fs::read_to_string(code.path()).expect("the exit code"), "0\n");
    assert_eq!(server.log().lines().count(), 1, "what head has printed");
}

// ---- starts that fail -------------------------------------------------------------------------

#[test]
fn of_two_masters_on_one_run_directory_one_serves_and_the_other_names_it() {
    let scratch = tempfile::tempdir().expect("a directory");
    let run_dir = scratch.path().join("run");
    for round in 0..100 {
        let barrier = Barrier::new(2);
        let launch = || {
            barrier.wait();
            fixture().workers(1).run_dir(&run_dir).launch()
        };
        let (one, other) = std::thread::scope(|scope| {
            let one = scope.spawn(launch);
            (launch(), one.join().expect("no panic"))
        });
        let (mut loser, winner) = first_to_end(one, other);
        let status = loser.wait();
        assert_eq!(status.code(), Some(75), "round {round}: {}", loser.log());
        let named = format!("already running (pid {}) with the run directory {}", winner.pid(), run_dir.display());
        assert!(loser.log().contains(&named), "round {round}: {} has won: {}", winner.pid(), loser.log());
        let status = winner.wait_until("serving", |status| status["state"] == "serving");
        assert_eq!(status["pid"], winner.pid(), "round {round}");
        winner.stop();
    }
}

/// The server that ends by itself, then the other one.
fn first_to_end(mut one: Server, mut other: Server) -> (Server, Server) {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        match (one.ended().is_some(), other.ended().is_some()) {
            (true, false) => return (one, other),
            (false, true) => return (other, one),
            (true, true) => panic!("both ended: {} {}", one.log(), other.log()),
            (false, false) => assert!(Instant::now() < deadline, "both live"),
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_second_start_beside_a_running_server_harms_nothing() {
    let server = fixture().start();
    let load = Load::start(server.address(), "/", 2);
    let before = server.processes();
    let mut second = fixture().run_dir(server.run_dir()).launch();
    assert_eq!(second.wait().code(), Some(75));
    assert!(second.log().contains(&format!("already running (pid {})", server.pid())), "{}", second.log());
    assert_eq!(server.processes(), before);
    assert!(server.command(&["status"]).status.success());
    for tally in load.finish() {
        assert!(tally.lost.is_empty() && tally.answered > 0, "{tally:?}");
    }
    server.stop();
}

#[test]
fn an_address_in_use_is_named_and_nothing_stays_behind() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("its address");
    let mut server = fixture().listen(address).launch();
    assert_eq!(server.wait().code(), Some(71));
    let expected = format!("fixture: cannot listen on {address}: Address already in use");
    assert!(server.log().contains(&expected), "{}", server.log());
    wait_for_nobody(&server);
    drop(taken);
    fixture().listen(address).run_dir(server.run_dir()).start().stop();
}

#[test]
fn a_wrong_configuration_is_refused_by_file_line_and_key() {
    let table = [
        ("workers = 2\n[timeouts]\nreddy = 3\n", ":3: ", "reddy"),
        ("\nworkers = 0\n", ":2: ", "`workers`"),
        ("listen = \"80\"\n", ":1: ", "listen"),
        ("[log]\n\nlevel = \"a=b=c\"\n", ":3: ", "log.level"),
        ("workers = \n", ":1: ", ""),
        ("[timeouts\n", ":1: ", ""),
    ];
    for (text, line, key) in table {
        let mut server = fixture().configuration(text).launch();
        assert_eq!(server.wait().code(), Some(78), "{text:?}: {}", server.log());
        let place = format!("fixture: {}{line}", server.directory().join("configuration.toml").display());
        let log = server.log();
        assert!(log.starts_with(&place) && log.contains(key), "{text:?}: {log}");
        assert!(!server.run_dir().exists(), "nothing is begun with a wrong configuration");
    }
}

#[test]
fn a_configuration_that_cannot_be_read_is_refused_by_name() {
    let scratch = tempfile::tempdir().expect("a directory");
    let binary = scratch.path().join("binary.toml");
    fs::write(&binary, [0xff, 0xfe]).expect("write");
    for path in [&scratch.path().join("absent.toml"), scratch.path(), &binary] {
        let path = path.display().to_string();
        let run_dir = scratch.path().join("run").display().to_string();
        let output = run(&["serve", "--config", &path, "--run-dir", &run_dir, "--listen", "127.0.0.1:0"]);
        assert_eq!(output.status.code(), Some(78), "{path}");
        assert!(complaint(&output).starts_with(&format!("fixture: cannot read {path}: ")), "{}", complaint(&output));
    }
}

#[test]
fn a_run_directory_without_permission_exits_77_and_says_the_way_out() {
    if !is_root() {
        return println!("SKIPPED: starting as another user takes root");
    }
    let scratch = tempfile::Builder::new().permissions(Permissions::from_mode(0o755)).tempdir().expect("a directory");
    let program = scratch.path().join("fixture");
    copy_program(&example("fixture"), &program);
    let run_dir = scratch.path().join("run");
    let mut server = Server::of(&program).user(65534).run_dir(&run_dir).launch();
    assert_eq!(server.wait().code(), Some(77), "{}", server.log());
    let expected =
        format!("fixture: cannot make the run directory {}: choose another with --run-dir", run_dir.display());
    assert!(server.log().starts_with(&expected), "{}", server.log());
    // What belongs to someone else, or may be written by others, is no run directory either.
    fs::create_dir(&run_dir).expect("a directory of root's");
    let mut server = Server::of(&program).user(65534).run_dir(&run_dir).launch();
    assert_eq!(server.wait().code(), Some(77), "{}", server.log());
    assert!(server.log().contains("it belongs to uid 0"), "{}", server.log());
    fs::set_permissions(&run_dir, Permissions::from_mode(0o777)).expect("chmod");
    let mut server = Server::of(&program).run_dir(&run_dir).launch();
    assert_eq!(server.wait().code(), Some(77), "{}", server.log());
    assert!(server.log().contains("others may write there (mode 777): chmod 0750 it"), "{}", server.log());
}

#[test]
fn an_application_with_threads_of_its_own_is_refused() {
    let mut server = fixture().variable("FIXTURE", "threaded").launch();
    assert_eq!(server.wait().code(), Some(1));
    let log = server.log();
    assert!(log.starts_with("fixture: cannot serve with other threads running (gossip): "), "{log}");
    assert!(log.contains("without #[tokio::main]"), "{log}");
    assert!(!server.run_dir().exists());
}

// ---- pid 1 ------------------------------------------------------------------------------------

#[test]
fn as_pid_1_it_reaps_whom_it_never_knew_and_obeys_term() {
    let namespace = ["unshare", "--fork", "--pid", "--mount-proc", "--kill-child"];
    let tried = Command::new(namespace[0]).args(&namespace[1..]).arg("true").stderr(Stdio::null()).status();
    if !tried.is_ok_and(|status| status.success()) {
        return println!("SKIPPED: a pid namespace takes root");
    }
    let mut server = fixture().under(&namespace).start();
    assert_eq!(server.status()["pid"], 1);
    let address = server.address();
    let find = |title: &str| {
        let found = server.processes().into_iter().find(|(_, other)| other.starts_with(title));
        found.map(|(pid, _)| pid)
    };
    get(address, "/child").expect("an answer");
    let orphan = server.wait_for("the worker's child", || find("sleep 30"));
    // The worker's own death makes it an orphan, which falls to pid 1.
    for slot in [0, 1] {
        let title = format!("fixture: worker {slot} generation 1");
        server.signal(find(&title).expect("a worker"), SIGKILL);
        server.wait_until("a new worker", |status| {
            status["workers"][slot]["restarts"] == 1 && status["state"] == "serving"
        });
    }
    let master = find("fixture: master").expect("the master");
    assert_eq!(parent(orphan), Some(master));
    server.signal(orphan, SIGKILL);
    server.wait_for("its end", || (!Path::new(&format!("/proc/{orphan}")).exists()).then_some(()));
    assert!(server.zombies().is_empty(), "{:?}", server.zombies());
    assert_eq!(get(address, "/").expect("an answer").status, 200);
    let held = Held::start(&server, "release");
    server.signal(master, SIGTERM);
    server.wait_for_log(": exited with 0\n");
    held.let_go();
    assert!(server.wait().success(), "unshare(1) ends as pid 1 does");
    wait_for_nobody(&server);
}

/// Field 4 of /proc/PID/stat.
fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
}
