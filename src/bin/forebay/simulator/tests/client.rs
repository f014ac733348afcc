//! A client that looks at every byte, over a socket of its own.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

/// How long anything may take.
const DEADLINE: Duration = Duration::from_secs(20);

/// How long nothing must come for it to count as silence.
const SILENCE: Duration = Duration::from_millis(100);

/// Small, so that a client that does not read is soon noticed.
const RECEIVE_BUFFER_LEN: u32 = 16 * 1024;

/// How a body ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum End {
    Clean,
    Fin,
    Reset,
}

pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) headers: BTreeMap<String, String>,
    socket: TcpStream,
    /// As it came, not yet decoded.
    raw: Vec<u8>,
    /// The body as far as it was decoded and not yet taken.
    body: Vec<u8>,
}

/// Sends a request on a new connection and reads the answer's head; an error is how there came none.
pub(super) async fn call(
    port: u16,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Result<Reply, End> {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(RECEIVE_BUFFER_LEN).expect("a small buffer");
    let mut socket = socket.connect((Ipv4Addr::LOCALHOST, port).into()).await.map_err(|_| End::Reset)?;
    let mut request = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n", body.len());
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    request.push_str(&format!("\r\n{body}"));
    // An error shows as the end of the answer.
    let _ = socket.write_all(request.as_bytes()).await;
    let mut reply = Reply { status: 0, headers: BTreeMap::new(), socket, raw: Vec::new(), body: Vec::new() };
    let end = loop {
        if let Some(at) = find(&reply.raw, b"\r\n\r\n") {
            break at;
        }
        reply.read().await?;
    };
    let head = String::from_utf8(reply.raw.drain(..end + 4).collect()).expect("a head is text");
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|status| status.parse().ok());
    reply.status = status.expect("a status");
    let fields = lines.filter_map(|line| line.split_once(": "));
    reply.headers = fields.map(|(name, value)| (name.to_lowercase(), value.to_owned())).collect();
    Ok(reply)
}

impl Reply {
    /// The whole body of an answer with a length.
    pub(super) async fn text(mut self) -> String {
        let len: usize = self.headers["content-length"].parse().expect("a length");
        while self.raw.len() < len {
            self.read().await.expect("the whole body");
        }
        String::from_utf8(self.raw).expect("the body is text")
    }

    pub(super) async fn json(self) -> Value {
        serde_json::from_str(&self.text().await).expect("the body is JSON")
    }

    /// The stream's bytes up to and with the first such text.
    pub(super) async fn until(&mut self, text: &str) -> String {
        String::from_utf8(self.bytes_until(text.as_bytes()).await).expect("a stream in UTF-8")
    }

    pub(super) async fn bytes_until(&mut self, wanted: &[u8]) -> Vec<u8> {
        loop {
            if let Some(at) = find(&self.body, wanted) {
                return self.body.drain(..at + wanted.len()).collect();
            }
            if let Err(end) = self.decode().await {
                let body = String::from_utf8_lossy(&self.body);
                panic!("{end:?} before {:?}, after {body:?}", String::from_utf8_lossy(wanted));
            }
        }
    }

    /// The next event's name and data; the line end is LF.
    pub(super) async fn event(&mut self) -> (String, Value) {
        let event = self.until("\n\n").await;
        let (name, data) = event.split_once('\n').expect("two lines");
        let data = data.strip_prefix("data: ").expect("data");
        (name.strip_prefix("event: ").expect("a name").to_owned(), serde_json::from_str(data).expect("data in JSON"))
    }

    /// At least so many bytes.
    pub(super) async fn some(&mut self, len: usize) -> Vec<u8> {
        while self.body.len() < len {
            self.decode().await.expect("more bytes");
        }
        std::mem::take(&mut self.body)
    }

    /// How the stream ends, with what came before.
    pub(super) async fn end(mut self) -> (Vec<u8>, End) {
        loop {
            if let Err(end) = self.decode().await {
                return (self.body, end);
            }
        }
    }

    /// That nothing comes for a while, and what came before.
    pub(super) async fn silence(&mut self) -> Vec<u8> {
        while let Ok(decoded) = timeout(SILENCE, self.decode()).await {
            decoded.expect("the stream does not end");
        }
        std::mem::take(&mut self.body)
    }

    /// One more chunk of the body.
    async fn decode(&mut self) -> Result<(), End> {
        loop {
            if let Some(line) = find(&self.raw, b"\r\n") {
                let len =
                    std::str::from_utf8(&self.raw[..line]).ok().and_then(|len| usize::from_str_radix(len, 16).ok());
                let len = len.expect("a chunk's length");
                let end = line + 2 + len + 2;
                if self.raw.len() >= end {
                    self.body.extend_from_slice(&self.raw[line + 2..end - 2]);
                    self.raw.drain(..end);
                    return if len == 0 { Err(End::Clean) } else { Ok(()) };
                }
            }
            self.read().await?;
        }
    }

    async fn read(&mut self) -> Result<(), End> {
        let read = timeout(DEADLINE, self.socket.read_buf(&mut self.raw)).await.expect("something within the deadline");
        match read {
            Ok(0) => Err(End::Fin),
            Ok(_) => Ok(()),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => Err(End::Reset),
            Err(error) => panic!("cannot read: {error}"),
        }
    }
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}
