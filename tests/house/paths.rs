//! The paths a use tree stands for: `{a, b::{C, d::E}}` is `a`, `b::C` and `b::d::E`.

use crate::source::is_ident;

/// Reads the tree or the plain path at the start of `text`, not what follows it. Each path comes with the
/// offset of its end; a renamed one ends in its new name, a glob in the module.
pub(crate) fn expand(text: &str) -> Vec<(usize, Vec<String>)> {
    let mut found = Vec::new();
    read(&mut Tokens { text, end: 0 }, Vec::new(), &mut found);
    found
}

pub(crate) fn ident(text: &str) -> &str {
    &text[..text.find(|c| !is_ident(c)).unwrap_or(text.len())]
}

fn read(tokens: &mut Tokens, mut path: Vec<String>, found: &mut Vec<(usize, Vec<String>)>) {
    while let Some(name) = tokens.take_ident() {
        path.push(name.to_owned());
        if !tokens.take("::") {
            break;
        }
    }
    if tokens.take("{") {
        while !tokens.take("}") {
            let start = tokens.end;
            read(tokens, path.clone(), found);
            tokens.take(",");
            if tokens.end == start {
                return;
            }
        }
        return;
    }
    if tokens.take("as ") {
        path.pop();
        path.extend(tokens.take_ident().map(str::to_owned));
    }
    if !path.is_empty() {
        found.push((tokens.end, path));
    }
    tokens.take("*");
}

struct Tokens<'a> {
    text: &'a str,
    end: usize,
}

impl<'a> Tokens<'a> {
    fn take(&mut self, token: &str) -> bool {
        let here = self.skip_space();
        let found = self.text[here..].starts_with(token);
        if found {
            self.end = here + token.len();
        }
        found
    }

    fn take_ident(&mut self) -> Option<&'a str> {
        let here = self.skip_space();
        let name = ident(&self.text[here..]);
        if name.is_empty() {
            return None;
        }
        self.end = here + name.len();
        Some(name)
    }

    /// Where the next token starts; `end` stays, so that it names the line of the last token taken.
    fn skip_space(&self) -> usize {
        let rest = &self.text[self.end..];
        self.end + rest.len() - rest.trim_start().len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn use_trees_expand() {
        let table = [
            ("a;", "a"),
            ("a::b::C;", "a::b::C"),
            ("a::b(c, d)", "a::b"),
            ("a::b::<C>(d)", "a::b"),
            ("a::B as D;", "a::D"),
            ("{a, b::{C, d::E}, f};", "a b::C b::d::E f"),
            ("{a::B as D, c::*, e};", "a::D c e"),
            ("{\n    a::{self, B},\n    c,\n};", "a::self a::B c"),
            ("{a, $b}", "a"),
            ("{a", "a"),
            (";", ""),
        ];
        for (text, expected) in table {
            let paths: Vec<String> = expand(text).iter().map(|(_, path)| path.join("::")).collect();
            assert_eq!(paths.join(" "), expected, "{text}");
        }
    }
}
