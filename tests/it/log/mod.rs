//! The log broken and mended: every test runs over both ways of a record.
//!
//! Over the ring nothing that was logged is lost but what is refused and counted, whoever is killed. Over the socket
//! what lay in the buffers of a killed process or of a killed log helper is lost too; nothing comes twice. A test
//! that is said to be `ring` or `socket` only tells why.

mod book;
mod captured;
mod damage;
mod deaths;
mod disks;
mod files;
mod floods;
mod formats;
mod journal;
mod kills;
mod logrotate;
mod rotation;
mod syslog;
mod writers;

use std::path::PathBuf;

use forebay::testing::{Builder, Server};
use tempfile::TempDir;

use self::book::Book;
use crate::client::example;

/// How records reach the log helper.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Ring,
    Socket,
}

/// Makes a test of each function for each way: `log::kills::ring::…`, `log::kills::socket::…`.
macro_rules! over_both_ways {
    ($($test:ident),+ $(,)?) => {
        mod ring {
            $(#[test]
            fn $test() {
                super::$test(super::Way::Ring);
            })+
        }

        mod socket {
            $(#[test]
            fn $test() {
                super::$test(super::Way::Socket);
            })+
        }
    };
}
use over_both_ways;

/// Where a server's log is: `log.json` in a directory that outlives it, and on the console what the library says.
struct Site {
    directory: TempDir,
    way: Way,
    /// How large the rings are.
    ring: &'static str,
}

impl Site {
    /// With rings that hold all that is logged while a log helper is replaced.
    fn new(way: Way) -> Self {
        Self { directory: tempfile::tempdir().expect("a directory"), way, ring: "8M" }
    }

    /// With so small rings that they are soon full.
    fn narrow(way: Way) -> Self {
        Self { ring: "256K", ..Self::new(way) }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A server of chatter that writes all of its log to `log.json`; `keys` are more of that target, `rest` is what
    /// else there is in the configuration.
    fn server(&self, keys: &str, rest: &str) -> Builder {
        let file = format!(
            "[[log.target]]\nkind = \"file\"\npath = \"{}\"\nformat = \"json\"\n{keys}\n",
            self.path("log.json").display()
        );
        self.server_with(&format!("{file}\n{rest}"))
    }

    /// The same without the file.
    fn server_with(&self, rest: &str) -> Builder {
        let console = "[[log.target]]\nkind = \"console\"\nlevel = \"forebay=trace,panic=trace\"\n";
        self.server_at(&format!("{console}\n{rest}"))
    }

    /// The same without the console: with these targets only.
    fn server_at(&self, targets: &str) -> Builder {
        let transport = match self.way {
            Way::Ring => "ring",
            Way::Socket => "socket",
        };
        let ring = self.ring;
        let log = format!("[log]\ntransport = \"{transport}\"\nring = \"{ring}\"\nlevel = \"info,chatter=trace\"\n");
        Server::of(example("chatter")).configuration(&format!("{log}\n{targets}"))
    }

    /// How long the file is; 0 while there is none.
    fn written(&self) -> u64 {
        std::fs::metadata(self.path("log.json")).map_or(0, |found| found.len())
    }

    /// Whether the file has this anywhere.
    fn contains(&self, text: &str) -> bool {
        let bytes = std::fs::read(self.path("log.json")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).contains(text)
    }

    /// What was written so far.
    fn book_so_far(&self) -> Book {
        Book::so_far(&self.path("log.json"))
    }

    /// Stops the server; what it has written is complete now, and the library's own counts agree.
    fn stop(&self, server: Server) -> Book {
        let _ = stop_with(self, server);
        Book::read(&[self.path("log.json")])
    }
}

/// Stops a server whose counts must agree, on its console and in its file; returns what it has printed.
fn stop_with(site: &Site, server: Server) -> String {
    let printed = stop(server);
    assert!(!printed.contains("does not add up") && !site.contains("does not add up"), "{printed}");
    printed
}

/// Stops a server and returns what it has printed.
fn stop(server: Server) -> String {
    // In a file that is open here its last lines are read after its directory is gone.
    let mut log = std::fs::File::open(server.directory().join("log")).expect("its log");
    server.stop();
    let mut printed = Vec::new();
    std::io::Read::read_to_end(&mut log, &mut printed).expect("read");
    let printed = String::from_utf8_lossy(&printed).into_owned();
    assert!(!printed.contains("records are not in the log"), "{printed}");
    printed
}
