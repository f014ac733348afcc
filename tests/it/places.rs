//! Files that a start finds: the pid file, Unix sockets; and the system around it.

use std::fs::{self, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Command;

use forebay::testing::{Builder, Server};
use nix::libc::SIGKILL;

use crate::client::example;

fn fixture() -> Builder {
    Server::of(example("fixture")).workers(1)
}

fn with_pid_file(path: &Path) -> Builder {
    fixture().argument("--pid-file").argument(path)
}

/// A start that fails: its exit code and what it says.
pub(crate) fn refused(builder: Builder) -> (Option<i32>, String) {
    let mut server = builder.launch();
    let code = server.wait().code();
    assert!(server.processes().is_empty());
    (code, server.log())
}

#[test]
fn a_pid_file_that_a_dead_master_has_left_is_written_over() {
    let scratch = tempfile::tempdir().expect("a directory");
    let path = scratch.path().join("pid");
    // A dead pid, nothing, half a number, another process's.
    for content in ["4194303\n", "", "12", "1\n", "\n \n"] {
        fs::write(&path, content).expect("write");
        let server = with_pid_file(&path).start();
        assert_eq!(fs::read_to_string(&path).expect("it is there"), format!("{}\n", server.pid()));
        assert_eq!(fs::metadata(&path).expect("it is there").mode() & 0o777, 0o644);
        server.stop();
        assert!(!path.exists(), "it went with its master");
    }
    let mut server = with_pid_file(&path).start();
    server.signal(server.pid(), SIGKILL);
    server.wait();
    assert_eq!(fs::read_to_string(&path).expect("it stays"), format!("{}\n", server.pid()));
    let next = with_pid_file(&path).run_dir(server.run_dir()).start();
    assert_eq!(fs::read_to_string(&path).expect("it is there"), format!("{}\n", next.pid()));
    next.stop();
}

#[test]
fn a_pid_file_of_a_living_master_is_busy() {
    let scratch = tempfile::tempdir().expect("a directory");
    let path = scratch.path().join("pid");
    let server = with_pid_file(&path).start();
    let (code, log) = refused(with_pid_file(&path));
    assert_eq!(code, Some(75), "{log}");
    assert!(log.contains(&format!("already running: pid {} holds the pid file", server.pid())), "{log}");
    assert_eq!(fs::read_to_string(&path).expect("it is there"), format!("{}\n", server.pid()));
    // One that somebody has put in its place is not ours to remove.
    fs::remove_file(&path).expect("remove");
    fs::write(&path, "7\n").expect("write");
    server.stop();
    assert_eq!(fs::read_to_string(&path).expect("it stays"), "7\n");
}

#[test]
fn what_is_no_pid_file_is_refused_and_stays_as_it_is() {
    let scratch = tempfile::tempdir().expect("a directory");
    let place = |name: &str| scratch.path().join(name);
    fs::create_dir(place("directory")).expect("a directory");
    fs::write(place("letter"), "Dear Ada,\n").expect("write");
    symlink(place("letter"), place("link")).expect("a link");
    fs::write(place("number"), "12\n").expect("write");
    fs::hard_link(place("number"), place("twin")).expect("a link");
    let table = [
        ("directory", "directory"),
        ("letter", "it holds something else than a number"),
        ("link", "it is a symbolic link"),
        ("number", "it has another name too"),
        ("nowhere/pid", "No such file or directory"),
    ];
    for (name, why) in table {
        let (code, log) = refused(with_pid_file(&place(name)));
        assert_eq!(code, Some(71), "{name}: {log}");
        assert!(log.contains(&format!("cannot use the pid file {}: ", place(name).display())), "{log}");
        assert!(log.contains(why), "{name}: {log}");
    }
    assert_eq!(fs::read_to_string(place("letter")).expect("it stays"), "Dear Ada,\n");
    assert_eq!(fs::read_to_string(place("number")).expect("it stays"), "12\n");
}

// ---- Unix sockets -----------------------------------------------------------------------------

fn on_socket(path: &Path) -> Builder {
    fixture().argument("--listen").argument(format!("unix:{}", path.display()))
}

pub(crate) fn ask(path: &Path) -> std::io::Result<String> {
    let mut stream = UnixStream::connect(path)?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

#[test]
fn a_stale_socket_is_replaced_and_the_new_one_goes_with_its_master() {
    let scratch = tempfile::tempdir().expect("a directory");
    let path = scratch.path().join("app.sock");
    drop(UnixListener::bind(&path).expect("a socket"));
    for _ in 0..2 {
        let server = on_socket(&path).start();
        assert!(ask(&path).expect("an answer").starts_with("HTTP/1.1 200"));
        let found = fs::symlink_metadata(&path).expect("it is there");
        assert!(found.file_type().is_socket());
        assert_eq!(found.mode() & 0o777, 0o660);
        let addresses = server.status()["listeners"].to_string();
        assert!(addresses.contains(&format!("unix:{}", path.display())), "{addresses}");
        server.stop();
        assert!(!path.exists());
    }
    // A killed one leaves it.
    let mut server = on_socket(&path).start();
    server.signal(server.pid(), SIGKILL);
    server.wait();
    assert!(path.exists());
    on_socket(&path).run_dir(server.run_dir()).start().stop();
}

#[test]
fn a_socket_that_somebody_listens_on_and_what_is_none_are_refused() {
    let scratch = tempfile::tempdir().expect("a directory");
    let (living, letter) = (scratch.path().join("living.sock"), scratch.path().join("letter"));
    let server = on_socket(&living).start();
    fs::write(&letter, "Dear Ada,\n").expect("write");
    let target = scratch.path().join("target");
    symlink(&target, scratch.path().join("link")).expect("a link");
    let table = [
        (living.clone(), "another process listens there"),
        (letter.clone(), "there is something else of this name, and no socket"),
        (scratch.path().to_owned(), "there is something else of this name, and no socket"),
        (scratch.path().join("link"), "there is something else of this name, and no socket"),
        (scratch.path().join("nowhere/app.sock"), "No such file or directory"),
    ];
    for (path, why) in table {
        let (code, log) = refused(on_socket(&path));
        assert_eq!(code, Some(71), "{log}");
        assert!(log.contains(&format!("cannot listen on unix:{}: {why}", path.display())), "{log}");
    }
    assert_eq!(fs::read_to_string(&letter).expect("it stays"), "Dear Ada,\n");
    assert!(!target.exists());
    assert!(ask(&living).expect("an answer").starts_with("HTTP/1.1 200"));
    server.stop();
}

#[test]
fn a_failed_start_leaves_no_socket_behind() {
    let scratch = tempfile::tempdir().expect("a directory");
    let path = scratch.path().join("app.sock");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("its address");
    let (code, log) = refused(on_socket(&path).argument("--listen").argument(address.to_string()));
    assert_eq!(code, Some(71), "{log}");
    assert!(!path.exists(), "{log}");
}

#[test]
fn two_that_find_the_same_stale_socket_do_not_both_have_it() {
    let scratch = tempfile::tempdir().expect("a directory");
    let path = scratch.path().join("app.sock");
    for _ in 0..10 {
        drop(UnixListener::bind(&path).expect("a socket"));
        let mut both = [on_socket(&path).launch(), on_socket(&path).launch()];
        let serves = |server: &mut Server| loop {
            if server.ended().is_some() {
                return false;
            }
            if server.log().contains("serving on") {
                return true;
            }
            std::thread::sleep(std::time::Duration::from_millis(2));
        };
        let served = both.each_mut().map(serves);
        assert_eq!(served.iter().filter(|served| **served).count(), 1, "{served:?}");
        assert!(ask(&path).expect("an answer").starts_with("HTTP/1.1 200"));
        for (server, served) in both.into_iter().zip(served) {
            if served {
                server.stop();
            } else {
                assert!(server.log().contains("another process listens there"), "{}", server.log());
            }
        }
    }
}

#[test]
fn a_listener_has_a_name_a_mode_and_an_owner() {
    let scratch = tempfile::tempdir().expect("a directory");
    let path = scratch.path().join("app.sock");
    let is_root = nix::unistd::geteuid().is_root();
    let owner = if is_root { "owner = 4242\ngroup = 4243\n" } else { "" };
    let text = format!(
        "[listener.local]\naddress = \"unix:{}\"\nmode = \"0606\"\n{owner}[listener.six]\naddress = \"[::1]:0\"\n",
        path.display()
    );
    let server = fixture().configuration(&text).start();
    let found = fs::symlink_metadata(&path).expect("it is there");
    assert_eq!(found.mode() & 0o777, 0o606);
    if is_root {
        assert_eq!((found.uid(), found.gid()), (4242, 4243));
    }
    let status = server.status();
    let names: Vec<&str> =
        status["listeners"].as_array().expect("listeners").iter().filter_map(|one| one["name"].as_str()).collect();
    assert_eq!(names, ["http", "local", "six"]);
    let six: std::net::SocketAddr = status["listeners"][2]["address"].as_str().expect("text").parse().expect("[::1]");
    assert!(six.is_ipv6());
    assert_eq!(crate::client::get(six, "/").expect("an answer").status, 200);
    server.stop();
}

// ---- the system around ------------------------------------------------------------------------

#[test]
fn it_starts_with_any_umask_anywhere_and_without_an_environment() {
    let scratch = tempfile::tempdir().expect("a directory");
    let path = scratch.path().join("app.sock");
    let masked = on_socket(&path).under(&["sh", "-c", "umask 077; cd /; exec \"$@\"", "sh"]).start();
    let mode = |path: &Path| fs::symlink_metadata(path).expect("it is there").mode() & 0o777;
    assert_eq!(mode(&path), 0o660);
    assert_eq!(mode(masked.run_dir()), 0o750);
    assert_eq!(mode(&masked.run_dir().join("ipc/log.sock")), 0o660);
    masked.stop();
    let bare = fixture().under(&["env", "-i"]).start();
    crate::client::get(bare.address(), "/log/1").expect("an answer");
    bare.wait_for_log("record 0");
    bare.stop();
    // The directory it was started in may go.
    let gone = scratch.path().join("gone");
    fs::create_dir(&gone).expect("a directory");
    let script = format!("cd {0} && rmdir {0} && exec \"$@\"", gone.display());
    fixture().under(&["sh", "-c", &script, "sh"]).start().stop();
}

#[test]
fn on_a_read_only_system_it_starts_where_it_may_write_or_says_where_it_may_not() {
    let mount = |script: &str| {
        let whole = format!("mount --make-rprivate / && {script} && exec \"$@\"");
        ["unshare", "--mount", "sh", "-c", &whole, "sh"].map(str::to_owned)
    };
    // What is mounted below stays as it is.
    let read_only = mount("mount --bind /tmp /tmp && mount -o remount,bind,ro /");
    let words: Vec<&str> = read_only.iter().map(String::as_str).collect();
    let tried = Command::new(words[0]).args(&words[1..]).args(["touch", "/forebay-test"]).output();
    if !tried.is_ok_and(|output| String::from_utf8_lossy(&output.stderr).contains("Read-only")) {
        return println!("SKIPPED: mounting takes root, and a /tmp");
    }
    fixture().under(&words).start().stop();
    let (code, log) = refused(fixture().under(&words).run_dir("/var/lib/forebay-test-run"));
    assert_eq!(code, Some(71), "{log}");
    assert!(log.contains("cannot use the run directory /var/lib/forebay-test-run: Read-only file system"), "{log}");
}

#[test]
fn an_existing_directory_that_is_somebodys_home_keeps_its_mode() {
    let scratch = tempfile::tempdir().expect("a directory");
    let home = scratch.path().join("home");
    fs::create_dir(&home).expect("a directory");
    fs::write(home.join("letter"), "Dear Ada,\n").expect("write");
    fs::set_permissions(&home, Permissions::from_mode(0o755)).expect("chmod");
    let server = fixture().run_dir(&home).start();
    assert_eq!(fs::metadata(&home).expect("it is there").mode() & 0o777, 0o755);
    server.stop();
    assert_eq!(fs::read_to_string(home.join("letter")).expect("it stays"), "Dear Ada,\n");
}
