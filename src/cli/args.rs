//! The words of the command line.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};

use super::Whom;
use super::flags::Flags;
use crate::error::Exit;
use crate::settings::{Overrides, filter, worker_count};

/// The longest time that a command may be told to wait, in seconds: a day.
const WAIT_MAX: f64 = 86_400.0;

/// The shortest time that a level may last, in seconds.
const LASTING_MIN: f64 = 0.001;

/// How long it lasts where nobody says.
const LASTING: Duration = Duration::from_secs(60);

/// What stands in the place of a level for the one that is configured.
const RESET: &str = "reset";

#[derive(Debug, Parser)]
#[command(args_conflicts_with_subcommands = true, disable_help_subcommand = true)]
struct Line {
    #[command(subcommand)]
    command: Option<Verb>,
    #[command(flatten)]
    serve: Serve,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Serve until told to stop (also when no command is given)
    Serve(Serve),
    /// Load the configuration and the application, and say what is wrong with them
    Check {
        #[command(flatten)]
        config: Config,
        #[command(flatten)]
        flags: Flags,
    },
    /// Print an example of the configuration file, with every key, its default and its meaning
    Config,
    /// Show the running daemon, its workers and helpers
    Status {
        #[command(flatten)]
        master: Master,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Change the number of workers
    Scale {
        /// How many workers there shall be
        #[arg(value_parser = workers)]
        workers: u16,
        #[command(flatten)]
        master: Master,
    },
    /// Start the new configuration and program beside the old, and take over only if all is well
    Reload {
        /// Wait for the result so many seconds; it goes on without you
        #[arg(long, value_name = "SECONDS", default_value = "300", value_parser = seconds)]
        timeout: Duration,
        #[command(flatten)]
        master: Master,
    },
    /// Replace a helper's process, and return when the new one serves
    Restart {
        /// The helper's name, as `status` shows it
        helper: String,
        /// Wait for it so many seconds
        #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = seconds)]
        timeout: Duration,
        #[command(flatten)]
        master: Master,
    },
    /// Ask a helper, and print its answer as JSON
    Call {
        /// The helper's name, as `status` shows it
        helper: String,
        /// What to ask: {"method":"NAME","params":{…}}
        #[arg(value_name = "JSON")]
        json: String,
        /// Wait for the answer so many seconds
        #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = seconds)]
        timeout: Duration,
        #[command(flatten)]
        master: Master,
    },
    /// Print what a helper publishes, a JSON object on each line, until interrupted
    Events {
        /// The helper's name, as `status` shows it
        helper: String,
        /// End after so many lines; the first is the snapshot
        #[arg(long, value_name = "N")]
        count: Option<u64>,
        #[command(flatten)]
        master: Master,
    },
    /// Show where the log goes; follow it, have more of it for a while, or its files opened anew
    Log {
        #[command(flatten)]
        of: LogWords,
        #[command(flatten)]
        master: Master,
    },
    /// Stop the running daemon, and return when it is gone
    Stop {
        #[command(flatten)]
        master: Master,
    },
}

#[derive(Args, Debug)]
struct Serve {
    #[command(flatten)]
    config: Config,
    /// Go to the background, and return when the workers serve, or with the reason why not
    #[arg(long)]
    daemon: bool,
    #[command(flatten)]
    flags: Flags,
}

#[derive(Args, Debug)]
struct Config {
    /// Read this configuration file [default: /etc/NAME.toml, if there is one]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Args, Debug)]
struct Master {
    #[command(flatten)]
    config: Config,
    /// The daemon's run directory [default: what the configuration says]
    #[arg(long, value_name = "DIR")]
    run_dir: Option<PathBuf>,
}

#[derive(Args, Debug)]
struct LogWords {
    /// Print each record that is logged from now on, until interrupted
    #[arg(long)]
    follow: bool,
    /// With --follow only these; else have all processes log so much for a while, or again as configured: reset
    #[arg(long, value_name = "LEVEL")]
    level: Option<String>,
    /// Only of this target and those below it: LEVEL is one level then, and no filter in RUST_LOG's syntax
    #[arg(long, value_name = "NAME")]
    target: Option<String>,
    /// How long: 60, 60s, 5m, 2h; a day at most [default: 60s]
    #[arg(long = "for", value_name = "TIME", value_parser = lasting, requires = "level", conflicts_with = "follow")]
    lasting: Option<Duration>,
    /// Open the log's files anew, and return when they are written to
    #[arg(long, conflicts_with_all = ["follow", "level", "target"])]
    reopen: bool,
    /// With --follow print a JSON object for each record, else one of how the log is doing
    #[arg(long, conflicts_with = "reopen")]
    json: bool,
    /// End after so many records
    #[arg(long, value_name = "N", requires = "follow")]
    count: Option<u64>,
}

/// How many workers there shall be.
fn workers(text: &str) -> Result<u16, String> {
    worker_count(text.parse().unwrap_or(-1))
}

/// A time to wait, for people who wait.
fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().filter(|seconds| (0.0..=WAIT_MAX).contains(seconds));
    seconds.map(Duration::from_secs_f64).ok_or_else(|| format!("a time is a number of seconds from 0 to {WAIT_MAX}"))
}

/// How long a level lasts: seconds, or with a unit.
fn lasting(text: &str) -> Result<Duration, String> {
    let units = [("ms", 0.001), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];
    let unit = units.iter().find_map(|(unit, seconds)| Some((text.strip_suffix(unit)?, seconds)));
    let (number, unit) = unit.unwrap_or((text, &1.0));
    let seconds = number.parse().ok().map(|number: f64| number * unit);
    let seconds = seconds.filter(|seconds| (LASTING_MIN..=WAIT_MAX).contains(seconds));
    let wrong = "a time is a number of seconds, or as 60s, 5m or 2h; it is not 0, and a day at most";
    seconds.map(Duration::from_secs_f64).ok_or_else(|| wrong.to_owned())
}

/// What one call of the program asks for.
#[derive(Debug)]
pub(crate) struct Invocation {
    pub(crate) whom: Whom,
    pub(crate) command: Command,
}

/// The commands.
#[derive(Debug)]
pub(crate) enum Command {
    Serve { flags: Overrides, daemon: bool },
    Check(Overrides),
    Config,
    Status { json: bool },
    Scale(u16),
    Reload { timeout: Duration },
    Restart { helper: String, timeout: Duration },
    Call { helper: String, json: String, timeout: Duration },
    Events { helper: String, count: Option<u64> },
    Log(LogCommand),
    Stop,
}

/// What `log` does.
#[derive(Debug)]
pub(crate) enum LogCommand {
    Show { json: bool },
    Follow { filter: String, json: bool, count: Option<u64> },
    Level { filter: String, lasting: Duration },
    Reset,
    Reopen,
}

/// Reads the command line. `Err`: it was answered (`--help`) or is wrong, and this is the end.
pub(crate) fn parse(
    name: &'static str,
    version: &'static str,
    arguments: impl Iterator<Item = OsString>,
) -> Result<Invocation, Exit> {
    let command = Line::command()
        .name(name)
        .bin_name(name)
        .version(version)
        .about(format!("{name}: an application in forked replicas behind one listening socket"));
    let mut command = of_this_name(command, name);
    let line = command.try_get_matches_from_mut(arguments).and_then(|matches| Line::from_arg_matches(&matches));
    match line {
        Ok(line) => Invocation::try_from(line).map_err(|why| {
            // A closed terminal is no reason for another end.
            let _ = command.error(ErrorKind::ValueValidation, why).print();
            Exit::Usage
        }),
        Err(error) => {
            // A closed terminal is no reason for another end.
            let _ = error.print();
            match error.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Err(Exit::Done),
                _ => Err(Exit::Usage),
            }
        }
    }
}

