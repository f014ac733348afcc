//! The rules of `ipc-protocol.md`, each broken once against the running daemon: whoever breaks one is
//! told which, the log says so, and nobody else notices.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use forebay::testing::Server;
use serde_json::{Value, json};

use crate::client::{copy_program, example, get};
use crate::peer::{Peer, frame};
use crate::peers::{GROWTH_MAX_KB, resident_kb, socket};
use crate::simulator::first_thermostat;

/// The law.
const PAGE: &str = include_str!("../../ipc-protocol.md");

/// How often each rule is broken, so that what is kept of it shows.
const TIMES: usize = 10;

/// A rule's name, whether a hello comes first, what is sent then, and what is said of it.
type Breach = (&'static str, bool, Vec<u8>, &'static str);

/// A header of a frame that is longer than it may be, and a little of it.
fn too_long(len: u32) -> Vec<u8> {
    [&(len + 1).to_be_bytes()[..], &[0x94, 0, 1]].concat()
}

/// Bytes as a frame.
fn raw(body: &[u8]) -> Vec<u8> {
    [&u32::try_from(body.len()).expect("short").to_be_bytes()[..], body].concat()
}

/// A message, and a byte that is none of it.
fn followed(message: &Value) -> Vec<u8> {
    raw(&[&frame(message)[4..], &[7]].concat())
}

/// A request whose frame has so many arrays and maps in each other.
fn tower(method: &str, depth: usize) -> Vec<u8> {
    // The frame, the parameters and the argument are three of them.
    let inner = (3..depth).fold(json!(1), |inner, _| json!([inner]));
    frame(&json!([0, 1, method, [{"ignored": inner}]]))
}

fn of_a_helper() -> Vec<Breach> {
    let subscribe = |id: u32| frame(&json!([10, id, "events", {"credit": 0}]));
    let slow = |id: u32| frame(&json!([0, id, "slow", [{"number": 1, "ms": 60_000}]]));
    vec![
        ("F1", false, vec![0; 4], "an empty frame"),
        ("F1", true, vec![0; 4], "an empty frame"),
        ("F2", false, b"GET / HTTP/1.1\r\n\r\n".to_vec(), "4096 are allowed"),
        ("F2", false, too_long(4096), "a frame of 4097 bytes, 4096 are allowed"),
        ("F2", true, too_long(16 << 20), "a frame of 16777217 bytes, 16777216 are allowed"),
        ("F3", false, frame(&"garbage"), "no array where one is due"),
        ("F3", true, raw(&[0xc1]), "no array where one is due"),
        ("F3", true, followed(&json!([5, 1])), "bytes behind the message"),
        ("F3", true, followed(&json!([8, 1, 1])), "bytes behind the message"),
        ("F3", true, followed(&json!([10, 1, "events", {"credit": 1}])), "bytes behind the message"),
        ("F3", true, followed(&json!([0, 1, "again", [{"number": 1, "ms": 0}]])), "bytes behind the message"),
        ("F3", true, followed(&json!([0, 1, "no method", [{}]])), "bytes behind the message"),
        ("F3", true, followed(&json!([2, "again", [{"number": 1, "ms": 0}]])), "bytes behind the message"),
        ("F4", true, tower("again", 129), "more than 128 deep"),
        ("F4", true, tower("no method", 129), "more than 128 deep"),
        ("F5", false, frame(&json!([3, "one", {"name": "x"}])), "no whole number"),
        ("F5", false, frame(&json!([3, 1, ["x"]])), "no map with names"),
        ("F5", true, frame(&json!([8, 1, -5])), "no whole number"),
        ("F5", true, frame(&json!([8, 1, 1_u64 << 32])), "more than 32 bits"),
        ("F5", true, frame(&json!([0, 1, 5, [{}]])), "no string"),
        ("F5", true, frame(&json!([0, 1, "again", {"number": 1, "ms": 0}])), "params is no array"),
        ("F5", true, frame(&json!([0, 1, "again"])), "an element is missing"),
        ("C1", false, frame(&json!([0, 7, "again", [{}]])), "kind 0 before the hello"),
        ("C3", false, frame(&json!([3, 0, {"name": "x"}])), "version 0"),
        ("C4", true, frame(&json!([3, 1, {"name": "again"}])), "kind 3, which no helper takes"),
        ("C4", true, frame(&json!([1, 1, null, 1])), "kind 1, which no helper takes"),
        ("C4", true, frame(&json!([99])), "kind 99, which no helper takes"),
        ("C5", true, (0..1025).flat_map(slow).collect(), "more than 1024 requests without an answer"),
        ("C6", true, [slow(5), slow(5)].concat(), "request 5 is not answered yet and comes again"),
        ("C7", true, (0..4097).flat_map(subscribe).collect(), "more than 4096 subscriptions"),
        ("C8", true, [subscribe(3), subscribe(3)].concat(), "subscription 3 exists already"),
    ]
}

