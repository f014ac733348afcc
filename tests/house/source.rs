//! A Rust file as lines: what is code, what is a string, what is a comment, what is test code.
//!
//! Test code is an item under `#[cfg(test)]` or `#[cfg(all(test, …` as rustfmt lays it out, and whole
//! files that are called `tests.rs` or stand in a `tests` directory.

pub(crate) struct Source {
    pub(crate) path: String,
    pub(crate) lines: Vec<Line>,
}

#[derive(Debug, Default)]
pub(crate) struct Line {
    /// As it stands in the file.
    pub(crate) raw: String,
    /// Without comments, and with strings and character literals emptied.
    pub(crate) code: String,
    /// Without comments.
    pub(crate) text: String,
    pub(crate) test: bool,
}

impl Source {
    pub(crate) fn parse(path: &str, text: &str) -> Source {
        let mut lines = lex(text);
        let whole = path.split('/').any(|part| part == "tests" || part == "tests.rs");
        mark_tests(&mut lines, whole);
        Source { path: path.to_owned(), lines }
    }

    /// Lines with their numbers, which start at 1.
    pub(crate) fn numbered(&self) -> impl Iterator<Item = (usize, &Line)> {
        self.lines.iter().enumerate().map(|(at, line)| (at + 1, line))
    }

    /// The same without test code.
    pub(crate) fn production(&self) -> impl Iterator<Item = (usize, &Line)> {
        self.numbered().filter(|(_, line)| !line.test)
    }

    /// All code as one text, line for line.
    pub(crate) fn code(&self) -> String {
        self.lines.iter().map(|line| format!("{}\n", line.code)).collect()
    }

    /// The path below `src/`, for the files that have one.
    pub(crate) fn in_src(&self) -> Option<&str> {
        self.path.strip_prefix("src/")
    }

    /// The paths, without `.rs`, of the modules that this file declares for tests only.
    pub(crate) fn test_modules(&self) -> Vec<String> {
        let stem = self.path.trim_end_matches(".rs");
        let directory = stem.strip_suffix("/mod").or_else(|| stem.strip_suffix("/lib")).unwrap_or(stem);
        self.lines
            .windows(2)
            .filter(|pair| pair[0].code.trim() == "#[cfg(test)]")
            .filter_map(|pair| pair[1].code.trim().strip_prefix("mod ")?.strip_suffix(';'))
            .map(|name| format!("{directory}/{name}"))
            .collect()
    }

    /// Whether this is the module of that path, or one within it.
    pub(crate) fn is_below(&self, stem: &str) -> bool {
        let rest = self.path.strip_prefix(stem);
        rest.is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
    }
}

/// Every place where `word` stands in `line` with no identifier character on either side.
pub(crate) fn words<'a>(line: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    let joins = |c: Option<char>| c.is_some_and(is_ident);
    line.match_indices(word).map(|(at, _)| at).filter(move |&at| {
        let starts = !word.starts_with(is_ident) || !joins(line[..at].chars().next_back());
        let ends = !word.ends_with(is_ident) || !joins(line[at + word.len()..].chars().next());
        starts && ends
    })
}

