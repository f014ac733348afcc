//! Settings that are written otherwise and mean the same are no change.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};

use forebay::testing::{Builder, Server};

use crate::client::example;
use crate::reload::{SHORT, commit, configure, said};

/// The user and the group that nobody has.
const NOBODY: u32 = 65534;

fn fixture() -> Builder {
    Server::of(example("fixture"))
}

#[test]
fn a_user_and_a_group_that_are_spelled_otherwise_are_no_change() {
    if !nix::unistd::geteuid().is_root() {
        return println!("SKIPPED: becoming another user takes root");
    }
    let server = fixture().configuration(SHORT).start();
    configure(&server, &format!("user = \"root\"\ngroup = 0\n{SHORT}"));
    commit(&server);
    server.stop();
    let scratch = tempfile::tempdir().expect("a directory");
    fs::set_permissions(scratch.path(), fs::Permissions::from_mode(0o755)).expect("chmod");
    let server = fixture().run_dir(scratch.path().join("run")).configuration(&format!("user = \"nobody\"\n{SHORT}"));
    let server = server.start();
    configure(&server, &format!("user = {NOBODY}\ngroup = {NOBODY}\n{SHORT}"));
    commit(&server);
    server.stop();
}

#[test]
fn a_run_directory_that_is_the_default_is_no_change() {
    let scratch = tempfile::tempdir().expect("a directory");
    let run_dir = scratch.path().join("fixture");
    // Without the last two words, `--run-dir DIR`.
    let script = "exec \"$1\" \"$2\" \"$3\" \"$4\" \"$5\" \"$6\" \"$7\" \"$8\"";
    let server = fixture().configuration(SHORT).run_dir(&run_dir).under(&["sh", "-c", script, "sh"]);
    let server = server.variable("XDG_RUNTIME_DIR", scratch.path());
    let server = if nix::unistd::geteuid().is_root() {
        chown(scratch.path(), Some(NOBODY), Some(NOBODY)).expect("chown");
        server.user(NOBODY)
    } else {
        server
    };
    let server = server.start();
    for text in [format!("run_dir = \"{}\"\n{SHORT}", run_dir.display()), SHORT.to_owned()] {
        configure(&server, &text);
        commit(&server);
    }
    configure(&server, &format!("run_dir = \"{}\"\n{SHORT}", scratch.path().join("other").display()));
    let output = server.command(&["reload"]);
    assert!(output.status.code() == Some(1) && said(&output).contains("`run_dir` has changed"), "{}", said(&output));
    server.stop();
}
