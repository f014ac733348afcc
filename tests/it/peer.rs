//! Somebody on a helper's socket who speaks the protocol by hand, well or badly.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};

use crate::client::uninterrupted;

/// How long a frame may take.
const LIMIT: Duration = Duration::from_secs(20);

pub(crate) struct Peer {
    stream: UnixStream,
    bytes: Vec<u8>,
}

impl Peer {
    pub(crate) fn connect(path: &Path) -> Self {
        Self::of(UnixStream::connect(path).expect("connect"))
    }

    /// Whoever is at the other end of this.
    pub(crate) fn of(stream: UnixStream) -> Self {
        stream.set_read_timeout(Some(LIMIT)).expect("a limit");
        stream.set_write_timeout(Some(LIMIT)).expect("a limit");
        Self { stream, bytes: Vec::new() }
    }

    /// One that has said hello by this name and was welcomed.
    pub(crate) fn greeted(path: &Path, name: &str) -> Self {
        let mut peer = Self::connect(path);
        peer.say(&json!([3, 1, {"name": name}]));
        let welcome = peer.hear();
        assert_eq!(welcome[0], 4, "{welcome}");
        peer
    }

    /// Sends a message as a whole frame.
    pub(crate) fn say(&mut self, message: &Value) {
        self.send(&frame(message));
    }

    /// Sends bytes; a listener that has closed the connection does not take them.
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    /// The next message.
    pub(crate) fn hear(&mut self) -> Value {
        self.hear_or_end().expect("the connection goes on")
    }

    /// Everything until the connection was closed.
    pub(crate) fn hear_to_the_end(&mut self) -> Vec<Value> {
        std::iter::from_fn(|| self.hear_or_end()).collect()
    }

    /// The next message; `None`: the connection was closed.
    pub(crate) fn hear_or_end(&mut self) -> Option<Value> {
        loop {
            if let Some(len) = self.bytes.first_chunk().map(|len| 4 + u32::from_be_bytes(*len) as usize)
                && self.bytes.len() >= len
            {
                let message = rmp_serde::from_slice(&self.bytes[4..len]).expect("MessagePack");
                self.bytes.drain(..len);
                return Some(message);
            }
            let mut buffer = [0; 64 * 1024];
            match uninterrupted(|| self.stream.read(&mut buffer)) {
                // Closed with something of ours unread is a reset.
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
                Ok(0) => return None,
                read => self.bytes.extend_from_slice(&buffer[..read.expect("something within the limit")]),
            }
        }
    }
}

/// A message as a frame.
pub(crate) fn frame(message: &impl Serialize) -> Vec<u8> {
    let body = rmp_serde::to_vec_named(message).expect("MessagePack");
    let mut frame = u32::try_from(body.len()).expect("short").to_be_bytes().to_vec();
    frame.extend(body);
    frame
}
