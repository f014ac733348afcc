//! Files that are renamed, removed or cannot be opened anew, while records come.

use std::fs;
use std::os::unix::fs::{chown, symlink};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::libc::SIGUSR1;
use nix::unistd::geteuid;

use super::book::Book;
use super::writers::{Logged, Writers};
use super::{Site, Way, over_both_ways};
use crate::client::example;
use crate::reload::configure;

/// A file that was moved is noticed within about a second; a busy machine takes longer.
const NOTICED_WITHIN: Duration = Duration::from_secs(5);

over_both_ways! {
    files_that_are_renamed_under_load_lose_no_line,
    a_file_that_is_renamed_without_a_word_is_opened_anew_soon,
    what_cannot_be_reopened_stays_in_use_until_it_can,
    a_directory_that_is_removed_is_tried_again_until_it_is_back,
    a_reload_refuses_a_file_that_is_another_ones_by_another_name,
}

/// And makes nothing.
#[test]
fn check_sees_what_a_start_refuses() {
    let scratch = tempfile::tempdir().expect("a directory");
    let path = |name: &str| scratch.path().join(name);
    fs::create_dir(path("real")).expect("make a directory");
    symlink(path("real"), path("other")).expect("link");
    let target = |name: &str| format!("[[log.target]]\nkind = \"file\"\npath = \"{}\"\n", path(name).display());
    let mut table = vec![
        (target("none/a.log"), 71, "there is no directory "),
        (target("real"), 71, "it is a directory: name a file in it"),
        (target("other"), 71, "it is a symbolic link"),
        (target("real/a.log") + &target("other/a.log"), 78, "other/a.log: keep one"),
    ];
    if geteuid().is_root() {
        fs::create_dir(path("theirs")).expect("make a directory");
        chown(path("theirs"), Some(1000), None).expect("chown");
        table.push((target("theirs/a.log"), 77, "name a file in a directory that only root may write"));
    }
    let run = |word: &str, text: &str| {
        fs::write(path("x.toml"), format!("listen = \"127.0.0.1:0\"\n{text}")).expect("write");
        let mut command = Command::new(example("chatter"));
        command.arg(word).arg("--config").arg(path("x.toml")).arg("--run-dir").arg(path("run"));
        let output = command.env_remove("RUST_LOG").output().expect("the program starts");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    for (text, exit, words) in &table {
        let (code, said) = run("check", text);
        assert!(code == Some(*exit) && said.contains(words), "check: {code:?} {said}");
    }
    let (code, said) = run("check", &target("real/a.log"));
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(fs::read_dir(path("real")).expect("it is there").count(), 0, "nothing is made");
    for (text, exit, words) in &table {
        let (code, said) = run("serve", text);
        assert!(code == Some(*exit) && said.contains(words), "serve: {code:?} {said}");
    }
}

fn a_reload_refuses_a_file_that_is_another_ones_by_another_name(way: Way) {
    let site = Site::new(way);
    fs::create_dir(site.path("real")).expect("make a directory");
    symlink(site.path("real"), site.path("other")).expect("link");
    let target = |name: &str| format!("[[log.target]]\nkind = \"file\"\npath = \"{}\"\n", site.path(name).display());
    let server = site.server_at(&target("real/a.log")).workers(1).start();
    let configuration = fs::read_to_string(server.directory().join("configuration.toml")).expect("it is there");
    configure(&server, &format!("{configuration}\n{}", target("other/a.log")));
    let output = server.command(&["reload"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let (one, other) = (site.path("real/a.log"), site.path("other/a.log"));
    let words = format!("two targets of the log are one file: {} and {}", one.display(), other.display());
    assert!(!output.status.success() && said.contains(&words), "{said}");
    server.stop();
}

fn files_that_are_renamed_under_load_lose_no_line(way: Way) {
    let site = Site::new(way);
    let server = site.server("", "").workers(2).start();
    let writers = Writers::start(server.address(), 4, 10);
    let mut files = Vec::new();
    for number in 0..10 {
        server.wait_for("records", || (site.written() > 20_000).then_some(()));
        files.push(site.path(&format!("log.json.{number}")));
        fs::rename(site.path("log.json"), &files[number]).expect("rename");
        server.signal(server.pid(), SIGUSR1);
        let asked = Instant::now();
        server.wait_for("the new file", || site.path("log.json").exists().then_some(()));
        assert!(asked.elapsed() < NOTICED_WITHIN);
    }
    let logged = writers.finish();
    logged.assert_served();
    site.stop(server);
    files.push(site.path("log.json"));
    Book::read(&files).assert_complete(&logged);
}

fn a_file_that_is_renamed_without_a_word_is_opened_anew_soon(way: Way) {
    let site = Site::new(way);
    let server = site.server("", "").workers(2).start();
    let writers = Writers::start(server.address(), 4, 10);
    server.wait_for("records", || (site.written() > 20_000).then_some(()));
    let old = site.path("log.json.old");
    fs::rename(site.path("log.json"), &old).expect("rename");
    let renamed = Instant::now();
    server.wait_for("the new file", || (site.written() > 0).then_some(()));
    println!("opened anew after {} ms", renamed.elapsed().as_millis());
    assert!(renamed.elapsed() < NOTICED_WITHIN);
    let logged = writers.finish();
    logged.assert_served();
    let _ = site.stop(server);
    Book::read(&[old, site.path("log.json")]).assert_complete(&logged);
}

/// Root may write where nobody may: a directory stands in the file's place instead.
fn what_cannot_be_reopened_stays_in_use_until_it_can(way: Way) {
    let site = Site::new(way);
    let server = site.server("", "").workers(2).start();
    let address = server.address();
    let mut logged = Logged::default();
    logged.ask(address, "/number/100");
    let old = site.path("log.json.old");
    fs::rename(site.path("log.json"), &old).expect("rename");
    fs::create_dir(site.path("log.json")).expect("make a directory");
    server.signal(server.pid(), SIGUSR1);
    let error = format!("cannot reopen the log's file {}, the old one stays in use: ", site.path("log.json").display());
    server.wait_for_log(&error);
    logged.ask(address, "/number/100");
    let from = fs::metadata(&old).expect("it is there").len();
    // Longer than until the next two tries.
    let until = Instant::now() + Duration::from_millis(2500);
    while Instant::now() < until {
        logged.ask(address, "/number/10");
        server.signal(server.pid(), SIGUSR1);
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(server.log().matches(&error).count(), 1, "one line for one trouble");
    assert!(fs::metadata(&old).expect("it is there").len() > from, "the old one is in use");
    fs::remove_dir(site.path("log.json")).expect("remove the directory");
    server.wait_for_log(&format!("the log's file {} is open again\n", site.path("log.json").display()));
    logged.ask(address, "/number/100");
    logged.assert_served();
    let _ = site.stop(server);
    Book::read(&[old, site.path("log.json")]).assert_complete(&logged);
}

fn a_directory_that_is_removed_is_tried_again_until_it_is_back(way: Way) {
    let site = Site::new(way);
    let directory = site.path("logs");
    fs::create_dir(&directory).expect("make a directory");
    let path: PathBuf = directory.join("second.json");
    let second = format!("[[log.target]]\nkind = \"file\"\npath = \"{}\"\nformat = \"json\"\n", path.display());
    let server = site.server("", &second).workers(2).start();
    let address = server.address();
    let mut logged = Logged::default();
    logged.ask(address, "/number/100");
    fs::remove_dir_all(&directory).expect("remove it");
    let error = format!("cannot reopen the log's file {}, the old one stays in use: ", path.display());
    server.wait_for_log(&error);
    logged.ask(address, "/number/100");
    fs::create_dir(&directory).expect("make it again");
    server.wait_for_log(&format!("the log's file {} is open again\n", path.display()));
    assert_eq!(server.log().matches(&error).count(), 1, "one line for one trouble");
    let mut after = Logged::default();
    after.ask(address, "/number/100");
    logged.assert_served();
    let book = site.stop(server);
    assert_eq!(Book::read(&[path]).absent(&after), 0, "it is written to again");
    logged.merge(after);
    book.assert_complete(&logged);
}
