//! The command line and the control socket behind it.

use std::fs::{self, Permissions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use forebay::testing::{Builder, Server};
use nix::libc::{SIGTTIN, SIGTTOU};
use serde_json::Value;

use crate::client::{copy_program, example, get};
use crate::held::Held;

/// What "at once" may take on a busy machine; every limit of the daemon's own is longer.
const AT_ONCE: Duration = Duration::from_secs(5);

fn fixture() -> Builder {
    Server::of(example("fixture"))
}

/// How many lines of the log hold this.
fn count(server: &Server, text: &str) -> usize {
    server.log().lines().filter(|line| line.contains(text)).count()
}

/// A command of the program that talks to no server of a test.
fn run(words: &[&str]) -> Output {
    Command::new(example("fixture")).args(words).stdin(Stdio::null()).output().expect("the program starts")
}

fn complaint(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn commands_without_a_server_exit_69() {
    let scratch = tempfile::tempdir().expect("a directory");
    let place = scratch.path().display().to_string();
    // What a killed master leaves: a socket that nobody answers.
    let stale = tempfile::tempdir().expect("a directory");
    drop(std::os::unix::net::UnixListener::bind(stale.path().join("control.sock")).expect("a socket"));
    for place in [&place, &format!("{place}/absent"), &stale.path().display().to_string()] {
        for words in [&["stop"][..], &["status"], &["status", "--json"], &["scale", "3"], &["restart", "nest"]] {
            let output = run(&[words, &["--run-dir", place]].concat());
            assert_eq!(output.status.code(), Some(69), "{words:?} in {place}");
            let expected = format!("fixture: not running: nobody answers in the run directory {place}\n");
            assert_eq!(complaint(&output), expected);
            assert!(output.stdout.is_empty());
        }
    }
}

#[test]
fn wrong_usage_exits_64_and_changes_nothing() {
    let server = fixture().start();
    let table: [&[&str]; 10] = [
        &["sevre"],
        &["restart"],
        &["restart", "nest", "--timeout", "soon"],
        &["scale"],
        &["scale", "0"],
        &["scale", "1025"],
        &["scale", "two"],
        &["status", "--jason"],
        &["stop", "now"],
        &["serve", "--listen", "8080"],
    ];
    for words in table {
        let output = server.command(words);
        assert_eq!(output.status.code(), Some(64), "{words:?}");
        assert!(complaint(&output).starts_with("error: "), "{words:?}: {}", complaint(&output));
        assert!(output.stdout.is_empty());
    }
    assert_eq!(server.workers().len(), 2);
    server.stop();
}

#[test]
fn a_command_whose_reader_is_gone_ends_as_it_would_with_one() {
    let server = fixture().start();
    let nobody = server.directory().join("nobody");
    let table: [(&[&str], &Path, i32); 5] = [
        (&["status"], server.run_dir(), 0),
        (&["status", "--json"], server.run_dir(), 0),
        (&["status"], &nobody, 69),
        (&["sevre"], server.run_dir(), 64),
        (&["--help"], server.run_dir(), 0),
    ];
    for (words, run_dir, expected) in table {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let mut command = Command::new(example("fixture"));
        command.args(words).arg("--run-dir").arg(run_dir);
        command.stdout(writer.try_clone().expect("share the pipe")).stderr(writer);
        assert_eq!(command.status().expect("the program starts").code(), Some(expected), "{words:?}");
    }
    server.stop();
}

#[test]
fn status_for_scripts_has_every_field_with_its_type() {
    let server = fixture().start();
    let status = server.status();
    let is_text_or_null = |value: &Value| value.is_string() || value.is_null();
    let is_count_or_null = |value: &Value| value.is_u64() || value.is_null();
    type Check<'a> = (&'a str, &'a dyn Fn(&Value) -> bool);
    let check = |object: &Value, fields: &[Check<'_>]| {
        for (name, fits) in fields {
            let value = object.get(name).unwrap_or_else(|| panic!("no {name} in {object}"));
            assert!(fits(value), "{name} in {object}");
        }
    };
    check(
        &status,
        &[
            ("state", &|value| value == "serving"),
            ("pid", &|value| *value == server.pid()),
            ("version", &Value::is_string),
            ("generation", &|value| *value == 1),
            ("uptime_s", &Value::is_f64),
            ("listeners", &|value| value.as_array().is_some_and(|listeners| listeners.len() == 1)),
            ("last_reload", &Value::is_null),
            ("workers", &|value| value.as_array().is_some_and(|workers| workers.len() == 2)),
            ("helpers", &|value| value.as_array().is_some_and(|helpers| helpers.len() == 2)),
        ],
    );
    check(
        &status["listeners"][0],
        &[
            ("name", &|value| value == "http"),
            ("address", &|value| value.as_str().is_some_and(|address| address.starts_with("127.0.0.1:"))),
        ],
    );
    for slot in 0..2_u64 {
        check(
            &status["workers"][slot as usize],
            &[
                ("slot", &|value| *value == slot),
                ("pid", &is_count_or_null),
                ("generation", &|value| *value == 1),
                ("state", &|value| value == "serving"),
                ("last_exit", &is_text_or_null),
                ("connections", &Value::is_u64),
                ("requests", &Value::is_u64),
                ("restarts", &Value::is_u64),
                ("rss_bytes", &|value| value.as_u64().is_some_and(|bytes| bytes > 100_000)),
                ("uptime_s", &Value::is_f64),
            ],
        );
    }
    for (number, expected) in ["log", "zygote"].into_iter().enumerate() {
        check(
            &status["helpers"][number],
            &[
                ("name", &|value| value == expected),
                ("pid", &is_count_or_null),
                ("generation", &Value::is_u64),
                ("version", &Value::is_string),
                ("state", &Value::is_string),
                ("last_exit", &is_text_or_null),
                ("restarts", &Value::is_u64),
                ("uptime_s", &Value::is_f64),
            ],
        );
    }
    server.stop();
}

#[test]
fn status_for_people_shows_every_process() {
    let server = fixture().start();
    let output = server.command(&["status"]);
    assert!(output.status.success());
    let table = String::from_utf8(output.stdout).expect("text");
    let head = format!(": serving, pid {}, generation 1, up ", server.pid());
    assert!(table.starts_with("fixture ") && table.contains(&head), "{table}");
    let pids = [server.workers(), vec![server.helper("log"), server.helper("zygote")]].concat();
    for (name, pid) in ["worker 0", "worker 1", "log", "zygote"].into_iter().zip(pids) {
        let row = table.lines().find(|line| line.starts_with(&format!("{name} "))).expect(name);
        assert!(row.contains(&format!(" {pid} ")) && row.contains(" serving "), "{table}");
    }
    server.stop();
}

#[test]
fn what_is_no_helper_of_the_application_is_not_restarted() {
    let server = fixture().workers(1).start();
    let before = [server.workers(), vec![server.helper("log"), server.helper("zygote")]].concat();
    for (helper, why) in [
        ("nest", "no helper is called \"nest\": there is none"),
        ("../nest", "no helper is called \"../nest\": there is none"),
        ("log", "`log` is not restarted by command: it is replaced when its process ends"),
        ("zygote", "`zygote` is not restarted by command: it is replaced when its process ends"),
    ] {
        let output = server.command(&["restart", helper]);
        assert_eq!(output.status.code(), Some(1), "{helper}");
        assert_eq!(complaint(&output), format!("fixture: {why}\n"));
    }
    assert_eq!([server.workers(), vec![server.helper("log"), server.helper("zygote")]].concat(), before);
    server.stop();
}

// ---- scale ------------------------------------------------------------------------------------

#[test]
fn scale_goes_up_and_down_and_a_drained_worker_finishes_its_request() {
    let server = fixture().workers(1).start();
    let address = server.address();
    let one = server.workers();
    let output = server.command(&["scale", "4"]);
    assert!(output.status.success(), "{}", complaint(&output));
    assert!(String::from_utf8_lossy(&output.stdout).starts_with("fixture: 4 workers wanted"));
    serving(&server, 4);
    assert_eq!(server.workers()[0], one[0], "who was there stays");
    // A request on a worker that is not the first: it is the one that must go.
    let mut held = Vec::new();
    let drained = server.wait_for("a request on another worker than the first", || {
        held.push(Held::start(&server, &format!("release-{}", held.len())));
        let status = server.status();
        let workers = status["workers"].as_array().expect("workers");
        workers[1..].iter().find(|worker| worker["connections"] == 1)?["pid"].as_u64()
    });
    assert!(server.command(&["scale", "1"]).status.success());
    server.wait_until("the idle ones are gone", |status| {
        let workers = status["workers"].as_array().expect("workers");
        workers.len() == 2 && workers[1]["pid"] == drained && workers[1]["state"] == "draining"
    });
    assert_eq!(get(address, "/").expect("an answer").body, format!("0 {}", one[0]), "it takes none any more");
    let answered: Vec<u32> = held.into_iter().map(Held::let_go).collect();
    assert!(answered.iter().any(|&pid| u64::from(pid) == drained), "{drained} in {answered:?}");
    serving(&server, 1);
    assert_eq!(server.workers(), one);
    assert_eq!(count(&server, "] workers: 1 -> 4") + count(&server, "] workers: 4 -> 1"), 2);
    assert_eq!(count(&server, "restarting"), 0);
    server.stop();
}

#[test]
fn ttin_and_ttou_change_the_workers_by_one_and_the_last_one_stays() {
    let server = fixture().workers(1).start();
    let first = server.workers();
    for wanted in [2, 3] {
        server.signal(server.pid(), SIGTTIN);
        serving(&server, wanted);
    }
    for wanted in [2, 1] {
        server.signal(server.pid(), SIGTTOU);
        serving(&server, wanted);
    }
    server.signal(server.pid(), SIGTTOU);
    server.wait_for_log("] workers: 1 -> 1");
    serving(&server, 1);
    assert_eq!(server.workers(), first);
    server.stop();
}

/// Waits until so many workers serve and no other is there.
fn serving(server: &Server, count: usize) {
    server.wait_until(&format!("{count} workers"), |status| {
        let workers = status["workers"].as_array().expect("workers");
        status["state"] == "serving"
            && workers.len() == count
            && workers.iter().all(|worker| worker["state"] == "serving")
    });
}

// ---- the control socket -----------------------------------------------------------------------

#[test]
fn nonsense_on_the_control_socket_costs_its_sender_the_connection_and_nobody_else_anything() {
    let server = fixture().start();
    let connect = || UnixStream::connect(server.run_dir().join("control.sock")).expect("connect");
    let table: [(&str, &[u8]); 6] = [
        ("text", b"GET / HTTP/1.1\r\nHost: test\r\n\r\n"),
        ("a length of 4 GiB", &[0xff, 0xff, 0xff, 0xff, 0x94]),
        ("an empty frame", &[0, 0, 0, 0, 0]),
        ("a frame that is no request", &[0, 0, 0, 3, 0x93, 0xc3, 0xc0]),
        ("another kind", &[0, 0, 0, 5, 0x94, 7, 1, 0xa0, 0x80]),
        ("scale without a number", b"\0\0\0\x0a\x94\0\x01\xa5scale\x80"),
    ];
    for (what, bytes) in table {
        let mut stream = connect();
        stream.set_read_timeout(Some(AT_ONCE)).expect("a limit");
        stream.write_all(bytes).expect("write");
        let mut answer = Vec::new();
        // A reset is an end too: it comes when the rest was not read.
        match stream.read_to_end(&mut answer) {
            Err(error) if error.kind() != ErrorKind::ConnectionReset => panic!("{what}: {error}"),
            // An answer to nothing: the id is 0.
            Ok(_) | Err(_) => assert_eq!(answer[4..7], [0x94, 1, 0], "{what}: {answer:?}"),
        }
    }
    let mut halves: Vec<UnixStream> = (0..8).map(|_| connect()).collect();
    for half in &mut halves {
        half.write_all(&[0, 0, 1, 0, 0x94]).expect("write");
    }
    let crowd: Vec<UnixStream> = (0..100).map(|_| connect()).collect();
    let asked = Instant::now();
    assert!(server.command(&["status"]).status.success());
    assert!(asked.elapsed() < AT_ONCE, "{} ms", asked.elapsed().as_millis());
    drop((halves, crowd));
    assert_eq!(count(&server, "control socket: a connection was closed"), 6, "each with a reason");
    let status = server.status();
    assert_eq!(status["state"], "serving");
    assert_eq!(get(server.address(), "/").expect("an answer").status, 200);
    server.stop();
}

#[test]
fn a_request_whose_sender_says_no_more_is_answered() {
    let server = fixture().start();
    let mut stream = UnixStream::connect(server.run_dir().join("control.sock")).expect("connect");
    stream.set_read_timeout(Some(AT_ONCE)).expect("a limit");
    let request = b"\0\0\0\x0c\x94\0\x01\xa6status\x91\x80";
    stream.write_all(&[&request[..], request].concat()).expect("write");
    stream.shutdown(std::net::Shutdown::Write).expect("as nc -N does");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("read");
    let versions = answer.windows(7).filter(|bytes| bytes == b"version").count();
    assert_eq!(versions, 2 * 3, "two answers, each with one version and two helpers'");
    server.stop();
}

#[test]
fn a_user_who_may_not_is_turned_away_from_the_control_socket() {
    if !nix::unistd::geteuid().is_root() {
        return println!("SKIPPED: asking as another user takes root");
    }
    let server = fixture().start();
    let everyone = Permissions::from_mode(0o777);
    let program = server.directory().join("fixture");
    copy_program(&example("fixture"), &program);
    let ask = |command: &str| {
        let mut ask = Command::new("setpriv");
        ask.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"]).arg(&program).arg(command);
        ask.arg("--run-dir").arg(server.run_dir()).output().expect("setpriv(1) is there")
    };
    // The directory keeps strangers out by itself; beyond it the socket's own check does.
    fs::set_permissions(server.directory(), everyone.clone()).expect("chmod");
    let output = ask("stop");
    assert_eq!(output.status.code(), Some(77), "{}", complaint(&output));
    fs::set_permissions(server.run_dir(), everyone.clone()).expect("chmod");
    fs::set_permissions(server.run_dir().join("control.sock"), everyone).expect("chmod");
    for command in ["stop", "status"] {
        let output = ask(command);
        assert_eq!(output.status.code(), Some(77), "{command}: {}", complaint(&output));
        let expected = "fixture: uid 65534 may not control this daemon: root, its own user and `control_uids` may\n";
        assert_eq!((complaint(&output), output.stdout.is_empty()), (expected.to_owned(), true), "{command}");
    }
    server.wait_for_log("control socket: uid 65534, who may not, was turned away");
    assert_eq!(server.status()["state"], "serving");
    server.stop();
}
