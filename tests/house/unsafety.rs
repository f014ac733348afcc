//! `unsafe` stands in `sys` alone, and there it is argued: a `// SAFETY:` comment within the lines before
//! a block or an impl, a `# Safety` section in the docs of an `unsafe fn`.

use crate::Fault;
use crate::source::{Source, words};

const SAFETY_LINES_MAX: usize = 6;

pub(crate) fn check(source: &Source) -> Vec<Fault> {
    let home = source.path == "src/sys.rs" || source.path.starts_with("src/sys/");
    if !home && !source.path.starts_with("src/") && !source.path.starts_with("examples/") {
        return Vec::new();
    }
    let mut faults = Vec::new();
    for (line, text) in source.numbered() {
        for at in words(&text.code, "unsafe") {
            if !home {
                faults.push(Fault::new(&source.path, line, "`unsafe` only in sys"));
                continue;
            }
            match kind(&text.code[at..]) {
                Kind::Function if !documented(source, line) => {
                    faults.push(Fault::new(&source.path, line, "`unsafe fn` without a `# Safety` section"));
                }
                Kind::Claim if !argued(source, line) => {
                    faults.push(Fault::new(&source.path, line, "`unsafe` without a `// SAFETY:` comment"));
                }
                Kind::Function | Kind::Claim | Kind::Type => {}
            }
        }
    }
    faults
}

enum Kind {
    /// Declares what its caller must hold.
    Function,
    /// Says that something holds: a block, an impl, an extern block, an attribute.
    Claim,
    /// The type of a pointer to an unsafe function.
    Type,
}

fn kind(code: &str) -> Kind {
    let after = code.trim_start_matches("unsafe").trim_start();
    let after = after.strip_prefix("extern").map_or(after, str::trim_start);
    let after = after.strip_prefix("\"\"").map_or(after, str::trim_start);
    if after.starts_with("fn(") {
        Kind::Type
    } else if after.starts_with("fn ") {
        Kind::Function
    } else {
        Kind::Claim
    }
}

fn argued(source: &Source, line: usize) -> bool {
    let first = line.saturating_sub(SAFETY_LINES_MAX + 1);
    source.lines[first..line].iter().any(|line| line.raw.contains("// SAFETY:"))
}

/// Docs and attributes directly above.
fn documented(source: &Source, line: usize) -> bool {
    let above = source.lines[..line - 1].iter().rev();
    above
        .map(|line| line.raw.trim_start())
        .take_while(|raw| raw.starts_with("///") || raw.starts_with("#["))
        .any(|raw| raw.contains("# Safety"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unsafe_is_argued_in_its_room() {
        let far = format!("// SAFETY: x\n{}unsafe {{ f() }}", "a();\n".repeat(SAFETY_LINES_MAX));
        let near = format!("// SAFETY: x\n{}unsafe {{ f() }}", "a();\n".repeat(SAFETY_LINES_MAX - 1));
        let table = [
            ("src/ipc/frame.rs", "// SAFETY: x\nunsafe { f() }", 1),
            ("examples/hello.rs", "unsafe { f() }", 1),
            ("tests/it/a.rs", "unsafe { f() }", 0),
            ("src/lib.rs", "#![deny(unsafe_code)] // unsafe", 0),
            ("src/sys.rs", "unsafe { f() }", 1),
            ("src/sys.rs", "// SAFETY: x\nunsafe { f() }", 0),
            ("src/sys/fork.rs", &near, 0),
            ("src/sys/fork.rs", &far, 1),
            ("src/sys.rs", "unsafe impl Send for A {}", 1),
            ("src/sys.rs", "// SAFETY: x\nunsafe impl Send for A {}", 0),
            ("src/sys.rs", "unsafe fn f() {}", 1),
            ("src/sys.rs", "/// # Safety\n///\n/// Fine.\n#[inline]\npub unsafe extern \"C\" fn f() {}", 0),
            ("src/sys.rs", "/// # Safety\nfn a() {}\nunsafe fn f() {}", 1),
            ("src/sys.rs", "type F = unsafe extern \"C\" fn(u8);", 0),
            ("src/sys.rs", "unsafe extern \"C\" {", 1),
        ];
        for (path, text, expected) in table {
            assert_eq!(check(&Source::parse(path, text)).len(), expected, "{path}: {text}");
        }
    }
}
