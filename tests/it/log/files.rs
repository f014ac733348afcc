//! Files that are renamed, removed or cannot be opened anew, while records come.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::libc::SIGUSR1;

use super::book::Book;
use super::writers::{Logged, Writers};
use super::{Site, Way, over_both_ways};

/// A file that was moved is noticed within about a second; a busy machine takes longer.
const NOTICED_WITHIN: Duration = Duration::from_secs(5);

over_both_ways! {
    files_that_are_renamed_under_load_lose_no_line,
    a_file_that_is_renamed_without_a_word_is_opened_anew_soon,
    what_cannot_be_reopened_stays_in_use_until_it_can,
    a_directory_that_is_removed_is_tried_again_until_it_is_back,
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
