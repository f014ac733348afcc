//! `scripts/deploy` and `scripts/rollback`, with releases of one program under load.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use forebay::testing::Server;

use crate::client::{copy_program, example};
use crate::load::Load;

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
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts").join(script);
        let mut command = Command::new(script);
        command.args(["--name", "fixture", "--root"]).arg(self.place("root")).arg("--run-dir").arg(run_dir);
        command.arg("--config").arg(self.place("x.toml")).args(words).output().expect("the script starts")
    }

    fn current(&self) -> String {
        let target = fs::read_link(self.place("root/current")).expect("a link");
        target.file_name().expect("a name").to_string_lossy().into_owned()
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
    let program = site.place("root/current/fixture").display().to_string();
    let (script, fault) = (format!("shift; exec {program} \"$@\""), site.place("fault"));
    let server = Server::of(example("fixture")).under(&["sh", "-c", &script, "sh"]);
    let server =
        server.variable("FIXTURE", format!("as {}", fault.display())).configuration("[timeouts]\nstable = 0.05\n");
    let server = server.start();
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
fn wrong_usage_of_the_scripts_exits_64() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/deploy");
    assert!(fs::metadata(&script).expect("it is there").permissions().mode() & 0o111 != 0);
    for words in [&[][..], &["--root"], &["--colour"], &["a", "b"], &["--previous", "a"]] {
        let output = Command::new(&script).args(words).output().expect("it starts");
        assert_eq!(output.status.code(), Some(64), "{words:?}: {}", said(&output));
    }
}
