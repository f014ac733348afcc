//! The blocking end of a master's socket pair: whole frames, with descriptors.
//!
//! For processes that have nothing to do but wait for the next order: a zygote, and a child
//! before it has a loop.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::frame::{self, HEADER_LEN};
use crate::contract::orders::ORDER_LEN_MAX;
use crate::sys::passing;

/// Reads one frame and what descriptors came with it. `None`: the peer is gone.
pub(crate) fn receive<T: DeserializeOwned>(socket: &impl AsFd) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let mut header = [0; HEADER_LEN];
    let (count, descriptors) = retry(|| passing::receive(socket.as_fd(), &mut header))?;
    if count == 0 {
        return Ok(None);
    }
    read_exact(socket, &mut header[count..])?;
    let len = frame::announced(header, ORDER_LEN_MAX).map_err(io::Error::other)?;
    let mut body = vec![0; len];
    read_exact(socket, &mut body)?;
    Ok(Some((frame::decode(&body).map_err(io::Error::other)?, descriptors)))
}

/// Whether the peer is gone, and has left nothing to be read.
pub(crate) fn is_over(socket: &impl AsRawFd) -> io::Result<bool> {
    match recv(socket.as_raw_fd(), &mut [0], MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT) {
        Ok(count) => Ok(count == 0),
        Err(Errno::EAGAIN) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Writes one frame.
pub(crate) fn send<T: Serialize>(socket: &impl AsFd, message: &T) -> io::Result<()> {
    let mut out = Vec::new();
    frame::encode(message, &mut out);
    let mut rest = &out[..];
    while !rest.is_empty() {
        let count = retry(|| passing::send(socket.as_fd(), rest, &[]))?;
        rest = &rest[count..];
    }
    Ok(())
}

fn read_exact(socket: &impl AsFd, mut rest: &mut [u8]) -> io::Result<()> {
    while !rest.is_empty() {
        match retry(|| Ok(nix::unistd::read(socket.as_fd(), rest)?))? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => rest = &mut rest[count..],
        }
    }
    Ok(())
}

fn retry<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn orders_keep_their_descriptors_apart() {
        let (one, two) = UnixStream::pair().expect("pair");
        let file = File::open("/dev/null").expect("open");
        let mut out = Vec::new();
        frame::encode(&"with", &mut out);
        send(&one, &"before").expect("send");
        passing::send(one.as_fd(), &out, &[file.as_fd()]).expect("send");
        send(&one, &"after").expect("send");
        let next = || receive::<String>(&two).expect("receive").expect("frame");
        let got: Vec<(String, usize)> = (0..3).map(|_| next()).map(|(text, given)| (text, given.len())).collect();
        assert_eq!(got, [("before".to_owned(), 0), ("with".to_owned(), 1), ("after".to_owned(), 0)]);
    }

    #[test]
    fn half_an_order_is_an_error_and_none_is_the_end() {
        let (mut one, two) = UnixStream::pair().expect("pair");
        one.write_all(&[0, 0, 0, 9, 1]).expect("write");
        drop(one);
        assert!(receive::<String>(&two).is_err());
        assert!(receive::<String>(&two).expect("end").is_none());
    }
}
