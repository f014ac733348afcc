//! The settings as flags: one for each key of the table.

use clap::builder::ValueParser;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};

use crate::settings::{Given, KEYS, Key, Overrides, Settings};

/// What was said of the settings.
#[derive(Clone, Debug, Default)]
pub(super) struct Flags(Overrides);

impl From<Flags> for Overrides {
    fn from(Flags(said): Flags) -> Self {
        said
    }
}

impl Args for Flags {
    fn augment_args(command: Command) -> Command {
        command.next_help_heading("Settings").args(KEYS.iter().map(flag))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Flags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut flags = Self::default();
        flags.update_from_arg_matches(matches)?;
        Ok(flags)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        for key in KEYS {
            let said: Vec<&str> =
                matches.get_many::<String>(key.name).into_iter().flatten().map(String::as_str).collect();
            if !said.is_empty() {
                self.0.say(key, said.join(","));
            }
        }
        Ok(())
    }
}

fn flag(key: &'static Key<Settings>) -> Arg {
    let default = key.default.trim_matches(['(', ')', '"']);
    let several = if key.is_list { "; may be repeated" } else { "" };
    Arg::new(key.name)
        .long(key.flag())
        .value_name(key.value)
        .help(format!("{}{several} [default: {default}]", key.meaning.replace('`', "")))
        .action(if key.is_list { ArgAction::Append } else { ArgAction::Set })
        .value_parser(ValueParser::from(move |text: &str| {
            // Tried here, so that what is wrong is a wrong command line.
            (key.set)(&mut Settings::new(), &Given::Said(text)).map(|()| text.to_owned())
        }))
}
