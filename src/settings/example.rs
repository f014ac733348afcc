//! `NAME config`: an example of the configuration file, every key with its default and its meaning.

use std::fmt::Write;

use super::key::{Key, variable};
use super::log::Section;
use super::{KEYS, listener};

/// The widest line of a comment.
const WIDTH: usize = 96;

/// What the sections of the log's targets are for.
const TARGETS: &str = "Where the log goes, one of these for each target; without any, to the console.";
const ACCESS: &str = "A record of each request; it has the other keys of [[log.target]] too.";

/// The section of a helper in another language, which the application's processes read.
const FOREIGN: &str = "
# Helpers in another language, each with a name; ipc-protocol.md says what they speak.
#[helper.NAME]

# what runs it: a program and its arguments
#command = … # [\"PROGRAM\", \"ARGUMENT\"]

# its release: one that says the same keeps its process over reloads; if not said, its files tell
#version = … # \"VERSION\"

# the helpers that it asks: they start before it
#asks = []

# variables that only it has
#environment = {}
";

/// The text; `more` is the application's own.
pub(crate) fn example(program: &str, more: Option<&str>) -> String {
    let mut out = format!(
        "# The configuration of {program}. Every key is here, commented out where it has its default.\n\
         #\n\
         # Each is also a flag of `{program} serve` (timeouts.drain is --timeouts-drain) and a variable\n\
         # ({}). A flag beats a variable, a variable beats this file.\n\
         # Times are numbers of seconds: 0.5 is half of one.\n",
        variable(program, "timeouts.drain"),
    );
    let mut section = None;
    for key in KEYS {
        if key.section() != section {
            section = key.section();
            let _ = write!(out, "\n[{}]\n", section.unwrap_or_default());
        }
        row(&mut out, key, program);
    }
    out.push_str("\n# More listeners, each with a name; they stand in the place of `listen` if that is not said.\n");
    out.push_str("#[listener.NAME]\n");
    listener::KEYS.iter().for_each(|key| row(&mut out, key, program));
    for (section, meaning) in [(Section::Target, TARGETS), (Section::Access, ACCESS)] {
        let _ = write!(out, "\n# {meaning}\n#{}\n", section.header());
        section.own().iter().for_each(|row| self::row(&mut out, &row.key, program));
    }
    out.push_str(FOREIGN);
    if let Some(more) = more {
        let _ = write!(out, "\n{}\n", more.trim());
    }
    out
}

fn row<S>(out: &mut String, key: &Key<S>, program: &str) {
    let name = key.name.rsplit('.').next().unwrap_or(key.name);
    let own_words = |text: &str| text.replace("/NAME", &format!("/{program}"));
    let (mut text, mut value) = (own_words(key.meaning), key.default.to_owned());
    if !key.has_default() {
        let _ = write!(text, " {}", own_words(key.default));
        value = format!("… # {}", key.value);
    }
    out.push('\n');
    wrap(out, &text);
    let _ = writeln!(out, "#{name} = {value}");
}

/// Adds a comment, broken between words.
fn wrap(out: &mut String, text: &str) {
    let mut line = String::from("#");
    for word in text.split(' ') {
        if line.chars().count() + 1 + word.chars().count() > WIDTH {
            out.push_str(&line);
            line = "\n#".to_owned();
        }
        let _ = write!(line, " {word}");
    }
    out.push_str(&line);
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use toml::de::DeTable;

    use super::*;

    #[test]
    fn the_example_is_a_configuration_and_says_what_is_so_anyway() {
        let text = example("forebay", Some("[nest]\n#url = \"x\""));
        DeTable::parse(&text).expect("as it is printed");
        // And with every default said, below its own header.
        let said = |line: &&str| !line.contains(" = …");
        let text: String = text
            .lines()
            .filter(said)
            .map(|line| {
                let key = line.trim_start_matches('#');
                let is_said = !key.starts_with(' ') && (key.starts_with('[') || key.contains(" = "));
                format!("{}\n", if is_said { key } else { line })
            })
            .collect();
        let all = DeTable::parse(&text).expect("with all keys");
        assert!(all.get_ref().get("listen").is_some() && all.get_ref().get("timeouts").is_some(), "{text}");
    }

    /// The rows of the reference's table: key, default, meaning.
    #[test]
    fn the_reference_has_every_key_with_its_default_and_meaning() {
        let reference = include_str!("../../CONFIGURATION.md");
        let rows: BTreeSet<&str> = reference.lines().filter(|line| line.starts_with("| `")).collect();
        let mut missing = String::new();
        let mut look = |name: String, default: &str, meaning: &str| {
            let default = if default.starts_with('(') {
                default.trim_matches(['(', ')']).to_owned()
            } else {
                format!("`{default}`")
            };
            let row = format!("| `{name}` | {default} | {meaning} |");
            if !rows.contains(row.as_str()) {
                missing.push_str(&format!("{row}\n"));
            }
        };
        KEYS.iter().for_each(|key| look(key.name.to_owned(), key.default, key.meaning));
        listener::KEYS.iter().for_each(|key| look(format!("listener.NAME.{}", key.name), key.default, key.meaning));
        for section in Section::ALL {
            let name = |key: &str| format!("{}.{key}", section.name());
            section.own().iter().for_each(|row| look(name(row.key.name), row.key.default, row.key.meaning));
        }
        assert!(missing.is_empty(), "CONFIGURATION.md lacks:\n{missing}");
    }
}
