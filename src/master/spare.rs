//! Descriptors in reserve, so that `status` answers when there are no others.

use std::fs::File;
use std::io;

/// What one request needs: its connection, and a file of /proc.
const COUNT: usize = 2;

pub(super) struct Spare(Vec<File>);

impl Spare {
    pub(super) fn new() -> io::Result<Self> {
        let mut spare = Self(Vec::new());
        for _ in 0..COUNT {
            spare.0.push(File::open("/dev/null")?);
        }
        Ok(spare)
    }

    /// Makes room; false when it was made before.
    pub(super) fn release(&mut self) -> bool {
        let had = !self.0.is_empty();
        self.0.clear();
        had
    }

    pub(super) fn is_whole(&self) -> bool {
        self.0.len() == COUNT
    }

    /// Takes descriptors back, as far as there are any.
    pub(super) fn refill(&mut self) {
        while self.0.len() < COUNT {
            match File::open("/dev/null") {
                Ok(file) => self.0.push(file),
                Err(_) => return,
            }
        }
    }
}
