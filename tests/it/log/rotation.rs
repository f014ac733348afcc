//! Files that are rotated by the daemon itself, while records come.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::book::Book;
use super::writers::Writers;
use super::{Site, Way, over_both_ways};
use crate::client::get;

over_both_ways! {
    files_rotated_by_size_under_load_hold_every_line,
    only_so_many_rotated_files_are_kept,
    a_file_is_hardly_longer_than_its_size_under_load,
}

/// The rotated files, the oldest first: their names say when they were rotated.
fn rotated(site: &Site) -> Vec<PathBuf> {
    let entries = fs::read_dir(site.directory.path()).expect("a directory").flatten();
    let name = |path: &Path| path.file_name().and_then(|name| name.to_str()).map(str::to_owned).unwrap_or_default();
    let mut all: Vec<PathBuf> =
        entries.map(|entry| entry.path()).filter(|path| name(path).starts_with("log.json.")).collect();
    // Of one second the tenth is after the second.
    all.sort_by_key(|path| {
        let name = name(path);
        let (second, rest) = name.split_once('Z').unwrap_or((&name, ""));
        let count = rest.split('.').find_map(|part| part.parse::<u32>().ok());
        (second.to_owned(), count.unwrap_or(0))
    });
    all
}

fn is_compressed(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending == "gz")
}

/// As any gzip reads it.
fn content(path: &Path) -> Vec<u8> {
    if !is_compressed(path) {
        return fs::read(path).expect("read");
    }
    let gunzipped = Command::new("gzip").arg("-dc").arg(path).output().expect("gzip(1) is there");
    assert!(gunzipped.status.success(), "{}: {}", path.display(), String::from_utf8_lossy(&gunzipped.stderr));
    gunzipped.stdout
}

fn files_rotated_by_size_under_load_hold_every_line(way: Way) {
    let site = Site::new(way);
    let server = site.server("size = \"16K\"\nkeep = 10000\ncompress = true", "").workers(2).start();
    let writers = Writers::start(server.address(), 4, 10);
    server.wait_for("four rotated files", || {
        (rotated(&site).iter().filter(|path| is_compressed(path)).count() >= 4).then_some(())
    });
    let logged = writers.finish();
    logged.assert_served();
    server.wait_for("the last compression", || rotated(&site).iter().all(|path| is_compressed(path)).then_some(()));
    let _ = site.stop(server);
    // The last look before the end may have rotated once more.
    let mut all: Vec<u8> = rotated(&site).iter().flat_map(|path| content(path)).collect();
    all.extend(fs::read(site.path("log.json")).expect("read"));
    Book::of(&all).assert_complete(&logged);
}

/// It is not waited for until files are looked at the next time, a second later.
fn a_file_is_hardly_longer_than_its_size_under_load(way: Way) {
    let site = Site::new(way);
    let server = site.server("size = \"1M\"\nkeep = 10000", "").workers(1).start();
    let mut written = 0;
    server.wait_for("several MiB", || {
        assert_eq!(get(server.address(), "/flood/300").expect("an answer").status, 200);
        written = rotated(&site).iter().map(|path| path.metadata().map_or(0, |found| found.len())).sum();
        (written > 24 << 20).then_some(())
    });
    let longest = rotated(&site).iter().filter_map(|path| path.metadata().ok()).map(|found| found.len()).max();
    let longest = longest.expect("a rotated file");
    println!("{written} bytes, {longest} in the longest");
    assert!(longest < 12 << 20, "{longest}");
    // A stop does not wait for long for what a flood has left.
    let is_taken = |status: &Value| {
        let log = &status["log"];
        let refused: u64 = log["refused"].as_object().expect("levels").values().filter_map(Value::as_u64).sum();
        log["taken"].as_u64().expect("a number") + refused + 100 >= log["produced"].as_u64().expect("a number")
    };
    server.wait_until("the rest in the file", is_taken);
    let _ = site.stop(server);
}

fn only_so_many_rotated_files_are_kept(way: Way) {
    let site = Site::new(way);
    let server = site.server("size = 1024\nkeep = 2", "").workers(1).start();
    let writers = Writers::start(server.address(), 1, 10);
    let mut names = std::collections::BTreeSet::new();
    server.wait_for("five rotated files", || {
        names.extend(rotated(&site));
        (names.len() >= 5).then_some(())
    });
    let logged = writers.finish();
    logged.assert_served();
    let _ = site.stop(server);
    let kept = rotated(&site);
    assert_eq!(kept.len(), 2, "{kept:?}");
    let all: Vec<u8> =
        kept.iter().flat_map(|path| content(path)).chain(fs::read(site.path("log.json")).expect("read")).collect();
    Book::of(&all).assert_in_order();
}
