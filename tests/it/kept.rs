//! What a generation was started from it keeps, whatever becomes of the files.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use forebay::testing::Server;
use nix::fcntl::{Flock, FlockArg};
use nix::libc::{SIGCONT, SIGKILL, SIGSTOP};
use nix::sys::stat::Mode;

use crate::client::{copy_program, example};
use crate::reload::{Releases, SHORT, commit, configure, is_alone, reload, roll_back, said};

fn keyed(greeting: &str, key: &Path) -> String {
    format!("{SHORT}[log]\nlevel = \"debug\"\n[app]\ngreeting = {greeting}\nkey_file = \"{}\"\n", key.display())
}

#[test]
fn a_secret_that_is_rewritten_in_place_is_the_next_generations() {
    let scratch = tempfile::tempdir().expect("a directory");
    let key = scratch.path().join("key");
    fs::write(&key, "1").expect("write");
    let server = Server::of(example("configured")).workers(1).configuration(&keyed("\"a\"", &key)).start();
    let reads = |bytes: usize| server.log().matches(&format!("the key has {bytes} bytes")).count();
    server.wait_for("the key", || (reads(1) == 1).then_some(()));
    fs::write(&key, "22").expect("write");
    configure(&server, &keyed("0", &key));
    roll_back(&server);
    // By the zygote that there was, and by another one.
    for restarts in 1..=2 {
        server.signal(server.workers()[0], SIGKILL);
        server.wait_until("another worker", |status| status["workers"][0]["restarts"] == restarts);
        server.wait_for("the key", || (reads(1) + reads(2) == 1 + restarts).then_some(()));
        let zygote = server.helper("zygote");
        server.signal(zygote, SIGKILL);
        server.wait_until("another zygote", |status| {
            let helpers = status["helpers"].as_array().expect("helpers");
            status["state"] == "serving"
                && helpers.iter().any(|helper| helper["name"] == "zygote" && helper["pid"] != zygote)
        });
    }
    assert_eq!((reads(1), reads(2)), (3, 0), "{}", server.log());
    configure(&server, &keyed("\"a\"", &key));
    commit(&server);
    server.wait_for("the new key", || (reads(2) == 1).then_some(()));
    server.stop();
}

#[test]
fn a_secret_has_a_limit() {
    let scratch = tempfile::tempdir().expect("a directory");
    let (key, file) = (scratch.path().join("key"), scratch.path().join("configured.toml"));
    fs::write(&file, keyed("\"a\"", &key)).expect("write");
    for (len, code) in [(1024 * 1024, 0), (1024 * 1024 + 1, 78)] {
        fs::write(&key, vec![b'x'; len]).expect("write");
        let output = Command::new(example("configured")).arg("check").arg("--config").arg(&file).output();
        let output = output.expect("the program starts");
        assert_eq!(output.status.code(), Some(code), "{}", said(&output));
        assert_eq!(said(&output).contains("it has more than 1048576 bytes"), code == 78, "{}", said(&output));
    }
}

#[test]
fn a_pipe_in_the_programs_place_is_refused_and_waited_for_by_nobody() {
    let releases = Releases::new();
    releases.add("pipe", |program| nix::unistd::mkfifo(program, Mode::S_IRWXU).expect("a pipe"));
    let server = releases.serve().workers(1).start();
    releases.switch("pipe");
    let output = server.command(&["reload", "--timeout", "5"]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("it is no regular file"), "{}", said(&output));
    server.stop();
}

#[test]
fn another_application_does_not_take_over() {
    let releases = Releases::new();
    releases.add("other", |program| copy_program(&example("hello"), program));
    let server = releases.serve().workers(1).start();
    releases.switch("other");
    let reason = roll_back(&server);
    assert!(reason.contains("the application is called `hello`, and this daemon is `fixture`"), "{reason}");
    server.stop();
}

#[test]
fn locked_directories_of_sockets_hold_a_reload_up_once_and_not_for_long() {
    let scratch = tempfile::tempdir().expect("a directory");
    let server = Server::of(example("fixture")).workers(1).configuration(SHORT).start();
    let directory = fs::File::open(scratch.path()).expect("it is there");
    let lock = Flock::lock(directory, FlockArg::LockExclusive).map_err(|(_, error)| error).expect("a lock");
    let socket = |number: usize| {
        let path = scratch.path().join(format!("{number}.sock"));
        format!("[listener.l{number}]\naddress = \"unix:{}\"\n", path.display())
    };
    configure(&server, &format!("{SHORT}{}", (0..8).map(socket).collect::<String>()));
    let begun = Instant::now();
    commit(&server);
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    drop(lock);
    server.stop();
}

#[test]
fn a_helper_that_is_kept_and_not_yet_begun_is_told_who_it_is_first() {
    let server = Server::of(example("counter")).workers(1).configuration(SHORT).start();
    let zygote = server.helper("zygote");
    server.signal(zygote, SIGSTOP);
    server.signal(server.helper("counter"), SIGKILL);
    server.wait_for_log("killed by SIGKILL");
    configure(&server, &format!("{SHORT}[log]\nlevel = \"debug\"\n"));
    let output = reload(&server);
    server.signal(zygote, SIGCONT);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    server.wait_until("all", |status| {
        let helpers = status["helpers"].as_array().expect("helpers");
        let serves = |name: &str| helpers.iter().any(|helper| helper["name"] == name && helper["state"] == "serving");
        status["state"] == "serving" && is_alone(status) && serves("counter")
    });
    let told = "the first order is not to begin";
    assert!(!server.log().contains(told), "{}", server.log());
    server.stop();
}

#[test]
fn root_is_told_of_a_program_that_others_may_replace() {
    if !nix::unistd::geteuid().is_root() {
        return println!("SKIPPED: only root is warned");
    }
    let scratch = tempfile::tempdir().expect("a directory");
    let place = scratch.path().join("open");
    fs::create_dir(&place).expect("a directory");
    let program = place.join("fixture");
    copy_program(&example("fixture"), &program);
    let warnings = |mode: u32| {
        fs::set_permissions(&place, fs::Permissions::from_mode(mode)).expect("chmod");
        let checked = Command::new(&program).arg("check").output().expect("the program starts");
        assert_eq!(checked.status.code(), Some(0), "{}", said(&checked));
        let server = Server::of(&program).workers(1).configuration(SHORT).start();
        commit(&server);
        let (said, log) = (said(&checked), server.log());
        server.stop();
        let count = |text: &str| text.matches("may be replaced by others").count();
        (count(&said), count(&log))
    };
    assert_eq!(warnings(0o755), (0, 0));
    assert_eq!(warnings(0o1777), (0, 0));
    assert_eq!(warnings(0o777), (1, 2));
}
