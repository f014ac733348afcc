//! A client of `/events` on a bare socket.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::Value;
use socket2::{Domain, Socket, Type};

use crate::client::uninterrupted;

/// How long an event may take.
const LIMIT: Duration = Duration::from_secs(20);

/// One Server-Sent Event.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Event {
    pub(crate) id: Option<String>,
    pub(crate) name: String,
    pub(crate) data: Value,
}

pub(crate) struct Follower {
    stream: TcpStream,
    /// What was read and is not yet taken.
    text: Vec<u8>,
}

impl Event {
    /// Where it stands: epoch and sequence. Only the last event of a change has an id.
    pub(crate) fn position(&self) -> Option<(u64, u64)> {
        let (epoch, sequence) = self.id.as_deref()?.split_once('-')?;
        Some((epoch.parse().expect("an epoch"), sequence.parse().expect("a sequence")))
    }

    fn parse(text: &str) -> Option<Self> {
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        let data = serde_json::from_str(field("data")?).expect("JSON in one line");
        Some(Self { id: field("id").map(str::to_owned), name: field("event")?.to_owned(), data })
    }
}

impl Follower {
    /// Follows from the present, or from the last id it says it has seen.
    pub(crate) fn start(address: SocketAddr, last: Option<&str>) -> Self {
        let stream = TcpStream::connect(address).expect("connect");
        Self::on(stream, last)
    }

    /// The same with buffers so small that its not reading is felt soon.
    pub(crate) fn narrow(address: SocketAddr) -> Self {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).expect("a socket");
        socket.set_recv_buffer_size(4096).expect("a small buffer");
        socket.set_tcp_mss(536).expect("small segments");
        socket.connect(&address.into()).expect("connect");
        Self::on(socket.into(), None)
    }

    fn on(mut stream: TcpStream, last: Option<&str>) -> Self {
        stream.set_read_timeout(Some(LIMIT)).expect("a limit");
        // HTTP/1.0: the body comes as it is, until the connection ends.
        let last = last.map_or_else(String::new, |id| format!("Last-Event-ID: {id}\r\n"));
        stream.write_all(format!("GET /events HTTP/1.0\r\nHost: test\r\n{last}\r\n").as_bytes()).expect("ask");
        let mut follower = Self { stream, text: Vec::new() };
        let head = follower.until(b"\r\n\r\n").expect("a head");
        assert!(head.starts_with("HTTP/1.0 200") && head.contains("content-type: text/event-stream"), "{head}");
        follower
    }

    /// The next event.
    pub(crate) fn next(&mut self) -> Event {
        self.next_or_end().expect("the stream goes on")
    }

    /// The next event; `None`: the stream has ended.
    pub(crate) fn next_or_end(&mut self) -> Option<Event> {
        let deadline = Instant::now() + LIMIT;
        loop {
            if let Some(event) = Event::parse(&self.until(b"\n\n")?) {
                return Some(event);
            }
            // It was a comment: the stream lives, and may say nothing for ever.
            assert!(Instant::now() < deadline, "waited {} s for an event", LIMIT.as_secs());
        }
    }

    /// Takes events up to one that is as wished.
    pub(crate) fn until_event(&mut self, wish: impl Fn(&Event) -> bool) -> Vec<Event> {
        let deadline = Instant::now() + LIMIT;
        let mut seen = vec![self.next()];
        while !seen.last().is_some_and(&wish) {
            assert!(Instant::now() < deadline, "waited {} s for an event among {}", LIMIT.as_secs(), seen.len());
            seen.push(self.next());
        }
        seen
    }

    fn until(&mut self, end: &[u8]) -> Option<String> {
        loop {
            if let Some(at) = self.text.windows(end.len()).position(|window| window == end) {
                let rest = self.text.split_off(at + end.len());
                return Some(String::from_utf8(std::mem::replace(&mut self.text, rest)).expect("UTF-8"));
            }
            let mut buffer = [0; 4096];
            let count = uninterrupted(|| self.stream.read(&mut buffer)).expect("something within the limit");
            if count == 0 {
                return None;
            }
            self.text.extend_from_slice(&buffer[..count]);
        }
    }
}

/// Whether it says that a thermostat has this label now, by itself or in a snapshot.
pub(crate) fn has_label(label: &str) -> impl Fn(&Event) -> bool {
    move |event| match event.name.as_str() {
        "thermostat" => event.data["label"] == label,
        "snapshot" => event.data.as_array().is_some_and(|all| all.iter().any(|one| one["label"] == label)),
        _ => false,
    }
}
