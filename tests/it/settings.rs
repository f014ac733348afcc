//! `check`, `config`, and which of file, variable and flag is in force.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use forebay::testing::Server;

use crate::client::example;

fn gateway() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_forebay"));
    command.env_remove("RUST_LOG");
    command
}

fn complaint(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Runs `check` of a program with this configuration.
fn check(program: &Path, text: &str) -> (Output, String) {
    let scratch = tempfile::tempdir().expect("a directory");
    let config = scratch.path().join("x.toml");
    fs::write(&config, text).expect("write");
    let output = Command::new(program).args(["check", "--config"]).arg(&config).output().expect("the program starts");
    (output, config.display().to_string())
}

#[test]
fn check_loads_everything_and_says_that_it_is_fine() {
    let (output, config) = check(Path::new(env!("CARGO_BIN_EXE_forebay")), "workers = 3\n[nest]\ndead_link_s = 7\n");
    assert_eq!((output.status.code(), complaint(&output)), (Some(0), String::new()));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(said, format!("forebay: {config}: fine: 3 workers on 127.0.0.1:8080, helpers simulator, nest\n"));
}

#[test]
fn an_empty_configuration_is_one_and_a_pipe_is_none() {
    let program = Path::new(env!("CARGO_BIN_EXE_forebay"));
    let (output, _) = check(program, "");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && said.ends_with(", helpers simulator, nest\n"), "{said}");
    let scratch = tempfile::tempdir().expect("a directory");
    let pipe = scratch.path().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
    let output = gateway().args(["check", "--config"]).arg(&pipe).output().expect("the program starts");
    assert_eq!(output.status.code(), Some(78));
    assert!(complaint(&output).contains("it is a pipe"), "{}", complaint(&output));
}

#[test]
fn check_tells_all_mistakes_at_once_the_applications_too() {
    let text = "wrokers = 3\nworkers = 0\nuser = \"no-such-user\"\n[timeouts]\nraedy = 1\n\
                [nest]\nulr = \"x\"\nurl = 7\n[nset]\n[listener.a]\naddress = \"x\"\n";
    let with_user = check(Path::new(env!("CARGO_BIN_EXE_forebay")), text);
    let lines = |(output, config): &(Output, String)| {
        assert_eq!(output.status.code(), Some(78));
        let place = format!("forebay: {config}:");
        let complaint = complaint(output);
        let numbers = complaint.lines().map(|line| {
            let (number, _) = line.strip_prefix(&place).expect("its place").split_once(": ").expect("what is wrong");
            number.parse().expect("a line")
        });
        numbers.collect::<Vec<u32>>()
    };
    assert_eq!(lines(&with_user), [1, 2, 3, 5, 11, 9, 7, 8]);
    // A start says the same.
    let scratch = tempfile::tempdir().expect("a directory");
    let config = scratch.path().join("x.toml");
    fs::write(&config, text).expect("write");
    let run_dir = scratch.path().join("run");
    let output = gateway().arg("serve").arg("--config").arg(&config).arg("--run-dir").arg(&run_dir).output();
    assert_eq!(lines(&(output.expect("the program starts"), config.display().to_string())), [1, 2, 3, 5, 11, 9, 7, 8]);
    assert!(!run_dir.exists());
}

#[test]
fn check_exits_1_when_the_application_refuses_and_runs_no_replica() {
    let run = |fault: &str, words: &[&str]| {
        let mut command = Command::new(example("fixture"));
        command.args([&["check"], words].concat()).env("FIXTURE", fault).output().expect("the program starts")
    };
    let output = run("refuse-preload", &[]);
    assert_eq!(output.status.code(), Some(1), "{}", complaint(&output));
    assert!(
        complaint(&output).contains("fixture: the application refuses: the table is missing"),
        "{}",
        complaint(&output)
    );
    let output = run("endless-preload", &["--timeouts-ready", "0.2"]);
    assert_eq!(output.status.code(), Some(1), "{}", complaint(&output));
    assert!(complaint(&output).contains("did not load within 0.2 s"), "{}", complaint(&output));
    assert_eq!(run("refuse", &[]).status.code(), Some(0), "replicas are not part of it");
}

