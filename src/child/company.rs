//! Which helpers a configuration wants, and in which order they can start.

use std::collections::BTreeSet;

use super::foreign;
use crate::app::configuration::Configuration;
use crate::app::declare::{App, Declaration, Work};
use crate::contract::ids::HelperName;
use crate::contract::orders::HelperOffer;
use crate::error::Result;
use crate::error::mistakes::unknown;
use crate::settings::sections;

/// The helpers of a generation.
pub(super) struct Company {
    /// In start order.
    pub(super) wanted: Vec<Declaration>,
    pub(super) unwanted: Vec<&'static str>,
}

impl Company {
    /// Looks at what was declared; the error is the application author's to mend.
    pub(super) fn of(declared: &[Declaration], wanted: impl Fn(&Declaration) -> bool) -> Result<Self> {
        let mut names = BTreeSet::new();
        for helper in declared {
            HelperName::parse(helper.name)?;
            if !names.insert(helper.name) {
                return Err(format!("two helpers are named {}", helper.name).into());
            }
        }
        for helper in declared {
            if let Some(unknown) = helper.asks.iter().find(|name| !names.contains(*name)) {
                return Err(format!("the helper {} asks for {unknown}, which nobody declared", helper.name).into());
            }
        }
        let (wanted, unwanted): (Vec<Declaration>, Vec<Declaration>) =
            in_order(declared)?.into_iter().partition(|helper| wanted(helper));
        Ok(Self { wanted, unwanted: unwanted.iter().map(|helper| helper.name).collect() })
    }

    /// What the master is told.
    pub(super) fn offers(&self, version: &str, build: &str) -> Result<Vec<HelperOffer>> {
        let offer = |helper: &Declaration| {
            let here = |name: &&&str| !self.unwanted.contains(*name);
            let (version, build, is_foreign) = match helper.work {
                Work::Own(_) => (version, build.to_owned(), false),
                Work::Foreign(program) => (foreign::NO_VERSION, foreign::build(program), true),
            };
            Ok(HelperOffer {
                name: HelperName::parse(helper.name)?,
                version: helper.version.unwrap_or(version).to_owned(),
                // One that says its version is the same in every build that says so.
                build: if helper.version.is_none() { build } else { String::new() },
                asks: helper.asks.iter().filter(here).map(|name| HelperName::parse(name)).collect::<Result<_, _>>()?,
                is_foreign,
                reads_app: helper.given.is_some(),
                digest: 0,
            })
        };
        self.wanted.iter().map(offer).collect()
    }
}

/// Looks whether every section is what its owner takes, and none is nobody's. The error has a line
/// for each mistake.
pub(super) fn check(app: &App, configuration: &Configuration) -> Result<()> {
    let own: Vec<&str> = app.helpers.iter().map(|helper| helper.name).collect();
    let programs = foreign::sections(configuration, &own);
    let names: Vec<&str> = own.iter().copied().chain(programs.iter().map(|(_, name)| name.as_str())).collect();
    let masters: Vec<&str> = sections().collect();
    let mut mistakes: Vec<String> = Vec::new();
    for (place, name) in configuration.unknown(&masters, &names) {
        let known = masters.iter().copied().chain(["app"]).chain(names.iter().copied());
        mistakes.push(match name.strip_prefix("helper.") {
            None => format!("{place}: {}", unknown("section", &name, known)),
            Some(helper) => {
                let what = unknown("helper", helper, names.iter().copied());
                format!("{place}: {what} (another program takes `{} = [\"…\"]`)", foreign::COMMAND)
            }
        });
    }
    let looked = app.helpers.iter().map(|helper| match helper.work {
        Work::Own(own) => (own.check)(configuration, helper.name),
        Work::Foreign(_) => Ok(()),
    });
    let looked = looked.chain(programs.iter().map(|section| foreign::check(configuration, section, &names)));
    let looked = looked.chain(app.check.map(|check| check(configuration)));
    mistakes.extend(looked.filter_map(|looked| looked.err().map(|error| error.to_string())));
    if mistakes.is_empty() { Ok(()) } else { Err(mistakes.join("\n").into()) }
}

/// Whoever is asked comes before those that ask; else in the order of declaration.
fn in_order(declared: &[Declaration]) -> Result<Vec<Declaration>> {
    let mut rest: Vec<Declaration> = declared.to_vec();
    let mut order: Vec<Declaration> = Vec::new();
    while !rest.is_empty() {
        let ready = |helper: &Declaration| helper.asks.iter().all(|name| order.iter().any(|done| done.name == *name));
        let Some(next) = rest.iter().position(ready) else { return Err(circle(&rest).into()) };
        order.push(rest.remove(next));
    }
    Ok(order)
}

/// Names the circle: from any helper that waits, whoever it waits for waits too.
fn circle(waiting: &[Declaration]) -> String {
    let mut path: Vec<&str> = Vec::new();
    let mut next = waiting[0].name;
    while !path.contains(&next) {
        path.push(next);
        let helper = waiting.iter().find(|helper| helper.name == next);
        let waits_for =
            helper.and_then(|helper| helper.asks.iter().find(|name| waiting.iter().any(|w| w.name == **name)));
        next = waits_for.copied().unwrap_or(next);
    }
    let start = path.iter().position(|name| *name == next).unwrap_or(0);
    format!("helpers ask each other in a circle: {} -> {next}", path[start..].join(" -> "))
}

#[cfg(test)]
mod tests {
    use std::any::TypeId;

    use super::*;
    use crate::app::declare::Own;

    fn helper(name: &'static str, asks: &'static [&'static str]) -> Declaration {
        let own = Own {
            kind: TypeId::of::<()>(),
            is_wanted: |_| Ok(true),
            check: |_, _| Ok(()),
            start: |_| Box::pin(async { Err("never".into()) }),
        };
        Declaration { name, version: None, asks, given: None, work: Work::Own(own) }
    }

    fn order(declared: &[Declaration]) -> Result<Vec<&'static str>, String> {
        let company = Company::of(declared, |_| true).map_err(|error| error.to_string())?;
        Ok(company.wanted.iter().map(|helper| helper.name).collect())
    }

    #[test]
    fn who_is_asked_comes_first() {
        let declared = [helper("nest", &["simulator", "hub"]), helper("hub", &[]), helper("simulator", &["hub"])];
        assert_eq!(order(&declared), Ok(vec!["hub", "simulator", "nest"]));
    }

    #[test]
    fn circles_twins_and_strangers_are_refused_by_name() {
        let table: [(&[Declaration], &str); 5] = [
            (&[helper("a", &["b"]), helper("b", &["c"]), helper("c", &["b"])], "b -> c -> b"),
            (&[helper("a", &["a"])], "a -> a"),
            (&[helper("a", &["x"])], "a asks for x"),
            (&[helper("a", &[]), helper("a", &[])], "two helpers are named a"),
            (&[helper("log", &[])], "log"),
        ];
        for (declared, words) in table {
            let error = order(declared).expect_err(words);
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn what_is_not_wanted_is_not_offered_and_not_asked_for() {
        let declared = [helper("nest", &["simulator"]), helper("simulator", &[])];
        let company = Company::of(&declared, |helper| helper.name == "nest").expect("valid");
        let offers = company.offers("1.2", "b").expect("valid names");
        assert_eq!((offers.len(), offers[0].asks.len(), &offers[0].version[..]), (1, 0, "1.2"));
        assert_eq!(company.unwanted, ["simulator"]);
    }
}
