//! The last lines of each process, for whoever asks how it came to its end.

use std::collections::{BTreeMap, VecDeque};

use crate::contract::orders::{RECALLED_LEN_MAX, RECALLED_MAX};
use crate::log::record::Entry;

/// Processes remembered. Of more, the one that has said nothing for the longest time is forgotten.
const ORIGINS_MAX: usize = 1024;

/// What was said last, by whom.
#[derive(Default)]
pub(super) struct Memory {
    origins: BTreeMap<String, Recent>,
    /// Counts what is said.
    now: u64,
}

#[derive(Default)]
struct Recent {
    /// Their buffers are used again.
    lines: VecDeque<String>,
    said_at: u64,
}

impl Memory {
    /// Takes note of a record.
    pub(super) fn note(&mut self, origin: &str, entry: &Entry<'_>) {
        self.now += 1;
        match self.origins.get_mut(origin) {
            Some(recent) => recent.note(entry, self.now),
            None => {
                self.make_room();
                self.origins.entry(origin.to_owned()).or_default().note(entry, self.now);
            }
        }
    }

    /// What this process has said last, the newest last.
    pub(super) fn recall(&self, origin: &str) -> Vec<String> {
        self.origins.get(origin).map(|recent| recent.lines.iter().cloned().collect()).unwrap_or_default()
    }

    fn make_room(&mut self) {
        if self.origins.len() < ORIGINS_MAX {
            return;
        }
        let oldest = self.origins.iter().min_by_key(|(_, recent)| recent.said_at).map(|(origin, _)| origin.clone());
        if let Some(oldest) = oldest {
            self.origins.remove(&oldest);
        }
    }
}

impl Recent {
    fn note(&mut self, entry: &Entry<'_>, now: u64) {
        self.said_at = now;
        let is_full = self.lines.len() >= RECALLED_MAX;
        let mut line = if is_full { self.lines.pop_front().unwrap_or_default() } else { String::new() };
        line.clear();
        line.push_str(entry.level.as_str());
        line.push(' ');
        line.push_str(start_of(entry.target, RECALLED_LEN_MAX / 4));
        line.push_str(": ");
        line.push_str(start_of(entry.message, RECALLED_LEN_MAX - line.len()));
        self.lines.push_back(line);
    }
}

/// Of a text, as much as fits into so many bytes.
fn start_of(text: &str, len_max: usize) -> &str {
    &text[..text.floor_char_boundary(len_max)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(message: &str) -> Entry<'_> {
        Entry { target: "app", ..crate::log::loss::entry(message, 0) }
    }

    #[test]
    fn the_last_lines_of_each_are_kept_and_cut() {
        let mut memory = Memory::default();
        for number in 0..RECALLED_MAX + 3 {
            memory.note("worker 0", &said(&number.to_string()));
        }
        memory.note("worker 1", &said(&"é".repeat(RECALLED_LEN_MAX)));
        let lines: Vec<String> = (3..RECALLED_MAX + 3).map(|number| format!("WARN app: {number}")).collect();
        assert_eq!(memory.recall("worker 0"), lines);
        let long = &memory.recall("worker 1")[0];
        assert!(long.starts_with("WARN app: éé") && (RECALLED_LEN_MAX - 1..=RECALLED_LEN_MAX).contains(&long.len()));
        assert_eq!(memory.recall("worker 2"), Vec::<String>::new());
    }

    #[test]
    fn whoever_has_been_silent_for_the_longest_time_is_forgotten() {
        let mut memory = Memory::default();
        for number in 0..ORIGINS_MAX {
            memory.note(&number.to_string(), &said("once"));
        }
        memory.note("0", &said("twice"));
        memory.note("new", &said("once"));
        assert_eq!(memory.origins.len(), ORIGINS_MAX);
        assert_eq!(memory.recall("1"), Vec::<String>::new());
        assert_eq!(memory.recall("0").len(), 2);
    }
}
