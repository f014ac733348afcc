//! A process's session in the hub: it is begun again, with all that the process listens to and holds,
//! whenever it was lost.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};

use super::ear::Ear;
use super::helper::Exchange;
use super::wire::{
    Answered, Attach, Batch, Bytes, Item, KEYS_MAX, Name, Outcome, Refusal, Register, SUBSCRIPTIONS_MAX, Session,
    Since, Subscribe, Take, Unregister, Unsubscribe,
};
use crate::app::declare::BoxFuture;
use crate::child::helper::client::{CallError, Client, RETRY_MAX, RETRY_MIN};
use crate::child::helper::traits::{Answers, Request};
use crate::child::panics::Caught;
use crate::contract::time::monotonic_ms;

/// What stays open as long as the session does, and what must not be lost.
const FOR_EVER: Duration = Duration::MAX;

/// Answers what is asked of a key.
pub(super) type Answer = Arc<dyn Fn(Bytes) -> BoxFuture<Outcome> + Send + Sync>;

/// What a call may come to.
pub(super) type Called<T> = Result<T, CallError<Refusal>>;

/// A call that was begun.
type Calling<T> = BoxFuture<Called<T>>;

/// What the hub is being told in a session.
pub(super) struct Telling {
    pub(super) session: Session,
    calling: Calling<()>,
}

pub(super) struct Office {
    desk: Mutex<Desk>,
    /// Of the session alone: requests of others' must not hold its answers up.
    client: Client<Exchange>,
    caller: String,
    runtime: Handle,
    /// The last session that has begun.
    begun: watch::Sender<Session>,
    /// Told when the hub may not know what is wanted.
    renew: Notify,
}

#[derive(Default)]
struct Desk {
    session: Session,
    topics: BTreeMap<Name, Vec<Arc<Mutex<Ear>>>>,
    keys: BTreeMap<Name, Key>,
    /// When a key was taken last: no two have the same time.
    taken_ms: u64,
}

struct Key {
    answer: Answer,
    since_ms: u64,
    replaced: Arc<Notify>,
}

impl Office {
    pub(super) fn new(client: Client<Exchange>, caller: &str) -> Arc<Self> {
        Arc::new(Self {
            desk: Mutex::default(),
            client: client.with_deadline(FOR_EVER),
            caller: caller.to_owned(),
            runtime: Handle::current(),
            begun: watch::Sender::new(0),
            renew: Notify::new(),
        })
    }

    /// Attends the hub for ever.
    pub(super) async fn attend(self: Arc<Self>) {
        let mut patience = RETRY_MIN;
        loop {
            let (session, stay) = self.attach();
            let lost = tokio::select! {
                ended = stay => ended.err(),
                error = self.take(session) => Some(error),
                () = self.renew.notified() => None,
            };
            if *self.begun.borrow() == session {
                patience = RETRY_MIN;
            }
            match lost {
                Some(error) if !is_loss(&error) => log::warn!("the session in the hub has ended: {error}"),
                Some(_) | None => log::debug!("the session in the hub has ended"),
            }
            tokio::time::sleep(patience).await;
            patience = (patience * 2).min(RETRY_MAX);
        }
    }

    /// Begins a session with all that there is.
    fn attach(&self) -> (Session, Calling<()>) {
        let mut desk = self.lock();
        desk.session = next_session();
        let attach = Attach {
            session: desk.session,
            caller: self.caller.clone(),
            topics: desk.topics.keys().cloned().collect(),
            keys: desk.keys.iter().map(|(key, held)| Since { key: key.clone(), since_ms: held.since_ms }).collect(),
        };
        // Before the lock is let go: what is wanted later is said later.
        (desk.session, self.begin(attach))
    }

    /// Takes what there is to tell, for ever. Returns only why that is over.
    async fn take(self: &Arc<Self>, session: Session) -> CallError<Refusal> {
        loop {
            match self.client.call(Take { session }).await {
                Ok(batch) => self.hear(session, batch),
                Err(error) => return error,
            }
        }
    }

    fn hear(self: &Arc<Self>, session: Session, Batch { items }: Batch) {
        // Before the lock: it is dropped after it, and with it whatever of the application is in there.
        let mut gone = Vec::new();
        let mut desk = self.lock();
        for item in items {
            match item {
                Item::Begun => {
                    desk.topics.values().flatten().for_each(|ear| lock(ear).begin(session));
                    self.begun.send_replace(session);
                }
                Item::Missed { topic, count } => desk.ears(&topic).for_each(|ear| lock(ear).miss(Some(count))),
                Item::Message { topic, message } => desk.ears(&topic).for_each(|ear| lock(ear).hear(message.clone())),
                Item::Asked { id, key, ask } => {
                    let answer = desk.keys.get(&key).map(|held| held.answer.clone());
                    drop(self.runtime.spawn(self.clone().answer(session, id, answer, ask)));
                }
                Item::Replaced(Since { key, since_ms }) => {
                    // It may have been taken anew meanwhile.
                    if desk.keys.get(&key).is_some_and(|held| held.since_ms == since_ms)
                        && let Some(held) = desk.keys.remove(&key)
                    {
                        held.replaced.notify_one();
                        gone.push(held);
                    }
                }
            }
        }
    }

