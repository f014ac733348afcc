//! The configuration file: TOML, every key of the master's known, every mistake with file, line and
//! key. Tables that the master does not know are the application's, which checks them itself.

mod targets;

use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use super::key::{Given, Key};
use super::listener::{self, Listener};
use super::log::Section;
use super::table::{KEYS, sections};
use super::{NamedFile, Settings, is_safe_way};
use crate::error::Chain;
use crate::error::mistakes::{Mistakes, line_of, unknown};

/// The longest configuration file, and the longest of the files that it names, in bytes.
const FILE_LEN_MAX: u64 = 1024 * 1024;

/// The most files, and the deepest table they are looked for in.
const NAMED_FILES_MAX: usize = 64;
const DEPTH_MAX: usize = 8;

/// The section that has targets below it.
const LOG: &str = "log";

/// Reads the file at `path` into `settings`; relative paths in it start from `directory`.
pub(super) fn read(path: &Path, directory: &Path, settings: &mut Settings, mistakes: &mut Mistakes) {
    match content(path) {
        Ok(text) => {
            settings.is_well_formed = parse(&text, path, directory, settings, mistakes);
            settings.source = text.into_bytes();
        }
        Err(why) => mistakes.add(format!("cannot read {}", path.display()), why),
    }
}

fn content(path: &Path) -> Result<String, String> {
    is_safe_way(path).map_err(|error| Chain(&error).to_string())?;
    // Not waiting for who would write to a pipe.
    let opened = File::options().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path);
    let file = opened.map_err(|error| error.to_string())?;
    // It would seem empty while nobody has written to it, and could not be read again.
    if file.metadata().is_ok_and(|found| found.file_type().is_fifo()) {
        return Err("it is a pipe: a reload could not read it again".to_owned());
    }
    String::from_utf8(read_whole(file)?).map_err(|_| "stream did not contain valid UTF-8".to_owned())
}

/// All that a file holds that the master keeps in memory.
pub(crate) fn read_whole(file: File) -> Result<Vec<u8>, String> {
    let mut content = Vec::new();
    let len = file.take(FILE_LEN_MAX + 1).read_to_end(&mut content).map_err(|error| error.to_string())?;
    if len as u64 > FILE_LEN_MAX {
        return Err(format!("it has more than {FILE_LEN_MAX} bytes"));
    }
    Ok(content)
}

/// Reads all that can be read; whether it is TOML.
fn parse(text: &str, path: &Path, directory: &Path, settings: &mut Settings, mistakes: &mut Mistakes) -> bool {
    let mut reader = Reader { text, directory, settings, wrongs: Vec::new() };
    let (all, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        reader.wrong(error.span().unwrap_or_default(), error.message());
    }
    // What a broken file seems to say is no use to anyone.
    if errors.is_empty() {
        reader.document(all.get_ref());
    }
    let mut wrongs = reader.wrongs;
    wrongs.sort();
    wrongs.into_iter().for_each(|(line, what)| mistakes.add(format!("{}:{line}", path.display()), what));
    errors.is_empty()
}

struct Reader<'a> {
    text: &'a str,
    directory: &'a Path,
    settings: &'a mut Settings,
    /// By line.
    wrongs: Vec<(usize, String)>,
}

