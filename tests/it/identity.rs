//! Who each process is and what it may: started as root, as a service's user, as anyone.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::process::{Command, Output};

use forebay::testing::{Builder, Server};
use nix::libc::SIGKILL;
use tempfile::TempDir;

use crate::client::{copy_program, example, get};

/// A user that every system has, and no process of the tests is.
const NOBODY: u32 = 65534;

fn fixture() -> Builder {
    Server::of(example("fixture"))
}

/// Whether this is root; says so if not.
fn is_root() -> bool {
    let is_root = nix::unistd::geteuid().is_root();
    if !is_root {
        println!("SKIPPED: changing the user takes root");
    }
    is_root
}

/// A directory that others may pass.
fn open_directory() -> TempDir {
    tempfile::Builder::new().permissions(Permissions::from_mode(0o755)).tempdir().expect("a directory")
}

/// A line of /proc/PID/status.
fn status(pid: u32, field: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).expect("its status");
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("{field}:"))).expect(field);
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Checks every process but the master: nothing of root is left to it.
fn is_nobodys(server: &Server) {
    let processes = server.processes();
    assert!(processes.len() >= 5, "{processes:?}");
    for (pid, title) in processes {
        let is_master = pid == server.pid();
        let (uid, groups) = if is_master { (0, None) } else { (NOBODY, Some("")) };
        for field in ["Uid", "Gid"] {
            assert_eq!(status(pid, field), format!("{uid} {uid} {uid} {uid}"), "{field} of {title}");
        }
        if let Some(groups) = groups {
            assert_eq!(status(pid, "Groups"), groups, "{title}");
            for field in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
                assert_eq!(status(pid, field), "0000000000000000", "{field} of {title}");
            }
            assert_eq!(status(pid, "NoNewPrivs"), "1", "{title}");
        }
    }
}

/// A port that only root may have, and nobody has.
fn privileged_port() -> u16 {
    (600..1000).find(|&port| TcpListener::bind(("127.0.0.1", port)).is_ok()).expect("a free port")
}

#[test]
fn with_a_user_everything_but_the_master_has_nothing_of_root_left() {
    if !is_root() {
        return;
    }
    let scratch = open_directory();
    let address = ([127, 0, 0, 1], privileged_port()).into();
    let server = Server::of(env!("CARGO_BIN_EXE_forebay"))
        .argument("--user")
        .argument("nobody")
        .run_dir(scratch.path().join("run"))
        .listen(address)
        .start();
    is_nobodys(&server);
    assert_eq!(get(address, "/healthz").expect("an answer").status, 200);
    // Who comes in the place of another is no more than that one was.
    for pid in [server.helper("log"), server.helper("zygote"), server.helper("nest"), server.workers()[0]] {
        server.signal(pid, SIGKILL);
    }
    server.wait_until("all replaced", |status| {
        let mut processes = status["helpers"].as_array().into_iter().flatten();
        status["state"] == "serving" && processes.all(|helper| helper["restarts"] == 1 || helper["name"] == "simulator")
    });
    is_nobodys(&server);
    assert_eq!(get(address, "/healthz").expect("an answer").status, 200);
    assert!(!server.log().contains("run as root"), "{}", server.log());
    server.stop();
}

#[test]
fn a_group_of_its_own_is_the_run_directorys_too() {
    if !is_root() {
        return;
    }
    let scratch = open_directory();
    let run = scratch.path().join("run");
    let server = fixture().configuration("user = \"nobody\"\ngroup = 4242\n").run_dir(&run).start();
    assert_eq!(status(server.workers()[0], "Gid"), "4242 4242 4242 4242");
    let place = |name: &str| {
        let found = fs::symlink_metadata(run.join(name)).expect(name);
        (found.uid(), found.gid(), found.mode() & 0o7777)
    };
    assert_eq!(place(""), (0, 4242, 0o750));
    assert_eq!(place("ipc"), (0, 4242, 0o750));
    assert_eq!(place("ipc/log.sock"), (0, 4242, 0o660));
    assert_eq!(place("state"), (NOBODY, 4242, 0o700));
    for name in ["master.lock", "children.lock", "control.sock"] {
        assert_eq!(place(name).2, 0o600, "{name}");
    }
    server.stop();
    // The next one serves somebody else.
    let server = fixture().configuration("user = 4243\ngroup = 4244\n").run_dir(&run).start();
    assert_eq!((place(""), place("state")), ((0, 4244, 0o750), (4243, 4244, 0o700)));
    get(server.address(), "/log/1").expect("an answer");
    server.wait_for_log("record 0");
    server.stop();
}