#[test]
fn the_section_of_the_application_is_what_it_declared() {
    let wrong = "[app]\ngreeting = 7\ncolour = \"red\"\n";
    let (output, config) = check(&example("configured"), wrong);
    assert_eq!(output.status.code(), Some(78));
    let expected = format!(
        "configured: {config}:2: [app]: invalid type: integer `7`, expected a string in `greeting`\n\
         configured: {config}:3: [app]: unknown field `colour`, expected `greeting` or `key_file`\n"
    );
    assert_eq!(complaint(&output), expected);
    let server = Server::of(example("configured")).configuration("[app]\ngreeting = \"hello\"\n").start();
    assert_eq!(crate::client::get(server.address(), "/").expect("an answer").body, "hello");
    server.stop();
}

#[test]
fn the_example_that_config_prints_is_a_configuration() {
    let output = gateway().arg("config").output().expect("the program starts");
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(text.contains("#dead_link_s = 75") && text.contains("#drain = 30"), "{text}");
    let (output, _) = check(Path::new(env!("CARGO_BIN_EXE_forebay")), &text);
    assert_eq!((output.status.code(), complaint(&output)), (Some(0), String::new()));
    // And with every default said.
    let said: String = text
        .lines()
        .map(|line| {
            let key = line.strip_prefix('#').filter(|key| !key.starts_with(' ') && !key.contains(" = …"));
            let is_key = key.is_some_and(|key| key.contains(" = "));
            format!("{}\n", if is_key { key.unwrap_or(line) } else { line })
        })
        .take_while(|line| !line.starts_with("#[listener"))
        .collect();
    let (output, _) = check(Path::new(env!("CARGO_BIN_EXE_forebay")), &said);
    assert_eq!((output.status.code(), complaint(&output)), (Some(0), String::new()));
}

#[test]
fn a_flag_beats_a_variable_which_beats_the_file_which_beats_the_default() {
    let scratch = tempfile::tempdir().expect("a directory");
    let config = scratch.path().join("x.toml");
    fs::write(&config, "workers = 3\nlisten = \"127.0.0.1:1\"\n").expect("write");
    let fine = |file: bool, variable: Option<&str>, flag: Option<&str>| {
        let mut command = gateway();
        command.arg("check");
        if file {
            command.env("FOREBAY_CONFIG", &config);
        } else {
            command.args(["--config", "/dev/null"]);
        }
        command.envs(variable.map(|count| ("FOREBAY_WORKERS", count)));
        command.args(flag.map(|count| format!("--workers={count}")));
        let output = command.output().expect("the program starts");
        assert_eq!((output.status.code(), complaint(&output)), (Some(0), String::new()));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert!(fine(true, Some("5"), Some("7")).contains("7 workers on 127.0.0.1:1,"));
    assert!(fine(true, Some("5"), None).contains("5 workers"));
    assert!(fine(true, None, None).contains("3 workers"));
    assert!(fine(true, Some(""), None).contains("3 workers"), "an empty variable says nothing");
    assert!(fine(false, None, None).contains("127.0.0.1:8080"));
    let output = gateway().arg("check").env("FOREBAY_WORKERS", "many").output().expect("the program starts");
    assert_eq!(output.status.code(), Some(78));
    assert_eq!(complaint(&output), "forebay: FOREBAY_WORKERS: a whole number is wanted\n");
}

#[test]
fn a_running_daemon_is_found_by_its_configuration_also_by_a_wrong_one() {
    let server = Server::of(example("fixture")).workers(1).start();
    let ask = |text: &str| {
        let config = server.directory().join("other.toml");
        fs::write(&config, text).expect("write");
        let mut command = Command::new(example("fixture"));
        command.args(["status", "--config"]).arg(config).output().expect("the program starts")
    };
    let run_dir = server.run_dir().display();
    assert!(ask(&format!("run_dir = \"{run_dir}\"\n")).status.success());
    assert!(ask(&format!("run_dir = \"{run_dir}\"\nworkers = 0\n")).status.success(), "a slip hides nobody");
    assert_eq!(ask("run_dir = \"/nowhere\"\n").status.code(), Some(69));
    assert_eq!(ask("run_dir = \n").status.code(), Some(78));
    let by_variable = Command::new(example("fixture")).arg("status").env("FIXTURE_RUN_DIR", server.run_dir()).status();
    assert!(by_variable.expect("the program starts").success());
    server.stop();
}