impl Reader<'_> {
    fn document(&mut self, all: &DeTable<'_>) {
        for (name, value) in all {
            let word: &str = name.get_ref();
            if let Some(key) = KEYS.iter().find(|key| key.name == word) {
                self.set(key, value);
            } else if word == "listener" {
                self.listeners(name, value);
            } else if sections().any(|section| section == word) {
                self.section(name, value);
            } else if is_list_of_tables(value.get_ref()) {
                self.wrong(name.span(), &format!("a section is written [{word}], there is no list of them"));
            } else if value.get_ref().is_table() {
                self.named_files(word, value, 0);
            } else {
                let top = KEYS.iter().filter(|key| key.section().is_none()).map(|key| key.name);
                self.wrong(name.span(), &unknown("key", word, top.chain(sections())));
            }
        }
    }

    fn set(&mut self, key: &'static Key<Settings>, value: &Spanned<DeValue<'_>>) {
        self.settings.said.push(key.name);
        if let Err(why) = (key.set)(self.settings, &Given::Written(value.get_ref())) {
            self.wrong(value.span(), &format!("`{}`: {why}", key.name));
        }
    }

    fn section(&mut self, name: &Spanned<DeString<'_>>, value: &Spanned<DeValue<'_>>) {
        let section: &str = name.get_ref();
        let Some(table) = value.get_ref().as_table() else {
            return self.wrong(name.span(), &format!("`{section}` is a table: write [{section}]"));
        };
        let below = Section::ALL.map(Section::name);
        let targets: &[&str] = if section == LOG { &below } else { &[] };
        for (name, value) in table {
            let whole = format!("{section}.{}", name.get_ref());
            match KEYS.iter().find(|key| key.name == whole) {
                Some(key) => self.set(key, value),
                // Read below, together.
                None if targets.contains(&whole.as_str()) => {}
                None => {
                    let known = KEYS.iter().filter(|key| key.section() == Some(section)).map(|key| key.name);
                    self.wrong(name.span(), &unknown("key", &whole, known.chain(targets.iter().copied())));
                }
            }
        }
        if section == LOG {
            self.targets(table);
        }
    }

    fn listeners(&mut self, name: &Spanned<DeString<'_>>, value: &Spanned<DeValue<'_>>) {
        let all = value.get_ref().as_table();
        let is_table = |all: &&DeTable<'_>| all.values().all(|one| one.get_ref().is_table());
        let Some(all) = all.filter(is_table) else {
            return self.wrong(name.span(), "a listener has a name: write [listener.NAME]");
        };
        for (name, value) in all {
            let word: &str = name.get_ref();
            let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
            if word.is_empty() || word.len() > 31 || !word.bytes().all(is_plain) {
                self.wrong(name.span(), "a listener's name is 1 to 31 of A-Z, a-z, 0-9, `_` and `-`");
            }
            let Some(table) = value.get_ref().as_table() else { continue };
            if table.get("address").is_none() {
                self.wrong(name.span(), &format!("[listener.{word}] says no `address`"));
            }
            let listener = self.listener(word, table);
            if let Err(why) = listener.check() {
                let at = table.keys().find(|key| key.get_ref() == "certificate_key").map_or(name.span(), Spanned::span);
                self.wrong(at, &why);
            }
            self.settings.named.push(listener);
        }
    }

    fn listener(&mut self, word: &str, table: &DeTable<'_>) -> Listener {
        let mut listener = Listener::new(word);
        for (name, value) in table {
            let known = listener::KEYS.iter().map(|key| key.name);
            let Some(key) = listener::KEYS.iter().find(|key| key.name == *name.get_ref()) else {
                self.wrong(name.span(), &format!("[listener.{word}]: {}", unknown("key", name.get_ref(), known)));
                continue;
            };
            if let Err(why) = (key.set)(&mut listener, &Given::Written(value.get_ref())) {
                self.wrong(value.span(), &format!("`listener.{word}.{}`: {why}", key.name));
            }
        }
        let address = listener.address.as_ref();
        for (name, _) in table {
            if let Some(why) = address.and_then(|address| listener::misfit(name.get_ref(), address)) {
                self.wrong(name.span(), &format!("`listener.{word}.{}`: {why}", name.get_ref()));
            }
        }
        listener
    }

    /// Files that the application's sections name: the master opens them while it may.
    fn named_files(&mut self, place: &str, value: &Spanned<DeValue<'_>>, depth: usize) {
        let Some(table) = value.get_ref().as_table().filter(|_| depth < DEPTH_MAX) else { return };
        for (name, value) in table {
            let whole = format!("{place}.{}", name.get_ref());
            match value.get_ref().as_str() {
                Some(path) if name.get_ref().ends_with("_file") && !path.is_empty() => {
                    if self.settings.named_files.len() >= NAMED_FILES_MAX {
                        return self.wrong(name.span(), &format!("more than {NAMED_FILES_MAX} keys are files"));
                    }
                    let path = PathBuf::from(path);
                    self.settings.named_files.push(NamedFile { key: whole, place: path.clone(), path });
                }
                Some(_) => {}
                None => self.named_files(&whole, value, depth + 1),
            }
        }
    }

    fn wrong(&mut self, span: Range<usize>, what: &str) {
        self.wrongs.push((line_of(self.text, span.start), what.trim_end().to_owned()));
    }
}

