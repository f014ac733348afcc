//! One pid file by several names, and files that are no pid files to be.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use forebay::testing::{Builder, Server};

use crate::client::example;
use crate::reload::{commit, configure, roll_back};

const SHORT: &str = "[timeouts]\nstable = 0.05\n";

fn fixture() -> Builder {
    Server::of(example("fixture")).workers(1)
}

fn with_pid_file(path: &Path) -> String {
    format!("pid_file = \"{}\"\n{SHORT}", path.display())
}

#[test]
fn a_pid_file_by_another_name_stays_and_is_still_locked() {
    let scratch = tempfile::tempdir().expect("a directory");
    let place = |name: &str| scratch.path().join(name);
    for directory in ["one", "two"] {
        fs::create_dir(place(directory)).expect("a directory");
    }
    symlink(place("one"), place("link")).expect("a link");
    let server = fixture().configuration(&with_pid_file(&place("one/pid"))).start();
    for name in ["two/../one/pid", "link/pid", "one/pid", "link/../one/pid"] {
        configure(&server, &with_pid_file(&place(name)));
        commit(&server);
        server.wait_until("one generation", crate::reload::is_alone);
        assert_eq!(fs::read_to_string(place("one/pid")).expect(name), format!("{}\n", server.pid()));
        let mut other = fixture().configuration(&with_pid_file(&place("one/pid"))).launch();
        assert_eq!(other.wait().code(), Some(75), "{name}: {}", other.log());
    }
    // One that does not come to that is no other matter.
    configure(&server, &format!("{}[listener.no]\naddress = \"192.0.2.1:9\"\n", with_pid_file(&place("link/pid"))));
    roll_back(&server);
    assert_eq!(fs::read_to_string(place("one/pid")).expect("it stays"), format!("{}\n", server.pid()));
    // Another one is another one.
    configure(&server, &with_pid_file(&place("two/pid")));
    commit(&server);
    assert!(place("two/pid").exists() && !place("one/pid").exists());
    server.stop();
    assert!(!place("two/pid").exists());
}

#[test]
fn what_the_run_directory_holds_is_no_pid_file() {
    let scratch = tempfile::tempdir().expect("a directory");
    let run = scratch.path().join("run");
    let ours = |name: &str| with_pid_file(&run.join(name));
    for name in ["master.lock", "../run/children.lock", "control.sock", "ipc/log.sock"] {
        let mut server = fixture().run_dir(&run).configuration(&ours(name)).launch();
        assert_eq!(server.wait().code(), Some(78), "{name}: {}", server.log());
        assert!(server.log().contains("is the run directory's own"), "{name}: {}", server.log());
    }
    let server = fixture().run_dir(&run).configuration(SHORT).start();
    for name in ["master.lock", "../run/master.lock", "children.lock", "reload.json"] {
        configure(&server, &ours(name));
        let reason = roll_back(&server);
        assert!(reason.contains("is the run directory's own"), "{name}: {reason}");
    }
    fs::hard_link(run.join("master.lock"), scratch.path().join("pid")).expect("a link");
    configure(&server, &with_pid_file(&scratch.path().join("pid")));
    roll_back(&server);
    assert_eq!(fs::read_to_string(run.join("master.lock")).expect("it stays"), format!("{}\n", server.pid()));
    let mut other = fixture().run_dir(&run).launch();
    assert_eq!(other.wait().code(), Some(75), "{}", other.log());
    // A name of its own there is fine.
    configure(&server, &ours("fixture.pid"));
    commit(&server);
    server.stop();
}

#[test]
fn a_file_that_the_daemon_has_locked_is_no_secret() {
    let scratch = tempfile::tempdir().expect("a directory");
    let pid = scratch.path().join("pid");
    let with_key =
        |key: &Path| format!("{}[app]\ngreeting = \"a\"\nkey_file = \"{}\"\n", with_pid_file(&pid), key.display());
    let other = scratch.path().join("key");
    fs::write(&other, "key").expect("write");
    let start = || Server::of(example("configured")).workers(1).configuration(&with_key(&other));
    let server = start().start();
    for key in [pid.clone(), server.run_dir().join("master.lock")] {
        configure(&server, &with_key(&key));
        assert!(roll_back(&server).contains("the daemon has locked it"));
        for builder in [start(), start().run_dir(server.run_dir())] {
            let mut second = builder.launch();
            assert_eq!(second.wait().code(), Some(75), "{}", second.log());
        }
    }
    server.stop();
}
