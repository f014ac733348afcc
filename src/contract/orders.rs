//! What the master tells its children and what they tell it: the whole of it, on one page.
//!
//! Each is one frame over the child's own socket pair. A child that ends, or whose socket closes,
//! has said all it will say. Whatever comes from a child is input: the master believes nothing of
//! it that the kernel does not confirm.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::ids::{Birth, Generation, HelperName, Role};
use crate::settings::http::Http;
use crate::settings::log::Target;

/// The version of this page. A zygote says in its manifest which one it takes to understand that.
pub(crate) const VERSION: u32 = 2;

/// The longest order or report, in bytes.
pub(crate) const ORDER_LEN_MAX: u32 = 64 * 1024;

/// The longest note that is shown, in characters.
pub(crate) const NOTE_LEN_MAX: usize = 200;

/// The longest name of an application that is shown, in characters.
pub(crate) const NAME_LEN_MAX: usize = 64;

/// How many of a process's last lines are recalled.
pub(crate) const RECALLED_MAX: usize = 8;

/// The longest of them, in bytes.
pub(crate) const RECALLED_LEN_MAX: usize = 1000;

/// The variable whose presence makes a program a zygote instead of a master.
pub(crate) const ZYGOTE_VARIABLE: &str = "FOREBAY_ZYGOTE";

/// What a helper in another language finds in its environment: the directory of all helpers' sockets, and
/// who it is.
pub(crate) const IPC_DIR_VARIABLE: &str = "FOREBAY_IPC_DIR";
pub(crate) const ROLE_VARIABLE: &str = "FOREBAY_ROLE";

/// Master to zygote.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum ZygoteOrder {
    /// Load the application. With it: the lock file of the children, the configuration, then the
    /// files that could be opened.
    Load {
        generation: Generation,
        filter: String,
        /// `None`: there is no log helper, standard error will do.
        #[serde(default)]
        log_socket: Option<PathBuf>,
        /// Where the configuration was read from, for messages only.
        #[serde(default)]
        config_path: Option<PathBuf>,
        /// The files that the application's sections name.
        #[serde(default)]
        files: Vec<GivenFile>,
        /// Nothing shall run: look at the configuration only.
        #[serde(default)]
        only_configuration: bool,
        /// With it come, after everything else: the memory of a ring for what it logs, and the log helper's
        /// eventfd.
        #[serde(default)]
        has_ring: bool,
        /// The listeners that speak TLS. With it come, after all that: the files of their certificates and keys that
        /// could be opened.
        #[serde(default)]
        secure: Vec<GivenListener>,
    },
    /// Fork a process. With it: the other end of the new child's socket pair.
    Fork { birth: Birth },
}

/// A listener that speaks TLS.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct GivenListener {
    /// Its place among all listeners, in the order in which a worker is given them.
    pub(crate) number: usize,
    pub(crate) name: String,
    /// The first is for clients that name none of these.
    pub(crate) certificates: Vec<GivenFile>,
    /// Their keys, in the same order; none: they stand in the certificates' files.
    pub(crate) keys: Vec<GivenFile>,
}

/// A file that a section of the application's, or a listener, names.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct GivenFile {
    pub(crate) path: PathBuf,
    /// Why it was not opened; `None`: its descriptor is there.
    #[serde(default)]
    pub(crate) refused: Option<String>,
}

/// Zygote to master.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum ZygoteReport {
    /// The application is loaded.
    Loaded(Manifest),
    /// The application does not want to run; the zygote exits.
    Refused {
        reason: String,
        /// It is the configuration's fault: the reason names file, line and key.
        #[serde(default)]
        misconfigured: bool,
    },
    /// The process ordered lives, as a child of the master.
    Forked { birth: Birth, pid: i32 },
    /// The process ordered could not be made.
    ForkFailed { birth: Birth, reason: String },
}

/// What a release says of itself when it is loaded.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Manifest {
    /// The least [`VERSION`] of a master for this release.
    pub(crate) version: u32,
    /// The application's name.
    pub(crate) name: String,
    /// In start order: a helper stands after all that it asks.
    #[serde(default)]
    pub(crate) helpers: Vec<HelperOffer>,
    /// The layout of the rings that its processes log into; 0: they know none, and use the socket.
    #[serde(default)]
    pub(crate) ring: u32,
    /// The layout of the keys of session tickets that its workers read; 0: they speak no TLS.
    #[serde(default)]
    pub(crate) tickets: u32,
}

impl Manifest {
    /// What it takes to run these helpers.
    pub(crate) fn version_for(helpers: &[HelperOffer]) -> u32 {
        // Version 2 asks foreign helpers itself whether they are ready.
        if helpers.iter().any(|offer| offer.is_foreign) { 2 } else { 1 }
    }
}

/// One thing that there can only be one of, and that a release has a process for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct HelperOffer {
    pub(crate) name: HelperName,
    /// The helper's own, for people and for a reload.
    pub(crate) version: String,
    /// The helpers it calls: they serve before it starts.
    pub(crate) asks: Vec<HelperName>,
    /// The build of the program, if that tells one release of the helper from another: it says no
    /// version of its own.
    #[serde(default)]
    pub(crate) build: String,
    /// It becomes another program, which is told nothing over its socket pair and says nothing there:
    /// the master asks it over its own socket whether it is ready, and ends it with SIGTERM.
    #[serde(default)]
    pub(crate) is_foreign: bool,
    /// It reads `[app]` too: another one is another configuration of it.
    #[serde(default)]
    pub(crate) reads_app: bool,
    /// Of its part of the configuration. The master's own word, never a zygote's.
    #[serde(skip)]
    pub(crate) digest: u64,
}

