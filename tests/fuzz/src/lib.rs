//! What all targets have in common: frames that stay frames when they are mutated, and a limit for
//! each allocation.

mod frames;
mod limited;

pub use libfuzzer_sys;

#[global_allocator]
static LIMITED: limited::Limited = limited::Limited;

/// A program that feeds this reader.
#[macro_export]
macro_rules! reader {
    ($read:path) => {
        $crate::libfuzzer_sys::fuzz_target!(|stream: &[u8]| $read(stream));
        $crate::libfuzzer_sys::fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
            $crate::mutate(data, size, max_size, seed)
        });
    };
}

/// Changes the first `size` bytes of `data`, and returns how many there are then.
///
/// Mostly one frame's content is changed and its length mended: else hardly any stream would hold more than
/// one frame. The other times anything is, lengths too.
pub fn mutate(data: &mut [u8], size: usize, max_size: usize, seed: u32) -> usize {
    if seed.is_multiple_of(8) {
        return libfuzzer_sys::fuzzer_mutate(data, size, max_size);
    }
    let mut stream = frames::Frames::cut(&data[..size]);
    stream.mutate(seed / 8, |body| {
        let (len, room) = (body.len(), body.len() + 64);
        body.resize(room, 0);
        let len = libfuzzer_sys::fuzzer_mutate(body, len, room);
        body.truncate(len);
    });
    let mutated = stream.joined();
    if mutated.len() > max_size.min(data.len()) {
        return libfuzzer_sys::fuzzer_mutate(data, size, max_size);
    }
    data[..mutated.len()].copy_from_slice(&mutated);
    mutated.len()
}