pub(crate) fn is_ident(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// How far a line is indented.
pub(crate) fn indent(line: &str) -> usize {
    line.len() - line.trim_start().len()
}

/// The index of the line that ends the item starting at `start`: the first with a closing brace at the
/// same indentation, or the start of an item without a body, which ends in `;` or `}`.
pub(crate) fn item_end(lines: &[Line], start: usize) -> usize {
    let depth = indent(&lines[start].code);
    let mut body = false;
    for (at, line) in lines.iter().enumerate().skip(start) {
        let code = line.code.trim_end();
        let closes = indent(code) == depth && code.trim_start().starts_with('}');
        let one_line = !body && (code.ends_with(';') || code.ends_with('}'));
        if closes || one_line {
            return at;
        }
        body |= code.ends_with('{');
    }
    lines.len() - 1
}

fn mark_tests(lines: &mut [Line], whole: bool) {
    let mut at = 0;
    while at < lines.len() {
        lines[at].test |= whole;
        let code = lines[at].code.trim();
        if code.starts_with("#[cfg(test)]") || code.starts_with("#[cfg(all(test,") {
            let item =
                (at + 1..lines.len()).find(|&next| !lines[next].code.trim().is_empty() && !is_attribute(&lines[next]));
            let end = item.map_or(at, |item| item_end(lines, item));
            lines[at..=end].iter_mut().for_each(|line| line.test = true);
            at = end;
        }
        at += 1;
    }
}

fn is_attribute(line: &Line) -> bool {
    line.code.trim_start().starts_with("#[")
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    Code,
    LineComment,
    BlockComment { depth: usize },
    Text,
    RawText { hashes: usize },
}

fn lex(text: &str) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    let mut state = State::Code;
    for raw in text.lines() {
        let mut line = Line { raw: raw.to_owned(), ..Line::default() };
        if state == State::LineComment {
            state = State::Code;
        }
        let chars: Vec<char> = raw.chars().collect();
        let mut at = 0;
        while at < chars.len() {
            at += step(&mut state, &mut line, &chars, at);
        }
        lines.push(line);
    }
    lines
}

/// Reads what starts at `at` and returns how many characters that was.
fn step(state: &mut State, line: &mut Line, chars: &[char], at: usize) -> usize {
    let rest = &chars[at..];
    let len = match *state {
        State::Code => return step_code(state, line, chars, at),
        State::LineComment => return rest.len(),
        State::BlockComment { depth } => {
            let (next, len) = match rest {
                ['/', '*', ..] => (State::BlockComment { depth: depth + 1 }, 2),
                ['*', '/', ..] if depth == 1 => (State::Code, 2),
                ['*', '/', ..] => (State::BlockComment { depth: depth - 1 }, 2),
                _ => (*state, 1),
            };
            *state = next;
            return len;
        }
        State::Text => match rest {
            ['\\', _, ..] => 2,
            ['"', ..] => {
                *state = State::Code;
                line.code.push('"');
                1
            }
            _ => 1,
        },
        State::RawText { hashes } if rest[0] == '"' && hashes_at(&rest[1..]) >= hashes => {
            *state = State::Code;
            line.code.push('"');
            1 + hashes
        }
        State::RawText { .. } => 1,
    };
    line.text.extend(&rest[..len]);
    len
}

fn step_code(state: &mut State, line: &mut Line, chars: &[char], at: usize) -> usize {
    let rest = &chars[at..];
    let fresh = at == 0 || !is_ident(chars[at - 1]);
    let len = match rest {
        ['/', '/', ..] => {
            *state = State::LineComment;
            return rest.len();
        }
        ['/', '*', ..] => {
            *state = State::BlockComment { depth: 1 };
            return 2;
        }
        ['"', ..] => {
            *state = State::Text;
            1
        }
        ['r', ..] | ['b' | 'c', 'r', ..] if fresh && raw_prefix(rest).is_some() => {
            let (len, hashes) = raw_prefix(rest).expect("the guard has seen it");
            *state = State::RawText { hashes };
            line.code.push('"');
            line.text.extend(&rest[..len]);
            return len;
        }
        ['\'', '\\', escaped, tail @ ..] => {
            let end = tail.iter().position(|&c| c == '\'').unwrap_or(tail.len().saturating_sub(1));
            line.code.push_str("''");
            line.text.extend(['\'', '\\', *escaped]);
            return (3 + end + 1).min(rest.len());
        }
        ['\'', _, '\'', ..] => {
            line.code.push_str("''");
            line.text.extend(&rest[..3]);
            return 3;
        }
        _ => 1,
    };
    line.code.push(rest[0]);
    line.text.push(rest[0]);
    len
}

/// The length of `r#"` and its kin at the start of `rest`, and the number of hashes in it.
fn raw_prefix(rest: &[char]) -> Option<(usize, usize)> {
    let letters = rest.iter().position(|&c| c == 'r')? + 1;
    let hashes = hashes_at(&rest[letters..]);
    (rest.get(letters + hashes) == Some(&'"')).then_some((letters + hashes + 1, hashes))
}

