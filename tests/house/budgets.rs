//! How long a file, a function and a page may be.

use crate::Fault;
use crate::source::{Source, item_end, words};

const FILE_LINES_MAX: usize = 500;
const FUNCTION_LINES_MAX: usize = 70;
const PAGE_LINES_MAX: usize = 200;
const PAGES: [&str; 2] = ["README.md", "ARCHITECTURE.md"];

/// Counts production code, of the examples too: readers copy those.
pub(crate) fn check_source(source: &Source) -> Vec<Fault> {
    if !source.path.starts_with("src/") && !source.path.starts_with("examples/") {
        return Vec::new();
    }
    let mut faults = Vec::new();
    let lines = source.production().count();
    if lines > FILE_LINES_MAX {
        let rule = format!("{lines} lines without tests, the wall is {FILE_LINES_MAX}");
        faults.push(Fault::new(&source.path, 0, rule));
    }
    for (line, text) in source.production() {
        let Some(name) = function(&text.code) else {
            continue;
        };
        let lines = item_end(&source.lines, line - 1) + 2 - line;
        if lines > FUNCTION_LINES_MAX {
            let rule = format!("`fn {name}` has {lines} lines, the wall is {FUNCTION_LINES_MAX}");
            faults.push(Fault::new(&source.path, line, rule));
        }
    }
    faults
}

pub(crate) fn check_page(path: &str, text: &str) -> Vec<Fault> {
    let lines = text.lines().count();
    if !PAGES.contains(&path) || lines <= PAGE_LINES_MAX {
        return Vec::new();
    }
    vec![Fault::new(path, 0, format!("{lines} lines, the wall is {PAGE_LINES_MAX}"))]
}

/// The name, if a function starts on this line: only qualifiers stand before its `fn`.
fn function(code: &str) -> Option<&str> {
    let at = words(code, "fn ").next()?;
    let qualifier = |word: &str| {
        word.starts_with("pub")
            || word.ends_with(')')
            || ["const", "async", "unsafe", "extern", "\"\"", "default"].contains(&word)
    };
    code[..at].split_whitespace().all(qualifier).then(|| code[at + 3..].split(['(', '<']).next().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_have_a_wall() {
        let full = "a();\n".repeat(FILE_LINES_MAX);
        assert_eq!(faults("src/a.rs", &full), 0);
        assert_eq!(faults("src/a.rs", &format!("{full}#[cfg(test)]\nmod tests {{\n    b();\n}}\n")), 0);
        assert_eq!(faults("src/a.rs", &format!("{full}b();\n")), 1);
        assert_eq!(faults("tests/a.rs", &format!("{full}b();\n")), 0);
    }

    #[test]
    fn functions_have_a_wall() {
        let body = |lines: usize| "        a();\n".repeat(lines);
        let head = "    pub(in crate::a) async fn b<T>(\n        c: T,\n    ) -> D {\n";
        for (lines, expected) in [(FUNCTION_LINES_MAX - 4, 0), (FUNCTION_LINES_MAX - 3, 1)] {
            let text = format!("impl A {{\n{head}{}    }}\n\n    fn short() {{}}\n    fn c();\n}}\n", body(lines));
            assert_eq!(faults("src/a.rs", &text), expected, "{lines}");
        }
    }

    #[test]
    fn functions_are_found() {
        let table = [
            ("fn a() {", Some("a")),
            ("    pub(crate) unsafe extern \"\" fn b<T>(", Some("b")),
            ("    pub(in crate::x) const fn c(", Some("c")),
            ("let f: fn (u8) = x;", None),
            ("type F = fn(u8);", None),
        ];
        for (code, expected) in table {
            assert_eq!(function(code), expected, "{code}");
        }
    }

    #[test]
    fn pages_have_a_wall() {
        let full = "x\n".repeat(PAGE_LINES_MAX);
        assert_eq!(check_page("README.md", &full), []);
        assert_eq!(check_page("README.md", &format!("{full}x\n")).len(), 1);
        assert_eq!(check_page("CHANGELOG.md", &format!("{full}x\n")), []);
    }

    fn faults(path: &str, text: &str) -> usize {
        check_source(&Source::parse(path, text)).len()
    }
}