fn of_the_log() -> Vec<Breach> {
    let record = json!([16, 1, {"time_us": 1, "level": 3, "target": "x", "message": "never written"}]);
    vec![
        ("F1", false, vec![0; 4], "an empty frame"),
        ("F2", false, too_long(4096), "a frame of 4097 bytes, 4096 are allowed"),
        ("F2", true, too_long((2 << 20) + (64 << 10)), "a frame of 2162689 bytes, 2162688 are allowed"),
        ("F3", true, followed(&record), "bytes behind the message"),
        (
            "F4",
            true,
            frame(&json!([16, 1, (2..129).fold(json!({}), |inner, _| json!({ "a": inner }))])),
            "more than 128",
        ),
        ("F5", true, frame(&json!([16, 1, {"level": 3}])), "missing field"),
        ("F5", true, frame(&json!([16, 1, [1, 3, "x", "never written"]])), "no map with names"),
        ("L1", false, frame(&record), "kind 16 before the hello"),
        ("L1", false, frame(&json!([3, 0, {"name": "x"}])), "version 0"),
        ("L2", true, frame(&json!([5, 1])), "kind 5, which the log does not take"),
    ]
}

fn of_the_master() -> Vec<Breach> {
    let status = frame(&json!([0, 1, "status", [{}]]));
    vec![
        ("F1", false, vec![0; 4], "an empty frame"),
        ("F2", false, too_long(64 << 10), "a frame of 65537 bytes, 65536 are allowed"),
        ("F3", false, followed(&json!([0, 1, "status", [{}]])), "bytes behind the message"),
        ("F4", false, tower("status", 129), "more than 128 deep"),
        ("F5", false, frame(&json!([0, 1, "status", {}])), "params is no array"),
        ("M1", false, frame(&json!([5, 1])), "kind 5 where 0 is due"),
        ("M3", false, status.repeat(65), "more than 64 requests at once"),
    ]
}

/// Breaks a rule on a socket; what was told until the end.
fn break_it(path: &Path, name: &str, (_, is_greeted, bytes, _): &Breach, greet: fn(&Path, &str) -> Peer) -> Vec<Value> {
    let mut peer = if *is_greeted { greet(path, name) } else { Peer::connect(path) };
    peer.send(bytes);
    peer.hear_to_the_end()
}

/// Waits for a line of the log.
fn wait_for_line(server: &Server, who: &str, why: &str) {
    server.wait_for(&format!("{why:?} of {who}"), || {
        server.log().lines().any(|line| line.contains(who) && line.contains(why)).then_some(())
    });
}

