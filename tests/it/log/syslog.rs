//! Debian's rsyslogd receives what is sent as RFC 5424, over a Unix socket and over UDP.

use std::fs;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::book::Book;
use super::{Site, Way, over_both_ways};
use crate::client::get;

/// `local3`, whose messages nobody else in a test sends.
const FACILITY: u64 = 19;

over_both_ways! {
    rsyslogd_understands_what_comes_over_its_socket,
    rsyslogd_understands_what_comes_over_udp,
    an_rsyslogd_that_is_replaced_gets_what_was_logged_meanwhile,
}

/// One of our own, in the foreground, that writes what it has understood as JSON.
struct Rsyslogd {
    child: Child,
    configuration: PathBuf,
    out: PathBuf,
    socket: PathBuf,
}

impl Rsyslogd {
    fn start(directory: &Path, port: u16) -> Self {
        let path = |name: &str| directory.join(name);
        let (socket, out, configuration) = (path("syslog.sock"), path("received.json"), path("rsyslog.conf"));
        let property =
            |name: &str, of: &str| format!("  property(outname=\"{name}\" name=\"{of}\" format=\"jsonf\")\n");
        let time = "  property(outname=\"time\" name=\"timereported\" dateformat=\"rfc3339\" format=\"jsonf\")\n";
        let properties: String = [
            ("pri", "pri"),
            ("host", "hostname"),
            ("program", "app-name"),
            ("pid", "procid"),
            ("target", "msgid"),
            ("data", "structured-data"),
            ("message", "msg"),
        ]
        .map(|(name, of)| property(name, of) + "  constant(value=\",\")\n")
        .concat();
        let text = format!(
            "global(workDirectory=\"{}\" maxMessageSize=\"64k\" parser.escapeControlCharactersOnReceive=\"off\")\n\
             module(load=\"imuxsock\" SysSock.Use=\"off\")\n\
             module(load=\"imudp\")\n\
             input(type=\"imuxsock\" Socket=\"{}\" UseSysTimeStamp=\"off\" IgnoreTimestamp=\"off\" UsePIDFromSystem=\"off\" \
             UseSpecialParser=\"off\" ParseHostname=\"on\" RateLimit.Interval=\"0\")\n\
             input(type=\"imudp\" address=\"127.0.0.1\" port=\"{port}\")\n\
             template(name=\"all\" type=\"list\") {{\n  constant(value=\"{{\")\n{properties}{time}  constant(value=\"}}\\n\")\n}}\n\
             action(type=\"omfile\" file=\"{}\" template=\"all\")\n",
            directory.display(),
            socket.display(),
            out.display()
        );
        fs::write(&configuration, text).expect("write");
        let child = Self::spawn(&configuration);
        Self { child, configuration, out, socket }
    }

    fn spawn(configuration: &Path) -> Child {
        let mut command = Command::new("rsyslogd");
        command.arg("-n").arg("-f").arg(configuration).arg("-i").arg(configuration.with_extension("pid"));
        command.stdin(Stdio::null()).spawn().expect("rsyslogd is there: scripts/test installs it")
    }

    /// In order: what it has received is in its file.
    fn end(&mut self) {
        let _ = kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGTERM);
        let _ = self.child.wait();
    }

    fn start_again(&mut self) {
        self.child = Self::spawn(&self.configuration);
    }

    /// What it has understood so far.
    fn received(&self) -> Vec<Value> {
        Book::so_far(&self.out).lines
    }
}

impl Drop for Rsyslogd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_port() -> u16 {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("bind");
    socket.local_addr().expect("bound").port()
}

fn target(address: &str) -> String {
    format!(
        "[[log.target]]\nkind = \"syslog\"\naddress = \"{address}\"\nfacility = \"local3\"\nlevel = \"chatter=trace\"\n"
    )
}

fn rsyslogd_understands_what_comes_over_its_socket(way: Way) {
    let site = Site::new(way);
    let receiver = Rsyslogd::start(site.directory.path(), free_port());
    let address = format!("unix:{}", receiver.socket.display());
    compare(&site, &receiver, &address);
}

fn rsyslogd_understands_what_comes_over_udp(way: Way) {
    let site = Site::new(way);
    let port = free_port();
    let receiver = Rsyslogd::start(site.directory.path(), port);
    compare(&site, &receiver, &format!("udp:127.0.0.1:{port}"));
}

