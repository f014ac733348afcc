//! The answers to what the command line asks.

use std::time::Instant;

use mio::Token;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Master;
use super::control::WAITING_MAX;
use super::supervisor::Event;
use crate::contract::control::{
    LOG_FOLLOW, LOG_LEVEL, LOG_REOPEN, Nothing, RELOAD, RESTART, Refusal, Restart, SCALE, STATUS, STOP, Scale,
};
use crate::contract::ids::{HelperName, WORKERS_MAX};
use crate::error::Exit;
use crate::ipc::frame::FrameError;
use crate::ipc::message;

impl Master {
    /// Answers what has come on one connection.
    pub(super) fn answer(&mut self, token: Token) {
        for request in self.control.requests(token) {
            if let Err(error) = self.answer_one(token, &request) {
                return self.control.cut(token, error.reason());
            }
        }
        self.control.dismiss(token);
    }

    fn answer_one(&mut self, token: Token, request: &[u8]) -> Result<(), FrameError> {
        let (id, method, params) = message::requested(request)?;
        message::whole(params)?;
        let out = match method {
            STATUS => response(id, argument(params).map(|Nothing {}| self.status())),
            SCALE => response(id, argument(params).and_then(|scale| self.scale(scale))),
            RESTART => response(id, argument(params).and_then(|restart| self.restart(&restart))),
            RELOAD => match argument(params).and_then(|Nothing {}| self.reload(token, id)) {
                Ok(()) => return Ok(()),
                Err(refusal) => response(id, Err::<Nothing, _>(refusal)),
            },
            LOG_LEVEL => response(id, argument(params).and_then(|level| self.set_level(level))),
            LOG_REOPEN => match argument(params).and_then(|Nothing {}| self.reopen(token, id)) {
                Ok(()) => return Ok(()),
                Err(refusal) => response(id, Err::<Nothing, _>(refusal)),
            },
            LOG_FOLLOW => match argument(params).and_then(|follow| self.pass_on(token, id, &follow)) {
                Ok(()) => return Ok(()),
                Err(refusal) => response(id, Err::<Nothing, _>(refusal)),
            },
            STOP => response(id, argument(params).and_then(|Nothing {}| self.stop(token))),
            unknown => {
                let reason = format!("this master knows no method {unknown:?}");
                response(id, Err::<Nothing, _>(Refusal::new(Exit::Failed, reason)))
            }
        };
        self.control.answer(token, &out, Instant::now());
        Ok(())
    }

    /// The answer comes when the reload is over.
    fn reload(&mut self, token: Token, id: u32) -> Result<(), Refusal> {
        if !self.control.may_wait() {
            let reason = "too many open files: nobody can wait for a reload now, and none is begun".to_owned();
            return Err(Refusal::new(Exit::Failed, reason));
        }
        if !self.is_room_for_an_asker() {
            let reason = format!("{WAITING_MAX} reloads are waited for already: try again when one is over");
            return Err(Refusal::new(Exit::Busy, reason));
        }
        self.control.wait(token);
        if self.supervisor.is_starting() {
            let text = "the first start is under way: waiting for it".to_owned();
            self.control.tell_step([token], text, Instant::now());
        }
        self.ask_for_reload(Some((token, id)));
        Ok(())
    }

    /// The connection shows when the stop is over, if there is room.
    fn stop(&mut self, token: Token) -> Result<Nothing, Refusal> {
        self.step(Event::Stop);
        if self.control.keep_until_the_end(token) {
            return Ok(Nothing {});
        }
        Err(Refusal::new(Exit::Busy, format!("it is stopping, and {WAITING_MAX} others wait for its end already")))
    }

    fn scale(&mut self, Scale { workers }: Scale) -> Result<Scale, Refusal> {
        if !(1..=WORKERS_MAX).contains(&workers) {
            let reason = crate::settings::worker_range();
            return Err(Refusal::new(Exit::Usage, reason));
        }
        if self.supervisor.is_stopping() {
            return Err(Refusal::new(Exit::Busy, "stopping".to_owned()));
        }
        self.step(Event::Scale(workers));
        Ok(Scale { workers })
    }

    fn restart(&mut self, Restart { helper }: &Restart) -> Result<Nothing, Refusal> {
        let failed = |reason: String| Refusal::new(Exit::Failed, reason);
        if self.supervisor.is_stopping() {
            return Err(Refusal::new(Exit::Busy, "stopping".to_owned()));
        }
        if ["log", "zygote"].contains(&helper.as_str()) {
            let reason = format!("`{helper}` is not restarted by command: it is replaced when its process ends");
            return Err(failed(reason));
        }
        let names: Vec<String> = self.offers.names(self.serving).map(|name| format!("`{name}`")).collect();
        let known = |name: &HelperName| self.offers.names(self.serving).any(|known| known == *name);
        let Some(name) = HelperName::parse(helper).ok().filter(known) else {
            let known =
                if names.is_empty() { "there is none".to_owned() } else { format!("there is {}", names.join(", ")) };
            return Err(failed(format!("no helper is called {helper:?}: {known}")));
        };
        if self.supervisor.is_handed_over(name) {
            let reason = format!("helper {name} is being handed over by a reload: it gets a new process anyway");
            return Err(Refusal::new(Exit::Busy, reason));
        }
        if self.supervisor.is_stuck(name) {
            return Err(failed(format!("helper {name} cannot be replaced: SIGKILL does not end its process")));
        }
        self.step(Event::Restart(name));
        Ok(Nothing {})
    }
}

pub(super) fn response<R: Serialize>(id: u32, outcome: Result<R, Refusal>) -> Vec<u8> {
    let mut out = Vec::new();
    message::response(id, &outcome, &mut out);
    out
}

/// A method's argument, or why it is none.
fn argument<P: DeserializeOwned>(params: &[u8]) -> Result<P, Refusal> {
    let read = message::params(params).map(|(argument, _)| argument);
    read.map_err(|error| Refusal::new(Exit::Usage, error.reason()))
}