fn hashes_at(rest: &[char]) -> usize {
    rest.iter().take_while(|&&c| c == '#').count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_for_tests_only_is_known_by_its_path() {
        let text = "mod a;\n#[cfg(test)]\nmod b;\n#[cfg(test)]\nmod tests {\n}\n";
        let parent = Source::parse("src/master/mod.rs", text);
        assert_eq!(parent.test_modules(), ["src/master/b"]);
        for (path, is_below) in [("b.rs", true), ("b/c.rs", true), ("bc.rs", false)] {
            let source = Source::parse(&format!("src/master/{path}"), "");
            assert_eq!(source.is_below("src/master/b"), is_below, "{path}");
        }
    }

    #[test]
    fn code_has_no_comments_and_empty_strings() {
        let table = [
            ("let a = 1; // unsafe", "let a = 1; "),
            (r#"say("// not \" a comment"); x"#, r#"say(""); x"#),
            ("let c = '\"'; let d = '\\''; f::<'a>(x)", "let c = ''; let d = ''; f::<'a>(x)"),
            ("let c = '\\u{22}'; y", "let c = ''; y"),
            (r###"let r = r#"a "quoted" // b"#; z"###, r#"let r = ""; z"#),
            (r#"let r#type = br"x"; var"y""#, r#"let r#type = ""; var"""#),
            ("a /* b /* c */ d */ e", "a  e"),
            ("a\n/* b\nc */ d", "a\n\n d"),
            ("let s = \"one \\\n    two // three\"; b", "let s = \"\n\"; b"),
        ];
        for (text, expected) in table {
            let code: Vec<String> = lex(text).into_iter().map(|line| line.code).collect();
            assert_eq!(code.join("\n"), expected, "{text}");
        }
    }

    #[test]
    fn text_keeps_strings() {
        let lines = lex("open(\"/proc/x\") // \"no\"\n\"a\nb\"");
        let texts: Vec<&str> = lines.iter().map(|line| line.text.as_str()).collect();
        assert_eq!(texts, ["open(\"/proc/x\") ", "\"a", "b\""]);
    }

    #[test]
    fn test_code_is_marked() {
        let table = [
            ("fn a() {}\n#[cfg(test)]\nmod tests {\n    fn b() {\n    }\n}\nfn c() {}", "0111110"),
            ("#[cfg(test)]\n#[allow(dead_code)]\nfn a() -> u8 {\n    1\n}\nfn c() {}", "111110"),
            ("#[cfg(test)]\nmod tests;\nfn a() {\n}", "1100"),
            ("#[cfg(all(test, unix))]\nuse x;\nuse y;", "110"),
            ("#[cfg(any(test, feature = \"testing\"))]\nmod a {\n}", "000"),
            ("#[cfg(not(test))]\nfn a() {}", "00"),
        ];
        for (text, expected) in table {
            assert_eq!(marks("src/a.rs", text), expected, "{text}");
        }
        assert_eq!(marks("src/a/tests.rs", "fn a() {}"), "1");
        assert_eq!(marks("src/a/tests/b.rs", "fn a() {}"), "1");
    }

    #[test]
    fn words_have_borders() {
        let table: [(&str, &str, &[usize]); 5] = [
            ("unsafe { unsafe_code }", "unsafe", &[0]),
            ("mio::Poll signal_hook_mio::Signals", "mio::", &[0]),
            ("a.unwrap().b.unwrap()", ".unwrap()", &[1, 12]),
            ("ünsafe unsafe", "unsafe", &[8]),
            ("dont_panic!(1)", "panic!(", &[]),
        ];
        for (line, word, expected) in table {
            assert_eq!(words(line, word).collect::<Vec<_>>(), expected, "{line}");
        }
    }

    fn marks(path: &str, text: &str) -> String {
        Source::parse(path, text).lines.iter().map(|line| if line.test { '1' } else { '0' }).collect()
    }
}