/// The several of `[[NAME]]`.
fn is_list_of_tables(value: &DeValue<'_>) -> bool {
    value.as_array().is_some_and(|all| !all.is_empty() && all.iter().all(|one| one.get_ref().is_table()))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::settings::listener::TcpOptions;
    use crate::settings::log::Transport;

    pub(super) fn load(text: &str) -> Result<Settings, String> {
        let (mut settings, mut mistakes) = (Settings::new(), Mistakes::default());
        parse(text, Path::new("x.toml"), Path::new("/srv"), &mut settings, &mut mistakes);
        if mistakes.is_empty() { Ok(settings) } else { Err(mistakes.to_string()) }
    }

    #[test]
    fn what_the_file_says_is_in_force_and_the_rest_stays() {
        let settings =
            load("listen = [\"0.0.0.0:80\", \"[::1]:81\"]\nworkers = 7\n[timeouts]\ndrain = 0.5\n").expect("valid");
        assert_eq!(settings.listen.len(), 2);
        assert_eq!(settings.workers, 7);
        assert_eq!(settings.timeouts.drain, Duration::from_millis(500));
        assert_eq!(settings.timeouts.stop, Settings::new().timeouts.stop);
    }

    #[test]
    fn tables_that_the_master_does_not_know_are_the_applications() {
        let text = "workers = 3\n[nest]\nurl = \"x\"\n[app.database]\nport = 1\n[helper.hub]\na = [1]\n\
                    [[app.route]]\npath = \"/\"\n[log]\nlevel = \"debug\"\n";
        let settings = load(text).expect("valid");
        assert_eq!((settings.workers, settings.log_level.as_str()), (3, "debug"));
        assert!(load("nest = { url = 1 }\nhub.name = 1\n").is_ok(), "these are tables too");
    }

    #[test]
    fn a_ring_is_a_power_of_two() {
        assert_eq!(Settings::new().log_ring, 1 << 20);
        for (said, size) in [("65536", 1 << 16), ("\"65K\"", 1 << 17), ("\"3M\"", 1 << 22), ("\"64M\"", 1 << 26)] {
            assert_eq!(load(&format!("[log]\nring = {said}\n")).expect(said).log_ring, size, "{said}");
        }
        let settings = load("[log]\ntransport = \"socket\"\n").expect("valid");
        assert_eq!((Settings::new().log_transport, settings.log_transport), (Transport::Ring, Transport::Socket));
    }

    #[test]
    fn listeners_have_names_and_all_that_a_socket_has() {
        let text = "[listener.public]\naddress = \"[::]:80\"\nbacklog = 64\n\
                    [listener.local]\naddress = \"unix:/run/app.sock\"\nmode = \"0666\"\nowner = \"root\"\ngroup = 0\n";
        let listeners = load(text).expect("valid").listeners();
        let names: Vec<&str> = listeners.iter().map(|listener| listener.name.as_str()).collect();
        assert_eq!(names, ["local", "public"], "and not what `listen` is by default");
        assert_eq!((listeners[0].mode, listeners[0].backlog, listeners[1].backlog), (0o666, 4096, 64));
        let by_default = TcpOptions { nodelay: true, keepalive: 60, ..TcpOptions::default() };
        assert_eq!((listeners[0].tcp, listeners[0].ipv6_only, listeners[0].proxy_protocol), (by_default, false, false));
        assert_eq!(load(&format!("listen = \"127.0.0.1:1\"\n{text}")).expect("valid").listeners().len(), 3);
    }

    #[test]
    #[cfg(feature = "tls")]
    fn a_listener_has_one_certificate_or_several_and_as_many_keys_or_none() {
        let text = "[listener.a]\naddress = \"[::]:80\"\ncertificate = \"/a.pem\"\n\
                    [listener.b]\naddress = \"[::]:81\"\ncertificate_key = [\"k\", \"/l\"]\ncertificate = [\"c\", \"/d\"]\n\
                    [listener.c]\naddress = \"[::]:82\"\n";
        let listeners = load(text).expect("valid").listeners();
        let paths = |files: &[NamedFile]| files.iter().map(|file| file.path.display().to_string()).collect::<Vec<_>>();
        assert_eq!(listeners.iter().map(Listener::is_secure).collect::<Vec<_>>(), [true, true, false]);
        assert_eq!(
            (paths(&listeners[0].certificates), listeners[0].certificate_keys.len()),
            (vec!["/a.pem".into()], 0)
        );
        assert_eq!(paths(&listeners[1].certificates), ["c", "/d"]);
        assert_eq!(paths(&listeners[1].certificate_keys), ["k", "/l"]);
        assert_eq!(listeners[1].certificate_keys[0].key, "listener.b.certificate_key");
        let more = text.replace("[\"k\", \"/l\"]", "\"k\"");
        assert!(load(&more).expect_err("one key for two").starts_with("x.toml:6: `listener.b.certificate_key`"));
    }

    #[test]
    fn files_of_the_application_are_found_wherever_they_stand() {
        let text =
            "pid_file = \"/x\"\n[nest]\ntoken_file = \"/a\"\nfile = \"/b\"\n[helper.hub.tls]\nkey_file = \"/c\"\n";
        let found = load(text).expect("valid").named_files;
        let found: Vec<(&str, &Path)> = found.iter().map(|file| (file.key.as_str(), file.path.as_path())).collect();
        assert_eq!(found, [("helper.hub.tls.key_file", Path::new("/c")), ("nest.token_file", Path::new("/a"))]);
    }

    #[test]
    fn every_mistake_names_its_line_and_key() {
        let table = [
            ("workers = 0", 1, "`workers`"),
            ("\nworkers = -1", 2, "`workers`"),
            ("workers = 70000", 1, "`workers`"),
            ("listen = 8080", 1, "`listen`"),
            ("listen = []", 1, "`listen`"),
            ("listen = [\"127.0.0.1:80\", 3]", 1, "`listen`"),
            ("workers = \"3\"", 1, "`workers`"),
            ("[restart]\nintensity = -1", 2, "`restart.intensity`"),
            ("wrokers = 3", 1, "did you mean `workers`?"),
            ("wrokers = 3\n[nest]\nurl = 1", 1, "`wrokers`"),
            ("ports = [1, 2]", 1, "`ports`"),
            ("ports = []", 1, "there are: `listen`"),
            ("helper = true", 1, "`helper`"),
            ("workers = {}", 1, "`workers`"),
            ("[workers]\ncount = 3", 1, "`workers`"),
            ("log = 3", 1, "[log]"),
            ("workers = 1\n[[nest]]\nurl = \"x\"\n", 2, "written [nest]"),
            ("user = \"no such user\"", 1, "there is no user"),
            ("user = -1", 1, "`user`"),
            ("run_dir = \"\"", 1, "`run_dir`"),
            ("control_uids = [\"root\", 4294967295]", 1, "`control_uids`"),
            ("[nest]\nurl = 1\n[timeouts]\nreddy = 3", 4, "did you mean `timeouts.ready`?"),
            ("[nest]\nurl = ", 2, ""),
            ("[nest]\nurl = 1\nurl = 2", 3, ""),
            ("[timeouts]\nready = -3", 2, "seconds"),
            ("[timeouts]\nready = nan", 2, "seconds"),
            ("[timeouts]\nhang = 0", 2, "at least 0.5 seconds"),
            ("[log]\nlevel = \"a=b=c\"", 2, "`log.level`"),
            ("[log]\ntransport = \"pipe\"", 2, "`log.transport`: \"ring\" or \"socket\" is wanted"),
            ("[log]\nring = \"63K\"", 2, "`log.ring`: a ring has from 64K to 64M"),
            ("[log]\nring = 67108865", 2, "`log.ring`"),
            ("[log]\nring = -1", 2, "`log.ring`"),
            ("[log]\nring = true", 2, "a size is wanted, this is a truth value"),
            ("[log]\ntargets = []", 2, "did you mean `log.target`?"),
            ("workers = ", 1, ""),
            ("[listener]\naddress = \"127.0.0.1:80\"", 1, "[listener.NAME]"),
            ("\n[listener.a]\nmode = \"0660\"", 2, "`address`"),
            ("[listener.a]\naddress = \"localhost:80\"", 2, "`listener.a.address`"),
            ("[listener.a]\naddress = \"[::]:80\"\nmode = 660", 3, "octal"),
            ("[listener.a]\naddress = \"[::]:80\"\nmod = \"0660\"", 3, "did you mean `mode`?"),
            ("[listener.a]\naddress = \"[::]:80\"\ncertificate = []", 3, "`listener.a.certificate`: a file is wanted"),
            ("[listener.a]\naddress = \"[::]:80\"\ncertificate = \"\"", 3, "a path is wanted"),
            ("[listener.a]\naddress = \"[::]:80\"\ncertificate = [7]", 3, "a string is wanted"),
            ("[listener.a]\naddress = \"[::]:80\"\n\ncertificate_key = \"/k\"", 4, "1 of them, and 0 in `certificate`"),
            ("[listener.a]\naddress = \"[::]:80\"\nipv6_only = 1", 3, "`listener.a.ipv6_only`: true or false"),
            (
                "[listener.a]\nipv6_only = false\naddress = \"0.0.0.0:80\"",
                2,
                "`listener.a.ipv6_only`: 0.0.0.0:80 is no",
            ),
            (
                "[listener.a]\naddress = \"unix:/a\"\ntcp_nodelay = true",
                3,
                "`listener.a.tcp_nodelay`: unix:/a has no TCP",
            ),
            ("[listener.a]\naddress = \"[::]:80\"\ntcp_keepalive = 32768", 3, "from 0 to 32767"),
            ("[listener.a]\naddress = \"[::]:80\"\ntcp_user_timeout = -1", 3, "seconds"),
            ("[listener.a]\naddress = \"[::]:80\"\ntcp_fastopen = -1", 3, "`listener.a.tcp_fastopen`: a number from 0"),
            ("[listener.\"a b\"]\naddress = \"[::]:80\"", 1, "a listener's name"),
        ];
        for (text, line, word) in table {
            let why = load(text).err().unwrap_or_else(|| panic!("{text:?} was accepted"));
            assert!(why.starts_with(&format!("x.toml:{line}: ")) && why.contains(word), "{text:?}: {why}");
            assert_eq!(why.lines().count(), 1, "{why}");
        }
    }

    #[test]
    fn all_mistakes_are_told_at_once() {
        let text = "workers = 0\nwrokers = 1\n[timeouts]\nready = -1\nhang = \"x\"\n[listener.a]\nbacklog = 0\n";
        let why = load(text).expect_err("six mistakes");
        let lines: Vec<&str> = why.lines().filter_map(|line| line.split(':').nth(1)).collect();
        assert_eq!(lines.len(), 6, "{why}");
        for line in ["1", "2", "4", "5", "6", "7"] {
            assert!(lines.contains(&line), "{line}: {why}");
        }
        let broken = load("workers = \n[timeouts\ndrain = = 3\n").expect_err("no TOML");
        assert!(broken.lines().count() >= 2, "{broken}");
    }
}
