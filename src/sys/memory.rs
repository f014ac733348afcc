//! Memory that several processes have: 64-bit atomics for all at once, bytes for one after another.
//!
//! A memfd, preallocated and sealed against shrinking and growing: a process that maps it cannot
//! be killed by SIGBUS through another one that truncates it.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::AtomicU64;
#[cfg(feature = "tls")]
use std::sync::atomic::Ordering::Relaxed;

use memmap2::{Advice, MmapRaw};
use nix::fcntl::{FcntlArg, SealFlag, fallocate, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::{Mode, fchmod};

const WORD: usize = size_of::<AtomicU64>();

/// The seals without which a mapping is refused.
const SEALS: SealFlag = SealFlag::F_SEAL_SHRINK.union(SealFlag::F_SEAL_GROW);

/// The same for memory that is only read here.
const READ_SEALS: SealFlag = SEALS.union(SealFlag::F_SEAL_FUTURE_WRITE);

/// Words of memory that several processes see.
#[derive(Debug)]
pub(crate) struct SharedWords {
    map: MmapRaw,
    fd: OwnedFd,
}

impl SharedWords {
    /// Makes `count` words, all zero.
    pub(crate) fn create(name: &str, count: usize) -> io::Result<Self> {
        Self::attach(preallocated(name, count * WORD)?)
    }

    /// Maps what another process made; refused unless it is sealed.
    pub(crate) fn attach(fd: OwnedFd) -> io::Result<Self> {
        Ok(Self { map: mapped(&fd)?, fd })
    }

    pub(crate) fn words(&self) -> &[AtomicU64] {
        // SAFETY: the mapping is page-aligned, lives as long as self, cannot shrink (sealed), and
        // every bit pattern is a valid AtomicU64; other processes write it by atomics too, and a
        // hostile one can change only values.
        unsafe { std::slice::from_raw_parts(self.map.as_ptr().cast(), self.map.len() / WORD) }
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Words that only the process that has made them can write: whoever else is given them reads.
#[derive(Debug)]
pub(crate) struct OwnWords(SharedWords);

impl OwnWords {
    /// Makes `count` words, all zero. They are in no core dump, and a process that is forked has them only if it is
    /// given them.
    pub(crate) fn create(name: &str, count: usize) -> io::Result<Self> {
        let fd = sized(name, count * WORD)?;
        let words = SharedWords { map: MmapRaw::map_raw(&fd)?, fd };
        words.map.advise(Advice::DontFork)?;
        words.map.advise(Advice::DontDump)?;
        // After the only mapping that writes: no other one will, of this descriptor or a copy (fcntl(2)).
        fcntl(&words.fd, FcntlArg::F_ADD_SEALS(READ_SEALS | SealFlag::F_SEAL_SEAL))?;
        Ok(Self(words))
    }

    pub(crate) fn words(&self) -> &[AtomicU64] {
        self.0.words()
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.0.fd()
    }
}

/// The same words elsewhere, to be read.
#[cfg(feature = "tls")]
#[derive(Debug)]
pub(crate) struct ReadWords {
    map: MmapRaw,
}

#[cfg(feature = "tls")]
impl ReadWords {
    /// Maps them; refused unless they are sealed as their maker seals them.
    pub(crate) fn attach(fd: &OwnedFd) -> io::Result<Self> {
        check_seals(fd, READ_SEALS)?;
        let map = memmap2::MmapOptions::new().map_raw_read_only(fd)?;
        map.advise(Advice::DontDump)?;
        Ok(Self { map })
    }

    pub(crate) fn len(&self) -> usize {
        self.map.len() / WORD
    }

    /// One of them, without any order to others; one that does not exist is the caller's bug.
    pub(crate) fn load(&self, at: usize) -> u64 {
        assert!(at < self.len(), "word {at} of {}", self.len());
        // SAFETY: it lies within the mapping, which lives as long as self and cannot shrink (sealed), and is
        // aligned. Its maker writes it by atomics. Here it can only be read, which a relaxed atomic load of 64 bits
        // does without a write (std::sync::atomic, "Atomic accesses to read-only memory").
        unsafe { (*self.map.as_ptr().cast::<AtomicU64>().add(at)).load(Relaxed) }
    }
}

/// Bytes of memory that one process after another has: what one leaves there its successor finds.
#[derive(Debug)]
pub(crate) struct HeldBytes {
    map: MmapRaw,
}

impl HeldBytes {
    /// Makes the memory, of `len` zeros. Nobody has it yet.
    pub(crate) fn make(name: &str, len: usize) -> io::Result<OwnedFd> {
        preallocated(name, len)
    }

    /// Takes it. The one who had it before is dead: processes that had it at once would read what the other
    /// is writing.
    pub(crate) fn take(fd: OwnedFd) -> io::Result<Self> {
        Ok(Self { map: mapped(&fd)? })
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: the mapping lives as long as self and cannot shrink (sealed). Nobody writes meanwhile: the
        // master gives the descriptor to one log helper at a time, after the death of the last one, and
        // maps it nowhere; in this process `bytes_mut` takes the only reference.
        unsafe { std::slice::from_raw_parts(self.map.as_ptr(), self.map.len()) }
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `&mut self` is the only one.
        unsafe { std::slice::from_raw_parts_mut(self.map.as_mut_ptr(), self.map.len()) }
    }
}

/// A memfd with `content` that nobody can change any more.
pub(crate) fn sealed_bytes(name: &str, content: &[u8]) -> io::Result<OwnedFd> {
    use std::io::Write;

    let mut file = File::from(unsealed(name)?);
    file.write_all(content)?;
    fcntl(&file, FcntlArg::F_ADD_SEALS(SEALS | SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SEAL))?;
    Ok(file.into())
}

/// Memory of `len` zeros that nobody can cut off.
fn preallocated(name: &str, len: usize) -> io::Result<OwnedFd> {
    let fd = sized(name, len)?;
    fcntl(&fd, FcntlArg::F_ADD_SEALS(SEALS | SealFlag::F_SEAL_SEAL))?;
    Ok(fd)
}

/// Memory of `len` zeros.
fn sized(name: &str, len: usize) -> io::Result<OwnedFd> {
    let fd = unsealed(name)?;
    let len = i64::try_from(len).map_err(io::Error::other)?;
    nix::unistd::ftruncate(&fd, len)?;
    // Before anything is mapped: memory that is short now is an error here, not SIGBUS later.
    fallocate(&fd, nix::fcntl::FallocateFlags::empty(), 0, len)?;
    Ok(fd)
}

fn unsealed(name: &str) -> io::Result<OwnedFd> {
    let fd = memfd_create(name, MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
    fchmod(&fd, Mode::S_IRUSR | Mode::S_IWUSR)?;
    Ok(fd)
}

/// Maps what is sealed, and nothing else.
fn mapped(fd: &OwnedFd) -> io::Result<MmapRaw> {
    check_seals(fd, SEALS)?;
    MmapRaw::map_raw(fd)
}

fn check_seals(fd: &OwnedFd, wanted: SealFlag) -> io::Result<()> {
    let seals = SealFlag::from_bits_truncate(fcntl(fd, FcntlArg::F_GET_SEALS)?);
    if seals.contains(wanted) { Ok(()) } else { Err(io::Error::other("shared memory is not sealed")) }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;
    use std::sync::atomic::Ordering::Relaxed;

    use super::*;

    #[test]
    fn words_are_shared_and_cannot_be_cut_off() {
        let one = SharedWords::create("test", 16).expect("create");
        let two = SharedWords::attach(one.fd().try_clone_to_owned().expect("dup")).expect("attach");
        one.words()[3].store(7, Relaxed);
        assert_eq!(two.words()[3].load(Relaxed), 7);
        assert!(nix::unistd::ftruncate(one.fd(), 0).is_err());
    }

    #[test]
    #[cfg(feature = "tls")]
    fn what_one_process_owns_others_can_only_read() {
        let own = OwnWords::create("test", 16).expect("create");
        own.words()[3].store(7, Relaxed);
        let given = own.fd().try_clone_to_owned().expect("dup");
        let read = ReadWords::attach(&given).expect("attach");
        assert_eq!((read.len(), read.load(3), read.load(4)), (16, 7, 0));
        own.words()[4].store(8, Relaxed);
        assert_eq!(read.load(4), 8);
        assert!(MmapRaw::map_raw(&given).is_err(), "a mapping that writes");
        assert!(nix::unistd::write(&given, b"x").is_err());
        let anew = File::options().read(true).write(true).open(format!("/proc/self/fd/{}", given.as_raw_fd()));
        assert!(MmapRaw::map_raw(&anew.expect("opened anew")).is_err());
        let writable = SharedWords::create("test", 16).expect("create");
        assert!(ReadWords::attach(&writable.fd().try_clone_to_owned().expect("dup")).is_err(), "others can write it");
    }

    #[test]
    fn unsealed_memory_is_refused() {
        let fd = memfd_create("test", MFdFlags::MFD_ALLOW_SEALING).expect("memfd");
        nix::unistd::ftruncate(&fd, 4096).expect("size");
        assert!(SharedWords::attach(fd).is_err());
    }

    #[test]
    fn sealed_bytes_cannot_be_written() {
        let fd = sealed_bytes("test", b"workers = 2").expect("memfd");
        assert!(nix::unistd::write(&fd, b"x").is_err());
    }
}
