//! The kernel takes a process because its memory cgroup is full: it is named as such.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use forebay::testing::Server;
use nix::libc::SIGKILL;

use crate::client::{example, get};
use crate::trial::{Gone, Trial};

/// What all processes of the server may use together, and what is more than that.
const LIMIT: u64 = 256 << 20;
const LEAK_MIB: u64 = 1024;

/// A memory cgroup with a limit; removed with this, when its processes are gone.
struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// `None`, and a line that says so, where that cannot be.
    fn with_limit() -> Option<Self> {
        let cgroups = fs::read_to_string("/proc/self/cgroup").expect("cgroups(7)");
        let of = |head: &str| cgroups.lines().find_map(|line| line.split_once(head)).map(|(_, path)| path);
        let name = format!("forebay-test-{}", std::process::id());
        let (path, limits) = match of(":memory:") {
            Some(own) => {
                let mounted = Path::new("/sys/fs/cgroup/memory").join(own.trim_start_matches('/'));
                (mounted.join(name), ["memory.limit_in_bytes", "memory.memsw.limit_in_bytes"])
            }
            // Beside the own one: version 2 has processes in leaves only.
            None => {
                let own = Path::new("/sys/fs/cgroup").join(of("0::").unwrap_or_default().trim_start_matches('/'));
                (own.with_file_name(name), ["memory.max", "memory.swap.max"])
            }
        };
        if let Err(error) = fs::create_dir(&path) {
            println!("SKIPPED: cannot make {}: {error}", path.display());
            return None;
        }
        let cgroup = Self { path };
        if let Err(error) = fs::write(cgroup.path.join(limits[0]), LIMIT.to_string()) {
            println!("SKIPPED: cannot limit memory in {}: {error}", cgroup.path.display());
            return None;
        }
        // Not every kernel counts swap; where it does, there shall be none.
        let swap = if limits[1] == "memory.swap.max" { 0 } else { LIMIT };
        let _ = fs::write(cgroup.path.join(limits[1]), swap.to_string());
        Some(cgroup)
    }

    /// A shell script that executes its arguments in there.
    fn script(&self) -> String {
        format!("echo $$ > {} && exec \"$@\"", self.path.join("cgroup.procs").display())
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while let Err(error) = fs::remove_dir(&self.path) {
            if Instant::now() > deadline {
                eprintln!("{} is left behind: {error}", self.path.display());
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

#[test]
fn children_are_taken_before_the_master() {
    let server = Server::of(example("counter")).start();
    let score = |pid: u32| {
        let text = fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).expect("a living process");
        text.trim().parse::<i32>().expect("a number")
    };
    let master = score(server.pid());
    for (pid, title) in server.processes().into_iter().filter(|&(pid, _)| pid != server.pid()) {
        assert_eq!(score(pid), (master + 50).min(1000), "{title}");
    }
    server.stop();
}

#[test]
fn a_worker_that_the_kernel_takes_for_memory_is_named_as_such_and_replaced() {
    let Some(cgroup) = Cgroup::with_limit() else { return };
    let server = Server::of(example("fixture")).under(&["sh", "-c", &cgroup.script(), "sh"]).start();
    let trial = Trial::begin(server);
    let server = &trial.server;
    let (address, before, from) = (server.address(), server.workers(), Instant::now());
    get(address, &format!("/leak/{LEAK_MIB}")).expect_err("it was killed");
    let how = "killed by SIGKILL (out of memory)";
    let status = server.wait_until("its successor", |status| {
        let mut workers = status["workers"].as_array().into_iter().flatten();
        status["state"] == "serving" && workers.any(|worker| worker["last_exit"] == how)
    });
    let after = server.workers();
    let taken: Vec<usize> = (0..2).filter(|&slot| after[slot] != before[slot]).collect();
    // While the first one's memory is not free yet it may take another child, but never the master.
    let slot = *taken.iter().find(|&&slot| status["workers"][slot]["last_exit"] == how).expect("one of them");
    server.wait_for_log(&format!(": {how}; restarting\n"));
    let until = Instant::now();
    let mut gone: Vec<Gone> = taken.iter().map(|&slot| Gone { pid: before[slot], from, until }).collect();
    let restarts = status["workers"][slot]["restarts"].as_u64().expect("a count");
    // Whom somebody else kills is not said to have lacked memory.
    let from = Instant::now();
    server.signal(after[slot], SIGKILL);
    let status = server.wait_until("another successor", |status| {
        status["workers"][slot]["restarts"] == restarts + 1 && status["state"] == "serving"
    });
    assert_eq!(status["workers"][slot]["last_exit"], "killed by SIGKILL");
    gone.push(Gone { pid: after[slot], from, until: Instant::now() });
    trial.go_on(2);
    let aftermath = trial.calm();
    aftermath.assert_lost_with(&gone);
    aftermath.stop();
}
