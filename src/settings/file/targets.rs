//! `[[log.target]]` and `[log.access]`: each by its kind, and what two of them may not share.

use std::ops::Range;
use std::path::PathBuf;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::Reader;
use crate::error::mistakes::unknown;
use crate::settings::key::{Given, either};
use crate::settings::log::{Kind, Section, Sink, TARGETS_MAX, Target};

/// What the targets read so far have taken.
#[derive(Default)]
struct Taken {
    count: usize,
    console: bool,
    paths: Vec<PathBuf>,
}

impl Reader<'_> {
    /// Reads those of the section `[log]`.
    pub(super) fn targets(&mut self, log: &DeTable<'_>) {
        let mut taken = Taken::default();
        if let Some(value) = log.get("target") {
            let targets = self.list(value, &mut taken);
            if !targets.is_empty() {
                self.settings.targets = targets;
            }
        }
        if let Some(value) = log.get("access") {
            let Some(table) = value.get_ref().as_table() else {
                return self.wrong(value.span(), "`log.access` is a table: write [log.access]");
            };
            self.settings.access = self.one(Section::Access, value.span(), table, &mut taken);
        }
    }

    fn list(&mut self, value: &Spanned<DeValue<'_>>, taken: &mut Taken) -> Vec<Target> {
        let is_table = |one: &Spanned<DeValue<'_>>| one.get_ref().is_table();
        let Some(all) = value.get_ref().as_array().filter(|all| all.iter().all(is_table)) else {
            self.wrong(value.span(), "`log.target` is a list of tables: write [[log.target]]");
            return Vec::new();
        };
        let tables = all.iter().filter_map(|one| Some((one.span(), one.get_ref().as_table()?)));
        tables.filter_map(|(place, table)| self.one(Section::Target, place, table, taken)).collect()
    }

    fn one(&mut self, section: Section, place: Range<usize>, table: &DeTable<'_>, taken: &mut Taken) -> Option<Target> {
        taken.count += 1;
        if taken.count == TARGETS_MAX + 1 {
            let what =
                format!("this is one more target than {TARGETS_MAX}, which are allowed, [log.access] among them");
            self.wrong(place.clone(), &what);
        }
        let target = self.target(section, place.clone(), table)?;
        let span = |key: &str| table.get(key).map_or(place, Spanned::span);
        match &target.sink {
            // The access log may go there beside the log itself.
            Sink::Console if section == Section::Target => {
                if std::mem::replace(&mut taken.console, true) {
                    self.wrong(span("kind"), "`log.target.kind`: there is a \"console\" already: keep one");
                }
            }
            Sink::File(file) => {
                let path = self.directory.join(&file.path);
                if taken.paths.contains(&path) {
                    let name = section.name();
                    let what = format!("`{name}.path`: {} is the file of another target", path.display());
                    self.wrong(span("path"), &what);
                }
                taken.paths.push(path);
            }
            Sink::Console | Sink::Syslog(_) | Sink::Journald(_) => {}
        }
        Some(target)
    }

    fn target(&mut self, section: Section, place: Range<usize>, table: &DeTable<'_>) -> Option<Target> {
        let mut draft = section.draft();
        draft.kind = self.kind(section, place.clone(), table);
        for (name, value) in table {
            let word: &str = name.get_ref();
            let Some(row) = section.rows().find(|row| row.key.name == word) else {
                let known = section.rows().map(|row| row.key.name);
                self.wrong(name.span(), &format!("{}: {}", section.header(), unknown("key", word, known)));
                continue;
            };
            let whole = format!("{}.{word}", section.name());
            match draft.kind {
                Some(kind) if !row.kinds.contains(&kind) => {
                    let owners = either(row.kinds.iter().map(|kind| kind.name()));
                    let kind = kind.name();
                    let what =
                        format!("`{whole}` belongs to a target of kind {owners}, this one is of kind \"{kind}\"");
                    self.wrong(name.span(), &what);
                }
                Some(_) | None => {
                    if let Err(why) = (row.key.set)(&mut draft, &Given::Written(value.get_ref())) {
                        self.wrong(value.span(), &format!("`{whole}`: {why}"));
                    }
                }
            }
        }
        if draft.kind == Some(Kind::File) && table.get("path").is_none() {
            self.wrong(place, &format!("{} says no `path`", section.header()));
        }
        draft.finish()
    }

    /// What kind this is, as the other keys depend on it; what is said wrong is told with them.
    fn kind(&mut self, section: Section, place: Range<usize>, table: &DeTable<'_>) -> Option<Kind> {
        match (table.get("kind"), section) {
            (Some(value), _) => Given::Written(value.get_ref()).one_of(&Kind::words()).ok(),
            (None, Section::Access) => Some(if table.get("path").is_some() { Kind::File } else { Kind::Console }),
            (None, Section::Target) => {
                let kinds = either(Kind::words().iter().map(|(name, _)| *name));
                self.wrong(place, &format!("{} says no `kind`: {kinds}", section.header()));
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::tests::load;
    use super::*;
    use crate::settings::Settings;
    use crate::settings::log::{FileSink, Format, Fsync, SyslogAddress, SyslogSink};

    /// Each is described in a table of its own.
    fn sinks(text: &str) -> Vec<Sink> {
        load(text).expect(text).targets.into_iter().map(|target| target.sink).collect()
    }

    fn file(path: &str) -> FileSink {
        let fsync = Fsync::Never;
        FileSink { path: path.into(), size: None, age: None, keep: 10, keep_size: None, compress: false, fsync }
    }

    #[test]
    fn without_targets_there_is_the_console() {
        for text in ["", "[log]\nlevel = \"debug\"", "[log]\ntarget = []", "[log.access]"] {
            let settings = load(text).expect(text);
            assert_eq!(settings.targets, [Target { sink: Sink::Console, format: Format::Text, level: None }], "{text}");
        }
        assert_eq!((Settings::new().targets.len(), Settings::new().access), (1, None));
    }

    #[test]
    fn a_target_is_what_its_table_says_and_else_the_defaults() {
        let whole = "[[log.target]]\nkind = \"file\"\npath = \"a.log\"\nsize = \"100M\"\nage = 86400\nkeep = 0\n\
                     keep_size = 7\ncompress = true\nfsync = 0.5\nformat = \"json\"\nlevel = \"warn,hyper=debug\"\n";
        let (size, age, fsync) = (Some(100 << 20), Some(Duration::from_secs(86400)), Duration::from_millis(500));
        let sink = FileSink { size, age, keep: 0, keep_size: Some(7), compress: true, ..file("a.log") };
        let sink = Sink::File(FileSink { fsync: Fsync::Every(fsync), ..sink });
        let target = Target { sink, format: Format::Json, level: Some("warn,hyper=debug".to_owned()) };
        assert_eq!(load(whole).expect("valid").targets, [target]);

        let unix = |path: &str| SyslogAddress::Unix(path.into());
        let udp = |address: &str| SyslogAddress::Udp(address.parse().expect("an address"));
        let syslog = |address, facility| Sink::Syslog(SyslogSink { address, facility });
        let table = [
            ("kind = \"console\"", Sink::Console),
            ("kind = \"file\"\npath = \"/a\"", Sink::File(file("/a"))),
            (
                "kind = \"file\"\npath = \"a\"\nfsync = \"error\"",
                Sink::File(FileSink { fsync: Fsync::Error, ..file("a") }),
            ),
            ("kind = \"syslog\"", syslog(unix("/dev/log"), 3)),
            ("kind = \"syslog\"\nfacility = \"local7\"\naddress = \"udp:[::1]:514\"", syslog(udp("[::1]:514"), 23)),
            ("kind = \"syslog\"\naddress = \"unix:/run/x\"\nfacility = \"user\"", syslog(unix("/run/x"), 1)),
            ("kind = \"journald\"", Sink::Journald("/run/systemd/journal/socket".into())),
            ("kind = \"journald\"\npath = \"/run/x\"", Sink::Journald("/run/x".into())),
        ];
        let all: String = table.iter().map(|(text, _)| format!("[[log.target]]\n{text}\n")).collect();
        let expected: Vec<Sink> = table.into_iter().map(|(_, sink)| sink).collect();
        assert_eq!(sinks(&all), expected);
    }

    #[test]
    fn the_access_log_is_on_where_its_section_is() {
        let table = [
            ("", Sink::Console, Format::Common),
            ("path = \"a\"", Sink::File(file("a")), Format::Common),
            ("path = \"a\"\nformat = \"json\"", Sink::File(file("a")), Format::Json),
            ("kind = \"console\"\nformat = \"common\"", Sink::Console, Format::Common),
            ("kind = \"journald\"\npath = \"/a\"", Sink::Journald("/a".into()), Format::Common),
        ];
        for (text, sink, format) in table {
            let settings = load(&format!("[log.access]\n{text}\n[[log.target]]\nkind = \"console\"\n")).expect(text);
            assert_eq!(settings.access, Some(Target { sink, format, level: None }), "{text}");
            assert_eq!(settings.targets, [Target::console()]);
        }
    }

    #[test]
    fn every_mistake_names_its_line_and_key() {
        let table = [
            ("level = \"info\"", 1, "[[log.target]] says no `kind`: \"console\", \"file\", \"syslog\" or \"journald\""),
            ("kind = \"pipe\"", 2, "`log.target.kind`: \"console\", "),
            ("kind = 3", 2, "`log.target.kind`: a string is wanted, this is a whole number"),
            ("kind = \"console\"\nkeeps = 3", 3, "[[log.target]]: there is no key `keeps`: did you mean `keep`?"),
            ("kind = \"console\"\nlevel = \"a=b=c\"", 3, "`log.target.level`"),
            ("kind = \"console\"\nlevel = \"infoo\"", 3, "`log.target.level`: \"infoo\" is no level"),
            ("kind = \"console\"\nlevel = \"info/[\"", 3, "`log.target.level`"),
            ("kind = \"console\"\nformat = \"common\"", 3, "`log.target.format`: \"text\" or \"json\" is wanted"),
            (
                "kind = \"console\"\nsize = 1",
                3,
                "`log.target.size` belongs to a target of kind \"file\", this one is of kind \"console\"",
            ),
            ("kind = \"syslog\"\nformat = \"text\"", 3, "kind \"console\" or \"file\", this one is of kind \"syslog\""),
            (
                "kind = \"journald\"\nfacility = \"x\"",
                3,
                "`log.target.facility` belongs to a target of kind \"syslog\"",
            ),
            ("kind = \"syslog\"\npath = \"/a\"", 3, "of kind \"file\" or \"journald\""),
            ("keep = 3\nkind = \"file\"", 1, "[[log.target]] says no `path`"),
            ("kind = \"file\"\npath = \"\"", 3, "`log.target.path`"),
            ("kind = \"file\"\npath = \"a/\"", 3, "`a/` is none"),
            ("kind = \"file\"\npath = \"..\"", 3, "`log.target.path`"),
            ("kind = \"file\"\npath = \"a\\u0000\"", 3, "`log.target.path`"),
            ("kind = \"file\"\npath = \"a\"\nsize = 1023", 4, "at 1024 bytes at least"),
            ("kind = \"file\"\npath = \"a\"\nage = 0.5", 4, "`log.target.age`: this time is at least 1 seconds"),
            ("kind = \"file\"\npath = \"a\"\nkeep = 10001", 4, "from 0 to 10000"),
            ("kind = \"file\"\npath = \"a\"\nkeep_size = 0", 4, "`log.target.keep_size`"),
            ("kind = \"file\"\npath = \"a\"\ncompress = \"gzip\"", 4, "true or false is wanted, this is a string"),
            ("kind = \"file\"\npath = \"a\"\nfsync = \"always\"", 4, "\"never\", \"error\" or a number of seconds"),
            ("kind = \"file\"\npath = \"a\"\nfsync = 0", 4, "at least 0.1 seconds"),
            ("kind = \"syslog\"\naddress = \"127.0.0.1:514\"", 3, "`log.target.address`"),
            ("kind = \"syslog\"\naddress = \"udp:127.0.0.1:0\"", 3, "`log.target.address`"),
            ("kind = \"syslog\"\naddress = \"unix:log\"", 3, "write an absolute path, as unix:/dev/log"),
            ("kind = \"syslog\"\nfacility = \"kern\"", 3, "`log.target.facility`: \"daemon\", \"user\""),
            ("kind = \"journald\"\npath = \"socket\"", 3, "as /run/systemd/journal/socket"),
        ];
        for (text, line, words) in table {
            tells(&format!("[[log.target]]\n{text}\n"), line, words);
        }
        let table = [
            ("[log]\ntarget = \"console\"", 2, "write [[log.target]]"),
            ("[log.target]\nkind = \"console\"", 1, "write [[log.target]]"),
            ("[log]\ntarget = [{ kind = \"pipe\" }]", 2, "`log.target.kind`"),
            ("[log]\naccess = true", 2, "write [log.access]"),
            ("[[log.access]]\npath = \"a\"", 1, "write [log.access]"),
            ("[log.access]\nsize = 1024", 2, "`log.access.size` belongs to a target of kind \"file\""),
            ("[log.access]\nformat = \"text\"", 2, "`log.access.format`: \"common\" or \"json\" is wanted"),
            ("[log.access]\nkind = \"file\"", 1, "[log.access] says no `path`"),
            ("[log.access]\npaht = \"a\"", 2, "did you mean `path`?"),
            ("[log.access]\npath = 7", 2, "`log.access.path`: a string is wanted"),
        ];
        for (text, line, words) in table {
            tells(text, line, words);
        }
    }

    #[test]
    fn no_two_targets_are_one_file_or_the_console_and_there_are_not_too_many() {
        let target = |text: &str| format!("[[log.target]]\n{text}\n");
        let console = target("kind = \"console\"");
        tells(&format!("{console}{console}"), 4, "`log.target.kind`: there is a \"console\" already");
        let of = |path: &str| target(&format!("kind = \"file\"\npath = \"{path}\""));
        for same in ["a.log", "./a.log", "/srv/a.log", "/srv//a.log"] {
            tells(&format!("{}{}", of("a.log"), of(same)), 6, "`log.target.path`: /srv/");
            tells(&format!("{}[log.access]\npath = \"{same}\"\n", of("a.log")), 5, "`log.access.path`: /srv/");
        }
        assert_eq!(sinks(&format!("{}{}", of("a.log"), of("b/a.log"))).len(), 2);

        let several = target("kind = \"syslog\"").repeat(TARGETS_MAX);
        assert_eq!(sinks(&several).len(), TARGETS_MAX, "several of another kind are none too many");
        tells(&format!("{several}{several}"), 17, "one more target than 8");
        tells(&format!("{several}[log.access]\n"), 17, "one more target than 8");
    }

    #[test]
    fn all_mistakes_are_told_at_once() {
        let text = "[log]\nlevels = 1\nring = 1\n[[log.target]]\nkind = \"console\"\nkeep = 1\nlevel = 1\n\
                    [[log.target]]\nkind = \"pipe\"\nkeep = -1\n[log.access]\npath = \"\"\nformat = 1\n";
        let why = load(text).expect_err("eight mistakes");
        let lines: Vec<&str> = why.lines().filter_map(|line| line.split(':').nth(1)).collect();
        assert_eq!(lines, ["2", "3", "6", "7", "9", "10", "12", "13"], "{why}");
    }

    /// The reference shows what is one.
    #[test]
    fn the_example_of_the_reference_is_a_configuration() {
        let reference = include_str!("../../../CONFIGURATION.md").split_once("## The log").expect("its section").1;
        let example = reference.split_once("```toml\n").and_then(|(_, rest)| rest.split_once("```")).expect("one").0;
        let settings = load(example).expect("the example");
        let kinds: Vec<bool> = settings.targets.iter().map(|target| target.path().is_some()).collect();
        assert_eq!(kinds, [false, true, false], "console, file, syslog");
        assert!(settings.access.is_some_and(|access| access.path().is_some()));
    }

    fn tells(text: &str, line: usize, words: &str) {
        let why = load(text).err().unwrap_or_else(|| panic!("{text:?} was accepted"));
        assert!(why.starts_with(&format!("x.toml:{line}: ")) && why.contains(words), "{text:?}: {why}");
        assert_eq!(why.lines().count(), 1, "{why}");
    }
}
