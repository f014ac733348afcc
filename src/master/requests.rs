//! The answers to what the command line asks.

use std::time::Instant;

use mio::Token;

use super::Master;
use super::supervisor::Event;
use crate::contract::control::{Nothing, Refusal, SCALE, STATUS, STOP, Scale};
use crate::contract::ids::WORKERS_MAX;
use crate::error::Exit;
use crate::ipc::frame::FrameError;
use crate::ipc::message;

impl Master {
    /// Answers what has come on one connection.
    pub(super) fn answer(&mut self, token: Token) {
        for request in self.control.requests(token) {
            if let Err(error) = self.answer_one(token, &request) {
                log::warn!(target: "forebay", "control socket: a connection was closed: {error}");
                return self.control.close(token);
            }
        }
        self.control.dismiss(token);
    }

    fn answer_one(&mut self, token: Token, request: &[u8]) -> Result<(), FrameError> {
        let (id, method) = message::requested(request)?;
        let mut out = Vec::new();
        match method.as_str() {
            STATUS => message::response(id, &Ok::<_, Refusal>(self.status()), &mut out),
            SCALE => message::response(id, &self.scale(message::params(request)?), &mut out),
            STOP => {
                self.step(Event::Stop);
                message::response(id, &Ok::<_, Refusal>(Nothing {}), &mut out);
            }
            unknown => {
                let reason = format!("this master knows no method {unknown:?}");
                let refusal = Refusal { exit: Exit::Failed as u8, reason };
                message::response(id, &Err::<Nothing, _>(refusal), &mut out);
            }
        }
        self.control.answer(token, &out, method == STOP, Instant::now());
        Ok(())
    }

    fn scale(&mut self, Scale { workers }: Scale) -> Result<Scale, Refusal> {
        if !(1..=WORKERS_MAX).contains(&workers) {
            let reason = crate::settings::worker_range();
            return Err(Refusal { exit: Exit::Usage as u8, reason });
        }
        if self.supervisor.is_stopping() {
            return Err(Refusal { exit: Exit::Busy as u8, reason: "stopping".to_owned() });
        }
        self.step(Event::Scale(workers));
        Ok(Scale { workers })
    }
}
