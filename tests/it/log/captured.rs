//! What a worker and its own children print themselves, however they do it.

use std::fs::File;
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use forebay::testing::Server;
use nix::libc::{SIGCONT, SIGKILL, SIGSTOP};

use super::book::Book;
use super::writers::{Logged, Writers};
use super::{Site, Way, over_both_ways};
use crate::client::post;

/// The longest line; a longer one is broken.
const LINE_LEN_MAX: usize = 64 * 1024;

over_both_ways! {
    lines_of_any_length_and_content_are_captured,
    a_million_empty_lines_break_nothing,
    a_console_that_reads_slowly_gets_them_all,
    what_has_no_end_is_told_when_nothing_follows,
    who_prints_does_not_wait_for_a_log_helper_that_is_stopped,
}

/// Runs a shell as a child of the worker.
pub(super) fn run(server: &Server, script: &str) {
    assert_eq!(post(server.address(), "/run", script.as_bytes()).expect("an answer").status, 200, "{script}");
}

/// What was printed, in its order.
fn printed(book: &Book) -> Vec<&str> {
    let lines = book.lines.iter().filter(|line| line["target"] == "output");
    lines.filter_map(|line| line["message"].as_str()).collect()
}

/// The transport does not matter: it goes through pipes.
fn lines_of_any_length_and_content_are_captured(way: Way) {
    let site = Site::new(way);
    let server = site.server("", "").workers(1).start();
    let letters = |count: usize, letter: char| format!("head -c {count} /dev/zero | tr '\\0' {letter}\n");
    run(&server, "printf 'out\\n'\nprintf 'err\\n' >&2\n");
    run(&server, &format!("{}echo\n", letters(LINE_LEN_MAX - 1, 'a')));
    run(&server, &format!("{}echo\n", letters(200_000, 'b')));
    run(&server, "printf 'bin \\000\\001\\033[2J\\377\\376 ary\\n'\n");
    run(&server, "printf 'one\\ntwo\\n\\nthree\\n'\n");
    // What follows at once ends it.
    run(&server, "printf 'no end'\n");
    run(&server, "printf ' of it\\n'\n");
    server.wait_for("the last line", || printed(&site.book_so_far()).contains(&"no end of it").then_some(()));
    let book = site.stop(server);
    let all = printed(&book);
    assert!(all.contains(&"out") && all.contains(&"err"), "both streams");
    let of = |letter: char| -> Vec<usize> {
        let lines = all.iter().filter(|line| !line.is_empty() && line.chars().all(|other| other == letter));
        lines.map(|line| line.len()).collect()
    };
    assert_eq!(of('a'), [LINE_LEN_MAX - 1], "whole");
    let broken = of('b');
    assert_eq!(broken.iter().sum::<usize>(), 200_000, "{broken:?}");
    assert!(broken.len() > 1 && broken.iter().all(|len| *len <= LINE_LEN_MAX), "broken into lines: {broken:?}");
    assert!(all.contains(&"bin \0\u{1}\u{1b}[2J\u{fffd}\u{fffd} ary"), "{all:?}");
    let after = all.iter().position(|line| *line == "one").expect("it is there");
    assert_eq!(all[after..after + 4], ["one", "two", "", "three"]);
    let who = book.lines.iter().find(|line| line["message"] == "out").expect("it is there");
    assert_eq!(who["process"], "worker 0 generation 1");
}

/// Of a page of line feeds a hundred times as much is to be written.
fn a_million_empty_lines_break_nothing(way: Way) {
    let site = Site::new(way);
    let server = site.server("", "").workers(2).start();
    let log_helper = server.helper("log");
    let writers = Writers::start(server.address(), 2, 10);
    run(&server, "head -c 1000000 /dev/zero | tr '\\0' '\\n'\necho over\n");
    server.wait_for("the last line", || site.contains("\"message\":\"over\"").then_some(()));
    let logged = writers.finish();
    logged.assert_served();
    assert_eq!(server.helper("log"), log_helper);
    let book = site.stop(server);
    assert_eq!(printed(&book).iter().filter(|line| line.is_empty()).count(), 1_000_000);
    book.assert_complete(&Logged { of: logged.of, ..Logged::default() });
}

