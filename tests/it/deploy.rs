//! `scripts/deploy` and `scripts/rollback`, with releases of one program under load.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use forebay::testing::Server;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::client::{copy_program, example};
use crate::load::Load;
use crate::reload::{is_alone, kill_a_new_worker};

struct Site {
    directory: tempfile::TempDir,
}

impl Site {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().expect("a directory") }
    }

    fn place(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A release as an archive, or as a directory.
    fn release(&self, name: &str, is_archive: bool) -> PathBuf {
        let directory = self.place(&format!("built/{name}"));
        fs::create_dir_all(&directory).expect("a directory");
        copy_program(&example("fixture"), &directory.join("fixture"));
        if !is_archive {
            return directory;
        }
        let archive = self.place(&format!("{name}.tar"));
        let tar = Command::new("tar").arg("-cf").arg(&archive).arg("-C").arg(&directory).arg("fixture").status();
        assert!(tar.expect("tar(1) is there").success());
        archive
    }

    fn run(&self, script: &str, run_dir: &Path, words: &[&Path]) -> Output {
        self.command(script, run_dir, words).output().expect("the script starts")
    }

    fn command(&self, script: &str, run_dir: &Path, words: &[&Path]) -> Command {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts").join(script);
        // Whoever runs the tests in the background ignores signals, and no shell can trap those.
        let mut command = Command::new("env");
        command
            .arg("--default-signal=INT,HUP,TERM")
            .arg(script)
            .args(["--name", "fixture", "--root"])
            .arg(self.place("root"))
            .arg("--run-dir")
            .arg(run_dir);
        command.arg("--config").arg(self.place("x.toml")).args(words);
        command
    }

    /// Starts a deployment in a process group of its own, as a terminal does, and returns when its
    /// release is being proven: the generation of that number.
    fn begin(&self, server: &Server, release: &Path, generation: u64) -> Child {
        let mut command = self.command("deploy", server.run_dir(), &[release]);
        command.process_group(0).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn().expect("the script starts");
        server.wait_for_log(&format!("generation {generation}: new workers accept"));
        child
    }

    /// A program that asks for a reload and does not wait for its end.
    fn impatient(&self, name: &str) -> PathBuf {
        let (directory, real) = (self.release(name, false), self.place("real"));
        copy_program(&example("fixture"), &real);
        let real = real.display();
        let program = directory.join("fixture");
        // Its place is the real one's before the master looks.
        let script = format!(
            "#!/bin/sh\nif [ \"$1\" != reload ]; then exec {real} \"$@\"; fi\n\
             cp {real} \"$0.new\" && mv \"$0.new\" \"$0\" && shift\nexec {real} reload --timeout 0.05 \"$@\"\n"
        );
        fs::write(&program, script).expect("write");
        directory
    }

    /// The first release, before a daemon runs.
    fn first(&self) {
        fs::write(self.place("x.toml"), "").expect("write");
        let output = self.run("deploy", &self.place("nobody"), &[&self.release("v1", false)]);
        assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    }

    /// A server that was started by this path, and needs so many seconds for a reload. Commands are
    /// another copy's.
    fn serve(&self, program: &str, stable: &str) -> Server {
        let script = format!("shift; exec {} \"$@\"", self.place(program).display());
        let server = Server::of(example("fixture")).under(&["sh", "-c", &script, "sh"]);
        let server = server.variable("FIXTURE", format!("as {}", self.place("fault").display()));
        server.configuration(&format!("[timeouts]\nstable = {stable}\n")).start()
    }

    fn link(&self, name: &str) -> String {
        let target = fs::read_link(self.place("root").join(name)).expect("a link");
        target.file_name().expect("a name").to_string_lossy().into_owned()
    }

    fn current(&self) -> String {
        self.link("current")
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

/// The release that a worker runs.
fn serving(server: &Server) -> String {
    let maps = fs::read_to_string(format!("/proc/{}/maps", server.workers()[0])).expect("its maps");
    let line = maps.lines().find(|line| line.ends_with("/fixture")).expect("the program");
    line.rsplit('/').nth(1).expect("its directory").to_owned()
}

#[test]
fn releases_are_deployed_refused_and_rolled_back_under_load() {
    let site = Site::new();
    fs::write(site.place("x.toml"), "[timeouts]\nstable = 0.05\n").expect("write");
    let nobody = site.place("nobody");
    // Before the first start.
    let output = site.run("deploy", &nobody, &[&site.release("v1", true)]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert!(said(&output).contains("no daemon runs: v1 serves from its next start"), "{}", said(&output));
    let fault = site.place("fault");
    let server = site.serve("root/current/fixture", "0.05");
    let load = Load::start(server.address(), "/", 2);
    let deploy = |release: &Path| site.run("deploy", server.run_dir(), &[release]);
    assert_eq!(serving(&server), "v1");
    // A directory will do too; and again.
    for words in ["v2 unpacked", "v2 is unpacked already"] {
        let output = deploy(&site.release("v2", false));
        assert_eq!(output.status.code(), Some(0), "{}", said(&output));
        assert!(said(&output).contains(words) && said(&output).contains("v2 is deployed"), "{}", said(&output));
        assert_eq!((serving(&server), site.current()), ("v2".to_owned(), "v2".to_owned()));
    }
    // One whose workers fail, one that is wrongly configured, one without a program, two at once.
    fs::write(&fault, "refuse").expect("write");
    let output = deploy(&site.release("v3", true));
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(
        said(&output).contains("no database") && said(&output).contains("current is v2 again"),
        "{}",
        said(&output)
    );
    fs::write(&fault, "").expect("write");
    fs::write(site.place("x.toml"), "wrokers = 3\n").expect("write");
    assert_eq!(deploy(&site.release("v4", true)).status.code(), Some(78));
    fs::write(site.place("x.toml"), "").expect("write");
    fs::create_dir(site.place("empty")).expect("a directory");
    assert_eq!(deploy(&site.place("empty")).status.code(), Some(1));
    let locked =
        Command::new("flock").arg("--close").arg(site.place("root/.deploy.lock")).args(["sleep", "20"]).spawn();
    let mut locked = locked.expect("flock(1) is there");
    server.wait_for("the lock", || (deploy(&site.place("built/v1")).status.code() == Some(75)).then_some(()));
    locked.kill().expect("it lives");
    locked.wait().expect("its end");
    assert_eq!((serving(&server), site.current()), ("v2".to_owned(), "v2".to_owned()));
    // And back, and forth.
    for release in ["v1", "v2"] {
        let output = site.run("rollback", server.run_dir(), &[]);
        assert_eq!(output.status.code(), Some(0), "{}", said(&output));
        assert_eq!((serving(&server), site.current()), (release.to_owned(), release.to_owned()));
    }
    for tally in load.finish() {
        assert!(tally.lost.is_empty() && tally.answered > 0, "{tally:?}");
    }
    server.stop();
}

#[test]
fn a_deployment_that_is_interrupted_ends_with_the_reload() {
    let site = Site::new();
    site.first();
    let server = site.serve("root/current/fixture", "1.5");
    let interrupt = |child: &Child, signal: Signal| {
        killpg(Pid::from_raw(child.id().cast_signed()), signal).expect("it lives");
    };
    let all = [(Signal::SIGTERM, "v2", "v1"), (Signal::SIGINT, "v3", "v2"), (Signal::SIGHUP, "v4", "v3")];
    for (generation, (signal, release, before)) in (2..).zip(all) {
        let child = site.begin(&server, &site.release(release, false), generation);
        interrupt(&child, signal);
        interrupt(&child, signal);
        let output = child.wait_with_output().expect("its end");
        assert_eq!(output.status.code(), Some(0), "{signal}: {}", said(&output));
        assert!(said(&output).contains("waiting for the outcome of the reload"), "{}", said(&output));
        assert_eq!((site.current(), site.link("previous")), (release.to_owned(), before.to_owned()));
        assert_eq!(serving(&server), release);
        server.wait_until("one generation", is_alone);
    }
    let child = site.begin(&server, &site.release("v5", false), 5);
    interrupt(&child, Signal::SIGTERM);
    kill_a_new_worker(&server, 5);
    let output = child.wait_with_output().expect("its end");
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert_eq!((site.current(), site.link("previous")), ("v4".to_owned(), "v3".to_owned()));
    assert!(!site.place("root/releases/v5").exists());
    server.stop();
}

#[test]
fn a_reload_that_outlasts_its_client_is_waited_for() {
    let site = Site::new();
    site.first();
    let server = site.serve("root/current/fixture", "1.5");
    let output = site.run("deploy", server.run_dir(), &[&site.impatient("v2")]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert!(said(&output).contains("the reload is not over after 0.05 s"), "{}", said(&output));
    assert_eq!((site.current(), site.link("previous"), serving(&server).as_str()), ("v2".into(), "v1".into(), "v2"));
    server.wait_until("one generation", is_alone);
    let child = site.begin(&server, &site.impatient("v3"), 3);
    kill_a_new_worker(&server, 3);
    let output = child.wait_with_output().expect("its end");
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert_eq!((site.current(), site.link("previous"), serving(&server).as_str()), ("v2".into(), "v1".into(), "v2"));
    server.stop();
}

#[test]
fn a_name_is_one_release_and_what_never_served_leaves_none() {
    let site = Site::new();
    site.first();
    let nobody = site.place("nobody");
    let deploy = |release: &Path| site.run("deploy", &nobody, &[release]);
    let releases = || {
        let names = fs::read_dir(site.place("root/releases")).expect("a directory");
        let names = names.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned());
        names.collect::<BTreeSet<String>>()
    };
    // Another one of the same name: by content, by mode.
    for change in ["echo changed > data", "rm data; chmod 700 fixture"] {
        let changed = Command::new("sh").args(["-c", change]).current_dir(site.place("built/v1")).status();
        assert!(changed.expect("sh(1) is there").success());
        let output = deploy(&site.place("built/v1"));
        assert_eq!(output.status.code(), Some(1), "{change}: {}", said(&output));
        assert!(said(&output).contains("v1 is taken"), "{}", said(&output));
        assert!(!site.place("root/releases/v1/data").exists());
    }
    // One whose check fails, and that is mended.
    let program = site.release("v2", false).join("fixture");
    fs::remove_file(&program).expect("it is there");
    fs::write(&program, "#!/bin/sh\nexit 78\n").expect("write");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("chmod");
    assert_eq!(deploy(&site.place("built/v2")).status.code(), Some(78));
    assert_eq!(deploy(&site.release("v2", false)).status.code(), Some(0));
    // What is no archive, or has no program.
    fs::write(site.place("v9.tar.gz"), "no archive\n").expect("write");
    assert_eq!(deploy(&site.place("v9.tar.gz")).status.code(), Some(1));
    fs::create_dir(site.place("v8")).expect("a directory");
    assert_eq!(deploy(&site.place("v8")).status.code(), Some(1));
    assert_eq!(releases(), BTreeSet::from(["v1", "v2"].map(str::to_owned)));
    // Names of archives and of directories.
    fs::rename(site.release("v3", true), site.place("v3.tar.gz")).expect("rename");
    for release in [site.place("v3.tar.gz"), site.release("v4.target", false), site.release("v5.tar", false)] {
        let output = deploy(&release);
        assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    }
    for release in [".", "..", "built/.hidden", "built/a b", "built/a*"] {
        fs::create_dir_all(site.place(release)).expect("a directory");
        let mut command = site.command("deploy", &nobody, &[Path::new(release)]);
        let output = command.current_dir(site.directory.path()).output().expect("the script starts");
        assert_eq!(output.status.code(), Some(64), "{release}: {}", said(&output));
    }
    assert_eq!(releases(), BTreeSet::from(["v1", "v2", "v3", "v4.target", "v5.tar"].map(str::to_owned)));
    assert_eq!(site.current(), "v5.tar");
}

#[test]
fn a_daemon_that_was_started_by_another_path_is_no_deployment() {
    let site = Site::new();
    site.first();
    let server = site.serve("root/releases/v1/fixture", "0.05");
    let output = site.run("deploy", server.run_dir(), &[&site.release("v2", false)]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    let started = site.place("root/releases/v1/fixture").display().to_string();
    assert!(said(&output).contains(&format!("the daemon was started as {started}")), "{}", said(&output));
    assert_eq!((site.current(), serving(&server).as_str()), ("v1".to_owned(), "v1"));
    let status = server.status();
    assert_eq!((&status["program"], &status["executable"]), (&started.clone().into(), &started.into()));
    server.stop();
    // A link to where current leads will do.
    symlink(site.place("root/current/fixture"), site.place("linked")).expect("a link");
    let server = site.serve("linked", "0.05");
    let output = site.run("deploy", server.run_dir(), &[&site.release("v2", false)]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert_eq!((site.current(), serving(&server).as_str()), ("v2".to_owned(), "v2"));
    let status = server.status();
    let file = site.place("root/releases/v2/fixture").display().to_string();
    assert_eq!((&status["executable"], &status["reloads_finished"]), (&file.into(), &1.into()));
    server.stop();
}

#[test]
fn wrong_usage_of_the_scripts_exits_64() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/deploy");
    assert!(fs::metadata(&script).expect("it is there").permissions().mode() & 0o111 != 0);
    for words in [&[][..], &["--root"], &["--colour"], &["a", "b"], &["--previous", "a"]] {
        let output = Command::new(&script).args(words).output().expect("it starts");
        assert_eq!(output.status.code(), Some(64), "{words:?}: {}", said(&output));
    }
}