/// Help that says where this program's own files are.
fn of_this_name(command: clap::Command, name: &'static str) -> clap::Command {
    let said = |arg: clap::Arg| match arg.get_help().map(ToString::to_string) {
        Some(help) => arg.help(help.replace("/NAME", &format!("/{name}"))),
        None => arg,
    };
    command.mut_args(said).mut_subcommands(|command| of_this_name(command, name))
}

impl LogWords {
    /// What they ask for, or why they go together badly.
    fn read(self) -> Result<LogCommand, String> {
        let Self { follow, level, target, lasting, reopen, json, count } = self;
        if reopen {
            return Ok(LogCommand::Reopen);
        }
        if json && !follow && level.is_some() {
            return Err("--json goes with --follow, or alone".to_owned());
        }
        if level.as_deref() == Some(RESET) && !follow {
            let alone = target.is_none() && lasting.is_none();
            return alone.then_some(LogCommand::Reset).ok_or_else(|| format!("--level {RESET} stands alone"));
        }
        let filter = match (level, target) {
            (Some(level), Some(target)) => filter::of_target(&level, &target)?,
            (None, Some(target)) if follow => filter::of_target("trace", &target)?,
            (None, Some(_)) => return Err("--target goes with --level or --follow".to_owned()),
            (Some(level), None) => filter::check_typed(&level).map(|()| level)?,
            (None, None) if follow => "trace".to_owned(),
            (None, None) => return Ok(LogCommand::Show { json }),
        };
        Ok(if follow {
            LogCommand::Follow { filter, json, count }
        } else {
            LogCommand::Level { filter, lasting: lasting.unwrap_or(LASTING) }
        })
    }
}

