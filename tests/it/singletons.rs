//! Helpers that die, hang, panic or never start: what it costs whoever asks them.

use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use forebay::testing::{Builder, Server};
use nix::libc::{SIGCONT, SIGKILL, SIGSTOP};

use crate::client::{Answer, example, get};

fn keeper() -> Builder {
    Server::of(example("keeper"))
}

/// What the keeper's processes have begun, a line for each.
fn journal(server: &Server) -> Vec<String> {
    let text = fs::read_to_string(server.run_dir().join("state/keeper.journal")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// A request on a thread of its own, and how long its answer took.
struct Asked(JoinHandle<(Answer, Duration)>);

impl Asked {
    fn start(address: SocketAddr, path: String) -> Self {
        Self(std::thread::spawn(move || {
            let asked = Instant::now();
            let answer = get(address, &path).expect("an answer");
            (answer, asked.elapsed())
        }))
    }

    fn finish(self) -> (Answer, Duration) {
        self.0.join().expect("a client does not panic")
    }
}

/// Looks all the time whether there are two processes of the helper.
struct Watch {
    stop: Arc<AtomicBool>,
    watcher: JoinHandle<usize>,
}

impl Watch {
    fn start(server: &Server) -> Self {
        let (stop, group) = (Arc::new(AtomicBool::new(false)), server.pid());
        let stopped = stop.clone();
        let watcher = std::thread::spawn(move || {
            let mut most = 0;
            while !stopped.load(Ordering::Relaxed) {
                most = most.max(keepers(group));
                std::thread::sleep(Duration::from_millis(2));
            }
            most
        });
        Self { stop, watcher }
    }

    fn most_at_once(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        self.watcher.join().expect("it does not panic")
    }
}

/// The processes of a group whose title says that they are the keeper: a zombie has none.
fn keepers(group: u32) -> usize {
    let is_keeper = |pid: u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let ours = stat.rsplit_once(')')?.1.split_whitespace().nth(2)? == group.to_string();
        let title = fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?;
        (ours && title.contains("helper keeper")).then_some(())
    };
    let entries = fs::read_dir("/proc").expect("/proc").flatten();
    entries.filter_map(|entry| is_keeper(entry.file_name().to_str()?.parse().ok()?)).count()
}

/// Stops a process, and waits until it stands.
fn stop(server: &Server, pid: u32) {
    server.signal(pid, SIGSTOP);
    server.wait_for("it to stand", || {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("a process");
        stat.rsplit_once(')')?.1.trim_start().starts_with('T').then_some(())
    });
}

fn restarts(status: &serde_json::Value) -> u64 {
    let mut helpers = status["helpers"].as_array().into_iter().flatten();
    let keeper = helpers.find(|helper| helper["name"] == "keeper" && helper["state"] == "serving");
    keeper.and_then(|keeper| keeper["restarts"].as_u64()).unwrap_or(0)
}

fn last_exit(server: &Server) -> String {
    let status = server.status();
    let mut helpers = status["helpers"].as_array().expect("helpers").iter();
    let keeper = helpers.find(|helper| helper["name"] == "keeper").expect("the keeper");
    keeper["last_exit"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn a_killed_helper_costs_what_may_not_be_done_twice_and_nothing_else() {
    let gate = tempfile::NamedTempFile::new().expect("a file");
    let server = keeper().variable("KEEPER_GATE", gate.path().with_extension("gate")).start();
    let (address, before) = (server.address(), server.helper("keeper"));
    let watch = Watch::start(&server);
    let once: Vec<Asked> = (0..8).map(|number| Asked::start(address, format!("/slow/{number}/10000"))).collect();
    let twice: Vec<Asked> = (100..108).map(|number| Asked::start(address, format!("/again/{number}/1500"))).collect();
    server.wait_for("all of them begun", || (journal(&server).len() == 16).then_some(()));
    // Its successor waits at the gate: what is asked meanwhile waits too.
    let closed = gate.path().with_extension("gate");
    fs::write(&closed, "").expect("close the gate");
    let killed = Instant::now();
    server.signal(before, SIGKILL);
    for asked in once {
        let (answer, _) = asked.finish();
        assert_eq!(answer.status, 502, "{}", answer.body);
        assert!(answer.body.contains("the outcome is unknown"), "{}", answer.body);
    }
    println!("8 outcomes unknown {} ms after the kill", killed.elapsed().as_millis());
    assert!(killed.elapsed() < Duration::from_secs(3), "at once, not at the deadline");
    let meanwhile: Vec<Asked> = (200..208)
        .map(|number| Asked::start(address, format!("/{}/{number}/1", if number % 2 == 0 { "slow" } else { "again" })))
        .collect();
    server.wait_for("them at the workers", || {
        let status = server.status();
        let workers = status["workers"].as_array()?.iter();
        (workers.filter_map(|worker| worker["connections"].as_u64()).sum::<u64>() >= 16).then_some(())
    });
    assert_eq!(journal(&server).len(), 16, "nobody has begun them");
    fs::remove_file(&closed).expect("open the gate");
    for (number, asked) in (100..108).chain(200..208).zip(twice.into_iter().chain(meanwhile)) {
        let (answer, _) = asked.finish();
        assert_eq!((answer.status, answer.body), (200, number.to_string()), "each answer to its own request");
    }
    server.wait_until("another keeper", |status| restarts(status) == 1);
    assert_eq!(last_exit(&server), "killed by SIGKILL");
    let journal = journal(&server);
    let begun = |line: String| journal.iter().filter(|known| **known == line).count();
    assert!((0..8).all(|number| begun(format!("slow {number}")) == 1), "done twice: {journal:?}");
    assert!((100..108).all(|number| begun(format!("again {number}")) == 2), "not sent again: {journal:?}");
    assert!(!journal.contains(&"two at once".to_owned()));
    assert_eq!(watch.most_at_once(), 1, "never two");
    server.stop();
}

#[test]
fn a_helper_killed_again_and_again_is_reached_again_at_once() {
    let server = keeper().workers(1).configuration("[restart]\nintensity = 100\n").start();
    let address = server.address();
    let mut waits = Vec::new();
    for number in 1..=9 {
        let pid = server.helper("keeper");
        stop(&server, pid);
        // What it has not read makes its end a reset and no plain end.
        let asked = Asked::start(address, format!("/again/{number}/0"));
        server.wait_until("a request at the worker", |status| status["workers"][0]["requests"] == number);
        let killed = Instant::now();
        server.signal(pid, SIGKILL);
        assert_eq!(asked.finish().0.body, number.to_string());
        waits.push(killed.elapsed());
        server.wait_until("its successor", |status| restarts(status) == number);
    }
    println!("answered by the successor after {waits:?}");
    // With a patience that doubles each time the last one would wait for a second.
    assert!(waits[8] < Duration::from_millis(900), "{waits:?}");
    server.stop();
}

/// The short form of it; `FOREBAY_ROUNDS` says how many kills.
#[test]
fn kills_under_a_storm_of_calls_mix_up_no_answers_and_leave_no_call_without_one() {
    let rounds = std::env::var("FOREBAY_ROUNDS").map_or(40, |rounds| rounds.parse().expect("a number of rounds"));
    let server = keeper().workers(1).configuration("[restart]\nintensity = 100000\n").start();
    let watch = Watch::start(&server);
    let mut kills = 0;
    let mut waits = Vec::new();
    while kills < rounds {
        let storm = Asked::start(server.address(), "/storm/64/2000".to_owned());
        while !storm.0.is_finished() {
            let pid = server.helper("keeper");
            let begun = journal(&server).len();
            server.wait_for("calls in flight", || {
                (journal(&server).len() >= begun + 64 || storm.0.is_finished()).then_some(())
            });
            server.signal(pid, SIGKILL);
            let (killed, before) = (Instant::now(), journal(&server).len());
            server.wait_for("calls again", || {
                (journal(&server).len() > before + 64 || storm.0.is_finished()).then_some(())
            });
            waits.push(killed.elapsed());
            kills += 1;
            let _ = fs::remove_file(server.run_dir().join("state/keeper.journal"));
        }
        let (answer, took) = storm.finish();
        let seen: serde_json::Value = serde_json::from_str(&answer.body).expect("JSON");
        assert!(seen["wrong"] == 0 && seen["failed"] == 0 && seen["answered"].as_u64() > Some(100), "{seen}");
        assert!(took < Duration::from_secs(2) + Duration::from_secs(15), "{seen}");
        println!("{kills} kills: {seen}");
    }
    waits.sort_unstable();
    println!("calls are begun again {:?} after a kill, the longest after {:?}", waits[waits.len() / 2], waits.last());
    assert_eq!(watch.most_at_once(), 1, "never two");
    server.stop();
}

#[test]
fn waiting_for_a_helper_is_bounded() {
    let gate = tempfile::NamedTempFile::new().expect("a file");
    let closed = gate.path().with_extension("gate");
    let server = keeper().workers(1).variable("KEEPER_GATE", &closed).start();
    let (address, before) = (server.address(), server.helper("keeper"));
    fs::write(&closed, "").expect("close the gate");
    server.signal(before, SIGKILL);
    server.wait_for("its death", || server.log().contains(": killed by SIGKILL").then_some(()));
    let requests = |count: u64| {
        server.wait_until("a request at the worker", |status| status["workers"][0]["requests"].as_u64() >= Some(count))
    };
    let first = Asked::start(address, "/again/7/0".to_owned());
    requests(1);
    let flood = Asked::start(address, "/flood/1100".to_owned());
    requests(2);
    let refused = get(address, "/brief/60000").expect("an answer");
    assert_eq!(refused.status, 503, "the places are taken: {}", refused.body);
    fs::remove_file(&closed).expect("open the gate");
    let (answer, _) = flood.finish();
    println!("{}", answer.body);
    let words: Vec<&str> = answer.body.split(' ').collect();
    let number = |at: usize| words[at].parse::<u64>().expect("a number");
    assert_eq!((number(0), number(2)), (1023, 77), "beside the first one");
    assert!(number(5) < 3000, "refused at once: {}", answer.body);
    assert_eq!(first.finish().0.body, "7");
    server.stop();
}

#[test]
fn a_stopped_helper_is_given_up_by_deadline_and_dead_before_its_successor_lives() {
    let server = keeper().configuration("[timeouts]\nhang = 8\n").start();
    let (address, before) = (server.address(), server.helper("keeper"));
    let watch = Watch::start(&server);
    stop(&server, before);
    let brief: Vec<Asked> = (0..4).map(|_| Asked::start(address, "/brief/300".to_owned())).collect();
    let plain = Asked::start(address, "/plain/1".to_owned());
    for asked in brief {
        let (answer, took) = asked.finish();
        assert_eq!(answer.status, 504, "{}", answer.body);
        assert!((Duration::from_millis(300)..Duration::from_secs(3)).contains(&took), "{} ms", took.as_millis());
    }
    let (answer, took) = plain.finish();
    assert_eq!(answer.status, 504, "{}", answer.body);
    assert!((Duration::from_secs(5)..Duration::from_secs(8)).contains(&took), "{} ms", took.as_millis());
    assert_eq!(keepers(server.pid()), 1, "it is stopped, and alone");
    // Asked of the stopped one, answered by the next.
    let later = Asked::start(address, "/again/9/0".to_owned());
    let status = server.wait_until("another keeper", |status| restarts(status) == 1);
    assert_eq!(later.finish().0.body, "9");
    assert_ne!(server.helper("keeper"), before);
    let last = last_exit(&server);
    assert!(last.starts_with("hung for 8 s: "), "{last}");
    assert_eq!(status["state"], "serving");
    assert_eq!(watch.most_at_once(), 1, "never two");
    assert!(!journal(&server).contains(&"two at once".to_owned()));
    server.signal(before, SIGCONT);
    server.stop();
}

#[test]
fn a_helper_in_an_endless_loop_is_replaced_and_its_request_not_repeated() {
    // A core of it would be left behind.
    let server = keeper().under(&["prlimit", "--core=0:0"]).configuration("[timeouts]\nhang = 1\n").start();
    let (address, watch) = (server.address(), Watch::start(&server));
    let spin = Asked::start(address, "/spin".to_owned());
    server.wait_until("another keeper", |status| restarts(status) == 1);
    let (answer, _) = spin.finish();
    assert_eq!((answer.status, last_exit(&server).as_str()), (502, "hung for 1 s: killed by SIGABRT"));
    assert_eq!(get(address, "/again/3/0").expect("an answer").body, "3");
    assert_eq!(watch.most_at_once(), 1, "never two");
    server.stop();
}

#[test]
fn a_panic_in_a_helper_costs_one_request() {
    let server = keeper().workers(1).start();
    let (address, pid) = (server.address(), server.helper("keeper"));
    let beside = Asked::start(address, "/slow/5/500".to_owned());
    server.wait_for("a request beside", || journal(&server).contains(&"slow 5".to_owned()).then_some(()));
    let answer = get(address, "/panic").expect("an answer");
    assert_eq!((answer.status, answer.body.as_str()), (500, "the request's handler panicked"));
    server.wait_for_log("the keeper panics in a request");
    assert_eq!(beside.finish().0.body, "5");
    assert_eq!(server.helper("keeper"), pid, "it lives");
    assert_eq!(get(address, "/again/6/0").expect("an answer").body, "6");
}

#[test]
fn a_helper_that_does_not_start_fails_the_start_and_says_why() {
    let asked = Instant::now();
    let started = std::panic::catch_unwind(|| drop(keeper().variable("KEEPER", "refuse").start()));
    let words = started.expect_err("the test kit says so").downcast::<String>().expect("words");
    assert!(words.contains("the master ended with exit status: 1"), "{words}");
    assert!(asked.elapsed() < Duration::from_secs(15), "at once, not when its patience ends");
    let table: [(&str, &str, &str); 3] = [
        ("refuse", "", "the cellar is locked"),
        ("panic", "", "start panicked"),
        ("never", "[timeouts]\nready = 1\n", "not ready within 1 s"),
    ];
    for (fault, settings, reason) in table {
        let mut server = keeper().variable("KEEPER", fault).configuration(settings).launch();
        assert_eq!(server.wait().code(), Some(1), "{fault}: {}", server.log());
        let log = server.log();
        let last = log.lines().last().unwrap_or_default();
        assert!(last.starts_with("keeper: keeper did not start: helper keeper"), "{fault}: {last}");
        assert!(last.contains(reason), "{fault}: {last}");
        assert!(server.processes().is_empty(), "{fault}: {:?}", server.processes());
    }
}

#[test]
fn circles_and_strangers_among_helpers_are_refused_by_name() {
    let table: [(&str, &[&str]); 2] =
        [("circle", &["circle", "right", "left"]), ("stranger", &["stranger asks for nobody"])];
    for (fault, words) in table {
        let mut server = keeper().variable("KEEPER", fault).launch();
        let code = server.wait().code();
        let log = server.log();
        assert!(words.iter().all(|word| log.contains(word)), "{fault}: {log}");
        assert!(code.is_some_and(|code| code != 0), "{fault}: {code:?}");
        assert!(server.processes().is_empty());
    }
}

#[test]
fn what_no_section_of_the_configuration_is_for_is_refused_by_name() {
    let gateway = || Server::of(env!("CARGO_BIN_EXE_forebay"));
    let table: [(Builder, &str, &[&str]); 8] = [
        (gateway(), "[nset]\nurl = 'http://a'\n", &[":1: ", "`nset`", "did you mean `nest`?"]),
        (gateway(), "[nest]\nulr = 'http://a'\n", &[":2: ", "[nest]", "`ulr`", "did you mean `url`?"]),
        (gateway(), "[nest]\ndead_link_s = 'long'\n", &["[nest]", "dead_link_s"]),
        (gateway(), "[nest]\ndead_link_s = -1\n", &["[nest]", "dead_link_s", "-1"]),
        (gateway(), "[nest]\nurl = 'nonsense'\n", &["[nest]", "`url`", "nonsense"]),
        (gateway(), "[nest]\ntoken_file = '/nowhere'\n", &["[nest]", "`token_file`", "/nowhere"]),
        (gateway(), "[helper.nest]\nulr = 'http://a'\n", &["nest", "ulr"]),
        (keeper(), "[keeper]\ncolour = 'blue'\n", &["[keeper]"]),
    ];
    for (builder, text, words) in table {
        let mut server = builder.configuration(text).launch();
        let code = server.wait().code();
        let log = server.log();
        assert_eq!(code, Some(78), "{text}{log}");
        let last = log.lines().last().unwrap_or_default();
        assert!(last.contains("configuration.toml"), "{text}{last}");
        assert!(words.iter().all(|word| last.contains(word)), "{text}{last}");
        assert!(server.processes().is_empty());
    }
}
