//! Which room may name which, and which rooms may name mio and tokio.
//!
//! A reference is `crate::ROOM` in code, inside a brace group too; a name that `lib.rs` re-exports counts
//! as the room it comes from. In test code a room may also use `testing`.

use std::collections::{BTreeMap, BTreeSet};

use crate::Fault;
use crate::paths::{self, ident};
use crate::source::{Source, is_ident, words};

/// The rooms and their layers. Rooms of the layers below `PEERS` may name each other and what is below
/// them; the rooms of `PEERS` meet only in what is below.
const ROOMS: [(&str, usize); 15] = [
    ("sys", 0),
    ("error", 0),
    ("app/declare", 0),
    ("app/configuration", 0),
    ("app/secret", 0),
    ("settings", 1),
    ("contract", 1),
    ("ipc", 1),
    ("log", 1),
    ("master", PEERS),
    ("child", PEERS),
    ("cli", PEERS),
    ("daemon", PEERS),
    ("fuzzing", PEERS),
    ("app/main", 3),
];
const PEERS: usize = 2;
const TESTING_USES: [&str; 5] = ["app/configuration", "child", "contract", "error", "settings"];

/// Crates that only some places may name in production code, as starts of paths below `src/`.
const HOMES: [(&str, &[&str]); 2] = [
    ("mio", &["master/", "master.rs", "log/writer/", "log/writer.rs", "ipc/mio"]),
    ("tokio", &["child/", "child.rs", "ipc/tokio", "testing/", "testing.rs", "bin/"]),
];

pub(crate) fn check(sources: &[Source]) -> Vec<Fault> {
    let face = sources.iter().find(|source| source.path == "src/lib.rs").map(Face::read).unwrap_or_default();
    let mut faults = Vec::new();
    for source in sources.iter().filter(|source| source.in_src().is_some()) {
        check_rooms(source, &face, &mut faults);
        check_homes(source, &mut faults);
    }
    faults
}

/// What `lib.rs` shows: re-exported names with the paths they come from, and its public modules.
#[derive(Default)]
struct Face {
    names: BTreeMap<String, Vec<String>>,
    modules: BTreeSet<String>,
}

impl Face {
    fn read(lib: &Source) -> Face {
        let code = lib.code();
        let mut face = Face::default();
        for at in words(&code, "use ") {
            for (_, mut path) in paths::expand(&code[at + "use ".len()..]) {
                path.retain(|part| part != "crate" && part != "self");
                if let Some(name) = path.last().filter(|_| path.len() > 1) {
                    face.names.insert(name.clone(), path.clone());
                }
            }
        }
        for at in words(&code, "pub mod ") {
            face.modules.insert(ident(&code[at + "pub mod ".len()..]).to_owned());
        }
        face
    }
}

fn check_rooms(source: &Source, face: &Face, faults: &mut Vec<Fault>) {
    let below = source.in_src().unwrap_or_default();
    if below == "lib.rs" {
        return;
    }
    if below.starts_with("bin/") {
        for (line, text) in source.numbered() {
            for way in ["#[path", "include!("] {
                if text.code.contains(way) {
                    faults.push(Fault::new(
                        &source.path,
                        line,
                        format!("a binary uses the public face only, not `{way}`"),
                    ));
                }
            }
        }
        return;
    }
    let parts: Vec<String> = below.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
    let room = room_of(&parts);
    if room != "testing" && layer(&room).is_none() {
        faults.push(Fault::new(&source.path, 0, format!("`{room}` is no room of the map")));
        return;
    }
    for (line, path) in references(source) {
        let shown = face.names.get(&path[0]);
        let target = room_of(shown.unwrap_or(&path));
        let test = source.lines[line - 1].test;
        let allowed = match room.as_str() {
            "testing" => shown.is_some() || face.modules.contains(&path[0]) || may_name(&room, &target),
            _ => may_name(&room, &target) || test && target == "testing",
        };
        if !allowed {
            faults.push(Fault::new(&source.path, line, format!("`{room}` may not name `{target}`")));
        }
    }
}

/// The crate root and names that stand in `lib.rs` itself belong to no room and are free.
fn may_name(room: &str, target: &str) -> bool {
    if room == target {
        return true;
    }
    match (room, layer(room), layer(target)) {
        ("testing", ..) => TESTING_USES.contains(&target),
        (_, _, None) => target != "testing",
        ("error", ..) => target == "sys",
        (_, Some(from), Some(to)) => to < from || (to == from && from < PEERS),
        (_, None, _) => false,
    }
}

fn layer(room: &str) -> Option<usize> {
    ROOMS.iter().find(|(name, _)| *name == room).map(|(_, layer)| *layer)
}

fn room_of(path: &[String]) -> String {
    match path.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["app", low @ ("declare" | "configuration" | "secret"), ..] => format!("app/{low}"),
        ["app", ..] => "app/main".to_owned(),
        _ => path[0].clone(),
    }
}

fn check_homes(source: &Source, faults: &mut Vec<Fault>) {
    let below = source.in_src().unwrap_or_default();
    for (name, homes) in HOMES {
        if homes.iter().any(|home| below.starts_with(home)) {
            continue;
        }
        for (line, text) in source.production() {
            if names_crate(&text.code, name) {
                faults.push(Fault::new(
                    &source.path,
                    line,
                    format!("`{name}` may be named only in {}", homes.join(" ")),
                ));
            }
        }
    }
}

