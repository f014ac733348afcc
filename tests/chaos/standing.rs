//! What must be so when all is over: nothing has grown, nothing is left.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use forebay::testing::Server;

/// The log helper, the zygote and the helper.
const OTHERS: usize = 3;

/// In percent of what it was.
const MEMORY_MAX: u64 = 105;

/// How often the descriptors are counted.
const LOOKS: usize = 10;
const BETWEEN_LOOKS: Duration = Duration::from_millis(50);

/// The server at rest.
#[derive(Debug)]
pub(crate) struct Rest {
    descriptors: usize,
    memory_kb: u64,
    files: BTreeSet<String>,
}

impl Rest {
    pub(crate) fn of(server: &Server) -> Self {
        let master = server.pid();
        let status = fs::read_to_string(format!("/proc/{master}/status")).unwrap_or_default();
        let memory = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let memory_kb = memory.and_then(|text| text.trim().trim_end_matches(" kB").parse().ok());
        Self {
            descriptors: least(|| fs::read_dir(format!("/proc/{master}/fd")).map_or(0, Iterator::count)),
            memory_kb: memory_kb.unwrap_or(0),
            files: files(server.run_dir()),
        }
    }

    pub(crate) fn said(&self) -> String {
        format!("master: {} descriptors, {} kB", self.descriptors, self.memory_kb)
    }

    /// What has changed since.
    pub(crate) fn complaints(&self, now: &Self) -> Vec<String> {
        let mut complaints = self.leaks(now);
        if now.memory_kb * 100 > self.memory_kb * MEMORY_MAX {
            complaints.push(format!("the master's memory has grown from {} kB to {}", self.memory_kb, now.memory_kb));
        }
        complaints
    }

    /// The same without memory, which needs some time to find its measure.
    pub(crate) fn leaks(&self, now: &Self) -> Vec<String> {
        let mut leaks = differences("the run directory", &self.files, &now.files);
        if self.descriptors != now.descriptors {
            leaks.push(format!("the master had {} descriptors and has {}", self.descriptors, now.descriptors));
        }
        leaks
    }

    /// What is in the run directory after the stop and should not be, or the other way round.
    pub(crate) fn complaints_after_the_stop(&self, server: &Server) -> Vec<String> {
        let expected = self.files.iter().filter(|name| !name.ends_with(".sock")).cloned().collect();
        differences("the run directory after the stop", &expected, &files(server.run_dir()))
    }
}

/// Who is there too much, or missing.
pub(crate) fn is_the_company(server: &Server, workers: usize) -> bool {
    let processes = server.processes();
    let count = |what: &str| processes.iter().filter(|(_, title)| title.contains(what)).count();
    // And the master.
    processes.len() == workers + OTHERS + 1 && count(": worker ") == workers && server.zombies().is_empty()
}

/// What no log may hold. `harmed` says whether this process was stopped or killed at some time.
pub(crate) fn complaints_about_the_log(log: &str, harmed: impl Fn(u32) -> bool) -> Vec<String> {
    let forbidden = ["panicked", "invariant", "broke the rules", "SIGKILL does not end it"];
    let is_wrong = |line: &&str| {
        let hung = line.contains(": hung for ") && pid_in(line).is_some_and(|pid| !harmed(pid));
        hung || forbidden.iter().any(|word| line.contains(word))
    };
    log.lines().filter(is_wrong).map(|line| format!("in the log: {line}")).collect()
}

fn pid_in(line: &str) -> Option<u32> {
    line.split_once(" pid ")?.1.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

fn differences(what: &str, before: &BTreeSet<String>, now: &BTreeSet<String>) -> Vec<String> {
    let more = now.difference(before).map(|name| format!("{what} holds {name}"));
    more.chain(before.difference(now).map(|name| format!("{what} does not hold {name}"))).collect()
}

/// The least of several looks: what is there for a moment only, as a command's connection, is no growth.
fn least(look: impl Fn() -> usize) -> usize {
    let looks = (0..LOOKS).map(|_| {
        std::thread::sleep(BETWEEN_LOOKS);
        look()
    });
    looks.min().unwrap_or_default()
}

/// Names below a directory.
fn files(place: &Path) -> BTreeSet<String> {
    let below = |path: &Path| fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
    let direct: Vec<_> = below(place).collect();
    let all = direct.iter().flat_map(|path| below(path)).chain(direct.iter().cloned());
    all.filter_map(|path| Some(path.strip_prefix(place).ok()?.display().to_string())).collect()
}
