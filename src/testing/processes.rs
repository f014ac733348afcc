//! What /proc says of the processes a test has started.

use std::fs;

/// A process of a group.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) pid: u32,
    pub(super) state: char,
    pub(super) title: String,
}

/// The processes of a group, zombies included.
pub(super) fn of_group(group: u32) -> Vec<Member> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    pids.filter_map(|pid| member(pid, group)).collect()
}

/// Fields 3 (state) and 5 (process group) of /proc/PID/stat, proc_pid_stat(5).
fn member(pid: u32, group: u32) -> Option<Member> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    if fields.nth(1)?.parse::<u32>().ok()? != group {
        return None;
    }
    let title = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default().replace('\0', " ");
    Some(Member { pid, state, title: title.trim_end().to_owned() })
}