impl TryFrom<Line> for Invocation {
    type Error = String;

    fn try_from(line: Line) -> Result<Self, String> {
        let nobody = |config: Config| Master { config, run_dir: None };
        let (master, command) = match line.command.unwrap_or(Verb::Serve(line.serve)) {
            Verb::Serve(Serve { config, daemon, flags }) => {
                (nobody(config), Command::Serve { flags: flags.into(), daemon })
            }
            Verb::Check { config, flags } => (nobody(config), Command::Check(flags.into())),
            Verb::Config => (nobody(Config { config: None }), Command::Config),
            Verb::Status { master, json } => (master, Command::Status { json }),
            Verb::Scale { workers, master } => (master, Command::Scale(workers)),
            Verb::Reload { timeout, master } => (master, Command::Reload { timeout }),
            Verb::Restart { helper, timeout, master } => (master, Command::Restart { helper, timeout }),
            Verb::Call { helper, json, timeout, master } => (master, Command::Call { helper, json, timeout }),
            Verb::Events { helper, count, master } => (master, Command::Events { helper, count }),
            Verb::Log { of, master } => (master, Command::Log(of.read()?)),
            Verb::Stop { master } => (master, Command::Stop),
        };
        Ok(Self { whom: Whom { config: master.config.config, run_dir: master.run_dir }, command })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Settings;

    fn parse_line(line: &str) -> Result<Invocation, Exit> {
        parse("thermostats", "1.2.3", line.split(' ').map(OsString::from))
    }

    #[test]
    fn serve_is_what_no_command_means() {
        for line in ["thermostats --workers 3", "thermostats serve --workers 3"] {
            let invocation = parse_line(line).expect(line);
            let Command::Serve { flags, daemon: false } = invocation.command else { panic!("{line}") };
            assert_eq!(Settings::read(None, &flags).0.workers, 3);
        }
    }

    #[test]
    fn wrong_words_exit_64_and_help_0() {
        for line in [
            "thermostats sevre",
            "thermostats scale 0",
            "thermostats --workers x",
            "thermostats --listen 80",
            "thermostats --timeouts-hang 0",
            "thermostats --user nobody-of-this-name",
            "thermostats check --daemon",
            "thermostats restart",
            "thermostats restart nest --timeout -1",
            "thermostats log --level debgu",
            "thermostats log --level debug --target a=b",
            "thermostats log --level hyper=debug --target hyper",
            "thermostats log --target hyper",
            "thermostats log --for 60",
            "thermostats log --level debug --for 0",
            "thermostats log --level debug --for 25h",
            "thermostats log --level debug --for -1s",
            "thermostats log --level debug --for 60s --follow",
            "thermostats log --level reset --for 60s",
            "thermostats log --reopen --follow",
            "thermostats log --json --level debug",
            "thermostats log --json --level reset",
            "thermostats log --json --reopen",
            "thermostats log --count 3",
        ] {
            assert_eq!(parse_line(line).err(), Some(Exit::Usage), "{line}");
        }
        assert_eq!(parse_line("thermostats --help").err(), Some(Exit::Done));
    }

    #[test]
    fn the_words_of_log_say_what_it_does() {
        let table = [
            ("", "Show { json: false }"),
            ("--json", "Show { json: true }"),
            ("--reopen", "Reopen"),
            ("--level reset", "Reset"),
            ("--level debug", "Level { filter: \"debug\", lasting: 60s }"),
            ("--level Debug --target hyper --for 5m", "Level { filter: \"hyper=debug\", lasting: 300s }"),
            ("--level info,hyper=debug --for 250ms", "Level { filter: \"info,hyper=debug\", lasting: 250ms }"),
            ("--follow", "Follow { filter: \"trace\", json: false, count: None }"),
            (
                "--follow --target hyper --json --count 3",
                "Follow { filter: \"hyper=trace\", json: true, count: Some(3) }",
            ),
            ("--follow --level warn", "Follow { filter: \"warn\", json: false, count: None }"),
        ];
        for (words, expected) in table {
            let invocation = parse_line(format!("thermostats log {words}").trim_end()).expect(words);
            let Command::Log(command) = invocation.command else { panic!("{words}") };
            assert_eq!(format!("{command:?}"), expected, "{words}");
        }
    }

    #[test]
    fn the_definition_is_consistent() {
        Line::command().debug_assert();
    }
}
