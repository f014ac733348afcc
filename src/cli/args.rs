//! The words of the command line.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};

use super::Whom;
use crate::error::Exit;
use crate::settings::{Address, Overrides, worker_count};

/// The longest time that a command may be told to wait, in seconds: a day.
const WAIT_MAX: f64 = 86_400.0;

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
        #[arg(value_parser = worker_count)]
        workers: u16,
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
    /// Stop the running daemon, and return when it is gone
    Stop {
        #[command(flatten)]
        master: Master,
    },
}

#[derive(Args, Debug)]
struct Serve {
    #[command(flatten)]
    master: Master,
    /// Listen here instead of where the file says; may be repeated [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Vec<Address>,
    /// Run so many workers instead of what the file says [default: one for each core]
    #[arg(long, value_name = "N", value_parser = worker_count)]
    workers: Option<u16>,
}

#[derive(Args, Debug)]
struct Master {
    /// Read this configuration file [default: /etc/NAME.toml, if there is one]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The daemon's run directory [default: /run/NAME, $XDG_RUNTIME_DIR/NAME, or a private one
    /// under the temporary directory]
    #[arg(long, value_name = "DIR")]
    run_dir: Option<PathBuf>,
}

/// A time to wait, for people who wait.
fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().filter(|seconds| (0.0..=WAIT_MAX).contains(seconds));
    seconds.map(Duration::from_secs_f64).ok_or_else(|| format!("a time is a number of seconds from 0 to {WAIT_MAX}"))
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
    Serve(Overrides),
    Status { json: bool },
    Scale(u16),
    Restart { helper: String, timeout: Duration },
    Call { helper: String, json: String, timeout: Duration },
    Events { helper: String, count: Option<u64> },
    Stop,
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
    let line = command.try_get_matches_from(arguments).and_then(|matches| Line::from_arg_matches(&matches));
    match line {
        Ok(line) => Ok(line.into()),
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

impl From<Line> for Invocation {
    fn from(line: Line) -> Self {
        let (master, command) = match line.command.unwrap_or(Verb::Serve(line.serve)) {
            Verb::Serve(Serve { master, listen, workers }) => {
                let run_dir = master.run_dir.clone();
                (master, Command::Serve(Overrides { listen, workers, run_dir }))
            }
            Verb::Status { master, json } => (master, Command::Status { json }),
            Verb::Scale { workers, master } => (master, Command::Scale(workers)),
            Verb::Restart { helper, timeout, master } => (master, Command::Restart { helper, timeout }),
            Verb::Call { helper, json, timeout, master } => (master, Command::Call { helper, json, timeout }),
            Verb::Events { helper, count, master } => (master, Command::Events { helper, count }),
            Verb::Stop { master } => (master, Command::Stop),
        };
        Self { whom: Whom { config: master.config, run_dir: master.run_dir }, command }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_line(line: &str) -> Result<Invocation, Exit> {
        parse("thermostats", "1.2.3", line.split(' ').map(OsString::from))
    }

    #[test]
    fn serve_is_what_no_command_means() {
        for line in ["thermostats --workers 3", "thermostats serve --workers 3"] {
            let invocation = parse_line(line).expect(line);
            assert!(matches!(invocation.command, Command::Serve(Overrides { workers: Some(3), .. })), "{line}");
        }
    }

    #[test]
    fn wrong_words_exit_64_and_help_0() {
        for line in [
            "thermostats sevre",
            "thermostats scale 0",
            "thermostats --workers x",
            "thermostats --listen 80",
            "thermostats restart",
            "thermostats restart nest --timeout -1",
        ] {
            assert_eq!(parse_line(line).err(), Some(Exit::Usage), "{line}");
        }
        assert_eq!(parse_line("thermostats --help").err(), Some(Exit::Done));
    }

    #[test]
    fn the_definition_is_consistent() {
        Line::command().debug_assert();
    }
}
