//! A stream as frames that can be changed one by one.

const HEADER_LEN: usize = 4;

pub(crate) struct Frames {
    bodies: Vec<Vec<u8>>,
    /// What is behind the last whole frame.
    rest: Vec<u8>,
}

impl Frames {
    pub(crate) fn cut(mut stream: &[u8]) -> Self {
        let mut bodies = Vec::new();
        while let Some((header, behind)) = stream.split_first_chunk::<HEADER_LEN>() {
            let len = u32::from_be_bytes(*header) as usize;
            let Some((body, next)) = behind.split_at_checked(len) else { break };
            bodies.push(body.to_vec());
            stream = next;
        }
        Self { bodies, rest: stream.to_vec() }
    }

    /// Changes a frame, or their order and number, as `seed` says.
    pub(crate) fn mutate(&mut self, seed: u32, change: impl FnOnce(&mut Vec<u8>)) {
        if self.bodies.is_empty() {
            self.bodies.push(std::mem::take(&mut self.rest));
        }
        let (place, other) = (seed as usize % self.bodies.len(), (seed >> 16) as usize % self.bodies.len());
        match (seed >> 8) % 8 {
            0 => self.bodies.swap(place, other),
            1 => self.bodies.insert(other, self.bodies[place].clone()),
            2 => drop(self.bodies.remove(place)),
            _ => change(&mut self.bodies[place]),
        }
    }

    pub(crate) fn joined(&self) -> Vec<u8> {
        let mut stream = Vec::new();
        for body in &self.bodies {
            let len = u32::try_from(body.len()).expect("a fuzzer's inputs are short");
            stream.extend(len.to_be_bytes());
            stream.extend(body);
        }
        stream.extend(&self.rest);
        stream
    }
}
