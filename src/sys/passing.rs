//! Bytes with descriptors over a Unix socket (SCM_RIGHTS, unix(7)).

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};

/// The most descriptors one message may carry: SCM_MAX_FD of the kernel.
pub(crate) const DESCRIPTORS_MAX: usize = 253;

/// Sends `bytes`; the descriptors travel with the first of them.
pub(crate) fn send(socket: BorrowedFd<'_>, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let raw: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let control: &[ControlMessage<'_>] = if raw.is_empty() { &[] } else { &rights };
    let flags = MsgFlags::MSG_NOSIGNAL;
    Ok(sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(bytes)], control, flags, None)?)
}

/// Receives up to `buffer.len()` bytes and the descriptors that came with them.
///
/// The kernel ends a read where a message with other descriptors begins, so those returned belong
/// to the bytes returned. Zero bytes: the peer is gone.
pub(crate) fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = nix::cmsg_space!([RawFd; DESCRIPTORS_MAX]);
    let mut slices = [IoSliceMut::new(buffer)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut slices, Some(&mut space), flags)?;
    let mut descriptors = Vec::new();
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(numbers) = control {
            // SAFETY: the kernel has just opened these for this message; nothing else owns them.
            descriptors.extend(numbers.into_iter().map(|number| unsafe { OwnedFd::from_raw_fd(number) }));
        }
    }
    Ok((message.bytes, descriptors))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Read;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_descriptor_arrives_with_its_bytes() {
        let (one, two) = UnixStream::pair().expect("pair");
        let file = File::open("/proc/self/comm").expect("open");
        send(one.as_fd(), b"plain", &[]).expect("send");
        send(one.as_fd(), b"with", &[file.as_fd()]).expect("send");
        let mut buffer = [0; 64];
        let (count, descriptors) = receive(two.as_fd(), &mut buffer).expect("receive");
        let (first, mut rest) = (buffer[..count].to_vec(), descriptors);
        if first == b"plain" {
            let (count, descriptors) = receive(two.as_fd(), &mut buffer).expect("receive");
            assert_eq!(&buffer[..count], b"with");
            rest = descriptors;
        }
        let mut text = String::new();
        File::from(rest.remove(0)).read_to_string(&mut text).expect("read");
        assert!(!text.is_empty());
    }
}
