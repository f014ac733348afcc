//! A frame: its length as 32-bit big-endian number, then so many bytes of MessagePack.

use std::fmt;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::spare::Spare;
use super::value::{self, DEPTH_MAX};

/// Bytes of the length in front.
pub(crate) const HEADER_LEN: usize = 4;

/// Capacity a decoder keeps once everything is read.
const READ_CAPACITY: usize = 16 * 1024;

/// What is wrong with bytes of a peer. The connection ends with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum FrameError {
    TooLong { len: u32, max: u32 },
    Empty,
    Malformed(String),
}

impl FrameError {
    /// What is wrong, without a word on frames.
    pub(crate) fn reason(&self) -> String {
        match self {
            Self::Malformed(why) => why.clone(),
            Self::TooLong { .. } | Self::Empty => self.to_string(),
        }
    }
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong { len, max } => write!(f, "a frame of {len} bytes, {max} are allowed"),
            Self::Empty => f.write_str("an empty frame"),
            Self::Malformed(why) => write!(f, "a malformed frame: {why}"),
        }
    }
}

impl std::error::Error for FrameError {}

/// Appends a frame with `message` to `out`: structs as maps, tuples as arrays.
pub(crate) fn encode<T: Serialize>(message: &T, out: &mut Vec<u8>) {
    try_encode(message, out).expect("our own types encode, into memory, and are bounded");
}

/// The same for what an application made, which may not encode, or a peer would refuse: then `out`
/// stays as it was.
pub(crate) fn try_encode<T: Serialize>(message: &T, out: &mut Vec<u8>) -> Result<(), FrameError> {
    let start = out.len();
    out.extend_from_slice(&[0; HEADER_LEN]);
    let written = write(message, out).and_then(|()| check_depth(&out[start + HEADER_LEN..], 0));
    let encoded = written.and_then(|()| close(start, out));
    if encoded.is_err() {
        out.truncate(start);
    }
    encoded
}

/// Appends a frame with an array: the elements of the tuple `front`, then `COUNT` more that stand
/// encoded in `last`.
pub(crate) fn encode_before<T: Serialize, const COUNT: u8>(front: &T, last: &[u8], out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(&[0; HEADER_LEN]);
    write(front, out).expect("numbers encode");
    // The low bits of a fixarray's marker are its length, up to 15.
    out[start + HEADER_LEN] += COUNT;
    out.extend_from_slice(last);
    close(start, out).expect("our own messages are bounded");
}

/// Writes the length of the frame that began at `start`.
fn close(start: usize, out: &mut [u8]) -> Result<(), FrameError> {
    let len = out.len() - start - HEADER_LEN;
    let len = u32::try_from(len).map_err(|_| FrameError::TooLong { len: u32::MAX, max: u32::MAX })?;
    out[start..start + HEADER_LEN].copy_from_slice(&len.to_be_bytes());
    Ok(())
}

/// Reads an element of a message as one value, and nothing behind it.
pub(crate) fn decode<T: DeserializeOwned>(mut body: &[u8]) -> Result<T, FrameError> {
    let value = take(&mut body, 1)?;
    value::end(body)?;
    Ok(value)
}

/// Reads one value from the front of `rest`, which stands within `outer` arrays and maps.
pub(crate) fn take<T: DeserializeOwned>(rest: &mut &[u8], outer: usize) -> Result<T, FrameError> {
    let mut deserializer = rmp_serde::Deserializer::new(rest);
    // It refuses the one with which nothing is left.
    deserializer.set_max_depth(DEPTH_MAX + 1 - outer);
    T::deserialize(&mut deserializer).map_err(|error| FrameError::Malformed(error.to_string()))
}

/// Appends one value of an application, without a frame around it, unless a peer would refuse it.
pub(crate) fn append<T: Serialize + ?Sized>(value: &T, out: &mut Vec<u8>) -> Result<(), FrameError> {
    let start = out.len();
    let written = write(value, out).and_then(|()| check_depth(&out[start..], 1));
    if written.is_err() {
        out.truncate(start);
    }
    written
}

/// Each level takes a byte at least: what is short is not deep.
fn check_depth(value: &[u8], outer: usize) -> Result<(), FrameError> {
    if value.len() + outer > DEPTH_MAX { value::check(value, outer) } else { Ok(()) }
}

/// The same, alone.
pub(crate) fn encoded<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, FrameError> {
    let mut out = Vec::new();
    append(value, &mut out)?;
    Ok(out)
}

fn write<T: Serialize + ?Sized>(value: &T, out: &mut Vec<u8>) -> Result<(), FrameError> {
    rmp_serde::encode::write_named(out, value).map_err(|error| FrameError::Malformed(error.to_string()))
}

/// The length of the frame that `header` announces, checked before anything is allocated for it.
pub(crate) fn announced(header: [u8; HEADER_LEN], len_max: u32) -> Result<usize, FrameError> {
    match u32::from_be_bytes(header) {
        0 => Err(FrameError::Empty),
        len if len > len_max => Err(FrameError::TooLong { len, max: len_max }),
        len => Ok(len as usize),
    }
}

