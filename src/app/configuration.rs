//! The application's and its helpers' sections of the configuration file.

use std::any::{TypeId, type_name};
use std::sync::Arc;

use serde::de::DeserializeOwned;
use toml::{Table, Value};

use crate::error::Result;

/// The sections of the configuration file that are the application's own.
///
/// A helper's section is `[NAME]`, or `[helper.NAME]` where that name means something else.
#[derive(Clone, Debug, Default)]
pub struct Configuration {
    file: Arc<str>,
    sections: Arc<Table>,
}

impl Configuration {
    /// Reads a file's text, which the master has read already and found well-formed.
    pub(crate) fn parse(file: &str, text: &str) -> Result<Self> {
        let sections = text.parse::<Table>().map_err(|error| format!("{file}: {error}"))?;
        Ok(Self { file: file.into(), sections: Arc::new(sections) })
    }

    /// The section `[name]` or `[helper.name]`; one that is not there is read as an empty one.
    ///
    /// # Errors
    /// The section is not what `T` takes; the error names the file, the section and the key.
    ///
    /// ```
    /// # fn of(configuration: &forebay::Configuration) -> forebay::Result<()> {
    /// #[derive(serde::Deserialize)]
    /// struct Upstream {
    ///     url: Option<String>,
    /// }
    ///
    /// let upstream: Upstream = configuration.section("upstream")?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn section<T: DeserializeOwned + 'static>(&self, name: &str) -> Result<T> {
        let found = self.find(name);
        if self.sections.get(name).is_some_and(Value::is_table) && self.nested(name).is_some() {
            return Err(format!("{}: [{name}] and [helper.{name}] are the same section: keep one", self.file).into());
        }
        if TypeId::of::<T>() == TypeId::of::<()>() {
            return match found {
                // What `()` is made from, which is what T is.
                None => Ok(T::deserialize(serde::de::value::UnitDeserializer::<serde::de::value::Error>::new())?),
                Some(_) => Err(format!("{}: [{name}] has no settings, but there is such a section", self.file).into()),
            };
        }
        let section = found.cloned().unwrap_or_else(|| Value::Table(Table::new()));
        Ok(T::deserialize(section).map_err(|error| {
            // It names the key on a line of its own.
            let (file, error) = (&self.file, error.to_string().trim().replace('\n', " "));
            let kind = type_name::<T>().rsplit("::").next().unwrap_or_default();
            if found.is_some() {
                format!("{file}: [{name}]: {error}")
            } else {
                format!("{file}: the section [{name}] is missing, and {kind} needs it: {error}")
            }
        })?)
    }

    /// The file's name, for messages.
    pub(crate) fn file(&self) -> &str {
        &self.file
    }

    /// The names of all sections that are neither the master's, nor `[app]`, nor among `known`.
    pub(crate) fn unknown<'a>(&'a self, masters: &'a [&str], known: &'a [&str]) -> impl Iterator<Item = &'a str> {
        let ours =
            move |name: &&str| name == &"app" || name == &"helper" || masters.contains(name) || known.contains(name);
        let nested = self.sections.get("helper").and_then(Value::as_table).into_iter().flat_map(Table::keys);
        let top = self.sections.iter().filter(|(_, value)| value.is_table()).map(|(name, _)| name.as_str());
        top.filter(move |name| !ours(name)).chain(nested.map(String::as_str).filter(|name| !known.contains(name)))
    }

    fn nested(&self, name: &str) -> Option<&Value> {
        self.sections.get("helper").and_then(|helper| helper.get(name))
    }

    fn find(&self, name: &str) -> Option<&Value> {
        self.nested(name).or_else(|| self.sections.get(name).filter(|section| section.is_table()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    #[serde(default, deny_unknown_fields)]
    #[derive(Default)]
    struct Upstream {
        url: Option<String>,
    }

    fn configuration(text: &str) -> Configuration {
        Configuration::parse("nest.toml", text).expect("well-formed")
    }

    #[test]
    fn a_section_is_found_under_both_names_and_may_be_missing() {
        for text in ["[nest]\nurl = 'x'", "[helper.nest]\nurl = 'x'"] {
            let upstream: Upstream = configuration(text).section("nest").expect("valid");
            assert_eq!(upstream.url.as_deref(), Some("x"));
        }
        let upstream: Upstream = configuration("workers = 3").section("nest").expect("valid");
        assert_eq!(upstream.url, None);
        assert!(configuration("").section::<()>("nest").is_ok());
    }

    #[test]
    fn errors_name_file_section_and_key() {
        let error =
            configuration("[nest]\nulr = 'x'").section::<Upstream>("nest").expect_err("a wrong key").to_string();
        assert!(["nest.toml", "[nest]", "ulr"].iter().all(|word| error.contains(word)), "{error}");
        let error =
            configuration("[nest]\nurl = 7").section::<Upstream>("nest").expect_err("a wrong value").to_string();
        assert!(error.contains("`url`") && error.lines().count() == 1, "{error}");
        assert!(configuration("[nest]").section::<()>("nest").is_err());
        let twice = configuration("[nest]\nurl = 'x'\n[helper.nest]\nurl = 'y'").section::<Upstream>("nest");
        assert!(twice.expect_err("twice").to_string().contains("[helper.nest]"));
    }

    #[test]
    fn sections_of_nobody_are_listed() {
        let all = configuration("workers = 1\n[timeouts]\n[app]\n[nest]\n[nset]\n[helper.hub]\n[helper.hbu]");
        let unknown: Vec<&str> = all.unknown(&["timeouts"], &["nest", "hub"]).collect();
        assert_eq!(unknown, ["nset", "hbu"]);
    }
}
