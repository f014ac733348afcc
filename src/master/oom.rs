//! Whether the kernel killed a process because memory was short: SIGKILL alone does not say so.
//!
//! The kernel counts what its OOM killer kills, before it sends the SIGKILL (`__oom_kill_process` in mm/oom_kill.c):
//! as `oom_kill` in the `memory.events` of the process's cgroup (Documentation/admin-guide/cgroup-v2.rst) or its
//! `memory.oom_control` (cgroup-v1/memory.rst), and for the whole system in `/proc/vmstat`, which is looked at where the
//! master's own cgroup cannot be. All children are in that cgroup.
//!
//! A count names nobody. A kill is put down to the next child that dies of a SIGKILL that nobody here has sent, and
//! after [`BELATED`] to none: it was some other process in the cgroup.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// The longest time from a kill that was noticed to a death that it explains.
const BELATED: Duration = Duration::from_secs(10);

/// The most that is read of a counter's file.
const FILE_LEN_MAX: usize = 64 * 1024;

/// The kernel's OOM killer, as this process sees it.
pub(super) struct OomKiller {
    /// Open for life: a master without descriptors can look too.
    file: Option<File>,
    kills: Kills,
}

/// Kills, and whom they explain.
#[derive(Debug)]
struct Kills {
    counted: u64,
    unexplained: u64,
    noticed: Instant,
}

impl OomKiller {
    pub(super) fn watch(now: Instant) -> Self {
        let file = open();
        let counted = file.as_ref().and_then(count_in).unwrap_or_default();
        Self { file, kills: Kills { counted, unexplained: 0, noticed: now } }
    }

    /// Notices what it has done.
    pub(super) fn look(&mut self, now: Instant) {
        if let Some(counted) = self.file.as_ref().and_then(count_in) {
            self.kills.notice(counted, now);
        }
    }

    /// Whether a death by SIGKILL is its work; each kill explains one.
    pub(super) fn explains_a_death(&mut self, now: Instant) -> bool {
        self.look(now);
        self.kills.explain_one(now)
    }
}

impl Kills {
    fn notice(&mut self, counted: u64, now: Instant) {
        let more = counted.saturating_sub(self.counted);
        self.counted = counted;
        if more > 0 {
            self.unexplained = self.unexplained.saturating_add(more);
            self.noticed = now;
        }
    }

    fn explain_one(&mut self, now: Instant) -> bool {
        if now.saturating_duration_since(self.noticed) > BELATED {
            self.unexplained = 0;
        }
        let is_explained = self.unexplained > 0;
        self.unexplained = self.unexplained.saturating_sub(1);
        is_explained
    }
}

/// The counter that says most of this process's children.
fn open() -> Option<File> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let cgroups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let own = counter_of_cgroup(&mounts, &cgroups).and_then(|path| File::open(path).ok());
    own.filter(|file| count_in(file).is_some()).or_else(|| File::open("/proc/vmstat").ok())
}

/// Where the count of the own memory cgroup is, by /proc/self/mountinfo and /proc/self/cgroup (cgroups(7)).
fn counter_of_cgroup(mounts: &str, cgroups: &str) -> Option<PathBuf> {
    let membership = |line: &str| {
        let mut fields = line.splitn(3, ':').skip(1);
        Some((fields.next()?.to_owned(), fields.next()?.to_owned()))
    };
    let memberships: Vec<_> = cgroups.lines().filter_map(membership).collect();
    let own = |controller: &str| {
        let mut of = memberships.iter().filter(|(names, _)| names.split(',').any(|name| name == controller));
        of.next().map(|(_, path)| path.as_str())
    };
    // Where version 1 has the controller, version 2 has none.
    let (kind, option, own, name) = match own("memory") {
        Some(path) => ("cgroup", "memory", path, "memory.oom_control"),
        None => ("cgroup2", "", own("")?, "memory.events"),
    };
    mounts.lines().find_map(|line| {
        let (place, system) = line.split_once(" - ")?;
        let mut place = place.split(' ').skip(3);
        let (root, mounted_at) = (place.next()?, place.next()?);
        let mut system = system.split(' ');
        let is_meant = system.next()? == kind && (option.is_empty() || system.nth(1)?.split(',').any(|o| o == option));
        // A container may see its own part of the tree only.
        let below = own.strip_prefix(root.trim_end_matches('/')).filter(|_| is_meant)?;
        Some(PathBuf::from(mounted_at).join(below.trim_start_matches('/')).join(name))
    })
}

fn count_in(file: &File) -> Option<u64> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    // The kernel gives such a file in pieces.
    while bytes.len() < FILE_LEN_MAX {
        match file.read_at(&mut buffer, bytes.len() as u64) {
            Ok(0) => break,
            Ok(count) => bytes.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
    }
    let text = String::from_utf8(bytes).ok()?;
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kill_explains_one_death_soon_after_it() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut kills = Kills { counted: 3, unexplained: 0, noticed: start };
        kills.notice(3, at(1));
        assert!(!kills.explain_one(at(1)), "those were before");
        kills.notice(5, at(2));
        assert!(kills.explain_one(at(2)) && kills.explain_one(at(3)) && !kills.explain_one(at(3)));
        kills.notice(6, at(4));
        kills.notice(6, at(13));
        assert!(!kills.explain_one(at(15)), "somebody else was killed");
        // Another file, or a count that begins anew.
        kills.notice(0, at(16));
        kills.notice(1, at(17));
        assert!(kills.explain_one(at(17)));
    }

    #[test]
    fn the_own_cgroup_is_found_wherever_it_is_mounted() {
        let one = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
                   34 31 0:31 / /sys/fs/cgroup/cpu rw shared:9 - cgroup cgroup rw,cpu\n\
                   35 31 0:32 / /sys/fs/cgroup/memory rw shared:9 - cgroup cgroup rw,memory\n\
                   41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let inside = "35 31 0:32 /docker/c0ffee /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n";
        let two = "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n";
        let table = [
            (one, "4:memory:/web/a\n1:cpu:/\n0::/\n", Some("/sys/fs/cgroup/memory/web/a/memory.oom_control")),
            (one, "4:hugetlb,memory:/\n0::/\n", Some("/sys/fs/cgroup/memory/memory.oom_control")),
            (inside, "4:memory:/docker/c0ffee\n", Some("/sys/fs/cgroup/memory/memory.oom_control")),
            (inside, "4:memory:/docker/c0ffee/a\n", Some("/sys/fs/cgroup/memory/a/memory.oom_control")),
            (inside, "4:memory:/elsewhere\n", None),
            (two, "0::/system.slice/a.service\n", Some("/sys/fs/cgroup/system.slice/a.service/memory.events")),
            (two, "0::/a:b\n", Some("/sys/fs/cgroup/a:b/memory.events")),
            (two, "", None),
            ("", "0::/\n", None),
            ("nonsense\n - \n1 2 3 - cgroup2\n", "nonsense\n0::/\n", None),
        ];
        for (mounts, cgroups, expected) in table {
            assert_eq!(counter_of_cgroup(mounts, cgroups), expected.map(PathBuf::from), "{cgroups}");
        }
    }

    #[test]
    fn the_whole_systems_count_can_be_read() {
        let file = File::open("/proc/vmstat").expect("it is there");
        assert!(count_in(&file).is_some());
        assert!(open().is_some());
    }
}
