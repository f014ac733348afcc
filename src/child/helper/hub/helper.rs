//! The hub's process: the board, and who waits for something on it.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::pending;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::board::{AskId, Board};
use super::wire::{
    Answered, Ask, Attach, Batch, Bytes, Listing, Outcome, Publish, Refusal, Register, Session, Subscribe, Take,
    Topics, Unregister, Unsubscribe,
};
use crate::child::helper::{Context, Handle, Helper, Methods};
use crate::error::Result;

/// How long after its birth a hub does not yet say that nobody holds a key: those who held one in its
/// predecessor's time are about to say so.
const SETTLING: Duration = Duration::from_secs(1);

/// The helper `hub`.
pub(super) struct Exchange(Rc<Hall>);

struct Hall {
    board: RefCell<Board>,
    /// What wakes each session's open `take`, and ends its `attach`.
    bells: RefCell<BTreeMap<Session, Rc<Notify>>>,
    /// Who waits for an answer.
    waiting: RefCell<BTreeMap<AskId, oneshot::Sender<Outcome>>>,
    /// Told when somebody registers a key.
    registered: Notify,
    /// Told when the hub ends.
    ending: Notify,
    is_ending: Cell<bool>,
    born: Instant,
}

impl Helper for Exchange {
    // One process serves the releases of an application, as long as it is the same hub.
    const VERSION: Option<&'static str> = Some(env!("CARGO_PKG_VERSION"));

    type Config = ();
    type Event = ();
    type Error = Refusal;

    async fn start((): (), _: Context<Self>) -> Result<Self> {
        Ok(Self(Rc::new(Hall {
            board: RefCell::default(),
            bells: RefCell::default(),
            waiting: RefCell::default(),
            registered: Notify::new(),
            ending: Notify::new(),
            is_ending: Cell::new(false),
            born: Instant::now(),
        })))
    }

    /// Lasts until the hub ends: then nobody shall wait for what stays open.
    async fn run(&self) -> Result<()> {
        let _ending = Ending(self.0.clone());
        pending().await
    }

    fn methods(methods: Methods<Self>) -> Methods<Self> {
        methods
            .on::<Attach>()
            .on::<Take>()
            .on::<Subscribe>()
            .on::<Unsubscribe>()
            .on::<Register>()
            .on::<Unregister>()
            .on::<Publish>()
            .on::<Ask>()
            .on::<Answered>()
            .on::<Topics>()
    }
}

impl Handle<Attach> for Exchange {
    async fn handle(&self, attach: Attach) -> Result<(), Refusal> {
        let session = attach.session;
        self.0.is_open()?;
        let woken = self.0.board.borrow_mut().attach(attach)?;
        let bell = Rc::new(Notify::new());
        self.0.bells.borrow_mut().insert(session, bell);
        self.0.wake(woken);
        self.0.registered.notify_waiters();
        // Dropped with its connection.
        let _stay = Stay { hall: self.0.clone(), session };
        self.0.ends().await;
        Err(Refusal::Ending)
    }
}

impl Handle<Take> for Exchange {
    async fn handle(&self, Take { session }: Take) -> Result<Batch, Refusal> {
        loop {
            let bell = self.0.bells.borrow().get(&session).cloned().ok_or(Refusal::NotAttached)?;
            let taken = self.0.board.borrow_mut().take(session)?;
            if let Some(batch) = taken {
                return Ok(batch);
            }
            bell.notified().await;
        }
    }
}

impl Handle<Subscribe> for Exchange {
    async fn handle(&self, Subscribe { session, topic }: Subscribe) -> Result<(), Refusal> {
        self.0.board.borrow_mut().subscribe(session, topic)
    }
}

impl Handle<Unsubscribe> for Exchange {
    async fn handle(&self, Unsubscribe { session, topic }: Unsubscribe) -> Result<(), Refusal> {
        self.0.board.borrow_mut().unsubscribe(session, &topic)
    }
}

impl Handle<Register> for Exchange {
    async fn handle(&self, Register { session, held }: Register) -> Result<(), Refusal> {
        let woken = self.0.board.borrow_mut().register(session, held)?;
        self.0.wake(woken);
        self.0.registered.notify_waiters();
        Ok(())
    }
}

