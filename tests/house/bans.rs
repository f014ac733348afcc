//! Words that production code in `src` does without, and file names that say nothing.

use crate::Fault;
use crate::source::{Source, words};

struct Ban {
    word: &'static str,
    /// Look inside strings as well.
    strings: bool,
    /// Where it is allowed, as starts of paths below `src/`.
    homes: &'static [&'static str],
    rule: &'static str,
}

const BANS: [Ban; 9] = [
    Ban { word: ".unwrap()", strings: false, homes: &[], rule: "return the error, or say why it holds with expect" },
    Ban { word: "todo!", strings: false, homes: &[], rule: "finish it" },
    Ban { word: "unimplemented!", strings: false, homes: &[], rule: "finish it" },
    Ban { word: "dbg!", strings: false, homes: &[], rule: "left over from debugging" },
    Ban { word: "process::exit", strings: false, homes: &["sys", "app"], rule: "only sys and app end the process" },
    Ban { word: "block_in_place", strings: false, homes: &[], rule: "panics on a current_thread runtime" },
    Ban { word: "/proc/self/exe", strings: true, homes: &[], rule: "a program starts again by its path" },
    Ban {
        word: "current_exe",
        strings: false,
        homes: &[],
        rule: "reads /proc/self/exe; a program starts again by its path",
    },
    Ban {
        word: "thread::sleep",
        strings: false,
        homes: &["testing", "cli"],
        rule: "wait for an event with a deadline",
    },
];
const EMPTY_NAMES: [&str; 5] = ["utils", "util", "common", "helpers", "misc"];

pub(crate) fn check(source: &Source) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (line, text) in source.numbered() {
        if text.code.contains("#[ignore]") {
            faults.push(Fault::new(&source.path, line, "`#[ignore]` needs a reason"));
        }
    }
    let Some(below) = source.in_src() else {
        return faults;
    };
    let room = below.split(['/', '.']).next().unwrap_or_default();
    for (line, text) in source.production() {
        for ban in BANS.iter().filter(|ban| !ban.homes.contains(&room)) {
            let place = if ban.strings { &text.text } else { &text.code };
            if words(place, ban.word).next().is_some() {
                faults.push(Fault::new(&source.path, line, format!("`{}`: {}", ban.word, ban.rule)));
            }
        }
        // The test kit's word to a test is a panic.
        if room != "testing" && words(&text.code, "panic!(").next().is_some() && !states_invariant(source, line) {
            faults.push(Fault::new(&source.path, line, "`panic!` without a comment naming the broken invariant"));
        }
    }
    faults
}

/// For files of any kind.
pub(crate) fn check_name(path: &str) -> Vec<Fault> {
    path.split('/')
        .map(|part| part.split('.').next().unwrap_or(part))
        .filter(|stem| EMPTY_NAMES.contains(stem))
        .map(|stem| Fault::new(path, 0, format!("`{stem}` names no noun")))
        .collect()
}

/// A comment on the line or on the one before says `invariant`.
fn states_invariant(source: &Source, line: usize) -> bool {
    let lines = &source.lines[line.saturating_sub(2)..line];
    lines.iter().any(|line| line.raw.split_once("//").is_some_and(|(_, comment)| comment.contains("invariant")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bans_find_and_spare() {
        let table: [(&str, &str, &[&str]); 22] = [
            ("src/a.rs", "x.unwrap();", &[".unwrap()"]),
            ("src/a.rs", "x.unwrap_or(1);", &[]),
            ("src/a.rs", "/// x.unwrap();", &[]),
            ("src/a.rs", "let s = \".unwrap()\";", &[]),
            ("src/a.rs", "#[cfg(test)]\nmod tests {\n    x.unwrap();\n}", &[]),
            ("tests/it/a.rs", "x.unwrap(); todo!()", &[]),
            ("src/a.rs", "todo!()", &["todo!"]),
            ("src/a.rs", "unimplemented!()", &["unimplemented!"]),
            ("src/a.rs", "dbg!(x)", &["dbg!"]),
            ("src/a.rs", "panic!(\"x\")", &["panic!"]),
            ("src/a.rs", "// invariant: x\npanic!(\"x\")", &[]),
            ("src/a.rs", "panic!(\"x\") // invariant: x", &[]),
            ("src/a.rs", "panic!(\"invariant\")", &["panic!"]),
            ("src/master/mod.rs", "std::process::exit(1)", &["process::exit"]),
            ("src/app/main.rs", "std::process::exit(1)", &[]),
            ("src/sys.rs", "process::exit(1)", &[]),
            ("src/a.rs", "task::block_in_place(f)", &["block_in_place"]),
            ("src/a.rs", "open(\"/proc/self/exe\")", &["/proc/self/exe"]),
            ("src/a.rs", "env::current_exe()", &["current_exe"]),
            ("src/a.rs", "thread::sleep(x)", &["thread::sleep"]),
            ("src/testing/mod.rs", "thread::sleep(x)", &[]),
            ("tests/it/a.rs", "#[ignore]\nfn a() {}\n#[ignore = \"needs root\"]\nfn b() {}", &["#[ignore]"]),
        ];
        for (path, text, expected) in table {
            let faults = check(&Source::parse(path, text));
            let found: Vec<&str> = faults.iter().filter_map(|fault| fault.rule.split('`').nth(1)).collect();
            assert_eq!(found, expected, "{path}: {text}");
        }
    }

    #[test]
    fn names_say_something() {
        for path in ["src/utils.rs", "tests/common/mod.rs", "src/log/helpers.rs"] {
            assert_eq!(check_name(path).len(), 1, "{path}");
        }
        for path in ["src/child/helper/mod.rs", "src/commonality.rs"] {
            assert_eq!(check_name(path), [], "{path}");
        }
    }
}
