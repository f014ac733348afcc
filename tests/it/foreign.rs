//! Helpers in another language: started, asked, supervised, reloaded and ended like the others.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use forebay::testing::{Builder, Server};
use nix::libc::{SIGKILL, SIGSTOP, SIGTERM};
use serde_json::{Value, json};

use crate::client::{example, get, post};
use crate::clients::installed;
use crate::reload::{SHORT, commit, configure, roll_back, said};

/// The interpreter itself: what stands for it in a PATH may be a script, and open descriptors of its own.
fn python() -> String {
    let output = Command::new("python3").args(["-c", "import sys; print(sys.executable)"]).output().expect("python3");
    String::from_utf8(output.stdout).expect("UTF-8").trim().to_owned()
}

/// A server whose helpers in Python find their packages.
fn of(program: impl Into<PathBuf>) -> Builder {
    let packages = installed().join("python");
    assert!(packages.join("msgpack").exists(), "{} lacks msgpack: scripts/test installs it", packages.display());
    Server::of(program).variable("PYTHONPATH", packages).variable("PYTHONDONTWRITEBYTECODE", "1")
}

/// A file of the package.
fn file(name: &str) -> String {
    format!("{}/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// A section that starts Python with these words, and `more` keys.
fn section(name: &str, words: &[&str], more: &str) -> String {
    let command: Vec<String> = std::iter::once(python()).chain(words.iter().map(|&word| word.into())).collect();
    format!("[helper.{name}]\ncommand = {command:?}\n{more}\n")
}

fn tariff(more: &str) -> String {
    section("tariff", &[&file("examples/tariff.py")], more)
}

/// A gateway with a helper that does as `mode` says.
fn with_stranger(mode: &str, timeouts: &str) -> Builder {
    let text = format!("{timeouts}\n{}", section("stranger", &[&file("tests/it/stranger.py"), mode], ""));
    of(env!("CARGO_BIN_EXE_forebay")).workers(1).configuration(&text)
}

fn meter(text: &str) -> Server {
    of(example("meter")).workers(2).configuration(text).start()
}

fn price(server: &Server) -> String {
    get(server.address(), "/price/2").expect("an answer").body
}

/// What the command `call` prints.
fn call(server: &Server, helper: &str, method: &str, params: &Value) -> Value {
    let output = server.command(&["call", helper, &json!({"method": method, "params": params}).to_string()]);
    assert!(output.status.success(), "{}", said(&output));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn last_exit(status: &Value, helper: &str) -> String {
    let helpers = status["helpers"].as_array().expect("helpers");
    let found = helpers.iter().find(|one| one["name"] == helper).expect(helper);
    found["last_exit"].as_str().unwrap_or_default().to_owned()
}

/// Waits until another process of the helper serves than this one.
fn wait_for_the_next(server: &Server, helper: &str, pid: u32) -> Value {
    server.wait_until("its successor", |status| {
        let mut helpers = status["helpers"].as_array().into_iter().flatten();
        let is_next = |one: &Value| one["name"] == helper && one["state"] == "serving" && one["pid"] != pid;
        helpers.any(is_next) && status["state"] == "serving"
    })
}

#[test]
fn workers_ask_a_helper_in_python_with_types_and_so_does_the_command_line() {
    let server = meter(&tariff(""));
    assert_eq!(price(&server), "62 ct\n");
    server.wait_for_log("the tariff is [31.0] ct");
    let refused = post(server.address(), "/change/-3", b"").expect("an answer");
    assert_eq!((refused.status, refused.body.trim()), (422, "a price is above 0"));
    assert_eq!(post(server.address(), "/change/20", b"").expect("an answer").status, 200);
    server.wait_for_log("the tariff is now 20 ct");
    assert_eq!(price(&server), "40 ct\n");
    assert_eq!(call(&server, "tariff", "price", &json!({"kwh": 3})), json!(60.0));
    let unknown = server.command(&["call", "tariff", r#"{"method":"colour"}"#]);
    assert!(!unknown.status.success() && said(&unknown).contains("there are: price, change"), "{}", said(&unknown));
    let wrong = server.command(&["call", "tariff", r#"{"method":"price","params":{"kwh":"x","y":1}}"#]);
    assert!(said(&wrong).contains("bad_params"), "{}", said(&wrong));
    server.stop();
}

#[test]
fn it_has_exactly_what_the_page_says() {
    let server = with_stranger("well", "").variable("COLOUR", "blue");
    let server = server.start();
    let world = call(&server, "stranger", "world", &json!({}));
    let pid = server.helper("stranger");
    assert_eq!(world["pid"], pid);
    let variables = &world["environment"];
    let run_dir = server.run_dir().display().to_string();
    for (name, value) in [
        ("LISTEN_FDS", "1".to_owned()),
        ("LISTEN_PID", pid.to_string()),
        ("LISTEN_FDNAMES", "stranger".to_owned()),
        ("FOREBAY_ROLE", "helper stranger generation 1".to_owned()),
        ("FOREBAY_IPC_DIR", format!("{run_dir}/ipc")),
        ("FOREBAY_STATE_DIR", format!("{run_dir}/state")),
        ("COLOUR", "blue".to_owned()),
    ] {
        assert_eq!(variables[name], value, "{name}");
    }
    let descriptors = world["descriptors"].as_object().expect("descriptors");
    assert_eq!(descriptors["0"], "/dev/null");
    assert!(descriptors["3"].as_str().expect("a socket").starts_with("socket:"), "{descriptors:?}");
    let others = |(_, target): &(&String, &Value)| {
        let target = target.as_str().unwrap_or_default();
        !target.starts_with("socket:")
            && !target.starts_with("pipe:")
            && !target.starts_with("/proc/")
            && target != "/dev/null"
    };
    let left: Vec<_> = descriptors.iter().filter(others).collect();
    assert!(left.len() == 1 && left[0].1.as_str().is_some_and(|path| path.ends_with("children.lock")), "{left:?}");
    let ignored = u64::from_str_radix(world["status"]["SigIgn"].as_str().expect("a mask"), 16).expect("hex");
    // HUP, INT, QUIT, USR1, USR2; and none of TERM, CHLD and ABRT.
    assert_eq!(ignored & 0b1_0100_1010_0010_0111, 0b1010_0000_0111, "{ignored:b}");
    assert_eq!(world["status"]["SigBlk"], "0000000000000000");
    let status = server.status();
    let shown =
        status["helpers"].as_array().expect("helpers").iter().find(|one| one["name"] == "stranger").expect("it");
    assert!(shown["note"].as_str().is_some_and(|note| note.starts_with("python3 ")), "{shown}");
    server.stop();
}

#[test]
fn it_runs_as_the_services_user() {
    if !nix::unistd::geteuid().is_root() {
        return println!("SKIPPED: changing the user takes root");
    }
    let scratch = tempfile::Builder::new().permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755)).tempdir();
    let scratch = scratch.expect("a directory");
    // It takes no connection: it never gets ready, and has written who it is before that matters.
    let script = r#"["sh", "-c", "cat /proc/self/status > $FOREBAY_STATE_DIR/status; exec sleep 1000"]"#;
    let server = of(env!("CARGO_BIN_EXE_forebay")).argument("--user").argument("nobody");
    let server = server.configuration(&format!("[helper.stranger]\ncommand = {script}\n"));
    let mut server = server.run_dir(scratch.path().join("run")).launch();
    let path = server.run_dir().join("state/status");
    let text =
        server.wait_for("who it is", || fs::read_to_string(&path).ok().filter(|text| text.contains("NoNewPrivs")));
    for line in ["Uid:\t65534\t65534\t65534\t65534", "NoNewPrivs:\t1", "CapBnd:\t0000000000000000"] {
        assert!(text.contains(line), "{line}: {text}");
    }
    server.signal(server.pid(), SIGTERM);
    assert!(server.wait().code().is_some_and(|code| code < 2));
}

#[test]
fn killed_or_stopped_it_is_replaced_and_requests_wait_for_its_successor() {
    let server = meter(&format!("[timeouts]\nhang = 1\n{}", tariff("")));
    let first = server.helper("tariff");
    server.signal(first, SIGKILL);
    assert_eq!(price(&server), "62 ct\n");
    assert_eq!(last_exit(&wait_for_the_next(&server, "tariff", first), "tariff"), "killed by SIGKILL");
    let second = server.helper("tariff");
    server.signal(second, SIGSTOP);
    let why = last_exit(&wait_for_the_next(&server, "tariff", second), "tariff");
    assert!(why.starts_with("hung for 1 s"), "{why}");
    let third = server.helper("tariff");
    let restarted = server.command(&["restart", "tariff"]);
    assert!(restarted.status.success(), "{}", said(&restarted));
    assert_ne!(server.helper("tariff"), third);
    assert_eq!(price(&server), "62 ct\n");
    assert!(server.zombies().is_empty());
    server.stop();
}

#[test]
fn one_that_answers_no_ping_is_hung_and_one_that_breaks_a_rule_is_ended() {
    let server = with_stranger("mute", "[timeouts]\nhang = 1").start();
    let first = server.helper("stranger");
    let status = wait_for_the_next(&server, "stranger", first);
    assert!(last_exit(&status, "stranger").starts_with("hung for 1 s"), "{status}");
    server.stop();
    let mut rude = with_stranger("rude", "[restart]\nintensity = 0").launch();
    assert_eq!(rude.wait().code(), Some(1));
    assert!(rude.log().contains("helper stranger generation 1: broke a rule of the protocol"), "{}", rude.log());
}

#[test]
fn one_that_cannot_run_or_never_gets_ready_ends_the_start_or_rolls_back_the_reload() {
    let gone = "[helper.gone]\ncommand = [\"/nowhere/gone\"]\n";
    let mut server = of(env!("CARGO_BIN_EXE_forebay")).configuration(gone).launch();
    assert_eq!(server.wait().code(), Some(78));
    assert!(server.log().contains("configuration.toml:1: [gone]: `command`: \"/nowhere/gone\" is no program"));
    // It can be executed, as far as one sees.
    let scratch = tempfile::tempdir().expect("a directory");
    let script = scratch.path().join("gone");
    fs::write(&script, "#!/nowhere/interpreter\n").expect("write");
    fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("chmod");
    let gone = &format!("[helper.gone]\ncommand = [{script:?}]\n");
    let server = meter(&format!("{SHORT}ready = 3\n{}", tariff("")));
    let pid = server.helper("tariff");
    configure(&server, &format!("{SHORT}ready = 3\n{}{gone}", tariff("")));
    assert!(roll_back(&server).contains("cannot run "));
    let deaf = section("deaf", &[&file("tests/it/stranger.py"), "deaf"], "");
    configure(&server, &format!("{SHORT}ready = 3\n{}{deaf}", tariff("")));
    let why = roll_back(&server);
    assert!(why.contains("helper deaf") && why.contains("not ready"), "{why}");
    configure(&server, &format!("{SHORT}\n[helper.tariff]\ncomand = [\"x\"]\n"));
    let why = roll_back(&server);
    assert!(why.contains("configuration.toml:4: ") && why.contains("`tariff`"), "{why}");
    assert_eq!((server.helper("tariff"), &price(&server)[..]), (pid, "62 ct\n"));
    server.stop();
}

#[test]
fn a_reload_keeps_it_unless_its_section_or_its_file_has_changed() {
    let scratch = tempfile::tempdir().expect("a directory");
    let script = scratch.path().join("tariff.py");
    let deploy = |cents: &str| {
        let text = fs::read_to_string(file("examples/tariff.py")).expect("the example").replace("31.0", cents);
        fs::write(scratch.path().join("new"), text).expect("write");
        fs::rename(scratch.path().join("new"), &script).expect("rename");
    };
    let path = script.to_str().expect("UTF-8");
    let of = |more: &str| format!("{SHORT}{}", section("tariff", &[path], more));
    deploy("31.0");
    let server = meter(&of(""));
    let first = server.helper("tariff");
    assert!(commit(&server).contains("kept: tariff"));
    assert_eq!(server.helper("tariff"), first);
    // A release that fixes only this.
    deploy("10.0");
    assert!(commit(&server).contains("helper tariff handed over"));
    assert_eq!(price(&server), "20 ct\n");
    let second = server.helper("tariff");
    assert_ne!(second, first);
    // Of a version that is said only that counts.
    configure(&server, &of("version = \"1.1\""));
    assert!(commit(&server).contains("helper tariff handed over"));
    deploy("5.0");
    assert!(commit(&server).contains("kept: tariff, release 1.1"));
    assert_eq!(price(&server), "20 ct\n");
    configure(&server, &of("version = \"1.2\""));
    commit(&server);
    assert_eq!(price(&server), "10 ct\n");
    configure(&server, &of("version = \"1.2\"\nenvironment = { A = \"b\" }"));
    assert!(commit(&server).contains("helper tariff handed over"));
    server.stop();
}

#[test]
fn a_socket_that_one_has_ruined_is_bound_anew_for_the_next() {
    for mode in ["unlinks", "shuts"] {
        let server = with_stranger(mode, "").start();
        for _ in 0..2 {
            let restarted = server.command(&["restart", "stranger"]);
            assert!(restarted.status.success(), "{mode}: {}", said(&restarted));
            assert_eq!(call(&server, "stranger", "world", &json!({}))["pid"], server.helper("stranger"), "{mode}");
        }
        server.wait_for_log("the socket of helper stranger leads nowhere any more: it is bound anew");
        server.stop();
    }
}

#[test]
fn what_one_leaves_behind_does_not_live_beside_its_successor_or_after_the_stop() {
    let strays = |server: &Server, program: &str| {
        let processes = server.processes().into_iter();
        processes.filter(|(_, title)| title.contains("stranger.py") && title.contains(program)).count()
    };
    let server = with_stranger("forks", "").start();
    server.wait_for("its child", || (strays(&server, "forks") == 2).then_some(()));
    for _ in 0..3 {
        let pid = server.helper("stranger");
        server.signal(pid, SIGKILL);
        wait_for_the_next(&server, "stranger", pid);
        assert!(strays(&server, "forks") <= 2, "{:?}", server.processes());
    }
    server.stop();
    // A shell that stays between.
    let script = format!("{} {} well; true", python(), file("tests/it/stranger.py"));
    let text = format!("[helper.stranger]\ncommand = [\"sh\", \"-c\", {script:?}]\n");
    let mut server = of(env!("CARGO_BIN_EXE_forebay")).configuration(&text).start();
    for _ in 0..2 {
        assert!(server.command(&["restart", "stranger"]).status.success());
        assert!(strays(&server, "python") <= 2, "{:?}", server.processes());
    }
    // The master killed: the next one finds what nobody holds a lock for.
    let (run_dir, child) = (server.run_dir().to_owned(), call(&server, "stranger", "world", &json!({}))["pid"].clone());
    server.signal(server.pid(), SIGKILL);
    server.wait();
    // A zombie has no title.
    let lives = || fs::read_to_string(format!("/proc/{child}/cmdline")).is_ok_and(|title| title.contains("stranger"));
    server.wait_for("all but what the shell has left", || (server.processes().len() <= 1).then_some(()));
    let next = of(env!("CARGO_BIN_EXE_forebay")).configuration(&text).run_dir(run_dir).start();
    assert!(!lives() && call(&next, "stranger", "world", &json!({}))["pid"] != child);
    next.stop();
}

#[test]
fn one_that_ignores_its_notice_is_killed_at_the_limit_and_the_stop_is_clean() {
    let server = with_stranger("stubborn", "[timeouts]\ndrain = 0.5").start();
    server.stop();
}

#[test]
fn nothing_of_it_outlives_the_master_or_hinders_the_next() {
    for mode in ["well", "stubborn"] {
        let mut server = with_stranger(mode, "[timeouts]\ndrain = 0.5").start();
        let (pid, run_dir, text) =
            (server.helper("stranger"), server.run_dir().to_owned(), server.directory().join("configuration.toml"));
        let lives = || fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|title| title.contains("stranger"));
        server.signal(server.pid(), SIGKILL);
        server.wait();
        if mode == "well" {
            server.wait_for("its end", || (!lives()).then_some(()));
        } else {
            assert!(lives());
        }
        let text = fs::read_to_string(text).expect("the configuration");
        let next = of(env!("CARGO_BIN_EXE_forebay")).configuration(&text).run_dir(run_dir).start();
        assert!(!lives() && next.helper("stranger") != pid);
        next.stop();
    }
}

#[test]
fn it_starts_after_whom_it_asks_and_reaches_them() {
    let more = "asks = [\"nest\"]";
    let text = section("stranger", &[&file("tests/it/stranger.py"), "well"], more);
    let server = of(env!("CARGO_BIN_EXE_forebay")).configuration(&text).start();
    let log = server.log();
    let at = |words: &str| log.find(words).expect(words);
    assert!(at("helper nest generation 1 pid") < at("helper stranger generation 1 pid"), "{log}");
    let world = call(&server, "stranger", "world", &json!({}));
    let directory = world["environment"]["FOREBAY_IPC_DIR"].as_str().expect("a directory");
    assert!(Path::new(directory).join("nest.sock").exists());
    server.stop();
    let server = of(env!("CARGO_BIN_EXE_forebay")).configuration(&text.replace("nest", "nobody"));
    let output = { server.launch().wait() };
    assert_eq!(output.code(), Some(78));
}
