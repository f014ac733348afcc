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
use crate::ipc::course::Course;
use crate::ipc::frame::{self, FrameError, HEADER_LEN};
use crate::ipc::message::{self, GoAway, GoAwayCode, Terms};
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
    /// It reads frames of so many bytes.
    Welcome(usize),
    Result(Value),
    Error(Value),
    /// The number of the last event that it is about.
    Snapshot(u64, Value),
    Event(u64, Value),
    Resync,
    /// It will take nothing more here.
    Leaving,
    /// It has closed the connection, and says why.
    Closed(Exit, String),
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
                Some(Heard::Welcome(frame_len_max)) => self.ask(call, deadline_ms, frame_len_max)?,
                Some(Heard::Result(_) | Heard::Error(_)) if !self.has_asked => {
                    return Err(self.broken("it answers what nobody has asked"));
                }
                Some(Heard::Result(result)) => return Ok(Ok(result)),
                Some(Heard::Error(error)) => return Ok(Err(error)),
                Some(Heard::Closed(exit, why)) => return Err(Error::new(exit, why)),
                Some(Heard::Snapshot(..) | Heard::Event(..) | Heard::Resync | Heard::Leaving | Heard::Other) => {}
            }
        }
    }

    fn ask(&mut self, call: &Call, deadline_ms: u64, frame_len_max: usize) -> Result<(), Error> {
        let mut frame = Vec::new();
        let asked = message::request_until(ID, &call.method, &call.params, deadline_ms, &mut frame);
        asked.map_err(|error| Error::because(Exit::Usage, "this call cannot be sent", error))?;
        let len = frame.len() - HEADER_LEN;
        if len > frame_len_max {
            let what = format!("a call of {len} bytes: the helper {} takes {frame_len_max}", self.name);
            return Err(Error::new(Exit::Usage, what));
        }
        self.caller.unsent().append(&mut frame);
        self.has_asked = true;
        Ok(())
    }

    /// Subscribes, and gives every update to `take` until that has enough. False: the helper has
    /// ended before.
    pub(super) fn events(&mut self, mut take: impl FnMut(&Value) -> Result<bool, Error>) -> Result<bool, Error> {
        let (mut taken, mut course) = (0, Course::new(WINDOW));
        loop {
            let (in_order, update) = match self.hear(None)? {
                None | Some(Heard::Leaving) => return Ok(false),
                Some(Heard::Welcome(_)) => {
                    message::subscribe(ID, TOPIC, Terms { credit: WINDOW }, self.caller.unsent());
                    continue;
                }
                Some(Heard::Snapshot(sequence, update)) => (course.snapshot(sequence), update),
                Some(Heard::Event(sequence, update)) => (course.event(sequence), update),
                Some(Heard::Resync) => {
                    course.resync();
                    continue;
                }
                Some(Heard::Error(error)) => return Err(self.refused(&error)),
                Some(Heard::Closed(exit, why)) => return Err(Error::new(exit, why)),
                Some(Heard::Result(_) | Heard::Other) => continue,
            };
            in_order.map_err(|why| self.broken(&why))?;
            if !take(&update)? {
                return Ok(true);
            }
            taken += 1;
            if taken >= WINDOW / 4 {
                course.grant(taken);
                message::credit(ID, std::mem::take(&mut taken), self.caller.unsent());
            }
        }
    }

    /// The next that is told. `None`: the connection has ended.
    fn hear(&mut self, deadline: Option<Instant>) -> Result<Option<Heard>, Error> {
        loop {
            let name = self.name;
            let heard = self.caller.next().and_then(|told| told.map(|told| heard(told, name)).transpose());
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
        let written = self.stream.write_all(self.caller.unsent());
        self.caller.unsent().clear();
        match written {
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Err(error),
            // Whoever has closed the connection may have said why.
            Ok(()) | Err(_) => self.stream.read(&mut self.buffer),
        }
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
        if !self.has_asked {
            return Error::new(Exit::Busy, format!("the helper {} ends: nothing was asked", self.name));
        }
        Error::new(Exit::Failed, format!("the helper {} ended before it answered: the outcome is unknown", self.name))
    }

    pub(super) fn refused(&self, error: &Value) -> Error {
        let why = error.get("message").and_then(Value::as_str).unwrap_or("it does not say why");
        Error::new(Exit::Failed, format!("the helper {} refuses: {why}", self.name))
    }

    /// It has broken a rule of the protocol.
    fn broken(&self, why: &str) -> Error {
        Error::new(Exit::Bug, format!("cannot understand the helper {}: {why}", self.name))
    }

    fn not_understood(&self, error: FrameError) -> Error {
        Error::because(Exit::Bug, format!("cannot understand the helper {}", self.name), error)
    }
}

fn heard(told: Told<'_>, name: HelperName) -> Result<Heard, FrameError> {
    Ok(match told {
        Told::Welcome(welcome) => Heard::Welcome(welcome.frame_len_max as usize),
        Told::Response { id, .. } if id != ID => {
            return Err(FrameError::Malformed(format!("it answers request {id}, which nobody has asked")));
        }
        Told::Response { outcome: Ok(result), .. } => Heard::Result(frame::decode(result)?),
        Told::Response { outcome: Err(error), .. } => Heard::Error(frame::decode(error)?),
        Told::Snapshot { epoch, sequence, events, .. } => {
            let events: Value = frame::decode(events)?;
            Heard::Snapshot(sequence, json!({ "epoch": epoch, "sequence": sequence, "snapshot": events }))
        }
        Told::Event { sequence, event, .. } => {
            let event: Value = frame::decode(event)?;
            Heard::Event(sequence, json!({ "sequence": sequence, "event": event }))
        }
        Told::Resync { .. } => Heard::Resync,
        Told::End { failure, .. } => Heard::Error(json!({ "message": failure.message })),
        Told::GoAway(GoAway { code: GoAwayCode::Leaving, .. }) => Heard::Leaving,
        Told::GoAway(GoAway { code: GoAwayCode::RuleBroken, reason }) => {
            Heard::Closed(Exit::Bug, format!("the helper {name} has closed the connection: {reason}"))
        }
        Told::GoAway(GoAway { code: GoAwayCode::NotAllowed, reason }) => {
            Heard::Closed(Exit::NoPermission, format!("cannot ask the helper {name}: {reason}"))
        }
        Told::Pong(_) | Told::Nothing => Heard::Other,
    })
}
