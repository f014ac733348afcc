//! A WebSocket's client that knows every byte it reads and writes.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::client::uninterrupted;

/// How long a frame may take.
const LIMIT: Duration = Duration::from_secs(20);

pub(crate) struct Talker(BufReader<TcpStream>);

/// What a frame of the server's says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    Text(String),
    Binary(usize),
    Close(u16),
}

impl Talker {
    pub(crate) fn open(address: SocketAddr, path: &str) -> Self {
        let mut stream = TcpStream::connect(address).expect("connect");
        stream.set_read_timeout(Some(LIMIT)).expect("a limit");
        let head = format!(
            "GET {path} HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).expect("send");
        let mut stream = BufReader::new(stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(stream.read_line(&mut head).expect("an answer") > 0, "closed after {head:?}");
        }
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        Self(stream)
    }

    pub(crate) fn say(&mut self, text: &str) {
        self.send(0x81, text.as_bytes());
    }

    /// Answers Close, as a client does.
    pub(crate) fn answer_close(&mut self, code: u16) {
        self.send(0x88, &code.to_be_bytes());
    }

    /// The next frame.
    pub(crate) fn hear(&mut self) -> Heard {
        let [first, len] = self.bytes();
        let len = match len {
            126 => usize::from(u16::from_be_bytes(self.bytes())),
            127 => usize::try_from(u64::from_be_bytes(self.bytes())).expect("a length"),
            _ => usize::from(len),
        };
        let mut payload = vec![0; len];
        self.0.read_exact(&mut payload).expect("a whole frame");
        match first {
            0x81 => Heard::Text(String::from_utf8(payload).expect("text")),
            0x82 if payload.iter().all(|byte| *byte == 0x88) => Heard::Binary(len),
            0x88 => Heard::Close(u16::from_be_bytes(payload[..].try_into().expect("a code and no more"))),
            _ => panic!("no frame that anybody sends begins with {first:#x}"),
        }
    }

    /// The frames up to Close, and its code.
    pub(crate) fn hear_until_close(&mut self) -> (Vec<Heard>, u16) {
        let mut heard = Vec::new();
        loop {
            match self.hear() {
                Heard::Close(code) => return (heard, code),
                other => heard.push(other),
            }
        }
    }

    /// Whether the server keeps it for so long and says nothing.
    pub(crate) fn is_silent_for(&self, time: Duration) -> bool {
        let stream = self.0.get_ref();
        stream.set_read_timeout(Some(time)).expect("a limit");
        let seen = uninterrupted(|| stream.peek(&mut [0]));
        stream.set_read_timeout(Some(LIMIT)).expect("a limit");
        self.0.buffer().is_empty() && seen.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
    }

    /// Is told that the server goes away, answers, and is let go.
    pub(crate) fn part(mut self, code: u16) {
        assert_eq!(self.hear(), Heard::Close(code));
        self.answer_close(code);
        self.wait_for_the_end();
    }

    /// Nothing follows but the connection's end, in order.
    pub(crate) fn wait_for_the_end(mut self) {
        let mut rest = Vec::new();
        self.0.read_to_end(&mut rest).expect("an orderly end");
        assert!(rest.is_empty(), "nothing follows Close: {rest:?}");
    }

    fn send(&mut self, first: u8, payload: &[u8]) {
        let mask = [7, 1, 8, 2];
        let len = u8::try_from(payload.len()).ok().filter(|len| *len <= 125).expect("short");
        let mut frame = vec![first, 0x80 | len];
        frame.extend(mask);
        frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        self.0.get_mut().write_all(&frame).expect("send");
    }

    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.0.read_exact(&mut bytes).expect("a frame's head");
        bytes
    }
}
