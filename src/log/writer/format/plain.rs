//! Whether a text needs a second look: most do not, and are copied as they are.

/// Bytes looked at in one step; a vector register has so many.
const CHUNK_LEN: usize = 16;

/// The first byte of U+0080 to U+00BF, among which are the control characters that are not ASCII.
pub(super) const CONTROLS_AHEAD: u8 = 0xc2;

/// Whether `is_special` holds for a byte, without branches that the processor would have to guess.
#[inline(always)]
pub(super) fn has_special(bytes: &[u8], is_special: impl Fn(u8) -> bool + Copy) -> bool {
    let any = |found: bool, &byte: &u8| found | is_special(byte);
    let Some(last) = bytes.last_chunk::<CHUNK_LEN>() else {
        return bytes.iter().fold(false, any);
    };
    // The last chunk overlaps the one before it, so that nothing is left over.
    let (chunks, _) = bytes.as_chunks::<CHUNK_LEN>();
    last.iter().fold(false, any) || chunks.iter().any(|chunk| chunk.iter().fold(false, any))
}

/// Whether a terminal could obey this byte: a control character other than a tab, or what may begin one.
#[inline(always)]
pub(super) fn is_control(byte: u8) -> bool {
    (byte < 0x20) & (byte != b'\t') | (byte == 0x7f) | (byte == CONTROLS_AHEAD)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_byte_is_found_wherever_it_is() {
        for len in 0..70 {
            assert!(!has_special(&vec![b'x'; len], is_control));
            for at in 0..len {
                let mut bytes = vec![b'x'; len];
                bytes[at] = 0x1b;
                assert!(has_special(&bytes, is_control), "{at} of {len}");
            }
        }
    }

    #[test]
    fn no_control_character_is_missed() {
        for character in (0..=0x2ff).filter_map(char::from_u32) {
            let text = format!("{character}");
            let is_special = character.is_control() && character != '\t';
            assert!(has_special(text.as_bytes(), is_control) || !is_special, "{character:?}");
        }
    }
}
