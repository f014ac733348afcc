//! Holds the source tree to the house style: reads it as text and reports every breach at once.
//!
//! A scanner of lines, not a compiler. It knows comments, strings and `#[cfg(test)]` (`source`), and
//! relies on rustfmt's layout. It does not expand macros, follow `super::` paths out of a room, see
//! names brought in by a glob, or judge code in doc comments. Each rule's own tests show that it can fail.

mod arrows;
mod bans;
mod budgets;
mod manifest;
mod paths;
mod source;
mod unsafety;
mod words;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use source::Source;

/// A breach: where it is (line 0 for the whole file) and the rule it breaks.
#[derive(Debug, PartialEq)]
struct Fault {
    path: String,
    line: usize,
    rule: String,
}

impl Fault {
    fn new(path: &str, line: usize, rule: impl Into<String>) -> Fault {
        Fault { path: path.to_owned(), line, rule: rule.into() }
    }
}

#[test]
fn the_tree_keeps_the_rules() {
    let root = root();
    let texts: Vec<(String, String)> = tree(&root)
        .into_iter()
        .map(|path| {
            let bytes = fs::read(&path).unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()));
            let path = path.strip_prefix(&root).expect("the walk starts at the root");
            (path.to_string_lossy().into_owned(), String::from_utf8_lossy(&bytes).into_owned())
        })
        .collect();
    let sources: Vec<Source> =
        texts.iter().filter(|(path, _)| path.ends_with(".rs")).map(|(path, text)| Source::parse(path, text)).collect();

    let mut faults = arrows::check(&sources);
    let tests: Vec<String> = sources.iter().flat_map(Source::test_modules).collect();
    for source in &sources {
        faults.extend(unsafety::check(source));
        // A module that is declared for tests only is test code in files of its own.
        if !tests.iter().any(|stem| source.is_below(stem)) {
            faults.extend(bans::check(source));
            faults.extend(budgets::check_source(source));
        }
    }
    for (path, text) in &texts {
        faults.extend(bans::check_name(path));
        faults.extend(budgets::check_page(path, text));
        faults.extend(words::check(path, text));
        if path == "Cargo.toml" {
            faults.extend(manifest::check(path, text));
        }
    }

    faults.sort_by(|a, b| (&a.path, a.line).cmp(&(&b.path, b.line)));
    let report: Vec<String> = faults.iter().map(|f| format!("{}:{}: {}", f.path, f.line, f.rule)).collect();
    assert!(report.is_empty(), "{} breaches of the house style\n{}\n", report.len(), report.join("\n"));
}

#[test]
fn the_walk_finds_this_file() {
    let root = root();
    let found = tree(&root);
    assert!(found.contains(&root.join("tests/house/main.rs")));
    assert!(found.iter().all(|path| !path.starts_with(root.join("target"))));
}

fn root() -> PathBuf {
    env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR").into()
}

/// Every file of the project, symbolic links not followed; build output and git's own files are none of it.
fn tree(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let entries = fs::read_dir(dir).unwrap_or_else(|error| panic!("cannot list {}: {error}", dir.display()));
    for entry in entries {
        let entry = entry.expect("a directory that opens can be read");
        let kind = entry.file_type().expect("the entry was just listed");
        let name = entry.file_name();
        if kind.is_dir() && name != "target" && name != ".git" {
            found.extend(tree(&entry.path()));
        } else if kind.is_file() && name != ".git" {
            found.push(entry.path());
        }
    }
    found
}
