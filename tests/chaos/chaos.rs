//! `chaos SECONDS SEED`: processes of a server are killed, stopped and continued, and the server is
//! reloaded and scaled, in an order that the seed decides, while clients count what they lose. Then all
//! must be as before, and each lost request one of a worker that was killed or stopped.

mod acts;
mod asking;
mod lives;
#[path = "../load/pauses.rs"]
mod pauses;
mod standing;
#[allow(dead_code, reason = "other programs use it too, each its part")]
#[path = "../load/traffic.rs"]
mod traffic;
mod verdict;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use forebay::testing::Server;
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::acts::{Act, Dice, Target, Throw};
use crate::asking::{Asking, CONFIGURATION};
use crate::lives::{HarmKind, Lives};
use crate::pauses::Pauses;
use crate::standing::Rest;
use crate::traffic::{ASKING, FRESH, IDLE, KEPT, Manner, SLOW, Tally, Traffic};

/// How many workers the server is told to have.
const WORKERS: u16 = 3;

/// While so many live, none is added. Some may be missing at that moment, so there may be more.
const WORKERS_MAX: usize = 8;

/// How many there are before anything is measured: the master keeps what each slot prints to.
const SLOTS: &str = "16";

/// Reloads before anything is measured.
const WARM_UP: usize = 10;

/// What its helper is asked before anything is measured.
const FIRST_CALL: &str = r#"{"method":"again","params":{"number":0,"ms":0}}"#;

/// A helper that was kept over reloads keeps what its generation was started from: descriptors.
const RENEW: [&str; 2] = ["restart", "keeper"];

/// Who asks meanwhile.
const CLIENTS: [(&Manner, usize); 5] = [(&FRESH, 2), (&KEPT, 2), (&SLOW, 2), (&IDLE, 1), (&ASKING, 1)];

/// Between two looks at who lives.
const LOOK: Duration = Duration::from_millis(50);

/// How long a short stop is, and a long one, in seconds; a process may hang for two.
const SHORT_S: (f64, f64) = (0.05, 0.9);
const LONG_S: (f64, f64) = (3.5, 5.0);

/// How long it goes on before the server is told to stop.
const LAST_TIME: Duration = Duration::from_secs(3);

/// How long the server may take to come to rest: the drain limit and a hung helper are in it.
const REST_LIMIT: Duration = Duration::from_secs(60);

/// Does to a server what happens to servers, under load, and checks that it cost no more than it must.
#[derive(Parser)]
struct Arguments {
    /// The program to serve: the tests' keeper
    program: PathBuf,
    /// How long
    seconds: u64,
    /// Decides the order of what is done
    seed: u64,
}

struct Chaos {
    program: PathBuf,
    server: Server,
    began: Instant,
    lives: Lives,
    asking: Asking,
    /// Until when these are stopped.
    stopped: BTreeMap<u32, Instant>,
    /// How many kills and stops there were.
    harms: u64,
    stopping: bool,
    complaints: Vec<String>,
}

fn main() -> ExitCode {
    let Arguments { program, seconds, seed } = Arguments::parse();
    // Whoever has seen enough gets the verdict, and no server is left behind.
    let enough = Arc::new(AtomicBool::new(false));
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        signal_hook::flag::register(signal as i32, Arc::clone(&enough)).expect("a handler");
    }
    let server = Server::of(&program).workers(WORKERS).configuration(CONFIGURATION).start();
    assert!(server.command(&["call", "keeper", FIRST_CALL]).status.success(), "its journal is made");
    assert!(server.command(&["scale", SLOTS]).status.success());
    server.wait_until("all slots", |status| status["state"] == "serving");
    for _ in 0..WARM_UP {
        assert!(server.command(&["reload"]).status.success(), "a reload in peace");
    }
    assert!(server.command(&RENEW).status.success(), "a restart in peace");
    let mut chaos = Chaos {
        program,
        server,
        began: Instant::now(),
        lives: Lives::default(),
        asking: Asking::default(),
        stopped: BTreeMap::new(),
        harms: 0,
        stopping: false,
        complaints: Vec::new(),
    };
    chaos.wait("rest", |chaos| standing::is_the_company(&chaos.server, WORKERS.into()));
    let before = Rest::of(&chaos.server);
    println!("seed {seed}, {seconds} s, master pid {}, {}", chaos.server.pid(), before.said());
    let pauses = Pauses::watch();
    let traffic = Traffic::start(chaos.server.address(), &CLIENTS);
    let mut dice = Dice::new(seed);
    chaos.rage(&mut dice, Duration::from_secs(seconds), &enough);
    chaos.come_to_rest();
    let tallies = traffic.finish();
    chaos.wait("rest", |chaos| standing::is_the_company(&chaos.server, WORKERS.into()));
    let after = Rest::of(&chaos.server);
    println!("{}", after.said());
    chaos.complaints.extend(before.complaints(&after));
    // Once more, and the end comes in the middle of it.
    chaos.rage(&mut dice, LAST_TIME, &enough);
    chaos.stop();
    chaos.complaints.extend(before.complaints_after_the_stop(&chaos.server));
    chaos.judge(&tallies, &pauses.finish());
    chaos.verdict(seed)
}

