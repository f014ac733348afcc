//! What is sent to systemd's journal, received by the published description of its protocol.
//!
//! The receiver is Python's: it shares no code with what it judges.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use super::book::Book;
use super::{Site, Way, over_both_ways};
use crate::client::get;

over_both_ways! {
    the_journal_gets_each_record_with_all_its_fields,
}

struct Journal {
    child: Child,
    socket: PathBuf,
    out: PathBuf,
}

impl Journal {
    fn start(directory: &Path) -> Self {
        let (socket, out) = (directory.join("journal.sock"), directory.join("journal.json"));
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/log/journal.py");
        let mut command = Command::new("python3");
        let child = command.arg(script).arg(&socket).arg(&out).stdin(Stdio::null()).spawn();
        Self { child: child.expect("Python is there: scripts/test installs it"), socket, out }
    }

    fn received(&self) -> Vec<Value> {
        Book::so_far(&self.out).lines
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn the_journal_gets_each_record_with_all_its_fields(way: Way) {
    let site = Site::new(way);
    let mut journal = Journal::start(site.directory.path());
    let target = format!(
        "[[log.target]]\nkind = \"journald\"\npath = \"{}\"\nlevel = \"chatter=trace\"\n",
        journal.socket.display()
    );
    let server = site.server("", &target).workers(2).start();
    server.wait_for("the receiver", || journal.socket.exists().then_some(()));
    // The last of them is more than a datagram takes.
    for path in ["/number/30", "/fields", "/levels/3", "/large/2000", "/large/300000", "/number/30"] {
        assert_eq!(get(server.address(), path).expect("an answer").status, 200);
    }
    let book = site.stop(server);
    let is_ours = |line: &&Value| line["target"].as_str().is_some_and(|target| target.starts_with("chatter"));
    let sent: Vec<&Value> = book.lines.iter().filter(is_ours).collect();
    let received = (0..400).find_map(|_| {
        assert!(journal.child.try_wait().expect("wait").is_none(), "the receiver has understood all so far");
        let all = journal.received();
        std::thread::sleep(Duration::from_millis(50));
        (all.len() >= sent.len()).then_some(all)
    });
    let received = received.expect("all of them within 20 s");
    assert_eq!(received.len(), sent.len());
    for (received, sent) in received.iter().zip(sent) {
        compare(received, sent);
    }
}

fn compare(received: &Value, sent: &Value) {
    let field = |name: &str| received["fields"][name][0].as_str().map(str::to_owned);
    let said =
        |value: &Value| value.as_str().map(str::to_owned).or_else(|| (!value.is_null()).then(|| value.to_string()));
    let names = [
        ("MESSAGE", "message"),
        ("TARGET", "target"),
        ("CODE_MODULE", "module"),
        ("FOREBAY_TIME", "time"),
        ("FOREBAY_PROCESS", "process"),
        ("FOREBAY_WORKER", "worker"),
        ("FOREBAY_GENERATION", "generation"),
        ("FOREBAY_PID", "pid"),
        ("FOREBAY_SEQUENCE", "sequence"),
        ("FOREBAY_REQUEST", "request"),
    ];
    for (name, key) in names {
        assert_eq!(field(name), said(&sent[key]), "{name}");
    }
    let priority = match sent["level"].as_str() {
        Some("error") => "3",
        Some("warn") => "4",
        Some("info") => "6",
        _ => "7",
    };
    assert_eq!(field("PRIORITY").as_deref(), Some(priority));
    assert_eq!(field("SYSLOG_IDENTIFIER").as_deref(), Some("chatter"));
    for (key, value) in sent["fields"].as_object().into_iter().flatten() {
        assert_eq!(field(&key.to_uppercase()), said(value), "{key}");
    }
    let is_long = sent["message"].as_str().is_some_and(|message| message.len() > 250_000);
    assert_eq!(received["is_memory"], is_long, "what a datagram takes comes as one");
}
