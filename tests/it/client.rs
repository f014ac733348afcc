//! The plainest HTTP client: one connection, one request.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// How long an answer may take.
const LIMIT: Duration = Duration::from_secs(20);

/// Status code and body of an answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

pub(crate) fn get(address: SocketAddr, path: &str) -> std::io::Result<Answer> {
    request(address, "GET", path, b"")
}

pub(crate) fn post(address: SocketAddr, path: &str, body: &[u8]) -> std::io::Result<Answer> {
    request(address, "POST", path, body)
}

/// A connection on which nobody waits for ever.
pub(crate) fn connect(address: SocketAddr) -> TcpStream {
    try_to_connect(address).expect("connect")
}

pub(crate) fn try_to_connect(address: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(LIMIT))?;
    Ok(stream)
}

/// Sends a request on a new connection and reads to its end.
pub(crate) fn request(address: SocketAddr, method: &str, path: &str, body: &[u8]) -> std::io::Result<Answer> {
    let mut stream = try_to_connect(address)?;
    let length = body.len();
    let head =
        format!("{method} {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n");
    stream.write_all(head.as_bytes())?;
    // A server may answer and close before it has read a body that is too long.
    let _ = stream.write_all(body);
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Err(error) if bytes.is_empty() => return Err(error),
        Ok(_) | Err(_) => {}
    }
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let empty = || std::io::Error::other("an empty reply");
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(empty)?;
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or_else(empty)?;
    Ok(Answer { status, head: head.to_owned(), body: body.to_owned() })
}

/// Makes a call on a socket until nothing interrupts it: one with a time limit is, when this process is stopped and goes
/// on (signal(7)).
pub(crate) fn uninterrupted<T>(mut call: impl FnMut() -> std::io::Result<T>) -> std::io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// The binary of an example of this package.
pub(crate) fn example(name: &str) -> PathBuf {
    let binary = PathBuf::from(env!("CARGO_BIN_EXE_forebay"));
    binary.with_file_name("examples").join(name)
}

/// Copies a program by cp(1): a descriptor of ours for writing would be copied into what other
/// tests fork meanwhile, and a file that is open for writing cannot be executed.
pub(crate) fn copy_program(from: &Path, to: &Path) {
    let status = Command::new("cp").args([from, to]).status();
    assert!(status.expect("cp(1) is there").success());
}
