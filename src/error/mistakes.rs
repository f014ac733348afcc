//! What is wrong with a configuration: all of it, each with its place and the way out.

use std::fmt;

use super::{Error, Exit};

/// The most that are told: a file that is no configuration at all has thousands.
const MISTAKES_MAX: usize = 20;

/// How much two names may differ to be taken for one: of 1.
const LIKENESS_MIN: f64 = 0.6;

/// Mistakes in the order in which they stand.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Mistakes(Vec<(String, String)>);

impl Mistakes {
    /// At `place` (`/etc/forebay.toml:3`, `FOREBAY_WORKERS`) this is wrong.
    pub(crate) fn add(&mut self, place: impl Into<String>, what: impl Into<String>) {
        self.0.push((place.into(), what.into()));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn append(&mut self, more: Self) {
        self.0.extend(more.0);
    }

    /// Nothing, or all of it as one error.
    pub(crate) fn into_result(self) -> Result<(), Error> {
        if self.is_empty() { Ok(()) } else { Err(Error::new(Exit::Config, self.to_string())) }
    }
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, (place, what)) in self.0.iter().take(MISTAKES_MAX).enumerate() {
            let line_break = if number == 0 { "" } else { "\n" };
            write!(f, "{line_break}{place}: {what}")?;
        }
        match self.0.len().saturating_sub(MISTAKES_MAX) {
            0 => Ok(()),
            more => write!(f, "\nand {more} more"),
        }
    }
}

/// The line of a text's byte, counted from 1.
pub(crate) fn line_of(text: &str, at: usize) -> usize {
    text.as_bytes()[..at.min(text.len())].iter().filter(|&&byte| byte == b'\n').count() + 1
}

/// Says that nobody knows `name`, and what may have been meant.
pub(crate) fn unknown<'a>(what: &str, name: &str, known: impl Iterator<Item = &'a str> + Clone) -> String {
    match nearest(name, known.clone()) {
        Some(near) => format!("there is no {what} `{name}`: did you mean `{near}`?"),
        None => {
            let known: Vec<String> = known.map(|name| format!("`{name}`")).collect();
            format!("there is no {what} `{name}`; there are: {}", known.join(", "))
        }
    }
}

/// The known name that is likely meant.
pub(crate) fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let likeness = |known: &'a str| (strsim::normalized_damerau_levenshtein(name, known), known);
    let best = known.map(likeness).max_by(|one, other| one.0.total_cmp(&other.0))?;
    (best.0 >= LIKENESS_MIN).then_some(best.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_pen_is_understood_and_nonsense_is_not() {
        let known = ["listen", "workers", "timeouts", "run_dir"];
        for (name, meant) in [("wrokers", "workers"), ("worker", "workers"), ("lsten", "listen"), ("rundir", "run_dir")]
        {
            assert_eq!(nearest(name, known.into_iter()), Some(meant));
        }
        assert_eq!(nearest("colour", known.into_iter()), None);
        let text = unknown("key", "colour", known.into_iter());
        assert!(text.contains("`listen`, `workers`"), "{text}");
    }

    #[test]
    fn not_everything_is_told_of_a_file_that_is_none() {
        let mut mistakes = Mistakes::default();
        (0..1000).for_each(|line| mistakes.add(format!("x.toml:{line}"), "wrong"));
        let text = mistakes.to_string();
        assert_eq!(text.lines().count(), MISTAKES_MAX + 1);
        assert!(text.ends_with("and 980 more"), "{text}");
    }
}
