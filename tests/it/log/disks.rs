//! Disks that take no more: the service and the other targets go on, and the file goes on where it stopped.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use forebay::testing::Server;
use nix::libc::SIGKILL;
use nix::unistd::geteuid;

use super::book::Book;
use super::captured::run;
use super::writers::Logged;
use super::{Site, Way, over_both_ways, stop};
use crate::client::get;

/// A file system of so many bytes, in memory.
const SIZE: u64 = 2 * 1024 * 1024;

over_both_ways! {
    a_target_that_is_always_full_disturbs_nobody,
    a_file_goes_on_in_order_when_its_disk_has_room_again,
    what_a_full_disk_made_missing_is_told_by_a_successor_too,
    with_nowhere_else_to_go_what_does_not_fit_is_refused,
    what_a_disk_has_never_taken_is_said_at_the_end,
    who_prints_does_not_wait_for_a_disk_that_is_full,
    at_the_limit_of_a_files_size_the_log_helper_lives,
}

/// A directory with a small file system of its own.
struct Disk {
    path: PathBuf,
}

impl Disk {
    /// `None`, and a word of why: mount(2) takes root, and a kernel that lets it.
    fn mount(path: PathBuf) -> Option<Self> {
        fs::create_dir(&path).expect("make a directory");
        let options = format!("size={SIZE},mode=0755");
        let mounted = geteuid().is_root()
            && Command::new("mount")
                .args(["-t", "tmpfs", "-o", &options, "none"])
                .arg(&path)
                .status()
                .is_ok_and(|status| status.success());
        if !mounted {
            println!("skipped: no tmpfs can be mounted here");
        }
        mounted.then_some(Self { path })
    }

    /// Takes half of the room, until it is removed.
    fn fill(&self) -> PathBuf {
        let filling = self.path.join("filling");
        fs::write(&filling, vec![1; SIZE as usize / 2]).expect("there is room");
        filling
    }
}

impl Disk {
    /// From now on it has room for all.
    fn grow(&self) {
        let remount = Command::new("mount").args(["-o", "remount,size=256M"]).arg(&self.path).status();
        assert!(remount.expect("mount(8) is there").success());
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.path).status();
    }
}

fn target(path: &Path, keys: &str) -> String {
    format!("[[log.target]]\nkind = \"file\"\npath = \"{}\"\nformat = \"json\"\n{keys}\n", path.display())
}

/// The sum of what the lines of a target itself say that it has missed.
fn missed(book: &Book) -> u64 {
    let said = book.messages().filter_map(|said| said.split_once(" records are missing here")?.0.parse::<u64>().ok());
    said.sum()
}

/// The file is in order, and as much is missing there as its lines say; how much.
fn assert_what_is_missing_is_told(book: &Book) -> u64 {
    book.assert_in_order();
    let missing: u64 = book.missing().values().map(|missing| missing.gaps).sum();
    assert_eq!(missed(book), missing, "so many as its lines say");
    missing
}

/// Logs until the disk is full, and more than waits for it; the other file has all of it.
fn overfill(site: &Site, server: &Server) -> Logged {
    let (address, mut logged) = (server.address(), Logged::default());
    server.wait_for("a full disk", || {
        logged.ask(address, "/number/500");
        server.log().contains("the log cannot be written to ").then_some(())
    });
    for _ in 0..20 {
        logged.ask(address, "/number/500");
    }
    server.wait_for("all records elsewhere", || {
        let numbers = site.book_so_far().numbers();
        (numbers.values().map(Vec::len).sum::<usize>() as u64 == logged.total()).then_some(())
    });
    logged
}

