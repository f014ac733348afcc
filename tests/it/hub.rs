//! The hub as an application's clients meet it: `examples/chat.rs`, whose rooms span all workers.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use forebay::testing::{Builder, Server};
use nix::libc::{SIGCONT, SIGKILL, SIGSTOP};
use serde_json::Value;

use crate::client::{Answer, example, get};
use crate::talker::{Heard, Talker};

/// A server goes away (RFC 6455, section 7.4.1).
const GOING_AWAY: u16 = 1001;

/// What a listener is told whose hub was replaced.
const GAP: &str = "lines may be missing here";

/// What is still connected at its end is cut soon; whoever stands still is waited for.
fn chat() -> Builder {
    Server::of(example("chat")).configuration("[timeouts]\ndrain = 2\nhang = 60\n")
}

/// Comes into the lobby, and is known to all there.
fn enter(server: &Server, person: &str) -> Talker {
    let mut talker = Talker::open(server.address(), &format!("/room/lobby/{person}"));
    assert_eq!(talker.hear(), Heard::Text("you are in lobby".to_owned()));
    talker
}

fn text(talker: &mut Talker) -> String {
    match talker.hear() {
        Heard::Text(text) => text,
        other => panic!("no text: {other:?}"),
    }
}

/// What the hub lists.
fn list(server: &Server) -> Value {
    let output = server.command(&["call", "hub", r#"{"method":"topics"}"#]);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)))
}

/// The slot of the worker that has this person.
fn slot(server: &Server, person: &str) -> Option<usize> {
    let listing = list(server);
    let mut keys = listing["keys"].as_array().expect("keys").iter();
    let holder = keys.find(|line| line["key"] == person)?["holder"].as_str()?;
    holder.split(' ').nth(1)?.parse().ok()
}

/// Two people in different workers.
fn apart(server: &Server) -> [(String, Talker); 2] {
    let first = enter(server, "first");
    let mut others = Vec::new();
    for number in 0..200 {
        let name = format!("other{number}");
        let talker = enter(server, &name);
        if slot(server, &name) != slot(server, "first") {
            return [("first".to_owned(), first), (name, talker)];
        }
        others.push(talker);
    }
    panic!("the kernel gives all connections to one worker");
}

fn seen(server: &Server, person: &str) -> Answer {
    get(server.address(), &format!("/seen/{person}")).expect("an answer")
}

#[test]
fn what_is_said_reaches_everyone_in_every_worker_in_order() {
    let server = chat().workers(3).start();
    let [(_, mut ann), (bob, mut there)] = apart(&server);
    let mut elsewhere = Talker::open(server.address(), "/room/kitchen/cook");
    assert_eq!(text(&mut elsewhere), "you are in kitchen");
    let lobby = list(&server)["topics"].as_array().expect("topics").iter().find(|line| line["key"] == "lobby").cloned();
    assert!(lobby.expect("the lobby")["sessions"].as_u64() >= Some(2));
    for number in 0..200 {
        ann.say(&number.to_string());
    }
    for number in 0..200 {
        assert_eq!(text(&mut there), format!("first: {number}"));
        assert_eq!(text(&mut ann), format!("first: {number}"), "who speaks hears it too");
    }
    assert!(elsewhere.is_silent_for(Duration::from_millis(300)), "another room");
    there.say("and I");
    assert_eq!(text(&mut ann), format!("{bob}: and I"));
    assert_eq!(seen(&server, "first").body, "199\n");
    assert_eq!(seen(&server, &bob).body, "and I\n");
    let nobody = seen(&server, "nobody");
    assert_eq!((nobody.status, &nobody.body[..]), (404, "nobody is not here\n"));
    server.stop();
}

#[test]
fn a_worker_that_stands_still_misses_and_is_told_and_others_feel_nothing() {
    const COUNT: u64 = 6000;
    let server = chat().workers(2).start();
    let [(_, mut speaker), (slow, mut late)] = apart(&server);
    let pid = server.workers()[slot(&server, &slow).expect("it is there")];
    server.signal(pid, SIGSTOP);
    for number in 0..COUNT {
        speaker.say(&number.to_string());
        assert_eq!(text(&mut speaker), format!("first: {number}"), "it waits for nobody");
    }
    assert!(list(&server)["missed"].as_u64() > Some(0));
    server.signal(pid, SIGCONT);
    let (mut heard, mut missed, mut next) = (0, 0, 0);
    while heard + missed < COUNT {
        let line = text(&mut late);
        if let Some(count) = line.strip_suffix(" lines are missing here") {
            let count: u64 = count.parse().expect("a number");
            missed += count;
            next += count;
        } else {
            assert_eq!(line, format!("first: {next}"), "in order, and no gap but those it is told");
            heard += 1;
            next += 1;
        }
    }
    assert!(missed > 0 && heard > 0, "{missed} missed, {heard} heard");
    server.stop();
}

/// Asks all the time for what each of these people has said: their own name.
struct Asking {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<(u64, BTreeSet<String>)>,
}

impl Asking {
    fn start(server: &Server, people: &[String]) -> Self {
        let (stop, address, people) = (Arc::new(AtomicBool::new(false)), server.address(), people.to_owned());
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let (mut right, mut others) = (0, BTreeSet::new());
            for person in people.iter().cycle() {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                let answer = get(address, &format!("/seen/{person}")).expect("an answer");
                match answer.status {
                    200 if answer.body.trim_end() == person => right += 1,
                    200 => _ = others.insert(format!("{person}: {}", answer.body)),
                    404 | 503 => {}
                    status => _ = others.insert(format!("{person}: {status}")),
                }
            }
            (right, others)
        });
        Self { stop, thread }
    }

    fn finish(self) -> (u64, BTreeSet<String>) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("it does not panic")
    }
}

