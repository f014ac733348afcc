//! Which build of the program this is: what its linker has written into it.

use std::ffi::{c_int, c_void};
use std::fmt::Write;
use std::slice;

/// An ELF note's type and owner for a build id: elf(5), "Notes".
const NT_GNU_BUILD_ID: u32 = 3;
const OWNER: &[u8] = b"GNU\0";

/// The longest id that is taken, in bytes.
const LEN_MAX: usize = 32;

/// The executable's build id in hexadecimal; nothing where its linker wrote none.
pub(crate) fn id() -> String {
    let mut id: Vec<u8> = Vec::new();
    // SAFETY: the callback is called before this returns, with `id` as its last argument.
    unsafe { libc::dl_iterate_phdr(Some(look), (&raw mut id).cast()) };
    id.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Looks through the notes of the first object, which is the program; ends the iteration.
///
/// # Safety
/// For `dl_iterate_phdr` alone, with a vector of bytes as its last argument.
unsafe extern "C" fn look(info: *mut libc::dl_phdr_info, _: libc::size_t, id: *mut c_void) -> c_int {
    // SAFETY: the dynamic linker hands over a valid description of a loaded object, whose program
    // headers and note segments stay mapped; `id` is the vector of `id()`.
    unsafe {
        let info = &*info;
        let headers = slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum));
        for header in headers.iter().filter(|header| header.p_type == libc::PT_NOTE) {
            let start = std::ptr::with_exposed_provenance::<u8>((info.dlpi_addr + header.p_vaddr) as usize);
            let notes = slice::from_raw_parts(start, header.p_memsz as usize);
            if let Some(found) = find(notes) {
                *id.cast::<Vec<u8>>() = found.to_vec();
                return 1;
            }
        }
    }
    1
}

/// The build id among the notes of a segment.
fn find(mut notes: &[u8]) -> Option<&[u8]> {
    loop {
        let word = |at: usize| Some(u32::from_ne_bytes(notes.get(at..at + 4)?.try_into().ok()?));
        let (owner_len, len, kind) = (word(0)? as usize, word(4)? as usize, word(8)?);
        let owner = notes.get(12..12 + owner_len)?;
        let start = 12 + owner_len.next_multiple_of(4);
        let content = notes.get(start..start.checked_add(len)?)?;
        if kind == NT_GNU_BUILD_ID && owner == OWNER && content.len() <= LEN_MAX {
            return Some(content);
        }
        notes = notes.get(start + len.next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_is_found_among_other_notes_and_nothing_beyond_the_end() {
        let note = |kind: u32, content: &[u8]| {
            let mut bytes = [4_u32.to_ne_bytes(), (content.len() as u32).to_ne_bytes(), kind.to_ne_bytes()].concat();
            bytes.extend(OWNER);
            bytes.extend(content);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
            bytes
        };
        let notes = [note(1, b"abc"), note(NT_GNU_BUILD_ID, b"12345")].concat();
        assert_eq!(find(&notes), Some(&b"12345"[..]));
        for len in 0..notes.len() - 3 {
            assert_eq!(find(&notes[..len]), None, "{len}");
        }
        assert_eq!(find(&[0xff; 64]), None);
    }

    #[test]
    fn a_program_has_one_id() {
        assert!(!id().is_empty());
        assert_eq!(id(), id());
    }
}
