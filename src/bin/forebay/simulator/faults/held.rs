//! The faults that hold until they are changed, and those that wait for the next calls.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use super::super::Port;
use super::super::changes::Form;
use super::super::encoder::Framing;
use super::super::refusal::Refusal;
use super::{Act, Fault, RedirectTo, Refuse, interval};

/// Acts that wait for the next stream.
const ACTS_MAX: usize = 64;

/// Tokens that are remembered as revoked.
const REVOKED_MAX: usize = 4096;

/// What holds, and what waits for the next calls.
pub(in crate::simulator) struct Faults {
    pub(in crate::simulator) redirect: RedirectTo,
    pub(in crate::simulator) unauthorized: bool,
    pub(in crate::simulator) keep_alive: Option<Duration>,
    pub(in crate::simulator) form: Form,
    pub(in crate::simulator) framing: Framing,
    refuse_writes: Option<Refuse>,
    refuse_streams: Option<Refuse>,
    refuse_front: u32,
    refuse_second: u32,
    next_stream: VecDeque<Act>,
    revoked: BTreeSet<String>,
    keep_alive_at_start: Option<Duration>,
}

impl Faults {
    pub(in crate::simulator) fn new(keep_alive: Option<Duration>) -> Self {
        Self {
            redirect: RedirectTo::default(),
            unauthorized: false,
            keep_alive,
            form: Form::default(),
            framing: Framing::default(),
            refuse_writes: None,
            refuse_streams: None,
            refuse_front: 0,
            refuse_second: 0,
            next_stream: VecDeque::new(),
            revoked: BTreeSet::new(),
            keep_alive_at_start: keep_alive,
        }
    }

    /// Takes in a fault that holds, or waits for calls; what it says replaces what was said before.
    pub(in crate::simulator) fn hold(&mut self, fault: Fault) -> Result<(), Refusal> {
        match fault {
            Fault::Clear {} => *self = Self::new(self.keep_alive_at_start),
            Fault::Redirect { to } => self.redirect = to,
            Fault::Unauthorized { on } => self.unauthorized = on,
            Fault::KeepAlive { seconds } => self.keep_alive = interval(seconds)?,
            Fault::Changes { form } => self.form = form,
            Fault::Framing(framing) => self.framing = framing,
            Fault::RefuseWrites(refuse) => self.refuse_writes = Some(refuse),
            Fault::RefuseStreams(refuse) => self.refuse_streams = Some(refuse),
            Fault::RefuseConnections { port: Port::Front, times } => self.refuse_front = times,
            Fault::RefuseConnections { port: Port::Second, times } => self.refuse_second = times,
            // These happen once; there is nothing to hold.
            Fault::Wall { .. }
            | Fault::Snapshot { .. }
            | Fault::Comment { .. }
            | Fault::Error { .. }
            | Fault::AuthRevoked { .. }
            | Fault::Cancel { .. }
            | Fault::Stall { .. }
            | Fault::EndlessLine { .. }
            | Fault::Cut { .. }
            | Fault::End { .. } => {}
        }
        Ok(())
    }

    pub(in crate::simulator) fn revoke(&mut self, token: &str) {
        if self.revoked.len() < REVOKED_MAX {
            self.revoked.insert(token.to_owned());
        }
    }

    pub(in crate::simulator) fn is_revoked(&self, token: &str) -> bool {
        self.revoked.contains(token)
    }

    pub(in crate::simulator) fn await_stream(&mut self, act: Act) -> Result<(), Refusal> {
        if self.next_stream.len() >= ACTS_MAX {
            return Err(Refusal::NotAllowed(format!("{ACTS_MAX} acts wait for the next stream already")));
        }
        self.next_stream.push_back(act);
        Ok(())
    }

    pub(in crate::simulator) fn take_write_refusal(&mut self) -> Option<Refuse> {
        take(&mut self.refuse_writes)
    }

    pub(in crate::simulator) fn take_stream_refusal(&mut self) -> Option<Refuse> {
        take(&mut self.refuse_streams)
    }

    pub(in crate::simulator) fn take_connection_refusal(&mut self, port: Port) -> bool {
        let left = match port {
            Port::Front => &mut self.refuse_front,
            Port::Second => &mut self.refuse_second,
        };
        let refused = *left > 0;
        *left = left.saturating_sub(1);
        refused
    }

    pub(in crate::simulator) fn take_acts(&mut self) -> VecDeque<Act> {
        std::mem::take(&mut self.next_stream)
    }
}

fn take(refuse: &mut Option<Refuse>) -> Option<Refuse> {
    let left = refuse.as_mut().filter(|refuse| refuse.times > 0)?;
    left.times -= 1;
    Some(*left)
}

#[cfg(test)]
mod tests {
    use super::super::Answer;
    use super::*;

    #[test]
    fn refusals_run_out() {
        let mut faults = Faults::new(None);
        let refuse = Refuse { with: Answer::Blocked, retry_after: None, times: 2 };
        faults.hold(Fault::RefuseWrites(refuse)).expect("a fault that holds");
        let taken: Vec<bool> = (0..3).map(|_| faults.take_write_refusal().is_some()).collect();
        assert_eq!(taken, [true, true, false]);
        assert!(faults.take_stream_refusal().is_none());
        faults.hold(Fault::RefuseConnections { port: Port::Second, times: 1 }).expect("a fault that holds");
        assert!(!faults.take_connection_refusal(Port::Front));
        assert!(faults.take_connection_refusal(Port::Second));
        assert!(!faults.take_connection_refusal(Port::Second));
    }
}
