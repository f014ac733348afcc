//! The application's and its helpers' sections of the configuration file.

use std::any::{TypeId, type_name};
use std::collections::BTreeMap;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

use super::secret::{self, Opened};
use crate::error::Result;
use crate::error::mistakes::{Mistakes, line_of, nearest};

/// The most mistakes that are looked for in one section.
const MISTAKES_MAX: usize = 20;

/// The sections of the configuration file that are the application's own.
///
/// A helper's section is `[NAME]`, or `[helper.NAME]` where that name means something else.
#[derive(Clone, Debug, Default)]
pub struct Configuration {
    file: Arc<str>,
    text: Arc<str>,
    opened: Arc<Opened>,
}

impl Configuration {
    /// Reads a file's text, which the master has read already and found well-formed, with the
    /// files that it names.
    pub(crate) fn parse(file: &str, text: &str, opened: Opened) -> Result<Self> {
        DeTable::parse(text).map_err(|error| format!("{file}: {}", error.message()))?;
        Ok(Self { file: file.into(), text: text.into(), opened: Arc::new(opened) })
    }

    /// The section `[name]` or `[helper.name]`; one that is not there is read as an empty one.
    ///
    /// # Errors
    /// The section is not what `T` takes; the error names the file, the line and the key, for every
    /// key that is wrong a line.
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
        let all = self.all();
        let plain = all.get(name).filter(|section| section.get_ref().is_table());
        let nested = nested(&all).and_then(|helpers| helpers.get(name));
        if plain.is_some() && nested.is_some() {
            return Err(format!("{}: [{name}] and [helper.{name}] are the same section: keep one", self.file).into());
        }
        let found = nested.or(plain);
        if TypeId::of::<T>() == TypeId::of::<()>() {
            return match found {
                // What `()` is made from, which is what T is.
                None => Ok(T::deserialize(serde::de::value::UnitDeserializer::<serde::de::value::Error>::new())?),
                Some(found) => {
                    let place = self.place(found.span().start);
                    Err(format!("{place}: [{name}] has no settings, but there is such a section").into())
                }
            };
        }
        match found {
            Some(found) => self.read(name, found),
            None => secret::with(&self.opened, || {
                let kind = type_name::<T>().rsplit("::").next().unwrap_or_default();
                T::deserialize(ValueDeserializer::from(Spanned::new(0..0, DeValue::Table(DeTable::new())))).map_err(
                    |error| {
                        let error = plain_words(&error);
                        format!("{}: the section [{name}] is missing, and {kind} needs it: {error}", self.file).into()
                    },
                )
            }),
        }
    }

    /// Reads a section; what is wrong is told, taken out, and the rest is looked at.
    fn read<T: DeserializeOwned>(&self, name: &str, found: &Spanned<DeValue<'_>>) -> Result<T> {
        let (mut section, mut wrongs) = (found.clone(), BTreeMap::new());
        let mut taken_out: Vec<String> = Vec::new();
        for _ in 0..MISTAKES_MAX {
            let read = secret::with(&self.opened, || T::deserialize(ValueDeserializer::from(section.clone())));
            let error = match read {
                Ok(value) if taken_out.is_empty() => return Ok(value),
                Ok(_) => break,
                Err(error) => error,
            };
            // Missing only because it was wrong.
            if taken_out.iter().any(|key| error.message() == format!("missing field `{key}`")) {
                break;
            }
            let at = error.span().map_or(found.span().start, |span| span.start);
            wrongs.insert(at, plain_words(&error));
            let DeValue::Table(table) = section.get_mut() else { break };
            let is_there = |at: usize, key: std::ops::Range<usize>, value: std::ops::Range<usize>| {
                key.contains(&at) || value.contains(&at)
            };
            let wrong = table.iter().find(|(key, value)| is_there(at, key.span(), value.span()));
            let Some(wrong) = wrong.map(|(key, _)| key.get_ref().to_string()) else { break };
            table.remove(wrong.as_str());
            taken_out.push(wrong);
        }
        let mut mistakes = Mistakes::default();
        wrongs.into_iter().for_each(|(at, what)| mistakes.add(self.place(at), format!("[{name}]: {what}")));
        Err(mistakes.to_string().into())
    }

    /// Where the value of this key stands, each table above it before it; if it does not, the file.
    pub(crate) fn place_of(&self, keys: &[&str]) -> String {
        let all = self.all();
        let [first, rest @ ..] = keys else { return self.file.to_string() };
        let found = rest.iter().try_fold(all.get(*first), |found, key| Some(found?.get_ref().as_table()?.get(*key)));
        found.flatten().map_or_else(|| self.file.to_string(), |value| self.place(value.span().start))
    }

    /// Those sections that are neither the master's, nor `[app]`, nor among `known`: where each
    /// stands, and its name, with `helper.` before it if it is a helper's for certain.
    pub(crate) fn unknown(&self, masters: &[&str], known: &[&str]) -> Vec<(String, String)> {
        let all = self.all();
        let is_ours =
            |name: &str| ["app", "helper"].contains(&name) || masters.contains(&name) || known.contains(&name);
        let top = all.iter().filter(|(name, value)| value.get_ref().is_table() && !is_ours(name.get_ref()));
        let below = nested(&all).into_iter().flatten().filter(|(name, _)| !known.contains(&&**name.get_ref()));
        let top = top.map(|(name, _)| (self.place(name.span().start), name.get_ref().to_string()));
        top.chain(below.map(|(name, _)| (self.place(name.span().start), format!("helper.{}", name.get_ref()))))
            .collect()
    }

    /// The sections `[helper.NAME]` with this key, but those among `known`: where each stands, and NAME.
    pub(crate) fn helpers_with(&self, key: &str, known: &[&str]) -> Vec<(String, String)> {
        let all = self.all();
        let has_key =
            |section: &Spanned<DeValue<'_>>| section.get_ref().as_table().is_some_and(|it| it.contains_key(key));
        let found = nested(&all).into_iter().flatten();
        let found = found.filter(|(name, section)| !known.contains(&&**name.get_ref()) && has_key(section));
        found.map(|(name, _)| (self.place(name.span().start), name.get_ref().to_string())).collect()
    }

    fn all(&self) -> DeTable<'_> {
        DeTable::parse(&self.text).expect("invariant: it was parsed when it came").into_inner()
    }

    /// `/etc/forebay.toml:3`
    fn place(&self, at: usize) -> String {
        format!("{}:{}", self.file, line_of(&self.text, at))
    }
}

