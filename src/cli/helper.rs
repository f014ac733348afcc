//! `call` and `events`: a helper from a shell script, JSON in and out.

use std::io::{self, ErrorKind, Read, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use interprocess::local_socket::Stream;
use interprocess::local_socket::traits::{Stream as _, StreamCommon};
use nix::unistd::geteuid;
use serde::Deserialize;
use serde_json::{Value, json};

use super::client::{cannot_talk, dial};
use crate::contract::ids::HelperName;
use crate::contract::time::monotonic_ms_in;
use crate::error::{Error, Exit};
use crate::ipc::callee::TOPIC;
use crate::ipc::caller::{Caller, Told};
use crate::ipc::frame::{self, FrameError};
use crate::ipc::message::{self, Terms};
use crate::ipc::peer;

/// Updates that a helper may send ahead of what is printed.
const WINDOW: u32 = 256;

/// The id of the one request, and of the one subscription, of a connection.
const ID: u32 = 1;

/// What `call` reads.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Call {
    method: String,
    #[serde(default = "nothing")]
    params: Value,
}

fn nothing() -> Value {
    json!({})
}

impl Call {
    pub(super) fn parse(text: &str) -> Result<Self, Error> {
        let shape = "a call is JSON as {\"method\":\"NAME\",\"params\":{…}}";
        let value: Value = serde_json::from_str(text).map_err(|error| Error::because(Exit::Usage, shape, error))?;
        if !value.is_object() {
            return Err(Error::new(Exit::Usage, shape));
        }
        serde_json::from_value(value).map_err(|error| Error::because(Exit::Usage, shape, error))
    }
}

/// A connection to a helper.
pub(super) struct Line {
    name: HelperName,
    stream: Stream,
    caller: Caller,
    buffer: Vec<u8>,
    /// Whether the request was sent.
    has_asked: bool,
}

/// What is told, as JSON.
enum Heard {
    Welcome,
    Result(Value),
    Error(Value),
    Update(Value),
    /// It will take nothing more here.
    Leaving,
    Other,
}

impl Line {
    /// Connects. `None`: nobody listens for a helper of this name.
    pub(super) fn connect(run_dir: &Path, name: HelperName, program: &str) -> Result<Option<Self>, Error> {
        let path = run_dir.join("ipc").join(format!("{name}.sock"));
        let whom = format!("the helper {name}");
        let Some(stream) = dial(&path, &whom)? else { return Ok(None) };
        // It names who called listen: the master, which is root or the daemon's user.
        let uid = stream.peer_creds().map_err(|error| cannot_talk(&whom, error))?.euid();
        if uid.is_some_and(|uid| !peer::is_ours(uid)) && !geteuid().is_root() {
            let what = format!("cannot trust the helper {name}: its socket belongs to uid {}", uid.unwrap_or(0));
            return Err(Error::new(Exit::NoPermission, what));
        }
        let caller = Caller::new(&format!("{program} pid {}", std::process::id()));
        Ok(Some(Self { name, stream, caller, buffer: vec![0; 64 * 1024], has_asked: false }))
    }

    /// Asks, and waits for the answer: the result, or the error as it came.
    pub(super) fn call(&mut self, call: &Call, limit: Duration) -> Result<Result<Value, Value>, Error> {
        let deadline = Instant::now() + limit;
        let deadline_ms = monotonic_ms_in(limit);
        loop {
            match self.hear(Some(deadline))? {
                None => return Err(self.lost()),
                Some(Heard::Welcome) => {
                    let asked =
                        message::request_until(ID, &call.method, &call.params, deadline_ms, self.caller.unsent());
                    asked.map_err(|error| self.not_understood(error))?;
                    self.has_asked = true;
                }
                Some(Heard::Result(result)) => return Ok(Ok(result)),
                Some(Heard::Error(error)) => return Ok(Err(error)),
                Some(Heard::Update(_) | Heard::Leaving | Heard::Other) => {}
            }
        }
    }

