//! Random bytes of the kernel's.

use std::io;

/// Fills all of it, for keys: getrandom(2), which after the machine's start neither waits nor fails.
pub(crate) fn fill(bytes: &mut [u8]) -> io::Result<()> {
    let mut filled = 0;
    while let rest @ [_, ..] = &mut bytes[filled..] {
        // SAFETY: the kernel writes at most `rest.len()` bytes there, which are ours.
        match unsafe { libc::getrandom(rest.as_mut_ptr().cast(), rest.len(), 0) } {
            -1 => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => {}
                error => return Err(error),
            },
            count => filled += count.unsigned_abs(),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_of_it_is_filled_and_never_twice_with_the_same() {
        let [mut one, mut other] = [[0; 1024]; 2];
        fill(&mut one).expect("filled");
        fill(&mut other).expect("filled");
        assert_ne!(one, other);
        for bytes in [one, other] {
            assert!(bytes.chunks(32).all(|part| part.iter().any(|byte| *byte != 0)));
        }
    }
}