fn nested<'a, 'text>(all: &'a DeTable<'text>) -> Option<&'a DeTable<'text>> {
    all.get("helper")?.get_ref().as_table()
}

/// The error on one line, with its key and what may have been meant.
fn plain_words(error: &toml::de::Error) -> String {
    let mut text = error.to_string().trim().replace('\n', " ");
    let mut names = error.message().split('`').skip(1).step_by(2);
    if let (true, Some(name)) = (error.message().starts_with("unknown field"), names.next())
        && let Some(near) = nearest(name, names)
    {
        text = format!("there is no key `{name}`: did you mean `{near}`?");
    }
    text
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
        Configuration::parse("nest.toml", text, Opened::default()).expect("well-formed")
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
        assert_eq!(error, "nest.toml:2: [nest]: there is no key `ulr`: did you mean `url`?");
        let error =
            configuration("[nest]\nurl = 7").section::<Upstream>("nest").expect_err("a wrong value").to_string();
        assert!(error.contains("`url`") && error.lines().count() == 1, "{error}");
        assert!(configuration("[nest]").section::<()>("nest").is_err());
        let twice = configuration("[nest]\nurl = 'x'\n[helper.nest]\nurl = 'y'").section::<Upstream>("nest");
        assert!(twice.expect_err("twice").to_string().contains("[helper.nest]"));
    }

    #[test]
    fn keys_are_found_where_they_stand() {
        let all = configuration("workers = 1\n[listener.a]\naddress = 'x'\ncertificate = [\n  'y',\n]\n");
        assert_eq!(all.place_of(&["listener", "a", "certificate"]), "nest.toml:4");
        assert_eq!(all.place_of(&["workers"]), "nest.toml:1");
        for nowhere in [&["listener", "b", "certificate"][..], &["listener", "a", "mode"], &["workers", "a"], &[]] {
            assert_eq!(all.place_of(nowhere), "nest.toml", "{nowhere:?}");
        }
    }

    #[test]
    fn sections_of_nobody_are_listed() {
        let all = configuration("workers = 1\n[timeouts]\n[app]\n[nest]\n[nset]\n[helper.hub]\n[helper.hbu]");
        let unknown = all.unknown(&["timeouts"], &["nest", "hub"]);
        assert_eq!(unknown, [("nest.toml:5".into(), "nset".into()), ("nest.toml:7".into(), "helper.hbu".into())]);
    }

    #[test]
    fn every_wrong_key_of_a_section_is_told_with_its_line() {
        #[derive(Debug, serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        #[expect(dead_code, reason = "read by serde only")]
        struct Store {
            url: String,
            size: u8,
            name: Option<String>,
        }
        let text = "[app]\nurl = 1\nsize = 300\nnmae = 'x'\n";
        let error = configuration(text).section::<Store>("app").expect_err("three mistakes").to_string();
        let lines: Vec<&str> = error.lines().collect();
        assert_eq!(lines.len(), 3, "{error}");
        for (place, word) in
            [("nest.toml:2: [app]: ", "`url`"), ("nest.toml:3: ", "`size`"), ("nest.toml:4: ", "`name`")]
        {
            assert!(lines.iter().any(|line| line.starts_with(place) && line.contains(word)), "{place} {error}");
        }
        let error = configuration("[app]\nname = 'x'").section::<Store>("app").expect_err("no url").to_string();
        assert!(error.starts_with("nest.toml:1: [app]: ") && error.contains("`url`"), "{error}");
    }
}