impl Handle<Unregister> for Exchange {
    async fn handle(&self, Unregister { session, key }: Unregister) -> Result<(), Refusal> {
        self.0.board.borrow_mut().unregister(session, &key)
    }
}

impl Handle<Publish> for Exchange {
    async fn handle(&self, Publish { topic, message }: Publish) -> Result<(), Refusal> {
        self.0.is_open()?;
        let woken = self.0.board.borrow_mut().publish(&topic, &message)?;
        self.0.wake(woken);
        Ok(())
    }
}

impl Handle<Ask> for Exchange {
    async fn handle(&self, ask: Ask) -> Result<Bytes, Refusal> {
        let (id, woken) = self.0.ask(ask).await?;
        let (sender, answer) = oneshot::channel();
        self.0.waiting.borrow_mut().insert(id, sender);
        self.0.wake(woken);
        // Dropped when whoever asks gives it up.
        let _asking = Asking { hall: self.0.clone(), id };
        answer.await.unwrap_or(Err(Refusal::OutcomeUnknown))
    }
}

impl Handle<Answered> for Exchange {
    async fn handle(&self, Answered { session, id, outcome }: Answered) -> Result<(), Refusal> {
        if self.0.board.borrow_mut().answered(session, id) {
            self.0.tell(id, outcome);
        }
        Ok(())
    }
}

impl Handle<Topics> for Exchange {
    async fn handle(&self, Topics {}: Topics) -> Result<Listing, Refusal> {
        Ok(self.0.board.borrow().list())
    }
}

impl Hall {
    fn is_open(&self) -> Result<(), Refusal> {
        if self.is_ending.get() { Err(Refusal::Ending) } else { Ok(()) }
    }

    fn wake(&self, sessions: impl IntoIterator<Item = Session>) {
        let bells = self.bells.borrow();
        sessions.into_iter().filter_map(|session| bells.get(&session)).for_each(|bell| bell.notify_one());
    }

    fn tell(&self, id: AskId, outcome: Outcome) {
        if let Some(asking) = self.waiting.borrow_mut().remove(&id) {
            // Whoever asked may be gone.
            let _ = asking.send(outcome);
        }
    }

    /// Asks the holder of a key, once those had time to say so who hold one.
    async fn ask(&self, Ask { key, ask }: Ask) -> Result<(AskId, Option<Session>), Refusal> {
        loop {
            self.is_open()?;
            let asked = self.board.borrow_mut().ask(key.clone(), ask.clone());
            if asked != Err(Refusal::NobodyThere) || self.born.elapsed() >= SETTLING {
                return asked;
            }
            // It is tried again then, whether anybody has come or not.
            let _ = tokio::time::timeout_at(self.born + SETTLING, self.registered.notified()).await;
        }
    }

    /// Resolves when the hub ends.
    async fn ends(&self) {
        while !self.is_ending.get() {
            self.ending.notified().await;
        }
    }

    fn leave(&self, session: Session) {
        let outcomes = self.board.borrow_mut().leave(session);
        for (id, outcome) in outcomes {
            // Its holder lives, and is with the successor in a moment.
            let is_put_off = self.is_ending.get() && outcome == Err(Refusal::NobodyThere);
            self.tell(id, if is_put_off { Err(Refusal::Ending) } else { outcome });
        }
        if let Some(bell) = self.bells.borrow_mut().remove(&session) {
            bell.notify_one();
        }
    }
}

/// The hub's work: with it all sessions end.
struct Ending(Rc<Hall>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.is_ending.set(true);
        let sessions = self.0.board.borrow().sessions();
        sessions.into_iter().for_each(|session| self.0.leave(session));
        self.0.registered.notify_waiters();
        self.0.ending.notify_waiters();
    }
}

/// A session, which lasts as long as the request that has begun it.
struct Stay {
    hall: Rc<Hall>,
    session: Session,
}

impl Drop for Stay {
    fn drop(&mut self) {
        self.hall.leave(self.session);
    }
}

/// Somebody waits for an answer.
struct Asking {
    hall: Rc<Hall>,
    id: AskId,
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.hall.board.borrow_mut().withdraw(self.id);
        self.hall.waiting.borrow_mut().remove(&self.id);
    }
}