impl Chaos {
    fn say(&self, at: Instant, what: &str) {
        println!("{:9.3} {what}", at.saturating_duration_since(self.began).as_secs_f64());
    }

    /// Acts until the time is over, or somebody has had enough.
    fn rage(&mut self, dice: &mut Dice, time: Duration, enough: &AtomicBool) {
        let end = Instant::now() + time;
        while Instant::now() < end && !enough.load(Ordering::Relaxed) {
            self.look();
            let throw = dice.throw();
            self.act(&throw);
            let next = Instant::now() + throw.pause;
            while Instant::now() < next {
                std::thread::sleep(LOOK.min(next.saturating_duration_since(Instant::now())));
                self.look();
            }
        }
    }

    /// Sees who lives, lets go who was stopped for long enough, hears what came of commands.
    fn look(&mut self) {
        self.lives.observe(Instant::now(), &self.server.processes());
        let now = Instant::now();
        let over: Vec<u32> = self.stopped.extract_if(.., |_, until| *until <= now).map(|(pid, _)| pid).collect();
        for pid in over {
            self.lives.let_go(pid, now);
            self.signal(pid, Signal::SIGCONT);
            self.say(now, &format!("CONT pid {pid}"));
        }
        for answered in self.asking.answers(&self.server, self.harms) {
            self.say(now, &answered.said);
            // A reload that a stop overtakes fails in several ways.
            self.complaints.extend(answered.complaint.filter(|_| !self.stopping));
        }
    }

    fn act(&mut self, throw: &Throw) {
        let Throw { act, which, share, .. } = *throw;
        let within = |(least, most): (f64, f64)| Duration::from_secs_f64(least + (most - least) * share);
        match act {
            Act::Kill(target) => self.kill(target, which),
            Act::Stop(target) => self.stop_for(target, which, within(SHORT_S), true),
            Act::StopLong(target) => self.stop_for(target, which, within(LONG_S), false),
            Act::Signal(Signal::SIGTTIN) if self.lives.living(Target::Worker).len() >= WORKERS_MAX => {}
            Act::Signal(signal) => self.tell(signal),
            Act::HupTwice => {
                self.tell(Signal::SIGHUP);
                self.tell(Signal::SIGHUP);
            }
            Act::Reload => self.reload(false),
            // One at a time: the next would find the configuration mended by the end of the first.
            Act::ReloadBroken if self.asking.is_broken() => {}
            Act::ReloadBroken => self.reload(true),
        }
    }

    fn kill(&mut self, target: Target, which: usize) {
        let Some((pid, who)) = self.pick(target, which) else { return };
        let now = Instant::now();
        self.harms += 1;
        self.lives.harm(pid, now, HarmKind::Killed);
        self.signal(pid, Signal::SIGKILL);
        self.say(now, &format!("KILL {who} pid {pid}"));
    }

    fn stop_for(&mut self, target: Target, which: usize, time: Duration, harmless: bool) {
        let Some((pid, who)) = self.pick(target, which) else { return };
        if self.stopped.contains_key(&pid) {
            return;
        }
        let now = Instant::now();
        self.harms += 1;
        if !harmless {
            self.lives.harm(pid, now, HarmKind::Stopped);
        }
        self.stopped.insert(pid, now + time);
        self.signal(pid, Signal::SIGSTOP);
        self.say(now, &format!("STOP {who} pid {pid} for {} ms", time.as_millis()));
    }

    fn tell(&self, signal: Signal) {
        self.signal(self.server.pid(), signal);
        self.say(Instant::now(), &format!("{} master", signal.as_str().trim_start_matches("SIG")));
    }

    fn reload(&mut self, broken: bool) {
        if self.asking.ask(&self.server, &self.program, broken, self.harms).is_some() {
            let how = if broken { " with a broken configuration" } else { "" };
            self.say(Instant::now(), &format!("reload{how}"));
        }
    }

    /// One of those who live and may be acted on.
    fn pick(&self, target: Target, which: usize) -> Option<(u32, String)> {
        if target == Target::Master {
            return Some((self.server.pid(), "master".to_owned()));
        }
        let living = self.lives.living(target);
        let life = living.get(which.checked_rem(living.len())?)?;
        Some((life.pid, life.who.clone()))
    }