/// `use mio` or `mio::`, unless that is the end of a longer path such as `ipc::mio::`.
fn names_crate(code: &str, name: &str) -> bool {
    let path = format!("{name}::");
    let used = format!("use {name}");
    let within = |at: usize| code[..at].strip_suffix("::").is_some_and(|before| before.ends_with(is_ident));
    words(code, &used).next().is_some() || words(code, &path).any(|at| !within(at))
}

/// Every path behind `crate::` with its line.
fn references(source: &Source) -> Vec<(usize, Vec<String>)> {
    let code = source.code();
    let mut found = Vec::new();
    for at in words(&code, "crate::") {
        let start = at + "crate::".len();
        for (end, path) in paths::expand(&code[start..]) {
            let line = code[..start + end].matches('\n').count() + 1;
            found.push((line, path));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIB: &str =
        "mod app;\npub mod settings;\npub use app::declare::App;\npub use child::{Worker, helper::Helper as Help};\n";

    #[test]
    fn arrows_point_down() {
        let table = [
            ("master/mod.rs", "use crate::contract::Order;", None),
            ("master/mod.rs", "use crate::child::boot;", Some("child")),
            ("master/mod.rs", "use crate::{\n    contract,\n    cli,\n};", Some("cli")),
            ("cli/mod.rs", "crate::daemon::run()", Some("daemon")),
            ("log/ring.rs", "use crate::ipc::frame;", None),
            ("log/ring.rs", "use crate::{Worker, ipc};", Some("child")),
            ("log/ring.rs", "use crate::{App, ipc};", None),
            ("log/ring.rs", "// crate::cli\nlet a = \"crate::cli\";", None),
            ("error.rs", "use crate::sys::Errno;", None),
            ("error.rs", "use crate::App;", Some("app/declare")),
            ("app/declare.rs", "use crate::error::Error;", None),
            ("app/declare.rs", "use crate::contract::Order;", Some("contract")),
            ("app/declare/name.rs", "use crate::app::main;", Some("app/main")),
            ("app/mod.rs", "use crate::{master, child, app::declare};", None),
            ("child/boot.rs", "use crate::app::App;", Some("app/main")),
            ("ipc/mod.rs", "use crate::testing::Dir;", Some("testing")),
            ("ipc/mod.rs", "#[cfg(test)]\nuse crate::testing::Dir;", None),
            ("testing/mod.rs", "use crate::{contract, Worker, settings::Key};", None),
            ("testing/mod.rs", "use crate::master::children;", Some("master")),
        ];
        for (path, text, target) in table {
            let found = rules(&format!("src/{path}"), text);
            let named: Vec<&str> = found.iter().filter_map(|rule| rule.split('`').nth(3)).collect();
            assert_eq!(named, Vec::from_iter(target), "{path}: {text}");
        }
    }

    #[test]
    fn files_belong_to_a_room() {
        assert_eq!(rules("src/odd/mod.rs", ""), ["`odd` is no room of the map"]);
    }

    #[test]
    fn binaries_stay_outside() {
        let table = [("use crate::nest;", 0), ("#[path = \"../ipc.rs\"]", 1), ("include!(\"a\");", 1)];
        for (text, expected) in table {
            assert_eq!(rules("src/bin/forebay/main.rs", text).len(), expected, "{text}");
        }
    }

    #[test]
    fn mio_and_tokio_stay_at_home() {
        let mio = Some("`mio` may be named only in master/ master.rs log/writer/ log/writer.rs ipc/mio");
        let tokio = Some("`tokio` may be named only in child/ child.rs ipc/tokio testing/ testing.rs bin/");
        let table = [
            ("src/master/mod.rs", "use mio::Poll;", None),
            ("src/ipc/mio_driver.rs", "use mio::Poll;", None),
            ("src/log/writer.rs", "let poll = mio::Poll::new();", None),
            ("src/log/ring.rs", "let poll = mio::Poll::new();", mio),
            ("src/cli/mod.rs", "use mio as m;", mio),
            ("src/ipc/mod.rs", "pub(crate) use self::mio::Driver;\nmod mio;", None),
            ("src/child/boot.rs", "use tokio::net;", None),
            ("src/master/mod.rs", "let x = ::tokio::spawn(y);", tokio),
            ("src/lib.rs", "//! tokio::spawn", None),
            ("src/ipc/frame.rs", "#[cfg(test)]\nmod tests {\n    use tokio::net;\n}", None),
        ];
        for (path, text, expected) in table {
            assert_eq!(rules(path, text), Vec::from_iter(expected), "{path}: {text}");
        }
    }

    #[test]
    fn faults_name_their_line() {
        let source =
            Source::parse("src/cli/mod.rs", "use crate::{\n    contract::{A, B},\n    daemon::C,\n    master,\n};\n");
        let lines: Vec<usize> = check(&[source]).iter().map(|fault| fault.line).collect();
        assert_eq!(lines, [3, 4]);
    }

    fn rules(path: &str, text: &str) -> Vec<String> {
        let sources = [Source::parse("src/lib.rs", LIB), Source::parse(path, text)];
        check(&sources).into_iter().map(|fault| fault.rule).collect()
    }
}