#[test]
fn whoever_breaks_a_rule_of_a_helper_is_told_which_and_closed() {
    let server = Server::of(example("keeper")).workers(1).start();
    let path = socket(&server, "ipc/keeper.sock");
    let mut good = Peer::greeted(&path, "a good peer");
    let (pid, before) = (server.helper("keeper"), resident_kb(server.helper("keeper")));
    for (number, breach) in of_a_helper().into_iter().enumerate() {
        let (rule, is_greeted, _, why) = breach;
        let name = format!("breaker {number} of {rule}");
        for _ in 0..TIMES {
            let told = break_it(&path, &name, &breach, Peer::greeted);
            let last = told.last().unwrap_or_else(|| panic!("{name} is told nothing"));
            assert_eq!((&last[0], &last[1]["code"]), (&json!(9), &json!("rule_broken")), "{name}: {last}");
            assert!(last[1]["reason"].as_str().is_some_and(|reason| reason.contains(why)), "{name}: {last}");
        }
        let who = if is_greeted { &name } else { "somebody without a name" };
        wait_for_line(&server, &format!("the connection of {who} is closed: "), why);
    }
    // What is deep, and not too deep; what belongs to a later version.
    good.send(&tower("no method", 128));
    assert_eq!(good.hear()[2]["code"], "no_method");
    good.say(&json!([0, 1, "again", [{"number": 4, "ms": 0}, null, "later"], "later"]));
    assert_eq!(good.hear(), json!([1, 1, null, 4]));
    good.say(&json!([6, 1]));
    good.say(&json!([5, 77, "later"]));
    assert_eq!(good.hear(), json!([6, 77]));
    assert_eq!((server.helper("keeper"), server.status()["state"].as_str()), (pid, Some("serving")));
    let growth = resident_kb(pid).saturating_sub(before);
    assert!(growth < GROWTH_MAX_KB, "it has grown by {growth} kB");
    server.stop();
}

/// One that has said hello to the log.
fn greeted_by_the_log(path: &Path, name: &str) -> Peer {
    let mut peer = Peer::connect(path);
    peer.say(&json!([3, 1, {"name": name}]));
    peer
}

#[test]
fn whoever_breaks_a_rule_of_the_log_is_closed_with_a_line_that_says_which() {
    let server = Server::of(example("keeper")).workers(1).start();
    let path = socket(&server, "ipc/log.sock");
    let mut good = greeted_by_the_log(&path, "a good peer");
    let record = |text: &str| json!([16, 1, {"time_us": 1, "level": 3, "target": "x", "message": text}, "later"]);
    good.say(&record("the first"));
    server.wait_for_log("x a good peer] the first");
    let (pid, before) = (server.helper("log"), resident_kb(server.helper("log")));
    for (number, breach) in of_the_log().into_iter().enumerate() {
        let (rule, is_greeted, _, why) = breach;
        let name = format!("breaker {number} of {rule}");
        for _ in 0..TIMES {
            assert_eq!(break_it(&path, &name, &breach, greeted_by_the_log), Vec::<Value>::new(), "{name}");
        }
        let who = if is_greeted { &name } else { "somebody without a name" };
        wait_for_line(&server, &format!("the log connection of {who} is closed: "), why);
    }
    good.say(&json!([3, 1, {"name": "a better peer"}]));
    good.say(&record("the last"));
    server.wait_for_log("x a better peer] the last");
    assert!(!server.log().contains("never written"));
    assert_eq!(server.helper("log"), pid);
    let growth = resident_kb(pid).saturating_sub(before);
    assert!(growth < GROWTH_MAX_KB, "it has grown by {growth} kB");
    server.stop();
}

#[test]
fn whoever_breaks_a_rule_of_the_master_is_told_which_and_closed() {
    let server = Server::of(example("keeper")).workers(1).start();
    let path = socket(&server, "control.sock");
    let before = resident_kb(server.pid());
    for breach in of_the_master() {
        let (rule, _, _, why) = breach;
        for _ in 0..TIMES {
            let told = break_it(&path, rule, &breach, |path, _| Peer::connect(path));
            let last = told.last().unwrap_or_else(|| panic!("{rule}: told nothing"));
            assert_eq!((&last[0], &last[1], &last[2]["exit"]), (&json!(1), &json!(0), &json!(64)), "{rule}: {last}");
            assert!(last[2]["reason"].as_str().is_some_and(|reason| reason.contains(why)), "{rule}: {last}");
        }
        wait_for_line(&server, "control socket: a connection was closed: ", why);
    }
    let mut good = Peer::connect(&path);
    good.say(&json!([0, 7, "scale", [{"workers": "many"}]]));
    let refused = good.hear();
    assert_eq!((&refused[1], &refused[2]["exit"]), (&json!(7), &json!(64)), "no rule is broken: {refused}");
    good.say(&json!([0, 8, "scale", [{"workers": 1, "later": 1}, null, 1], 1]));
    assert_eq!(good.hear(), json!([1, 8, null, {"workers": 1}]));
    let growth = resident_kb(server.pid()).saturating_sub(before);
    assert!(growth < GROWTH_MAX_KB, "it has grown by {growth} kB");
    server.stop();
}