    /// To a process of the server, and to nobody who has its number by now.
    fn signal(&self, pid: u32, signal: Signal) {
        if self.server.processes().iter().any(|(living, _)| *living == pid) {
            self.server.signal(pid, signal as i32);
        }
    }

    /// Lets everybody go and waits until all that was asked for is done; then a reload must succeed, and a restart.
    fn come_to_rest(&mut self) {
        self.stopped.values_mut().for_each(|until| *until = Instant::now());
        self.say(Instant::now(), "no more");
        self.wait("the end of all commands", |chaos| !chaos.asking.is_open() && chaos.stopped.is_empty());
        self.wait("the end of all reloads", |chaos| {
            let text = fs::read_to_string(chaos.server.run_dir().join("reload.json")).unwrap_or_default();
            let json: Value = serde_json::from_str(&text).unwrap_or_default();
            json["asked"] == json["finished"] && chaos.is_one_generation()
        });
        for words in [&["reload"][..], &RENEW] {
            let output = self.server.command(words);
            if !output.status.success() {
                let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
                self.complaints.push(format!("`{}` in peace fails:\n{text}", words.join(" ")));
            }
        }
        self.look();
    }

    /// Whether all serve, and nobody is left of another generation.
    fn is_one_generation(&self) -> bool {
        let output = self.server.command(&["status", "--json"]);
        let status: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let workers = status["workers"].as_array().map_or(&[][..], Vec::as_slice);
        status["state"] == "serving" && workers.iter().all(|worker| worker["generation"] == status["generation"])
    }

    /// Waits for a state; a complaint if it does not come.
    fn wait(&mut self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let limit = Instant::now() + REST_LIMIT;
        while !is_so(self) {
            if Instant::now() > limit {
                let status = self.server.command(&["status"]).stdout;
                let (status, processes) = (String::from_utf8_lossy(&status), self.server.processes());
                let zombies = self.server.zombies();
                let how = format!("{status}\nprocesses {processes:?}, zombies {zombies:?}");
                self.complaints.push(format!("waited {} s for {what}:\n{how}", REST_LIMIT.as_secs()));
                return;
            }
            std::thread::sleep(LOOK);
            self.look();
        }
    }

    fn stop(&mut self) {
        self.stopping = true;
        self.tell(Signal::SIGTERM);
        let limit = Instant::now() + REST_LIMIT;
        while (self.server.ended().is_none() || self.asking.is_open()) && Instant::now() < limit {
            std::thread::sleep(LOOK);
            self.look();
        }
        self.say(Instant::now(), "stopped");
        match self.server.ended() {
            Some(status) if status.success() => {}
            ended => self.complaints.push(format!("the master's end after TERM: {ended:?}")),
        }
        // Orphans would be init's and no zombies of ours: whoever is left is alive.
        let left = self.server.processes();
        if !left.is_empty() {
            self.complaints.push(format!("left after the stop: {left:?}"));
        }
    }

    /// Looks at what was lost, and at what was written.
    fn judge(&mut self, tallies: &[(&'static str, Tally)], gaps: &[(Instant, Duration)]) {
        for (at, gap) in gaps {
            self.say(*at, &format!("nothing ran for {} ms", gap.as_millis()));
        }
        let complaints = verdict::losses(&self.lives, tallies, gaps, &|at, what| self.say(at, what));
        self.complaints.extend(complaints);
        let lives = &self.lives;
        self.complaints.extend(standing::complaints_about_the_log(&self.server.log(), |pid| lives.was_harmed(pid)));
        let journal = fs::read_to_string(self.server.run_dir().join("state/keeper.journal"));
        if journal.is_ok_and(|text| text.contains("two at once")) {
            self.complaints.push("two processes of the helper lived at once".to_owned());
        }
    }

    /// The end, and the log if it is needed.
    fn verdict(self, seed: u64) -> ExitCode {
        if self.complaints.is_empty() {
            println!("chaos: {} kills and stops, all as it should be", self.harms);
            return ExitCode::SUCCESS;
        }
        for complaint in &self.complaints {
            println!("chaos: {complaint}");
        }
        let kept = std::env::temp_dir().join(format!("forebay-chaos-{seed}-{}.log", self.server.pid()));
        match fs::write(&kept, self.server.log()) {
            Ok(()) => println!("chaos: {} complaints, the log is in {}", self.complaints.len(), kept.display()),
            Err(error) => println!("chaos: cannot keep the log: {error}"),
        }
        ExitCode::FAILURE
    }
}
