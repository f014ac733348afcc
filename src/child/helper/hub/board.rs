//! Who listens to what, who holds which key, and what each session has still to be told: pure
//! state, without I/O and without a clock.
//!
//! What is returned says whom to wake: a session that had nothing to take before, or who asked.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::wire::{
    Attach, Batch, Bytes, Item, KEYS_MAX, KeyLine, Listing, Name, Outcome, Refusal, SUBSCRIPTIONS_MAX, Session,
    SessionLine, Since, TopicLine,
};

/// Sessions at once: two for each process of the largest server, while a reload has all of them twice.
const SESSIONS_MAX: usize = 1024;

/// Messages that one session has not taken.
const MESSAGES_MAX: usize = 4096;

/// Bytes of them.
const QUEUE_LEN_MAX: usize = 8 * 1024 * 1024;

/// Requests that one session has not answered, taken or not.
const ASKED_MAX: usize = 1024;

/// Bytes of those that it has not taken.
const ASKED_LEN_MAX: usize = 8 * 1024 * 1024;

/// Items and bytes of one batch; one item it always has.
const BATCH_MAX: usize = 1024;
const BATCH_LEN_MAX: usize = 1024 * 1024;

/// What is listed of each kind for people.
const LISTED_MAX: usize = 1000;

/// What an item costs beside its payload, in bytes.
const OVERHEAD: usize = 64;

/// A request to whoever holds a key.
pub(super) type AskId = u64;

#[derive(Debug, Default)]
pub(super) struct Board {
    sessions: BTreeMap<Session, Seat>,
    /// Who listens to a topic.
    topics: BTreeMap<Name, BTreeSet<Session>>,
    keys: BTreeMap<Name, Holder>,
    asked: BTreeMap<AskId, Asked>,
    last_ask: AskId,
    published: u64,
    missed: u64,
}

/// What is kept for one session.
#[derive(Debug, Default)]
struct Seat {
    caller: String,
    /// To what it listens, and how many messages of that it has missed and was not told.
    topics: BTreeMap<Name, u64>,
    keys: BTreeSet<Name>,
    messages: VecDeque<(Name, Bytes)>,
    messages_len: usize,
    /// What is never dropped: it comes before the messages.
    errands: VecDeque<Item>,
    /// Requests that it has not taken, and their bytes.
    asked_len: usize,
    /// Requests that it has not answered.
    asked: usize,
}

#[derive(Debug)]
struct Holder {
    session: Session,
    since_ms: u64,
}

#[derive(Debug)]
struct Asked {
    holder: Session,
    is_taken: bool,
}

impl Board {
    /// A session begins, with what it had in an earlier process of the hub. Returns whom to wake.
    pub(super) fn attach(&mut self, attach: Attach) -> Result<Vec<Session>, Refusal> {
        let Attach { session, caller, topics, keys } = attach;
        if self.sessions.contains_key(&session) {
            return Err(Refusal::Refused(format!("the session {session} is attached already")));
        }
        if self.sessions.len() >= SESSIONS_MAX {
            return Err(Refusal::Refused(format!("there are {SESSIONS_MAX} sessions already")));
        }
        let errands = VecDeque::from([Item::Begun]);
        self.sessions.insert(session, Seat { caller, errands, ..Seat::default() });
        let mut woken = Vec::new();
        let begin = || {
            topics.into_iter().try_for_each(|topic| self.subscribe(session, topic))?;
            for held in keys {
                woken.extend(self.register(session, held)?);
            }
            Ok(())
        };
        match begin() {
            Ok(()) => Ok(woken),
            Err(refusal) => {
                self.leave(session);
                Err(refusal)
            }
        }
    }

    /// A session ends; what it was asked has these outcomes.
    pub(super) fn leave(&mut self, session: Session) -> Vec<(AskId, Outcome)> {
        let Some(seat) = self.sessions.remove(&session) else { return Vec::new() };
        seat.topics.keys().for_each(|topic| self.forget(session, topic));
        self.keys.retain(|_, holder| holder.session != session);
        let asked = self.asked.extract_if(.., |_, asked| asked.holder == session);
        let outcome = |asked: Asked| if asked.is_taken { Refusal::OutcomeUnknown } else { Refusal::NobodyThere };
        asked.map(|(id, asked)| (id, Err(outcome(asked)))).collect()
    }

    /// All of them end.
    pub(super) fn sessions(&self) -> Vec<Session> {
        self.sessions.keys().copied().collect()
    }