/// The rules about time, which `whoever_owes_something_for_ten_seconds_is_told_and_closed` breaks.
const OWED: [&str; 4] = ["C2", "C9", "C10", "M2"];

#[test]
fn whoever_owes_something_for_ten_seconds_is_told_and_closed() {
    let server = Server::of(example("keeper")).workers(1).start();
    let path = socket(&server, "ipc/keeper.sock");
    let helper = resident_kb(server.helper("keeper"));
    let began = Instant::now();
    let mut silent: Vec<Peer> = (0..20).map(|_| Peer::connect(&path)).collect();
    let mut idle = Peer::greeted(&path, "an idle peer");
    // A frame of 16 MiB of which a little comes: what is not there takes no memory.
    let mut halves: Vec<Peer> = (0..20).map(|number| Peer::greeted(&path, &format!("half {number}"))).collect();
    for half in &mut halves {
        half.send(&[&(16_u32 << 20).to_be_bytes()[..], &[0x94; 1000]].concat());
    }
    let mut deaf = Peer::greeted(&path, "a deaf peer");
    deaf.say(&json!([0, 1, "long", [{"len": 900_000, "ms": 0}]]));
    let control = socket(&server, "control.sock");
    let (mut mute, mut stuck) = (Peer::connect(&control), Peer::connect(&control));
    stuck.send(&[0, 0, 0, 100, 0x94]);
    // Half a hello to the log: it may stay, nobody waits for it.
    let mut log = Peer::connect(&socket(&server, "ipc/log.sock"));
    log.send(&[0, 0, 0, 100, 0x93]);
    // One that says its hello a byte at a time, one that speaks on and reads nothing.
    let (hello, mut slow) = (frame(&json!([3, 1, {"name": "a slow peer, with a long name"}])), Peer::connect(&path));
    let is_closed = |who: &str, why: &str| {
        let line = format!("the connection of {who} is closed: {why} for 10 s");
        server.log().contains(&line)
    };
    let mut bytes = hello.iter();
    server.wait_for("the end of both", || {
        bytes.next().inspect(|byte| slow.send(&[**byte]));
        deaf.say(&json!([5, 1]));
        std::thread::sleep(Duration::from_millis(500));
        let is_over = is_closed("a deaf peer", "it reads nothing") && began.elapsed() > Duration::from_secs(12);
        is_over.then_some(())
    });
    for peer in silent.iter_mut().chain(&mut halves).chain([&mut slow]) {
        let told = peer.hear_to_the_end();
        assert_eq!(told.last().map(|last| &last[1]["code"]), Some(&json!("rule_broken")), "{told:?}");
    }
    for peer in [&mut mute, &mut stuck] {
        let told = peer.hear_to_the_end();
        assert_eq!((told.len(), &told[0][1], &told[0][2]["exit"]), (1, &json!(0), &json!(64)), "{told:?}");
        assert_eq!(told[0][2]["reason"], "it was silent for 10 s");
    }
    assert!(is_closed("somebody without a name", "no hello") && is_closed("half 7", "half a frame, and nothing"));
    assert!(!server.log().contains("it was silent"), "nobody has to hear of it");
    idle.say(&json!([5, 77]));
    assert_eq!(idle.hear(), json!([6, 77]), "who owes nothing may be silent");
    let growth = resident_kb(server.helper("keeper")).saturating_sub(helper);
    assert!(growth < GROWTH_MAX_KB, "it has grown by {growth} kB");
    server.stop();
}

