//! One setting, and the ways to say it: a key of the file, a flag, a variable.

use toml::de::DeValue;

/// A setting of an `S`: the row of a table.
#[derive(Debug)]
pub(crate) struct Key<S> {
    /// As the file says it, with its section: `timeouts.drain`.
    pub(crate) name: &'static str,
    /// What stands for its value in `--help`.
    pub(crate) value: &'static str,
    /// As the file would say it; in parentheses if it is no value.
    pub(crate) default: &'static str,
    pub(crate) meaning: &'static str,
    /// Several may be given: as a list, by a flag that is repeated, in a variable with commas.
    pub(crate) is_list: bool,
    pub(crate) set: fn(&mut S, &Given<'_>) -> Result<(), String>,
}

/// A value before anyone has looked at it.
#[derive(Debug)]
pub(crate) enum Given<'a> {
    /// In the file.
    Written(&'a DeValue<'a>),
    /// By a flag or a variable.
    Said(&'a str),
}

impl<S> Key<S> {
    /// Without dashes: `timeouts-drain`.
    pub(crate) fn flag(&self) -> String {
        self.name.replace(['.', '_'], "-")
    }

    /// `FOREBAY_TIMEOUTS_DRAIN`.
    pub(crate) fn variable(&self, program: &str) -> String {
        variable(program, self.name)
    }

    /// The part before the dot.
    pub(crate) fn section(&self) -> Option<&'static str> {
        self.name.rsplit_once('.').map(|(section, _)| section)
    }

    /// Whether its default is a value.
    pub(crate) fn has_default(&self) -> bool {
        !self.default.starts_with('(')
    }

    /// Sets the default, if it is a value.
    pub(super) fn reset(&self, settings: &mut S) {
        if self.has_default() {
            let value = DeValue::parse(self.default).expect("a default is written as the file would say it");
            (self.set)(settings, &Given::Written(value.get_ref())).expect("a default is a value that is allowed");
        }
    }
}

/// The variable that stands for `what` of this program.
pub(crate) fn variable(program: &str, what: &str) -> String {
    format!("{program}_{what}").replace(['.', '-'], "_").to_ascii_uppercase()
}

impl<'a> Given<'a> {
    /// A string.
    pub(super) fn text(&self) -> Result<&'a str, String> {
        match self {
            Self::Said(text) => Ok(text),
            Self::Written(value) => value.as_str().ok_or_else(|| not("a string", value)),
        }
    }

    /// A whole number.
    pub(super) fn integer(&self) -> Result<i64, String> {
        let wrong = || "a whole number is wanted".to_owned();
        match self {
            Self::Said(text) => text.trim().parse().map_err(|_| wrong()),
            Self::Written(value) => {
                let number = value.as_integer().ok_or_else(|| not("a whole number", value))?;
                i64::from_str_radix(number.as_str(), number.radix()).map_err(|_| wrong())
            }
        }
    }

    /// A size in bytes: a whole number, or a text with K, M or G for the powers of 1024.
    pub(super) fn bytes(&self) -> Result<i64, String> {
        let text = match self {
            Self::Said(text) => text.trim(),
            Self::Written(DeValue::Integer(_)) => return self.integer(),
            Self::Written(value) => value.as_str().ok_or_else(|| not("a size", value))?,
        };
        let units = [("K", 10), ("M", 20), ("G", 30)];
        let with_unit = units.iter().find_map(|&(unit, shift)| Some((text.strip_suffix(unit)?, shift)));
        let (number, shift) = with_unit.unwrap_or((text, 0));
        let size = number.trim_end().parse::<i64>().ok().and_then(|number| number.checked_mul(1 << shift));
        size.ok_or_else(|| "a size is a number of bytes, or a text like \"512M\" (K, M, G)".to_owned())
    }

    /// A number with or without a fraction.
    pub(super) fn number(&self) -> Result<f64, String> {
        let text = match self {
            Self::Said(text) => text.trim(),
            Self::Written(DeValue::Integer(_)) => return Ok(self.integer()? as f64),
            Self::Written(DeValue::Float(number)) => number.as_str(),
            Self::Written(value) => return Err(not("a number", value)),
        };
        text.parse().map_err(|_| "a number is wanted".to_owned())
    }

    /// `true` or `false`.
    pub(super) fn truth(&self) -> Result<bool, String> {
        match self {
            Self::Said(text) => text.trim().parse().map_err(|_| "true or false is wanted".to_owned()),
            Self::Written(value) => value.as_bool().ok_or_else(|| not("true or false", value)),
        }
    }

    /// What one of these words stands for.
    pub(super) fn one_of<T: Copy>(&self, words: &[(&str, T)]) -> Result<T, String> {
        let text = self.text()?;
        let found = words.iter().find(|(word, _)| *word == text);
        found
            .map(|&(_, meant)| meant)
            .ok_or_else(|| format!("{} is wanted", either(words.iter().map(|(word, _)| *word))))
    }

    /// One value, or those of a list.
    pub(super) fn each<T>(&self, read: impl Fn(&Given<'_>) -> Result<T, String>) -> Result<Vec<T>, String> {
        match self {
            Self::Said(text) => text.split(',').map(|one| read(&Given::Said(one.trim()))).collect(),
            Self::Written(DeValue::Array(all)) => all.iter().map(|one| read(&Given::Written(one.get_ref()))).collect(),
            Self::Written(_) => Ok(vec![read(self)?]),
        }
    }
}

/// `"a", "b" or "c"`
pub(super) fn either<'w>(words: impl Iterator<Item = &'w str>) -> String {
    let mut words: Vec<String> = words.map(|word| format!("\"{word}\"")).collect();
    let last = words.pop().unwrap_or_default();
    if words.is_empty() { last } else { format!("{} or {last}", words.join(", ")) }
}

fn not(wanted: &str, value: &DeValue<'_>) -> String {
    format!("{wanted} is wanted, this is {}", kind(value))
}

fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "a truth value",
        DeValue::Datetime(_) => "a time of day",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
