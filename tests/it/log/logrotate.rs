//! Debian's logrotate under load, both of its ways.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use super::book::Book;
use super::writers::Writers;
use super::{Site, Way, over_both_ways};

/// How often it rotates.
const ROTATIONS: usize = 5;

over_both_ways! {
    logrotate_renames_and_no_line_is_lost,
    logrotate_copies_and_truncates_and_no_line_is_lost,
}

/// A configuration of logrotate's beside the log.
fn configure(site: &Site, directives: &str) -> PathBuf {
    let path = site.path("logrotate.conf");
    let log = site.path("log.json");
    let text = format!("\"{}\" {{\n  rotate 20\n  nocompress\n  missingok\n  ifempty\n{directives}}}\n", log.display());
    fs::write(&path, text).expect("write");
    path
}

fn rotate(site: &Site, configuration: &PathBuf) {
    let mut command = Command::new("logrotate");
    let ran = command.arg("--force").arg("--state").arg(site.path("logrotate.state")).arg(configuration).output();
    let ran = ran.expect("logrotate is there: scripts/test installs it");
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
}

/// The oldest first.
fn files(site: &Site) -> Vec<PathBuf> {
    let rotated = (1..=ROTATIONS).rev().map(|number| site.path(&format!("log.json.{number}")));
    rotated.chain([site.path("log.json")]).collect()
}

fn logrotate_renames_and_no_line_is_lost(way: Way) {
    let site = Site::new(way);
    let server = site.server("", "").workers(2).start();
    let directives = format!("  create 0640\n  postrotate\n    kill -USR1 {}\n  endscript\n", server.pid());
    let configuration = configure(&site, &directives);
    let writers = Writers::start(server.address(), 4, 10);
    for _ in 0..ROTATIONS {
        server.wait_for("records", || (site.written() > 20_000).then_some(()));
        rotate(&site, &configuration);
    }
    server.wait_for("records", || (site.written() > 20_000).then_some(()));
    let logged = writers.finish();
    logged.assert_served();
    let _ = site.stop(server);
    Book::read(&files(&site)).assert_complete(&logged);
}

/// What was written between the copy and the truncation comes once more, with all of the last second: lines may be there
/// twice, and none is missing.
fn logrotate_copies_and_truncates_and_no_line_is_lost(way: Way) {
    let site = Site::new(way);
    let server = site.server("", "").workers(2).start();
    let configuration = configure(&site, "  copytruncate\n");
    // What it misses is remembered, 1 MiB of it: on a busy machine it may take half a second for it.
    let writers = Writers::start(server.address(), 1, 1);
    for _ in 0..ROTATIONS {
        let before = site.written();
        server.wait_for("records", || (site.written() > before + 20_000).then_some(()));
        rotate(&site, &configuration);
    }
    let mut logged = writers.finish();
    logged.assert_served();
    // By hand: something is written after the copy, and nothing after the truncation.
    let (log, copy) = (site.path("log.json"), site.path("log.json.0"));
    fs::copy(&log, &copy).expect("copy");
    let before = site.written();
    let mut last = super::writers::Logged::default();
    last.ask(server.address(), "/number/10");
    server.wait_for("it", || (site.written() > before).then_some(()));
    fs::File::options().write(true).open(&log).and_then(|file| file.set_len(0)).expect("truncate");
    server.wait_for("it once more", || (site.book_so_far().absent(&last) == 0).then_some(()));
    logged.merge(last);
    let _ = site.stop(server);
    let mut all = files(&site);
    all.insert(0, copy);
    let books = all.iter().map(|path| fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())));
    // A copy may end within a line.
    let lines = books.flat_map(|bytes| {
        let whole = bytes.split_inclusive(|byte| *byte == b'\n').filter(|line| line.ends_with(b"\n"));
        whole.map(<[u8]>::to_vec).collect::<Vec<_>>()
    });
    let book = Book::of(&lines.collect::<Vec<_>>().concat());
    assert_eq!(book.absent(&logged), 0);
    assert_eq!(book.lost(), 0);
}