/// Bytes of a stream, cut into frames.
#[derive(Debug)]
pub(crate) struct Decoder {
    unread: Vec<u8>,
    taken: usize,
    len_max: u32,
}

impl Decoder {
    /// For a stream whose frames have at most `len_max` bytes.
    pub(crate) fn new(len_max: u32) -> Self {
        Self { unread: Vec::new(), taken: 0, len_max }
    }

    /// Takes in what was read from the peer.
    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        self.unread.drain(..self.taken);
        self.taken = 0;
        if self.unread.is_empty() && self.unread.capacity() > READ_CAPACITY {
            self.unread = Vec::new();
        }
        self.unread.extend_from_slice(bytes);
    }

    /// Borrows a larger buffer while nothing is in its own.
    pub(crate) fn borrow_from(&mut self, spare: &mut Spare) {
        spare.lend(&mut self.unread);
    }

    /// Gives it back unless something is in it that was not taken yet.
    pub(crate) fn give_back(&mut self, spare: &mut Spare) {
        if !self.has_part() {
            self.unread.clear();
            self.taken = 0;
        }
        spare.take_back(&mut self.unread);
    }

    /// From now on frames have at most `len_max` bytes.
    pub(crate) fn set_len_max(&mut self, len_max: u32) {
        self.len_max = len_max;
    }

    /// Whether a part of a frame waits for the rest.
    pub(crate) fn has_part(&self) -> bool {
        self.taken < self.unread.len()
    }

    /// The memory that it holds, in bytes.
    #[cfg(test)]
    pub(crate) fn kept(&self) -> usize {
        self.unread.capacity()
    }

    /// The next whole frame's content. `None`: more bytes are needed.
    pub(crate) fn next(&mut self) -> Result<Option<&[u8]>, FrameError> {
        let rest = &self.unread[self.taken..];
        let Some((header, rest)) = rest.split_first_chunk() else { return Ok(None) };
        let len = announced(*header, self.len_max)?;
        if rest.len() < len {
            return Ok(None);
        }
        self.taken += HEADER_LEN + len;
        Ok(Some(&self.unread[self.taken - len..self.taken]))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(message: &str) -> Vec<u8> {
        let mut out = Vec::new();
        encode(&message, &mut out);
        out
    }

    #[test]
    fn every_truncation_waits_for_more() {
        let whole = frame("the basin in front of a power house");
        for cut in 0..whole.len() {
            let mut decoder = Decoder::new(64);
            decoder.feed(&whole[..cut]);
            assert_eq!(decoder.next(), Ok(None), "cut at {cut}");
            decoder.feed(&whole[cut..]);
            let body = decoder.next().expect("valid").expect("whole");
            assert_eq!(decode::<String>(body).as_deref(), Ok("the basin in front of a power house"));
        }
    }

    #[test]
    fn bytes_behind_a_message_are_refused_and_so_is_a_tower_of_arrays() {
        assert!(decode::<u8>(&[7]).is_ok() && decode::<u8>(&[7, 7]).is_err());
        let mut tower = vec![0x91; 10_000];
        assert!(decode::<serde::de::IgnoredAny>(&tower).is_err());
        assert!(decode::<serde_json::Value>(&tower).is_err());
        tower.truncate(100);
        tower.push(7);
        let mut value = decode::<serde_json::Value>(&tower).expect("not too deep");
        let mut out = Vec::new();
        assert!(append(&value, &mut out).is_ok());
        (0..50).for_each(|_| value = serde_json::Value::Array(vec![value.take()]));
        out.clear();
        assert!(append(&value, &mut out).is_err() && out.is_empty(), "what a peer would refuse is not sent");
    }

    #[test]
    fn a_length_is_refused_before_its_bytes_come() {
        let mut decoder = Decoder::new(64);
        decoder.feed(&[0xff, 0xff, 0xff, 0xff]);
        assert_eq!(decoder.next(), Err(FrameError::TooLong { len: u32::MAX, max: 64 }));
        let mut decoder = Decoder::new(64);
        decoder.feed(&[0, 0, 0, 0, 1]);
        assert_eq!(decoder.next(), Err(FrameError::Empty));
    }

    proptest! {
        #[test]
        fn any_cut_of_any_frames_gives_the_same_frames(
            messages in proptest::collection::vec(".{0,40}", 0..6),
            cut in 1_usize..50,
        ) {
            let stream: Vec<u8> = messages.iter().flat_map(|message| frame(message)).collect();
            let mut decoder = Decoder::new(4096);
            let mut seen = Vec::new();
            for piece in stream.chunks(cut) {
                decoder.feed(piece);
                while let Some(body) = decoder.next().expect("valid") {
                    seen.push(decode::<String>(body).expect("valid"));
                }
            }
            prop_assert_eq!(seen, messages);
        }

        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut decoder = Decoder::new(64);
            decoder.feed(&bytes);
            while let Ok(Some(body)) = decoder.next() {
                let _ = decode::<crate::contract::orders::ZygoteReport>(body);
                let _ = decode::<crate::contract::orders::ChildReport>(body);
            }
        }
    }
}