/// Master to a process that a zygote has forked.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum ChildOrder {
    /// The first: who you are. With it, in this order: the lock file of the children, the
    /// scoreboard, a stream for standard output and error, the memory of a ring and the log helper's
    /// eventfd if there is one, the keys of session tickets if it has them, the listeners: a helper's only
    /// one is its own socket.
    Begin(Box<Begin>),
    /// Take connections; serve.
    Accept,
    /// Log what this filter wants from now on, in RUST_LOG's syntax.
    Filter { filter: String },
    /// Take no more, finish what is open, exit. Lazily: others serve on, so an idle connection may
    /// wait for its next request. A worker that drains lazily may be told again, to end soon. A stop
    /// may leave it less time than its own limit, in milliseconds.
    Drain {
        lazily: bool,
        #[serde(default)]
        within_ms: Option<u64>,
    },
}

/// A process's identity and what it executes of the settings.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Begin {
    pub(crate) role: Role,
    /// This process's record in the scoreboard.
    pub(crate) record: u32,
    /// How long open connections may last once draining, in milliseconds.
    pub(crate) drain_ms: u64,
    /// How long the loop may be silent, in milliseconds.
    pub(crate) hang_ms: u64,
    /// Which log records are worth sending, in RUST_LOG's syntax.
    pub(crate) filter: String,
    /// A worker that has taken so many requests says so.
    #[serde(default)]
    pub(crate) requests_max: Option<u64>,
    /// A turn of the loop that takes longer is logged, in milliseconds; 0: none is.
    #[serde(default)]
    pub(crate) slow_turn_ms: u64,
    /// A worker logs each request that it has answered.
    #[serde(default)]
    pub(crate) access: bool,
    /// Of each listener, whether a header of the PROXY protocol begins its connections.
    #[serde(default)]
    pub(crate) proxied: Vec<bool>,
    /// What clients may take of a worker.
    #[serde(default = "Http::usual")]
    pub(crate) http: Http,
    /// The log helper's socket.
    pub(crate) log_socket: PathBuf,
    /// Where the helpers' sockets are: `NAME.sock` in it.
    pub(crate) ipc_dir: PathBuf,
    /// What a helper keeps from one process to the next is here.
    pub(crate) state_dir: PathBuf,
    /// It logs into a ring: only one whose release says that it knows the layout.
    #[serde(default)]
    pub(crate) has_ring: bool,
    /// It gives its clients session tickets: only a worker of a release that knows the layout of their keys.
    #[serde(default)]
    pub(crate) has_tickets: bool,
}

/// Such a process to the master.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum ChildReport {
    /// The application's closure returned; connections or calls can come.
    Ready,
    /// The application's closure failed; the process exits.
    Refused { reason: String },
    /// What `status` shows beside this process's state, in the place of the last one.
    Note { text: String },
    /// It has taken as many requests as it may: only from who was told a limit.
    Spent { requests: u64 },
}

/// Master to log helper.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum LogOrder {
    /// Read lines from these streams and log them under these names. With it: the streams.
    Capture { names: Vec<String> },
    /// Write the console's lines there from now on. With it: the descriptor.
    Console,
    /// Say what the process of this name has logged and printed last.
    Recall { number: u64, name: String },
    /// Read these rings. With it: their memory.
    Rings { rings: Vec<RingGiven> },
    /// The process of this ring is gone: say when all of it is taken.
    RingEnds { number: u64 },
    /// Write to these targets from now on, and to no others. With it, for each: its memory, and its file if
    /// it is one.
    Targets { targets: Vec<TargetGiven> },
    /// Write to another file from now on. With it: the file.
    Switch { target: u64, ticket: u64 },
    /// Compress the first of these files into the second. With it: both.
    Compress { id: u64 },
    /// Tell this client each record that the filter wants. With it: its connection.
    Follow { filter: String },
    /// Nobody but these users may follow any more.
    MayFollow { uids: Vec<u32> },
    /// Everyone else is gone: write what is left, exit.
    Finish,
}

/// A ring, and whose it is.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct RingGiven {
    /// Never used for another one.
    pub(crate) number: u64,
    /// Its place in the ledger.
    pub(crate) slot: usize,
    /// `None`: the master itself.
    pub(crate) role: Option<Role>,
    pub(crate) pid: i32,
}

/// A target.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct TargetGiven {
    /// Never used for another one.
    pub(crate) number: u64,
    /// Its place in the ledger.
    pub(crate) slot: usize,
    pub(crate) target: Target,
    /// It takes the access records, which no other one takes then.
    pub(crate) is_access: bool,
}

/// Log helper to master.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum LogReport {
    /// It takes records.
    Ready,
    /// The answer to the order of this number: the last lines, the newest last.
    Recalled { number: u64, lines: Vec<String> },
    /// All of this ring is taken.
    RingEnded(RingEnd),
    /// It writes to the file that came with this ticket.
    Switched { ticket: u64 },
    /// It has compressed a file, or could not.
    Compressed { id: u64, error: Option<String> },
    /// This file is as large as it is to be.
    Large { target: u64 },
    /// A target takes nothing, for this reason; `None`: it does again.
    Trouble { target: u64, reason: Option<String> },
}

/// How many records were taken of a ring.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct RingEnd {
    pub(crate) number: u64,
    pub(crate) taken: u64,
}

/// How many rings travel in one order: with more the socket's buffer would fill.
pub(crate) const RINGS_AT_ONCE: usize = 64;