    pub(super) fn subscribe(&mut self, session: Session, topic: Name) -> Result<(), Refusal> {
        topic.check()?;
        let seat = self.sessions.get_mut(&session).ok_or(Refusal::NotAttached)?;
        if seat.topics.len() >= SUBSCRIPTIONS_MAX && !seat.topics.contains_key(&topic) {
            return Err(Refusal::Refused(format!("{SUBSCRIPTIONS_MAX} topics are listened to already")));
        }
        seat.topics.entry(topic.clone()).or_insert(0);
        self.topics.entry(topic).or_default().insert(session);
        Ok(())
    }

    pub(super) fn unsubscribe(&mut self, session: Session, topic: &Name) -> Result<(), Refusal> {
        let seat = self.sessions.get_mut(&session).ok_or(Refusal::NotAttached)?;
        seat.topics.remove(topic);
        self.forget(session, topic);
        Ok(())
    }

    fn forget(&mut self, session: Session, topic: &Name) {
        let Some(listening) = self.topics.get_mut(topic) else { return };
        listening.remove(&session);
        if listening.is_empty() {
            self.topics.remove(topic);
        }
    }

    /// Whoever has registered a key last holds it, in whatever order it is told. Returns who is to be
    /// woken: to be told that it holds the key no longer.
    pub(super) fn register(&mut self, session: Session, held: Since) -> Result<Option<Session>, Refusal> {
        held.key.check()?;
        let seat = self.sessions.get_mut(&session).ok_or(Refusal::NotAttached)?;
        let untold = seat.errands.iter().filter(|item| matches!(item, Item::Replaced(_))).count();
        if seat.keys.len() + untold >= KEYS_MAX && !seat.keys.contains(&held.key) {
            return Err(Refusal::Refused(format!("{KEYS_MAX} keys are held already")));
        }
        let Since { key, since_ms } = held;
        match self.keys.get_mut(&key) {
            Some(holder) if holder.session == session => {
                holder.since_ms = holder.since_ms.max(since_ms);
                Ok(None)
            }
            Some(holder) if holder.since_ms > since_ms => {
                Ok(seat.tell(Item::Replaced(Since { key, since_ms })).then_some(session))
            }
            _ => {
                seat.keys.insert(key.clone());
                let before = self.keys.insert(key.clone(), Holder { session, since_ms });
                Ok(before.and_then(|before| self.replaced(before, key)))
            }
        }
    }

    fn replaced(&mut self, before: Holder, key: Name) -> Option<Session> {
        let seat = self.sessions.get_mut(&before.session)?;
        seat.keys.remove(&key);
        seat.tell(Item::Replaced(Since { key, since_ms: before.since_ms })).then_some(before.session)
    }

    pub(super) fn unregister(&mut self, session: Session, key: &Name) -> Result<(), Refusal> {
        let seat = self.sessions.get_mut(&session).ok_or(Refusal::NotAttached)?;
        // Another one's otherwise.
        if seat.keys.remove(key) {
            self.keys.remove(key);
        }
        Ok(())
    }

    /// Returns whom to wake.
    pub(super) fn publish(&mut self, topic: &Name, message: &Bytes) -> Result<Vec<Session>, Refusal> {
        topic.check().and_then(|()| message.check())?;
        self.published += 1;
        let mut woken = Vec::new();
        for &session in self.topics.get(topic).into_iter().flatten() {
            let Some(seat) = self.sessions.get_mut(&session) else { continue };
            if seat.is_empty() {
                woken.push(session);
            }
            self.missed += seat.push(topic, message);
        }
        Ok(woken)
    }

    /// Asks the holder of a key. Returns the request's id, and whom to wake.
    pub(super) fn ask(&mut self, key: Name, ask: Bytes) -> Result<(AskId, Option<Session>), Refusal> {
        key.check().and_then(|()| ask.check())?;
        let holder = self.keys.get(&key).ok_or(Refusal::NobodyThere)?.session;
        let seat = self.sessions.get_mut(&holder).ok_or(Refusal::NobodyThere)?;
        let len = ask.0.len() + OVERHEAD;
        if seat.asked >= ASKED_MAX || seat.asked_len + len > ASKED_LEN_MAX {
            return Err(Refusal::Overloaded);
        }
        self.last_ask += 1;
        let id = self.last_ask;
        self.asked.insert(id, Asked { holder, is_taken: false });
        seat.asked += 1;
        seat.asked_len += len;
        Ok((id, seat.tell(Item::Asked { id, key, ask }).then_some(holder)))
    }

    /// The holder's answer. True: whoever asked waits for it.
    pub(super) fn answered(&mut self, session: Session, id: AskId) -> bool {
        let is_its = self.asked.get(&id).is_some_and(|asked| asked.holder == session && asked.is_taken);
        if is_its {
            self.close(id);
        }
        is_its
    }