fn a_target_that_is_always_full_disturbs_nobody(way: Way) {
    let site = Site::new(way);
    let server = site.server("", &target(Path::new("/dev/full"), "")).workers(2).start();
    let address = server.address();
    let mut logged = Logged::default();
    for _ in 0..50 {
        logged.ask(address, "/number/200");
    }
    logged.assert_served();
    server.wait_for_log("the log cannot be written to /dev/full: No space left on device");
    server.signal(server.helper("log"), SIGKILL);
    for _ in 0..50 {
        logged.ask(address, "/number/200");
    }
    logged.assert_served();
    server.wait_until("serving", |status| status["state"] == "serving");
    let printed = super::stop_with(&site, server);
    let said = printed.matches("the log cannot be written to /dev/full").count();
    assert!((1..=2).contains(&said), "once for each log helper: {said}");
    let book = site.book_so_far();
    match way {
        Way::Ring => book.assert_complete(&logged),
        Way::Socket => book.assert_in_order(),
    }
}

fn a_file_goes_on_in_order_when_its_disk_has_room_again(way: Way) {
    let site = Site::new(way);
    let Some(disk) = Disk::mount(site.path("disk")) else { return };
    let filling = disk.fill();
    let file = disk.path.join("small.json");
    let server = site.server("", &target(&file, "")).workers(2).start();
    let (address, mut logged) = (server.address(), overfill(&site, &server));
    fs::remove_file(&filling).expect("make room");
    server.wait_for_log(&format!("the log is written to {} again", file.display()));
    for _ in 0..4 {
        logged.ask(address, "/number/10");
    }
    logged.assert_served();
    site.stop(server).assert_complete(&logged);
    // Each line is whole: it went on with the byte that did not fit.
    let book = Book::read(&[file]);
    let missing = assert_what_is_missing_is_told(&book);
    println!("{} records, {missing} missing there", logged.total());
    assert!(missing > 0);
    assert_eq!(book.lost(), 0, "nobody has refused any");
}

/// The line of what is missing comes though the log helper that has lost it is gone.
fn what_a_full_disk_made_missing_is_told_by_a_successor_too(way: Way) {
    let site = Site::new(way);
    let Some(disk) = Disk::mount(site.path("disk")) else { return };
    let filling = disk.fill();
    let file = disk.path.join("small.json");
    let server = site.server("", &target(&file, "")).workers(2).start();
    let (address, mut logged) = (server.address(), overfill(&site, &server));
    let old = server.helper("log");
    server.signal(old, SIGKILL);
    server.wait_until("its successor", |status| {
        let mut helpers = status["helpers"].as_array().into_iter().flatten();
        helpers.any(|helper| helper["name"] == "log" && helper["pid"] != old && helper["state"] == "serving")
    });
    fs::remove_file(&filling).expect("make room");
    server.wait_for("records in it", || {
        logged.ask(address, "/number/1");
        fs::read_to_string(&file).is_ok_and(|text| text.contains(" records are missing here")).then_some(())
    });
    logged.assert_served();
    site.stop(server).assert_in_order();
    // Socket: nobody logs while the log helper is away.
    assert_what_is_missing_is_told(&Book::read(&[file]));
}

/// There the file is waited for: what does not fit is refused by the processes themselves, in their rings or in
/// their 4 MiB.
fn with_nowhere_else_to_go_what_does_not_fit_is_refused(way: Way) {
    let site = Site::narrow(way);
    let Some(disk) = Disk::mount(site.path("disk")) else { return };
    let filling = disk.fill();
    let file = disk.path.join("only.json");
    let server = site.server_at(&target(&file, "")).workers(2).start();
    let address = server.address();
    let mut logged = Logged::default();
    server.wait_for("a full disk", || {
        logged.ask(address, "/levels/500");
        server.log().contains("the log cannot be written").then_some(())
    });
    for _ in 0..20 {
        logged.ask(address, "/levels/4000");
    }
    // All that was held fits in now, and all that comes.
    fs::remove_file(&filling).expect("make room");
    disk.grow();
    server.wait_for("the last record", || {
        logged.ask(address, "/number/1");
        Book::tail(&file).has_the_last_of(&logged).then_some(())
    });
    logged.assert_served();
    let _ = super::stop_with(&site, server);
    let book = Book::read(&[file]);
    book.assert_in_order();
    let lost = book.assert_losses_are_told_in_their_place();
    println!("{} records, {lost} refused", logged.total());
    assert!(lost > 0);
    book.assert_written_and_refused_are(&logged);
}

