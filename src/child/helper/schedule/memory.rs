//! What is remembered of the jobs beyond the process: `schedule.json` in the state directory.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::plan::Memory;
use crate::error::Result;

const FILE: &str = "schedule.json";
const NEW: &str = "schedule.json.new";

/// The file. Releases read each other's: fields are only ever added.
#[derive(Default, Serialize, Deserialize)]
struct Page {
    jobs: BTreeMap<String, Line>,
}

/// A job, its times as RFC 3339.
#[derive(Serialize, Deserialize)]
struct Line {
    when: String,
    since: String,
    #[serde(default)]
    begun: Option<String>,
    #[serde(default)]
    outcome: Option<String>,
}

/// What is known; nothing if there is no file yet.
pub(super) fn read(state_dir: &Path) -> Result<BTreeMap<String, Memory>> {
    let bytes = match fs::read(state_dir.join(FILE)) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(error.into()),
    };
    let page: Page = serde_json::from_slice(&bytes)?;
    page.jobs.into_iter().map(|(name, line)| Ok((name, line.read()?))).collect()
}

/// Writes all of it: whoever reads finds the old file or the new one.
///
/// It is not synced: it is there for a process that ends, and the run directory is gone after a system's.
pub(super) fn write<'a>(state_dir: &Path, jobs: impl Iterator<Item = (&'a str, &'a Memory)>) -> Result<()> {
    let page = Page { jobs: jobs.map(|(name, memory)| (name.to_owned(), Line::of(memory))).collect() };
    let mut text = serde_json::to_vec_pretty(&page)?;
    text.push(b'\n');
    fs::write(state_dir.join(NEW), text)?;
    Ok(fs::rename(state_dir.join(NEW), state_dir.join(FILE))?)
}

impl Line {
    fn of(memory: &Memory) -> Self {
        Self {
            when: memory.when.clone(),
            since: memory.since.to_string(),
            begun: memory.begun.map(|begun| begun.to_string()),
            outcome: memory.outcome.clone(),
        }
    }

    fn read(self) -> Result<Memory> {
        let begun = self.begun.map(|begun| begun.parse::<Timestamp>()).transpose()?;
        Ok(Memory { when: self.when, since: self.since.parse()?, begun, outcome: self.outcome })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_what_is_broken_is_told() {
        let directory = tempfile::tempdir().expect("a directory");
        assert!(read(directory.path()).expect("nothing yet").is_empty());
        let time = |text: &str| text.parse::<Timestamp>().expect(text);
        let memory = |outcome: Option<&str>| Memory {
            when: "0 6 * * *".to_owned(),
            since: time("2026-11-23T06:00:00Z"),
            begun: outcome.map(|_| time("2026-11-23T06:00:00.0012Z")),
            outcome: outcome.map(str::to_owned),
        };
        let known = [("poll".to_owned(), memory(None)), ("report".to_owned(), memory(Some("done")))];
        let known = BTreeMap::from(known);
        let lines = || known.iter().map(|(name, memory)| (name.as_str(), memory));
        write(directory.path(), lines()).expect("it is written");
        assert_eq!(read(directory.path()).expect("it is read"), known);
        let text = fs::read(directory.path().join(FILE)).expect("there is a file");
        for len in 0..text.len() - 2 {
            fs::write(directory.path().join(FILE), &text[..len]).expect("it is cut");
            assert!(read(directory.path()).is_err(), "{len} of {}", text.len());
        }
        let later = r#"{"jobs":{"a":{"when":"x","since":"2026-11-23T06:00:00Z","mood":1}},"page":2}"#;
        fs::write(directory.path().join(FILE), later).expect("it is written");
        assert_eq!(read(directory.path()).expect("a later release's").len(), 1);
    }
}