#[test]
fn whoever_leaves_128_mib_unread_is_closed_and_they_are_given_back() {
    let server = Server::of(example("keeper")).workers(1).start();
    let path = socket(&server, "ipc/keeper.sock");
    let before = resident_kb(server.helper("keeper"));
    let mut greedy = Peer::greeted(&path, "a greedy peer");
    for id in 0..10 {
        greedy.say(&json!([0, id, "long", [{"len": 15_000_000, "ms": 500}]]));
    }
    wait_for_line(&server, "the connection of a greedy peer is closed: ", "more than 128 MiB");
    assert_eq!(get(server.address(), "/again/4/0").expect("an answer").body, "4");
    let growth = resident_kb(server.helper("keeper")).saturating_sub(before);
    assert!(growth < 8 * GROWTH_MAX_KB, "it keeps {growth} kB");
    server.stop();
}

#[test]
fn who_may_not_ask_is_told_so_by_each_socket() {
    if !nix::unistd::geteuid().is_root() {
        return println!("SKIPPED: asking as another user takes root");
    }
    let server = Server::of(example("keeper")).workers(1).start();
    let program = server.directory().join("keeper");
    copy_program(&example("keeper"), &program);
    for path in [server.directory(), server.run_dir(), &socket(&server, "ipc")] {
        fs::set_permissions(path, Permissions::from_mode(0o777)).expect("chmod");
    }
    for name in ["control.sock", "ipc/keeper.sock", "ipc/log.sock"] {
        fs::set_permissions(socket(&server, name), Permissions::from_mode(0o777)).expect("chmod");
    }
    let ask = |words: &[&str]| {
        let mut ask = Command::new("setpriv");
        ask.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"]).arg(&program).args(words);
        let output = ask.arg("--run-dir").arg(server.run_dir()).output().expect("setpriv(1) is there");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let call = r#"{"method":"again","params":{"number":1,"ms":0}}"#;
    for words in [&["call", "keeper", call][..], &["events", "keeper"]] {
        let said = ask(words);
        assert_eq!(said.0, Some(77), "{said:?}");
        assert!(said.1.contains("uid 65534 may not ask this helper"), "{said:?}");
    }
    let said = ask(&["status"]);
    assert_eq!(said.0, Some(77), "{said:?}");
    assert!(said.1.contains("uid 65534 may not control this daemon"), "{said:?}");
    // The log answers nobody; by another name the command takes it for a helper.
    std::os::unix::fs::symlink("log.sock", socket(&server, "ipc/writer.sock")).expect("a link");
    assert_ne!(ask(&["call", "writer", call]).0, Some(0));
    for why in ["uid 65534 may not ask this helper", "uid 65534, who may not", "uid 65534 may not log here"] {
        server.wait_for_log(why);
    }
    server.stop();
}

/// What a helper says that breaks a rule, and what its clients say of it; all begin with a welcome but one.
fn of_a_client() -> Vec<(&'static str, Vec<Value>, &'static str)> {
    let welcome = json!([4, 1, {"name": "helper fake generation 1", "version": "1", "frame_len_max": 1 << 20,
        "requests_max": 9, "subscriptions_max": 9}]);
    let snapshot = json!([11, 1, 7, 4, []]);
    let flood = (5..400).map(|sequence| json!([12, 1, sequence, {}]));
    vec![
        ("H1", vec![json!([5, 1])], "kind 5 before the welcome"),
        ("H2", vec![welcome.clone(), welcome.clone()], "a second welcome"),
        ("H2", vec![welcome.clone(), json!([10, 1, "events", {}])], "kind 10, which no client takes"),
        ("H3", vec![welcome.clone(), json!([1, 99, null, 1])], "99, which nobody"),
        ("H4", vec![welcome.clone(), json!([12, 1, 5, {}])], "event 5 comes before a snapshot"),
        ("H4", vec![welcome.clone(), snapshot.clone(), json!([12, 1, 6, {}])], "event 6 comes after 4"),
        ("H5", [welcome.clone(), snapshot].into_iter().chain(flood).collect(), "more than it has credit for"),
        ("F3", vec![welcome, json!("garbage")], "no array where one is due"),
    ]
}

/// Says that to whoever connects next; true: it has said hello, and subscribed after the welcome.
fn play(helper: &UnixListener, words: &[Value]) -> bool {
    let (stream, _) = helper.accept().expect("a client");
    let mut client = Peer::of(stream);
    let mut heard = vec![client.hear()];
    let mut words = words.iter();
    if words.as_slice().first().is_some_and(|word| word[0] == 4) {
        words.next().inspect(|word| client.say(word));
        heard.push(client.hear());
    }
    // At once: who reads them one by one gives credit in between.
    client.send(&words.flat_map(frame).collect::<Vec<_>>());
    let _ = client.hear_to_the_end();
    heard[0][0] == 3 && heard.get(1).is_none_or(|subscribe| subscribe[0] == 10)
}

#[test]
fn a_worker_leaves_a_helper_that_breaks_a_rule_and_subscribes_again() {
    let server = Server::of(env!("CARGO_BIN_EXE_forebay")).workers(1).start();
    first_thermostat(&server);
    let (name, aside) = (socket(&server, "ipc/nest.sock"), socket(&server, "ipc/aside.sock"));
    // Somebody else in its place: who connects again comes to them.
    fs::rename(&name, &aside).expect("rename");
    let fake = UnixListener::bind(&name).expect("a socket");
    server.signal(server.helper("nest"), nix::libc::SIGKILL);
    for (rule, words, why) in of_a_client() {
        assert!(play(&fake, &words), "{rule}");
        wait_for_line(&server, "the connection to nest has ended: ", why);
    }
    let away = |code: &str| json!([9, {"code": code, "reason": "for the sake of it"}]);
    for (code, said) in
        [("rule_broken", "a rule was broken here: for the sake of it"), ("not_allowed", "does not listen: for")]
    {
        assert!(play(&fake, &[away(code)]), "{code}");
        wait_for_line(&server, "the connection to nest has ended: ", said);
    }
    fs::rename(&aside, &name).expect("rename");
    drop(fake);
    first_thermostat(&server);
    server.stop();
}

#[test]
fn the_command_line_says_which_rule_a_helper_has_broken() {
    let directory = tempfile::tempdir().expect("a directory");
    fs::create_dir(directory.path().join("ipc")).expect("a directory");
    let fake = UnixListener::bind(directory.path().join("ipc/fake.sock")).expect("a socket");
    let events = || {
        let mut events = Command::new(env!("CARGO_BIN_EXE_forebay"));
        events.args(["events", "fake", "--run-dir"]).arg(directory.path());
        events.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::piped()).spawn().expect("it starts")
    };
    // It takes what comes at once, and gives credit for it: no more than that can come.
    for (rule, words, why) in of_a_client().into_iter().filter(|(rule, ..)| *rule != "H5") {
        let events = events();
        assert!(play(&fake, &words), "{rule}");
        let output = events.wait_with_output().expect("its end");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(70) && said.contains(why), "{rule}: {:?} {said}", output.status);
    }
    for (code, exit) in [("rule_broken", 70), ("not_allowed", 77)] {
        let events = events();
        assert!(play(&fake, &[json!([9, {"code": code, "reason": "for the sake of it"}])]), "{code}");
        let output = events.wait_with_output().expect("its end");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.code() == Some(exit) && said.contains("for the sake of it"),
            "{:?} {said}",
            output.status
        );
    }
}

#[test]
fn every_rule_of_the_page_is_broken_by_a_test() {
    let chapter = PAGE.rsplit("\n## ").next().expect("the last chapter");
    let rows = chapter.lines().filter_map(|line| line.strip_prefix("| `"));
    let law: BTreeSet<&str> = rows.filter_map(|row| row.split('`').next()).collect();
    let breaches = [of_a_helper(), of_the_log(), of_the_master()].concat();
    let broken: BTreeSet<&str> = breaches
        .iter()
        .map(|(rule, ..)| *rule)
        .chain(of_a_client().iter().map(|(rule, ..)| *rule))
        .chain(OWED)
        // Those above with a test of their own.
        .chain(["C11", "U1", "U2"])
        .collect();
    assert!(law.len() > 20);
    assert_eq!(law, broken);
}