#[test]
fn root_without_a_user_serves_and_is_told_which_setting_there_is() {
    if !is_root() {
        return;
    }
    let server = fixture().start();
    server.stop_after(|log| {
        let warnings: Vec<&str> = log.lines().filter(|line| line.contains("run as root")).collect();
        assert_eq!(warnings.len(), 1, "{log}");
        assert!(warnings[0].contains("say `user` (--user)"), "{log}");
    });
    // Said is said.
    let server = fixture().argument("--user").argument("root").start();
    server.stop_after(|log| assert!(!log.contains("run as root"), "{log}"));
}

/// Checks of what was logged, before the stop.
trait StopAfter {
    fn stop_after(self, check: impl FnOnce(&str));
}

impl StopAfter for Server {
    fn stop_after(self, check: impl FnOnce(&str)) {
        check(&self.log());
        self.stop();
    }
}

#[test]
fn only_root_can_become_someone_else() {
    if !is_root() {
        return;
    }
    let scratch = open_directory();
    let program = scratch.path().join("fixture");
    copy_program(&example("fixture"), &program);
    let of_nobody = |key: &str, value: &str| Server::of(&program).user(NOBODY).argument(key).argument(value);
    for (key, value, word) in [("--user", "root", "`user`"), ("--group", "0", "`group`")] {
        let mut server = of_nobody(key, value).launch();
        assert_eq!(server.wait().code(), Some(78), "{}", server.log());
        let log = server.log();
        assert!(log.contains(word) && log.contains("only root can") && log.contains("leave it out"), "{log}");
    }
    let server = of_nobody("--user", "nobody").start();
    for (pid, title) in server.processes() {
        assert_eq!(status(pid, "Uid"), "65534 65534 65534 65534", "{title}");
    }
    server.stop();
}

#[test]
fn the_service_needs_no_right_to_read_its_secrets() {
    if !is_root() {
        return;
    }
    let scratch = open_directory();
    let token = scratch.path().join("token");
    fs::write(&token, "c.secret\n").expect("write");
    fs::set_permissions(&token, Permissions::from_mode(0o600)).expect("chmod");
    let text = format!("user = \"nobody\"\n[nest]\ntoken_file = \"{}\"\n", token.display());
    // The words of the kit: PROGRAM serve --listen A --workers N --config FILE.
    let private = ["sh", "-c", "chmod 600 \"$8\" && exec \"$@\"", "sh"];
    let gateway = Server::of(env!("CARGO_BIN_EXE_forebay")).configuration(&text).under(&private);
    let server = gateway.run_dir(scratch.path().join("run")).start();
    let configuration = server.directory().join("configuration.toml");
    assert_eq!(fs::metadata(configuration).expect("it is there").mode() & 0o777, 0o600);
    let nest = server.helper("nest");
    assert_eq!(status(nest, "Uid"), "65534 65534 65534 65534");
    server.wait_for_log("connected to http://127.0.0.1:");
    // A successor reads it too, also when the name is gone.
    fs::remove_file(&token).expect("remove");
    server.signal(nest, SIGKILL);
    server.wait_until("a new nest", |status| {
        let mut helpers = status["helpers"].as_array().into_iter().flatten();
        helpers.any(|helper| helper["name"] == "nest" && helper["restarts"] == 1 && helper["state"] == "serving")
    });
    server.stop();
}

#[test]
fn a_key_file_that_nobody_can_open_is_a_mistake_with_its_line() {
    let output = check(&format!("user = \"{}\"\n[nest]\ntoken_file = \"/nowhere/token\"\n", nix::unistd::geteuid()));
    assert_eq!(output.status.code(), Some(78));
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(complaint.contains(".toml:3: [nest]: cannot read /nowhere/token: No such file"), "{complaint}");
}

