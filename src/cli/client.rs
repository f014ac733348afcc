//! A connection to the running master.

use std::io::{self, ErrorKind, Read, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use interprocess::local_socket::traits::{Stream as _, StreamCommon};
use interprocess::local_socket::{GenericFilePath, Stream, ToFsName};
use nix::unistd::Pid;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::contract::control::{CONTROL_LEN_MAX, Nothing, Refusal, SOCKET};
use crate::error::{Error, Exit};
use crate::ipc::frame::Decoder;
use crate::ipc::message;
use crate::sys::process::Stranger;

/// How long the master may take to answer: it answers in a turn of its loop.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// How long the master's process may outlive its connection, in milliseconds.
const END_LIMIT_MS: u16 = 10_000;

/// What no master notifies of.
const NO_NOTIFICATION: &str = "";

pub(super) struct Client {
    stream: Stream,
    decoder: Decoder,
}

impl Client {
    pub(super) fn connect(run_dir: &Path) -> Result<Self, Error> {
        let path = run_dir.join(SOCKET);
        let place = run_dir.display();
        let stream = dial(&path, &format!("the daemon in {place}"))?.ok_or_else(|| {
            Error::new(Exit::NotRunning, format!("not running: nobody answers in the run directory {place}"))
        })?;
        let limited =
            stream.set_recv_timeout(Some(ANSWER_LIMIT)).and_then(|()| stream.set_send_timeout(Some(ANSWER_LIMIT)));
        limited.map_err(|error| Error::because(Exit::Refused, "cannot talk to the daemon", error))?;
        Ok(Self { stream, decoder: Decoder::new(CONTROL_LEN_MAX) })
    }

    /// Calls a method and waits for its answer.
    pub(super) fn call<P: Serialize, R: DeserializeOwned>(&mut self, method: &str, params: &P) -> Result<R, Error> {
        let answer = self.follow(method, params, NO_NOTIFICATION, &mut |Nothing {}| Ok(()), ANSWER_LIMIT)?;
        let late = || format!("the daemon does not answer within {} s", ANSWER_LIMIT.as_secs());
        answer.ok_or_else(|| Error::new(Exit::Busy, late()))
    }

    /// Calls a method whose answer takes its time: `on_the_way` is given what is notified before it.
    /// `None`: no answer within the limit.
    pub(super) fn follow<P: Serialize, N: DeserializeOwned, R: DeserializeOwned>(
        &mut self,
        method: &str,
        params: &P,
        notified: &str,
        on_the_way: &mut impl FnMut(N) -> Result<(), Error>,
        limit: Duration,
    ) -> Result<Option<R>, Error> {
        let deadline = Instant::now() + limit;
        let mut request = Vec::new();
        message::request(1, method, params, &mut request);
        let gone = |error: io::Error| Error::because(Exit::NotRunning, "the daemon closed the connection", error);
        // A master that turns this user away has closed the connection and said why.
        let written = self.stream.write_all(&request).map_err(gone);
        let mut buffer = [0; 4096];
        loop {
            while let Some(body) = self.decoder.next().map_err(not_ours)? {
                match message::notified::<N>(body, notified).map_err(not_ours)? {
                    Some(step) => on_the_way(step)?,
                    None => {
                        let (_, outcome) = message::outcome::<R, Refusal>(body).map_err(not_ours)?;
                        return outcome.map(Some).map_err(refused);
                    }
                }
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            self.stream.set_recv_timeout(Some(left)).map_err(cannot_wait)?;
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(written.err().unwrap_or_else(|| gone(ErrorKind::UnexpectedEof.into()))),
                Ok(count) => self.decoder.feed(&buffer[..count]),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(gone(error)),
            }
        }
    }

    /// Waits for what is notified after the answer. `None`: the connection has ended.
    pub(super) fn notified<N: DeserializeOwned>(&mut self, notified: &str) -> Result<Option<N>, Error> {
        self.stream.set_recv_timeout(None).map_err(cannot_wait)?;
        let mut buffer = [0; 64 * 1024];
        loop {
            while let Some(body) = self.decoder.next().map_err(not_ours)? {
                if let Some(said) = message::notified::<N>(body, notified).map_err(not_ours)? {
                    return Ok(Some(said));
                }
                // Whoever closes the connection may say why.
                let (_, outcome) = message::outcome::<Nothing, Refusal>(body).map_err(not_ours)?;
                outcome.map_err(refused)?;
            }
            match self.stream.read(&mut buffer) {
                Ok(0) => return Ok(None),
                Ok(count) => self.decoder.feed(&buffer[..count]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Ok(None),
            }
        }
    }

    /// The master's process. `None` where the kernel does not tell: in another pid namespace.
    pub(super) fn master(&self) -> Result<Option<Stranger>, Error> {
        let pid = self.stream.peer_creds().ok().and_then(|peer| peer.pid()).filter(|&pid| pid > 0);
        let opened = pid.map_or(Ok(None), |pid| Stranger::open(Pid::from_raw(pid)));
        opened.map_err(cannot_wait)
    }

    /// Waits until the master is gone: it keeps this connection open until all else is done.
    pub(super) fn wait_for_the_end(mut self, master: Option<&Stranger>) -> Result<(), Error> {
        self.stream.set_recv_timeout(None).map_err(cannot_wait)?;
        let mut buffer = [0; 64];
        // Any error is the end of the connection too.
        while self.stream.read(&mut buffer).is_ok_and(|count| count > 0) {}
        let dead = master.map_or(Ok(true), |master| master.is_dead_within(END_LIMIT_MS)).map_err(cannot_wait)?;
        if dead {
            Ok(())
        } else {
            Err(Error::new(Exit::Failed, "the daemon has stopped, but its process does not end"))
        }
    }
}

/// Connects to `whom`. `None`: nobody listens there.
pub(super) fn dial(path: &Path, whom: &str) -> Result<Option<Stream>, Error> {
    match path.to_fs_name::<GenericFilePath>().and_then(Stream::connect) {
        Ok(stream) => Ok(Some(stream)),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => Ok(None),
        Err(error) => Err(cannot_talk(whom, error)),
    }
}

pub(super) fn cannot_talk(whom: &str, error: io::Error) -> Error {
    let is_denied = error.kind() == ErrorKind::PermissionDenied;
    let exit = if is_denied { Exit::NoPermission } else { Exit::Refused };
    Error::because(exit, format!("cannot talk to {whom}"), error)
}

fn refused(Refusal { exit, reason, last_lines }: Refusal) -> Error {
    let said = if last_lines.is_empty() { "" } else { "\nwhat it said last:" };
    let lines = last_lines.iter().map(|line| format!("\n    {line}"));
    let exit = u8::try_from(exit).map_or(Exit::Failed, Exit::from_code);
    Error::new(exit, format!("{reason}{said}{}", lines.collect::<String>()))
}

fn cannot_wait(error: io::Error) -> Error {
    Error::because(Exit::Refused, "cannot wait for the daemon", error)
}

fn not_ours(error: crate::ipc::frame::FrameError) -> Error {
    Error::because(Exit::Bug, "cannot understand the daemon", error)
}
