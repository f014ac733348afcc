//! Clients and proxies that nobody here wrote, as Debian has them: `scripts/test` installs them.

mod browser;
mod curl;
mod fronts;
mod keepers;
mod loads;
mod raw;

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A program under way; ended when dropped.
pub(crate) struct Program(Option<Child>);

impl Program {
    /// Starts it; what it says is kept for [`Program::finish`].
    pub(crate) fn start(command: &mut Command) -> Self {
        let started = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        Self(Some(started.unwrap_or_else(|error| panic!("{command:?} starts: {error}"))))
    }

    pub(crate) fn child(&mut self) -> &mut Child {
        self.0.as_mut().expect("it is not finished")
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child().try_wait().expect("it can be asked").is_none()
    }

    pub(crate) fn signal(&mut self, signal: Signal) {
        kill(Pid::from_raw(self.child().id().cast_signed()), signal).expect("it runs");
    }

    /// Waits for its end, its standard input closed; returns what it has said.
    pub(crate) fn finish(mut self) -> Output {
        self.0.take().expect("it is not finished").wait_with_output().expect("its end")
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// What a program has said, whole.
pub(crate) fn text(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes)).concat()
}

/// A file beside this one.
fn beside(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/visitors").join(name)
}

/// One that nobody has at this moment.
fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port")
}
