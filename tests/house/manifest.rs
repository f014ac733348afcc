//! Every dependency says why it is there, and `signal-hook` is new enough.
//!
//! Knows an entry `name = …`, over several lines too, and a table `[dependencies.name]`.

use crate::Fault;

const SIGNAL_HOOK_MIN: [u32; 3] = [0, 4, 6];

pub(crate) fn check(path: &str, text: &str) -> Vec<Fault> {
    let mut faults = Vec::new();
    for entry in entries(text) {
        if !entry.explained {
            let rule = format!("no comment says why `{}` is there", entry.name);
            faults.push(Fault::new(path, entry.line, rule));
        }
        if entry.name == "signal-hook" && version(&entry.value).is_some_and(|version| version < SIGNAL_HOOK_MIN) {
            faults.push(Fault::new(path, entry.line, "signal-hook must be 0.4.6 or newer"));
        }
    }
    faults
}

struct Entry {
    line: usize,
    name: String,
    value: String,
    /// By a comment on its first line or on a line of its own directly above.
    explained: bool,
}

#[derive(Clone, Copy)]
enum Section {
    Other,
    /// `[dependencies]` and its kin: each line is a dependency.
    Entries,
    /// `[dependencies.name]`: each line is about this one.
    Entry,
}

fn entries(text: &str) -> Vec<Entry> {
    let mut found: Vec<Entry> = Vec::new();
    let mut section = Section::Other;
    let mut open: usize = 0;
    let mut explained_above = false;
    for (at, line) in text.lines().enumerate() {
        let (value, comment) = split_comment(line);
        let explained = explained_above || !comment.is_empty();
        explained_above = value.is_empty() && !comment.is_empty();
        let mut add = |name: &str, value: &str| {
            let name = name.split('.').next().unwrap_or(name).trim().to_owned();
            found.push(Entry { line: at + 1, name, value: value.to_owned(), explained });
        };
        if open == 0 && value.starts_with('[') {
            let table = value.trim_matches(['[', ']']);
            section = Section::Other;
            if table.ends_with("dependencies") {
                section = Section::Entries;
            } else if let Some((_, name)) = table.rsplit_once("dependencies.") {
                section = Section::Entry;
                add(name, "");
            }
            continue;
        }
        match (section, value.split_once('=')) {
            (Section::Entries, Some((name, value))) if open == 0 => add(name, value),
            (Section::Entries | Section::Entry, _) => {
                if let Some(entry) = found.last_mut() {
                    entry.value.push_str(value);
                }
            }
            (Section::Other, _) => {}
        }
        open = (open + value.matches(['{', '[']).count()).saturating_sub(value.matches(['}', ']']).count());
    }
    found
}

/// What stands before the `#` and the words behind it, both trimmed.
fn split_comment(line: &str) -> (&str, &str) {
    let mut quoted = false;
    let hash = line.find(|c| {
        quoted ^= c == '"';
        c == '#' && !quoted
    });
    let (value, comment) = line.split_at(hash.unwrap_or(line.len()));
    (value.trim(), comment.trim_matches(['#', ' ']))
}

/// The first version number in quotes, short ones filled up with zeros.
fn version(value: &str) -> Option<[u32; 3]> {
    let text = value
        .split('"')
        .find(|part| part.trim_start_matches(['^', '=', '~', '>']).starts_with(|c: char| c.is_ascii_digit()))?;
    let mut parts = text.split(|c: char| !c.is_ascii_digit()).filter(|part| !part.is_empty());
    Some([(); 3].map(|()| parts.next().and_then(|part| part.parse().ok()).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_say_why() {
        let table: [(&str, &[usize]); 11] = [
            ("[dependencies]\nmio = \"1\"", &[2]),
            ("[dependencies]\nmio = \"1\" # the master's loop", &[]),
            ("[dependencies]\n# the master's loop\nmio = \"1\"", &[]),
            ("[dependencies]\n# the master's loop\nmio = \"1\"\nlog = \"1\"", &[4]),
            ("[dependencies]\n# far away\n\nmio = \"1\"", &[4]),
            ("[dependencies]\nmio = \"1\" #", &[2]),
            ("[dev-dependencies]\nmio = { path = \"#\" }", &[2]),
            ("[dependencies]\n# why\nmio = { version = \"1\", features = [\n    \"net\",\n] }\nlog = \"1\" # why", &[]),
            ("[target.'cfg(unix)'.dependencies]\nmio = \"1\"", &[2]),
            ("[dependencies.mio]\nversion = \"1\"\n[features]\na = []", &[1]),
            ("# why\n[dependencies.mio]\nversion = \"1\"\n[profile.release]\nlto = true", &[]),
        ];
        for (text, expected) in table {
            let lines: Vec<usize> = check("Cargo.toml", text).iter().map(|fault| fault.line).collect();
            assert_eq!(lines, expected, "{text}");
        }
    }

    #[test]
    fn signal_hook_is_new() {
        let table = [
            ("\"0.4.6\"", true),
            ("\"0.4.5\"", false),
            ("\"0.4\"", false),
            ("\"0.3.17\"", false),
            ("\"1\"", true),
            ("{ version = \"0.4.10\", features = [\"iterator\"] }", true),
            ("{ features = [\"iterator\"], version = \">=0.4.5\" }", false),
            ("{ path = \"../signal-hook\" }", true),
        ];
        for (value, expected) in table {
            let faults = check("Cargo.toml", &format!("[dependencies]\nsignal-hook = {value} # wakes the loop\n"));
            assert_eq!(faults.is_empty(), expected, "{value}");
        }
        assert_eq!(check("Cargo.toml", "# wakes the loop\n[dependencies.signal-hook]\nversion = \"0.4.1\"").len(), 1);
    }
}