    /// Nobody waits for the answer any more. One that the holder has taken runs there to its end, and counts
    /// until then.
    pub(super) fn withdraw(&mut self, id: AskId) {
        if self.asked.get(&id).is_some_and(|asked| !asked.is_taken) {
            self.close(id);
        }
    }

    fn close(&mut self, id: AskId) {
        let Some(Asked { holder, is_taken }) = self.asked.remove(&id) else { return };
        let Some(seat) = self.sessions.get_mut(&holder) else { return };
        seat.asked -= 1;
        let is_it = |item: &Item| matches!(item, Item::Asked { id: known, .. } if *known == id);
        if !is_taken
            && let Some(at) = seat.errands.iter().position(is_it)
            && let Some(Item::Asked { ask, .. }) = seat.errands.remove(at)
        {
            seat.asked_len -= ask.0.len() + OVERHEAD;
        }
    }

    /// What there is to tell a session; `None`: nothing yet.
    pub(super) fn take(&mut self, session: Session) -> Result<Option<Batch>, Refusal> {
        let seat = self.sessions.get_mut(&session).ok_or(Refusal::NotAttached)?;
        if seat.is_empty() {
            return Ok(None);
        }
        let items = seat.take();
        for item in &items {
            if let Item::Asked { id, .. } = item
                && let Some(asked) = self.asked.get_mut(id)
            {
                asked.is_taken = true;
            }
        }
        Ok(Some(Batch { items }))
    }

    pub(super) fn list(&self) -> Listing {
        let sessions = self.sessions.values().map(|seat| SessionLine {
            caller: seat.caller.clone(),
            topics: seat.topics.len(),
            keys: seat.keys.len(),
            messages: seat.messages.len(),
            bytes: seat.messages_len,
        });
        let topics = self.topics.iter().map(|(Name { of, key }, sessions)| TopicLine {
            topic: of.clone(),
            key: key.clone(),
            sessions: sessions.len(),
        });
        let caller = |session| self.sessions.get(session).map(|seat| seat.caller.clone()).unwrap_or_default();
        let keys = self.keys.iter().map(|(Name { of, key }, holder)| KeyLine {
            question: of.clone(),
            key: key.clone(),
            holder: caller(&holder.session),
        });
        Listing {
            sessions: sessions.take(LISTED_MAX).collect(),
            topics: topics.take(LISTED_MAX).collect(),
            keys: keys.take(LISTED_MAX).collect(),
            asked: self.asked.len(),
            published: self.published,
            missed: self.missed,
        }
    }
}

impl Seat {
    fn is_empty(&self) -> bool {
        self.errands.is_empty() && self.messages.is_empty()
    }

    /// True: it had nothing to take before.
    fn tell(&mut self, errand: Item) -> bool {
        let was_empty = self.is_empty();
        self.errands.push_back(errand);
        was_empty
    }

    /// Returns how many older ones were dropped for it.
    fn push(&mut self, topic: &Name, message: &Bytes) -> u64 {
        self.messages.push_back((topic.clone(), message.clone()));
        self.messages_len += len(topic, message);
        let mut dropped = 0;
        while self.messages.len() > MESSAGES_MAX || self.messages_len > QUEUE_LEN_MAX {
            let Some((topic, message)) = self.messages.pop_front() else { break };
            self.messages_len -= len(&topic, &message);
            // It may have ended its subscription meanwhile.
            if let Some(missed) = self.topics.get_mut(&topic) {
                *missed += 1;
                dropped += 1;
            }
        }
        dropped
    }

    fn take(&mut self) -> Vec<Item> {
        let (mut items, mut taken) = (Vec::new(), 0);
        while items.len() < BATCH_MAX && taken < BATCH_LEN_MAX {
            let Some(errand) = self.errands.pop_front() else { break };
            if let Item::Asked { ask, .. } = &errand {
                taken += ask.0.len() + OVERHEAD;
                self.asked_len -= ask.0.len() + OVERHEAD;
            }
            items.push(errand);
        }
        // What was dropped is older than all that lies here.
        for (topic, missed) in self.topics.iter_mut().filter(|(_, missed)| **missed > 0) {
            items.push(Item::Missed { topic: topic.clone(), count: std::mem::take(missed) });
        }
        while items.len() < BATCH_MAX && taken < BATCH_LEN_MAX {
            let Some((topic, message)) = self.messages.pop_front() else { break };
            taken += len(&topic, &message);
            self.messages_len -= len(&topic, &message);
            items.push(Item::Message { topic, message });
        }
        items
    }
}

fn len(topic: &Name, message: &Bytes) -> usize {
    message.0.len() + topic.of.len() + topic.key.len() + OVERHEAD
}

#[cfg(test)]
mod tests;