fn what_has_no_end_is_told_when_nothing_follows(way: Way) {
    let site = Site::new(way);
    let server = site.server("", "").workers(1).start();
    let wait_for = |line: &str| server.wait_for(line, || printed(&site.book_so_far()).contains(&line).then_some(()));
    run(&server, "printf 'then silence'\n");
    wait_for("then silence");
    run(&server, "printf 'last words' >&2\n");
    server.signal(server.workers()[0], SIGKILL);
    server.wait_until("its successor", |status| status["workers"][0]["restarts"] == 1 && status["state"] == "serving");
    if way == Way::Socket {
        // Nobody says there that it is gone.
        wait_for("last words");
    }
    run(&server, "printf 'at the end'\n");
    let book = site.stop(server);
    assert_eq!(printed(&book), ["then silence", "last words", "at the end"]);
}

fn who_prints_does_not_wait_for_a_log_helper_that_is_stopped(way: Way) {
    let site = Site::new(way);
    let server = site.server("", "[timeouts]\nhang = 30\n").workers(1).start();
    let log_helper = server.helper("log");
    server.signal(log_helper, SIGSTOP);
    run(&server, "head -c 500000 /dev/zero | tr '\\0' x | fold -w 99\necho\necho over\n");
    server.signal(log_helper, SIGCONT);
    server.wait_for("the last line", || site.contains("\"message\":\"over\"").then_some(()));
    assert!(server.status()["log"]["taken"].as_u64() > Some(5000), "lines count as records");
    let book = site.stop(server);
    assert_eq!(printed(&book).iter().map(|line| line.len()).sum::<usize>(), 500_000 + "over".len());
}

/// As long as nothing is lost there that is no trouble. The transport does not matter.
#[test]
fn a_console_that_nobody_reads_is_trouble_after_a_while() {
    let site = Site::new(Way::Ring);
    let fifo = site.path("console");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).expect("a FIFO");
    // Nothing waits for a reader who is there.
    let console = File::options().read(true).write(true).open(&fifo).expect("open");
    let script = format!("exec \"$@\" 2>{}", fifo.display());
    let file = site.path("log.json");
    let file = format!("[[log.target]]\nkind = \"file\"\nformat = \"json\"\npath = \"{}\"\n", file.display());
    let server = site.server_at(&format!("[[log.target]]\nkind = \"console\"\n{file}")).workers(1);
    let server = server.under(&["sh", "-c", &script, "sh"]).start();
    let mut logged = Logged::default();
    logged.ask(server.address(), "/number/2000");
    let status = server.wait_until("trouble", |status| !status["log"]["targets"][0]["trouble"].is_null());
    assert_eq!(status["log"]["targets"][0]["trouble"], "nobody reads there", "{}", status["log"]);
    logged.ask(server.address(), "/number/10");
    drop(console);
    site.stop(server).assert_complete(&logged);
}

/// As long as the console is all there is, it is waited for.
fn a_console_that_reads_slowly_gets_them_all(way: Way) {
    let site = Site::new(way);
    let fifo = site.path("console");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).expect("a FIFO");
    let lines = Arc::new(AtomicUsize::new(0));
    let read = {
        let (fifo, lines) = (fifo.clone(), Arc::clone(&lines));
        std::thread::spawn(move || {
            let (mut console, mut all, mut buffer) = (File::open(fifo).expect("open"), Vec::new(), [0; 4096]);
            loop {
                let count = console.read(&mut buffer).expect("read");
                if count == 0 {
                    return all;
                }
                all.extend_from_slice(&buffer[..count]);
                lines.fetch_add(buffer[..count].iter().filter(|byte| **byte == b'\n').count(), Ordering::Relaxed);
                std::thread::sleep(Duration::from_micros(200));
            }
        })
    };
    let script = format!("exec \"$@\" 2>{}", fifo.display());
    let console = "[[log.target]]\nkind = \"console\"\nformat = \"json\"\n";
    let server = site.server_at(console).workers(1).under(&["sh", "-c", &script, "sh"]).start();
    let mut logged = Logged::default();
    logged.ask(server.address(), "/number/100");
    run(&server, "head -c 20000 /dev/zero | tr '\\0' '\\n'\n");
    logged.ask(server.address(), "/number/100");
    // At the end what is left is waited for within limits.
    server.wait_for("the last of them", || (lines.load(Ordering::Relaxed) >= 20_200).then_some(()));
    logged.assert_served();
    server.stop();
    let all = read.join().expect("the reader does not panic");
    // Before the log helper there is the text of env_logger.
    let text = String::from_utf8_lossy(&all);
    let objects: String = text.split_inclusive('\n').filter(|line| line.starts_with('{')).collect();
    let book = Book::of(objects.as_bytes());
    assert_eq!(printed(&book).iter().filter(|line| line.is_empty()).count(), 20_000);
    book.assert_complete(&logged);
}