    /// Subscribes, and gives every update to `take` until that has enough. False: the helper has
    /// ended before.
    pub(super) fn events(&mut self, mut take: impl FnMut(&Value) -> Result<bool, Error>) -> Result<bool, Error> {
        let mut taken = 0;
        loop {
            match self.hear(None)? {
                None | Some(Heard::Leaving) => return Ok(false),
                Some(Heard::Welcome) => {
                    message::subscribe(ID, TOPIC, Terms { credit: WINDOW }, self.caller.unsent());
                }
                Some(Heard::Update(update)) => {
                    if !take(&update)? {
                        return Ok(true);
                    }
                    taken += 1;
                    if taken >= WINDOW / 4 {
                        message::credit(ID, std::mem::take(&mut taken), self.caller.unsent());
                    }
                }
                Some(Heard::Error(error)) => return Err(self.refused(&error)),
                Some(Heard::Result(_) | Heard::Other) => {}
            }
        }
    }

    /// The next that is told. `None`: the connection has ended.
    fn hear(&mut self, deadline: Option<Instant>) -> Result<Option<Heard>, Error> {
        loop {
            let heard = self.caller.next().and_then(|told| told.map(heard).transpose());
            if let Some(heard) = heard.map_err(|error| self.not_understood(error))? {
                return Ok(Some(heard));
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                return Err(self.late());
            }
            let count = match self.exchange(left) {
                Ok(count) => count,
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => continue,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(_) => 0,
            };
            if count == 0 {
                return Ok(None);
            }
            self.caller.feed(&self.buffer[..count]);
        }
    }

    /// Writes what is to be written, and waits for what comes.
    fn exchange(&mut self, limit: Option<Duration>) -> io::Result<usize> {
        self.stream.set_send_timeout(limit)?;
        self.stream.set_recv_timeout(limit)?;
        self.stream.write_all(self.caller.unsent())?;
        self.caller.unsent().clear();
        self.stream.read(&mut self.buffer)
    }

    fn late(&self) -> Error {
        let name = self.name;
        if self.has_asked {
            let what = format!("the helper {name} has not answered in time: the outcome is unknown");
            return Error::new(Exit::Failed, what);
        }
        Error::new(Exit::Busy, format!("the helper {name} is not there in time: nothing was asked"))
    }

    fn lost(&self) -> Error {
        Error::new(Exit::Failed, format!("the helper {} ended before it answered: the outcome is unknown", self.name))
    }

    pub(super) fn refused(&self, error: &Value) -> Error {
        let why = error.get("message").and_then(Value::as_str).unwrap_or("it does not say why");
        Error::new(Exit::Failed, format!("the helper {} refuses: {why}", self.name))
    }

    fn not_understood(&self, error: FrameError) -> Error {
        Error::because(Exit::Bug, format!("cannot understand the helper {}", self.name), error)
    }
}

fn heard(told: Told<'_>) -> Result<Heard, FrameError> {
    Ok(match told {
        Told::Welcome(_) => Heard::Welcome,
        Told::Response { outcome: Ok(result), .. } => Heard::Result(frame::decode(result)?),
        Told::Response { outcome: Err(error), .. } => Heard::Error(message::error(error)?),
        Told::Snapshot { epoch, sequence, events, .. } => {
            let events: Value = frame::decode(events)?;
            Heard::Update(json!({ "epoch": epoch, "sequence": sequence, "snapshot": events }))
        }
        Told::Event { sequence, event, .. } => {
            let event: Value = frame::decode(event)?;
            Heard::Update(json!({ "sequence": sequence, "event": event }))
        }
        Told::End { failure, .. } => Heard::Error(json!({ "message": failure.message })),
        Told::GoAway(_) => Heard::Leaving,
        Told::Resync { .. } | Told::Pong(_) | Told::Nothing => Heard::Other,
    })
}