/// It is neither counted as written nor dropped without a word.
fn what_a_disk_has_never_taken_is_said_at_the_end(way: Way) {
    let site = Site::new(way);
    let Some(disk) = Disk::mount(site.path("disk")) else { return };
    fs::write(disk.path.join("filling"), vec![1; 2 * SIZE as usize]).expect_err("it is full");
    let file = disk.path.join("only.json");
    let server = site.server_at(&target(&file, "")).workers(1).start();
    let mut logged = Logged::default();
    logged.ask(server.address(), "/number/1000");
    server.wait_for_log("the log cannot be written: No space left on device");
    let status = server.status();
    assert_eq!(status["log"]["targets"][0]["written"], 0, "{}", status["log"]);
    let mut log = File::open(server.directory().join("log")).expect("its log");
    server.stop();
    let mut printed = String::new();
    std::io::Read::read_to_string(&mut log, &mut printed).expect("text");
    let said = format!(" records are not in {}", file.display());
    let before = printed.lines().find_map(|line| line.split_once(&said)).expect("it is said").0;
    let missing: u64 = before.rsplit(' ').next().and_then(|number| number.parse().ok()).expect("a number");
    assert!(missing >= logged.total(), "{missing}");
}

/// Lines are dropped, and that is said in their place and counted.
fn who_prints_does_not_wait_for_a_disk_that_is_full(way: Way) {
    let site = Site::new(way);
    let Some(disk) = Disk::mount(site.path("disk")) else { return };
    let filling = disk.fill();
    let file = disk.path.join("only.json");
    let server = site.server_at(&target(&file, "")).workers(1).start();
    run(&server, "head -c 4950000 /dev/zero | tr '\\0' x | fold -w 99; echo\n");
    assert!(server.log().contains("the log cannot be written"), "it is full");
    fs::remove_file(&filling).expect("make room");
    disk.grow();
    // What is said before it is found that there is room again is among what is lost.
    let mut said = 0;
    server.wait_for("the line after them", || {
        run(&server, "echo over\n");
        said += 1;
        Book::tail(&file).messages().any(|said| said == "over").then_some(())
    });
    let refused = server.status()["log"]["refused"]["info"].as_u64().expect("a number");
    let _ = super::stop_with(&site, server);
    let book = Book::read(&[file]);
    let printed = book.messages().filter(|said| said.starts_with("xxx") || *said == "over").count() as u64;
    println!("{printed} lines, {refused} refused");
    assert!(refused > 0 && book.lost() == refused, "{refused} and {} told", book.lost());
    assert_eq!(printed + refused, 50_000 + said);
}

/// The kernel sends SIGXFSZ too (setrlimit(2)), whose default is death.
fn at_the_limit_of_a_files_size_the_log_helper_lives(way: Way) {
    let site = Site { ring: "1M", ..Site::new(way) };
    // Of memory that processes share too: more than the log needs of it.
    let limit = "--fsize=3000000:3000000";
    let server = site.server("", "").workers(2).under(&["prlimit", limit]).start();
    let (address, log_helper) = (server.address(), server.helper("log"));
    server.wait_for("a full file", || {
        assert_eq!(get(address, "/number/500").expect("an answer").status, 200);
        server.log().contains("log.json: File too large").then_some(())
    });
    assert_eq!(server.helper("log"), log_helper, "it lives");
    fs::rename(site.path("log.json"), site.path("log.json.1")).expect("rename");
    server.wait_for_log(&format!("the log is written to {} again", site.path("log.json").display()));
    let mut logged = Logged::default();
    logged.ask(address, "/number/10");
    assert_eq!(server.helper("log"), log_helper, "it lives still");
    let printed = stop(server);
    assert!(!printed.contains("SIGXFSZ"), "{printed}");
    let book = Book::of(
        &[fs::read(site.path("log.json.1")), fs::read(site.path("log.json"))].map(Result::unwrap_or_default).concat(),
    );
    book.assert_in_order();
    assert_eq!(book.absent(&logged), 0);
    assert!(File::open(site.path("log.json.1")).is_ok());
}