#[test]
fn a_hub_that_is_killed_under_load_costs_a_gap_and_nothing_comes_twice() {
    let server = chat().workers(2).start();
    let [(one, mut speaker), (other, mut listener)] = apart(&server);
    speaker.say(&one);
    listener.say(&other);
    for talker in [&mut speaker, &mut listener] {
        let mut both = [text(talker), text(talker)];
        both.sort();
        assert_eq!(both, [format!("{one}: {one}"), format!("{other}: {other}")]);
    }
    let asking = Asking::start(&server, &[one, other.clone()]);
    let mut chatter = enter(&server, "chatter");
    let killed = server.helper("hub");
    let listening = std::thread::spawn(move || {
        let (mut gaps, mut last) = (0, None);
        loop {
            let line = text(&mut listener);
            if line == GAP {
                gaps += 1;
            } else if line == "chatter: end" {
                return (gaps, last);
            } else if let Some(number) = line.strip_prefix("chatter: ") {
                let number: u64 = number.parse().expect("a number");
                assert!(last < Some(number), "{number} after {last:?}");
                last = Some(number);
            }
        }
    });
    let mut unsure = 0;
    for number in 0..2000_u64 {
        chatter.say(&number.to_string());
        loop {
            let line = text(&mut chatter);
            if line.starts_with("this was perhaps not said") {
                unsure += 1;
            }
            // It goes on with what comes next: lines, or that none will come.
            if line == format!("chatter: {number}") || line.starts_with("this was perhaps not said") || line == GAP {
                break;
            }
        }
        if number == 500 {
            server.signal(killed, SIGKILL);
        }
    }
    server.wait_until("the successor", |status| {
        let mut helpers = status["helpers"].as_array().into_iter().flatten();
        helpers
            .any(|helper| helper["name"] == "hub" && helper["pid"].as_u64().is_some_and(|pid| pid != u64::from(killed)))
    });
    chatter.say("end");
    let (gaps, last) = listening.join().expect("in order");
    assert_eq!(gaps, 1, "it is told once");
    assert_eq!(last, Some(1999), "and hears on");
    assert!(unsure <= 1, "{unsure}");
    let (right, others) = asking.finish();
    assert!(others.is_empty(), "answers to another request: {others:?}");
    assert!(right > 0);
    assert_eq!(seen(&server, "chatter").body, "end\n", "who held a key holds it again");
    server.stop();
}

#[test]
fn a_worker_that_dies_holds_no_keys_and_another_one_may_have_them() {
    let server = chat().workers(2).start();
    let [(_, mut stays), (name, goes)] = apart(&server);
    let pid = server.workers()[slot(&server, &name).expect("it is there")];
    assert_eq!(seen(&server, &name).status, 200);
    server.signal(pid, SIGKILL);
    let begun = Instant::now();
    server.wait_for("the end of its keys", || (seen(&server, &name).status == 404).then_some(()));
    assert!(begun.elapsed() < Duration::from_secs(10), "nobody waits for a process that is gone");
    drop(goes);
    let mut again = enter(&server, &name);
    again.say("back");
    assert_eq!(text(&mut stays), format!("{name}: back"));
    assert_eq!(seen(&server, &name).body, "back\n");
    // The latest has the key: the earlier connection is let go.
    let mut latest = enter(&server, &name);
    assert_eq!(text(&mut again), format!("{name}: back"));
    again.wait_for_the_end();
    latest.say("elsewhere");
    assert_eq!(text(&mut stays), format!("{name}: elsewhere"));
    assert_eq!(seen(&server, &name).body, "elsewhere\n");
    server.stop();
}

#[test]
fn a_reload_keeps_the_hub_and_old_and_new_hear_each_other() {
    let server = chat().workers(2).start();
    let hub = server.helper("hub");
    let mut old = enter(&server, "old");
    let output = server.command(&["reload"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(server.helper("hub"), hub, "one process serves both");
    let mut new = enter(&server, "new");
    new.say("hello");
    assert_eq!(text(&mut new), "new: hello");
    loop {
        match old.hear() {
            Heard::Text(line) => assert_eq!(line, "new: hello"),
            other => break assert_eq!(other, Heard::Close(GOING_AWAY)),
        }
    }
    old.answer_close(GOING_AWAY);
    old.wait_for_the_end();
    server.wait_for("the end of its key", || (seen(&server, "old").status == 404).then_some(()));
    server.stop();
}

#[test]
fn a_hub_that_is_restarted_lets_go_at_once_and_waits_for_nobody() {
    let server = chat().workers(2).start();
    let [(_, mut one), (_, mut other)] = apart(&server);
    let begun = Instant::now();
    let output = server.command(&["restart", "hub"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(begun.elapsed() < Duration::from_secs(10), "{} ms", begun.elapsed().as_millis());
    assert_eq!((text(&mut one), text(&mut other)), (GAP.to_owned(), GAP.to_owned()));
    other.say("on");
    assert!(text(&mut one).ends_with(": on"));
    assert_eq!(seen(&server, "first").status, 200);
    server.stop();
}

#[test]
fn a_limit_is_told_in_a_sentence() {
    let server = chat().workers(1).start();
    let long = "x".repeat(300);
    let refused = seen(&server, &long);
    assert_eq!((refused.status, &refused.body[..]), (503, "a key of 300 bytes, 256 are allowed\n"));
    Talker::open(server.address(), &format!("/room/{long}/ann")).wait_for_the_end();
    server.wait_for_log(&format!("ann has left {long}: a key of 300 bytes, 256 are allowed"));
    server.stop();
}