/// `check` of the gateway with this configuration.
fn check(text: &str) -> Output {
    let scratch = open_directory();
    let config = scratch.path().join("forebay.toml");
    fs::write(&config, text).expect("write");
    let mut command = Command::new(env!("CARGO_BIN_EXE_forebay"));
    command.arg("check").arg("--config").arg(&config).output().expect("the program starts")
}

#[test]
fn what_others_may_write_root_does_not_use() {
    if !is_root() {
        return;
    }
    let scratch = open_directory();
    let loose = scratch.path().join("loose");
    fs::create_dir(&loose).expect("a directory");
    fs::set_permissions(&loose, Permissions::from_mode(0o777)).expect("chmod");
    fs::create_dir(loose.join("below")).expect("a directory");
    let below = loose.join("below");
    fs::write(below.join("x.toml"), "").expect("write");
    let way = |name: &str| below.join(name).display().to_string();
    let table = [
        ("--run-dir", way("run"), 77),
        ("--pid-file", way("pid"), 71),
        ("--listen", format!("unix:{}", way("sock")), 71),
        ("--config", way("x.toml"), 78),
    ];
    for (flag, value, code) in table {
        let output = start_once(&scratch, &[flag, &value]);
        let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{flag}: {complaint}");
        assert!(complaint.contains("others may write") && complaint.contains("0777"), "{flag}: {complaint}");
    }
    let left: BTreeSet<_> =
        fs::read_dir(&below).expect("list").filter_map(|entry| Some(entry.ok()?.file_name())).collect();
    assert_eq!(left.len(), 1, "{left:?}");
}

/// A start that is to fail.
fn start_once(scratch: &TempDir, words: &[&str]) -> Output {
    let mut command = Command::new(example("fixture"));
    command.arg("serve").args(words);
    for (flag, value) in
        [("--run-dir", scratch.path().join("run").display().to_string()), ("--listen", "127.0.0.1:0".into())]
    {
        if !words.contains(&flag) {
            command.arg(flag).arg(value);
        }
    }
    command.output().expect("the program starts")
}

#[test]
fn whom_the_configuration_names_may_control_the_daemon() {
    if !is_root() {
        return;
    }
    let scratch = open_directory();
    let program = scratch.path().join("fixture");
    copy_program(&example("fixture"), &program);
    let text = "control_uids = [\"nobody\"]\n";
    let server = Server::of(&program).configuration(text).run_dir(scratch.path().join("run")).start();
    let ask = |uid: u32, words: &[&str]| {
        let mut ask = Command::new("setpriv");
        ask.args([format!("--reuid={uid}"), format!("--regid={uid}")]).args(["--clear-groups", "--"]).arg(&program);
        ask.args(words).arg("--run-dir").arg(server.run_dir()).output().expect("setpriv(1) is there")
    };
    assert!(ask(NOBODY, &["status"]).status.success());
    assert!(ask(NOBODY, &["scale", "3"]).status.success());
    server.wait_until("three workers", |status| status["workers"].as_array().is_some_and(|all| all.len() == 3));
    assert_eq!(ask(4242, &["status"]).status.code(), Some(77));
    assert_eq!(fs::metadata(server.run_dir()).expect("it is there").mode() & 0o777, 0o751);
    assert!(ask(NOBODY, &["stop"]).status.success());
}

#[test]
fn a_run_directory_that_the_service_cannot_reach_is_refused() {
    if !is_root() {
        return;
    }
    let scratch = open_directory();
    fs::set_permissions(scratch.path(), Permissions::from_mode(0o700)).expect("chmod");
    let of_nobody = || fixture().argument("--user").argument("nobody").run_dir(scratch.path().join("run"));
    let mut server = of_nobody().launch();
    assert_eq!(server.wait().code(), Some(77), "{}", server.log());
    let expected = format!("uid 65534 may not pass {} (mode 0700)", scratch.path().display());
    assert!(server.log().contains(&expected), "{}", server.log());
    fs::set_permissions(scratch.path(), Permissions::from_mode(0o711)).expect("chmod");
    of_nobody().start().stop();
    // The service's own directory: it could put anything in the run directory's place.
    chown(scratch.path(), Some(NOBODY), None).expect("chown");
    let mut server = of_nobody().launch();
    assert_eq!(server.wait().code(), Some(77), "{}", server.log());
    assert!(server.log().contains("owner uid 65534"), "{}", server.log());
}