    async fn answer(self: Arc<Self>, session: Session, id: u64, answer: Option<Answer>, ask: Bytes) {
        let outcome = match answer {
            Some(answer) => Caught::new(async move { answer(ask).await }).await.unwrap_or(Err(Refusal::Panicked)),
            None => Err(Refusal::NobodyThere),
        };
        // The hub has told who asked how it ends if the session is lost.
        if let Err(error) = self.client.call(Answered { session, id, outcome }).await
            && !is_loss(&error)
        {
            log::warn!("an answer is lost: {error}");
            self.renew.notify_one();
        }
    }

    // ---- what this process wants ---------------------------------------------------------------

    /// Listens from now on; the hub knows it once the call has ended well.
    pub(super) fn listen(&self, topic: Name) -> Result<(Arc<Mutex<Ear>>, Telling), Refusal> {
        let mut desk = self.lock();
        if desk.topics.len() >= SUBSCRIPTIONS_MAX && !desk.topics.contains_key(&topic) {
            return Err(Refusal::Refused(format!("this process listens to {SUBSCRIPTIONS_MAX} topics already")));
        }
        let ear = Arc::new(Mutex::new(Ear::new()));
        desk.topics.entry(topic.clone()).or_default().push(ear.clone());
        let session = desk.session;
        Ok((ear, Telling { session, calling: self.begin(Subscribe { session, topic }) }))
    }

    pub(super) fn stop_listening(self: &Arc<Self>, topic: &Name, ear: &Arc<Mutex<Ear>>) {
        let mut desk = self.lock();
        let Some(ears) = desk.topics.get_mut(topic) else { return };
        ears.retain(|known| !Arc::ptr_eq(known, ear));
        if ears.is_empty() {
            desk.topics.remove(topic);
            self.tell(Unsubscribe { session: desk.session, topic: topic.clone() });
        }
    }

    /// Holds a key from now on, in the place of whoever in this process holds it.
    pub(super) fn hold(&self, key: Name, answer: Answer) -> Result<(Arc<Notify>, Telling), Refusal> {
        let before;
        let mut desk = self.lock();
        if desk.keys.len() >= KEYS_MAX && !desk.keys.contains_key(&key) {
            return Err(Refusal::Refused(format!("this process holds {KEYS_MAX} keys already")));
        }
        let (since_ms, replaced) = (monotonic_ms().max(desk.taken_ms + 1), Arc::new(Notify::new()));
        desk.taken_ms = since_ms;
        let held = Key { answer, since_ms, replaced: replaced.clone() };
        before = desk.keys.insert(key.clone(), held);
        if let Some(before) = &before {
            before.replaced.notify_one();
        }
        let session = desk.session;
        let calling = self.begin(Register { session, held: Since { key, since_ms } });
        Ok((replaced, Telling { session, calling }))
    }

    pub(super) fn let_go(self: &Arc<Self>, key: &Name, replaced: &Arc<Notify>) {
        let _gone;
        let mut desk = self.lock();
        if desk.keys.get(key).is_some_and(|held| Arc::ptr_eq(&held.replaced, replaced)) {
            _gone = desk.keys.remove(key);
            self.tell(Unregister { session: desk.session, key: key.clone() });
        }
    }

    /// Waits until the hub knows what it was told in this session, or in a later one, which begins with it.
    pub(super) async fn confirm(&self, Telling { session, calling }: Telling) -> Called<()> {
        match calling.await {
            Err(error) if is_loss(&error) => {
                // The sender lives in `self`.
                let _ = self.begun.subscribe().wait_for(|begun| *begun > session).await;
                Ok(())
            }
            called => called,
        }
    }

    /// Tells the hub, whoever waits for it.
    fn tell<R: Request<Reply = ()>>(self: &Arc<Self>, request: R)
    where
        Exchange: Answers<R>,
    {
        let (office, telling) = (self.clone(), self.begin(request));
        drop(self.runtime.spawn(async move {
            match telling.await {
                Err(error) if !is_loss(&error) => {
                    log::warn!("the hub was not told: {error}");
                    office.renew.notify_one();
                }
                Ok(()) | Err(_) => {}
            }
        }));
    }

    /// Begins a call: it is on its way, or waits for its turn, before anything is said after it.
    fn begin<R: Request>(&self, request: R) -> Calling<R::Reply>
    where
        Exchange: Answers<R>,
    {
        let client = self.client.clone();
        let mut calling: Calling<R::Reply> = Box::pin(async move { client.call(request).await });
        match calling.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(called) => Box::pin(async { called }),
            Poll::Pending => calling,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Desk {
    fn ears(&self, topic: &Name) -> impl Iterator<Item = &Arc<Mutex<Ear>>> {
        self.topics.get(topic).into_iter().flatten()
    }
}

pub(super) fn lock(ear: &Mutex<Ear>) -> MutexGuard<'_, Ear> {
    ear.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether a session was lost with its connection or its hub: the next one has all that it had.
fn is_loss(error: &CallError<Refusal>) -> bool {
    matches!(error, CallError::OutcomeUnknown | CallError::Failed(Refusal::NotAttached | Refusal::Ending))
}

/// A number that no other session of this server has, and greater than those before it in this process.
fn next_session() -> Session {
    static LAST: AtomicU32 = AtomicU32::new(0);
    let number = LAST.fetch_add(1, Ordering::Relaxed) + 1;
    u64::from(std::process::id()) << 32 | u64::from(number)
}
