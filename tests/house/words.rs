//! What no file of the project mentions: one machine's paths, registry hosts, and how it came to be.

use crate::Fault;

/// In lower case, each cut in two so that this file passes its own rule.
const FORBIDDEN: [&str; 11] = [
    concat!("/wo", "rk/"),
    concat!("/ro", "ot/"),
    concat!("static.", "crates.io"),
    concat!("index.", "crates.io"),
    concat!("proxy.", "golang.org"),
    concat!("registry.", "npmjs.org"),
    concat!("files.python", "hosted.org"),
    concat!("issue", " #"),
    concat!("fixes", " #"),
    concat!("closes", " #"),
    concat!("/iss", "ues/"),
];

pub(crate) fn check(path: &str, text: &str) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let line = line.to_lowercase();
        for word in FORBIDDEN.iter().filter(|word| line.contains(**word)) {
            faults.push(Fault::new(path, at + 1, format!("mentions `{word}`")));
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_word_is_found() {
        for word in FORBIDDEN {
            let faults = check("a.md", &format!("fine\nsee {}here", word.to_uppercase()));
            assert_eq!(faults, [Fault::new("a.md", 2, format!("mentions `{word}`"))]);
        }
        assert_eq!(check("a.md", "the network/ and its root are no issue, nor is crates.io"), []);
    }
}