/// Each record has what the file says of it, field by field.
fn compare(site: &Site, receiver: &Rsyslogd, address: &str) {
    let server = site.server("", &target(address)).workers(2).start();
    server.wait_for("rsyslogd", || receiver.socket.exists().then_some(()));
    for path in ["/number/30", "/fields", "/large/2000", "/levels/3", "/number/30"] {
        assert_eq!(get(server.address(), path).expect("an answer").status, 200);
    }
    let last = |message: &str| message.starts_with("the last line of worker 1");
    let book = site.stop(server);
    let by_patience = (0..400).find_map(|_| {
        let all = receiver.received();
        let text = |line: &Value| line["message"].as_str().unwrap_or_default().trim_start().to_owned();
        if all.iter().any(|line| last(&text(line))) {
            return Some(all);
        }
        std::thread::sleep(Duration::from_millis(50));
        None
    });
    let received = by_patience.expect("the last line within 20 s");
    let sent: Vec<&Value> = book
        .lines
        .iter()
        .filter(|line| line["target"].as_str().is_some_and(|target| target.starts_with("chatter")))
        .collect();
    assert_eq!(received.len(), sent.len());
    for (received, sent) in received.iter().zip(sent) {
        let text = |value: &Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
        let message = text(received, "message");
        let message = message.strip_prefix(' ').unwrap_or(&message);
        assert_eq!(message.strip_prefix('\u{feff}').unwrap_or(message), text(sent, "message"));
        assert_eq!(text(received, "target"), text(sent, "target"));
        assert_eq!(text(received, "pid"), sent["pid"].to_string());
        assert_eq!(text(received, "program"), "chatter");
        assert_eq!(text(received, "time"), text(sent, "time"));
        let severity = match sent["level"].as_str() {
            Some("error") => 3,
            Some("warn") => 4,
            Some("info") => 6,
            _ => 7,
        };
        assert_eq!(text(received, "pri"), (FACILITY * 8 + severity).to_string(), "{sent}");
        assert_eq!(text(received, "data"), data(sent));
        let host = fs::read_to_string("/proc/sys/kernel/hostname").expect("a name");
        assert_eq!(text(received, "host"), host.trim());
    }
}

/// STRUCTURED-DATA of RFC 5424, section 6.3, of what the file says.
fn data(sent: &Value) -> String {
    let mut data = "[forebay@32473".to_owned();
    for key in ["process", "worker", "generation", "sequence", "request"] {
        if let Some(value) = shown(&sent[key]) {
            data += &format!(" {key}=\"{value}\"");
        }
    }
    data.push(']');
    if sent["fields"].is_object() {
        data += "[fields@32473";
        // serde_json sorts them: in the order of the program.
        for key in ["number", "text", "truth"] {
            let value = shown(&sent["fields"][key]).expect("a field");
            data += &format!(" {key}=\"{value}\"");
        }
        data.push(']');
    }
    data
}

fn shown(value: &Value) -> Option<String> {
    let escape = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"").replace(']', "\\]");
    match value {
        Value::Null => None,
        Value::String(text) => Some(escape(text)),
        other => Some(other.to_string()),
    }
}

/// Over its socket nothing is lost but what it had taken itself.
fn an_rsyslogd_that_is_replaced_gets_what_was_logged_meanwhile(way: Way) {
    let site = Site::new(way);
    let mut receiver = Rsyslogd::start(site.directory.path(), free_port());
    let address = format!("unix:{}", receiver.socket.display());
    let server = site.server("", &target(&address)).workers(2).start();
    server.wait_for("rsyslogd", || receiver.socket.exists().then_some(()));
    let log =
        |records: u32| assert_eq!(get(server.address(), &format!("/number/{records}")).expect("an answer").status, 200);
    let arrived = |receiver: &Rsyslogd, count: usize| {
        let numbered = |line: &&Value| line["message"].as_str().is_some_and(|said| said.contains("record "));
        server.wait_for("the records", || (receiver.received().iter().filter(numbered).count() >= count).then_some(()));
    };
    log(50);
    arrived(&receiver, 50);
    receiver.end();
    log(500);
    log(50);
    receiver.start_again();
    arrived(&receiver, 600);
    log(50);
    arrived(&receiver, 650);
    site.stop(server);
    let said: Vec<String> = receiver
        .received()
        .iter()
        .filter_map(|line| Some(format!("{} {}", line["pid"].as_str()?, line["message"].as_str()?)))
        .collect();
    let mut unique = said.clone();
    unique.sort();
    unique.dedup();
    assert_eq!(said.len(), unique.len(), "each once");
}
