//! The boundaries of a WebSocket's frames in a stream of bytes (RFC 6455, section 5.2). Pure.

/// Two bytes, eight of a long length, four of a mask.
const HEAD_LEN_MAX: usize = 14;

/// The bit and the operation code of the first byte: a Close frame, which is never in parts.
const CLOSE: u8 = 0x88;

/// Follows what one side sends; knows where it stands, and keeps nothing but a frame's head.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Frames {
    head: [u8; HEAD_LEN_MAX],
    head_len: usize,
    /// What is left of the payload, once the head is there.
    payload_left: u64,
    has_closed: bool,
}

impl Frames {
    /// These bytes come next.
    pub(super) fn follow(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            bytes = &bytes[self.step(bytes)..];
        }
    }

    /// How many of these bytes lie before the next boundary: the rest of a frame, or all.
    pub(super) fn rest_of_frame(&self, bytes: &[u8]) -> usize {
        if self.is_between() { 0 } else { self.clone().step(bytes) }
    }

    /// Whether every frame that was begun is whole.
    pub(super) fn is_between(&self) -> bool {
        self.head_len == 0
    }

    /// Whether a Close frame has gone: nothing may follow it (section 5.5.1).
    pub(super) fn has_closed(&self) -> bool {
        self.has_closed
    }

    /// Takes bytes up to the end of a frame; returns how many.
    fn step(&mut self, bytes: &[u8]) -> usize {
        let mut taken = 0;
        while !self.is_head_whole() {
            let Some(byte) = bytes.get(taken) else { return taken };
            self.head[self.head_len] = *byte;
            self.head_len += 1;
            taken += 1;
            if self.is_head_whole() {
                self.payload_left = self.payload_len();
            }
        }
        let left = bytes.len() - taken;
        let payload = usize::try_from(self.payload_left).map_or(left, |payload| payload.min(left));
        self.payload_left -= payload as u64;
        if self.payload_left == 0 {
            self.has_closed |= self.head[0] == CLOSE;
            self.head_len = 0;
        }
        taken + payload
    }

    fn is_head_whole(&self) -> bool {
        self.head_len >= 2 && self.head_len == 2 + self.length_len() + if self.head[1] & 0x80 == 0 { 0 } else { 4 }
    }

    /// How many bytes say the length, beside the second one.
    fn length_len(&self) -> usize {
        match self.head[1] & 0x7f {
            0..=125 => 0,
            126 => 2,
            _ => 8,
        }
    }

    fn payload_len(&self) -> u64 {
        let long = &self.head[2..2 + self.length_len()];
        match long {
            [] => u64::from(self.head[1] & 0x7f),
            _ => long.iter().fold(0, |len, byte| len << 8 | u64::from(*byte)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A frame of a server, or of a client, whose payload looks like heads of Close frames.
    fn frame(first: u8, len: usize, is_masked: bool) -> Vec<u8> {
        let mask = if is_masked { 0x80 } else { 0 };
        let mut bytes = vec![first];
        match len {
            0..=125 => bytes.push(mask | u8::try_from(len).expect("short")),
            126..=0xffff => {
                bytes.push(mask | 126);
                bytes.extend(u16::try_from(len).expect("short").to_be_bytes());
            }
            _ => {
                bytes.push(mask | 127);
                bytes.extend((len as u64).to_be_bytes());
            }
        }
        bytes.extend(if is_masked { &[1, 2, 3, 4][..] } else { &[] });
        bytes.extend(std::iter::repeat_n(CLOSE, len));
        bytes
    }

    #[test]
    fn a_frame_is_between_nothing_at_every_split_but_its_end() {
        for len in [0, 1, 2, 125, 126, 127, 128, 256, 65_535, 65_536] {
            for is_masked in [false, true] {
                let bytes = frame(0x82, len, is_masked);
                let splits = (1..bytes.len()).filter(|split| *split < 300 || bytes.len() - split < 20);
                for split in splits {
                    let mut frames = Frames::default();
                    frames.follow(&bytes[..split]);
                    assert!(!frames.is_between(), "{len} bytes, split at {split}");
                    assert_eq!(frames.rest_of_frame(&bytes[split..]), bytes.len() - split);
                    let next = [&bytes[split..], &frame(0x81, 3, false)].concat();
                    assert_eq!(frames.rest_of_frame(&next), bytes.len() - split, "{len} bytes, split at {split}");
                    frames.follow(&bytes[split..]);
                    assert!(frames.is_between() && !frames.has_closed(), "{len} bytes, split at {split}");
                    assert_eq!(frames.rest_of_frame(&next), 0);
                }
            }
        }
    }

    #[test]
    fn a_stream_of_frames_has_its_boundaries_where_they_are_in_whatever_pieces_it_comes() {
        let stream: Vec<Vec<u8>> = [(0x01, 0), (0x80, 126), (0x89, 4), (0x82, 125), (0x81, 300), (0x8a, 0)]
            .map(|(first, len)| frame(first, len, false))
            .to_vec();
        let mut boundaries = vec![0];
        stream.iter().for_each(|frame| boundaries.push(boundaries[boundaries.len() - 1] + frame.len()));
        let bytes = stream.concat();
        for piece in 1..=bytes.len() {
            let (mut frames, mut at) = (Frames::default(), 0);
            for piece in bytes.chunks(piece) {
                assert_eq!(frames.is_between(), boundaries.contains(&at), "at {at}");
                let next = boundaries.iter().find(|boundary| **boundary >= at).expect("the last one");
                assert_eq!(frames.rest_of_frame(piece), (next - at).min(piece.len()), "at {at}");
                frames.follow(piece);
                at += piece.len();
            }
            assert!(frames.is_between() && !frames.has_closed());
        }
    }

    #[test]
    fn a_close_frame_is_seen_when_it_is_whole() {
        let table = [(0x88, true), (0x89, false), (0x82, false), (0x08, false)];
        for (first, is_close) in table {
            let bytes = [frame(0x82, 9, false), frame(first, 2, false)].concat();
            let mut frames = Frames::default();
            frames.follow(&bytes[..bytes.len() - 1]);
            assert!(!frames.has_closed());
            frames.follow(&bytes[bytes.len() - 1..]);
            assert_eq!(frames.has_closed(), is_close, "{first:#x}");
        }
    }

    #[test]
    fn lengths_that_nobody_can_have_are_followed_without_harm() {
        let mut frames = Frames::default();
        frames.follow(&[0x82, 127, 255, 255, 255, 255, 255, 255, 255, 255]);
        frames.follow(&[0; 1000]);
        assert!(!frames.is_between());
        assert_eq!(frames.rest_of_frame(&[0; 7]), 7);
    }
}
