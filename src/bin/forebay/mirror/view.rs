//! The copy itself: what an update does to it, and what followers are told of that. Pure.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::OnceLock;

use axum::body::Bytes;
use forebay::Update;
use serde::Serialize;
use serde_json::{Value, json};

use super::Found;
use super::frame::{self, Frame, Position};
use crate::nest::{Fields, Link, NestEvent};

/// How many changes are kept for clients that come back.
const RING_LEN: usize = 256;

/// How far a client may be ahead: another worker has told it what this one will hear in a moment.
const AHEAD_MAX: u64 = 256;

/// What one worker knows.
#[derive(Default)]
pub(super) struct View {
    /// The upstream has told its document, in the life of this helper or of one before it.
    known: bool,
    link: Option<Link>,
    position: Position,
    /// Each as JSON.
    thermostats: BTreeMap<String, Bytes>,
    /// Told by an earlier helper, and not yet by the present one.
    unconfirmed: BTreeSet<String>,
    /// All of them as JSON, made when someone asks.
    list: OnceLock<Bytes>,
    /// The changes since `ring_begin`.
    ring: VecDeque<Frame>,
    ring_begin: u64,
}

/// How a follower begins: what it gets at once, and after which position it goes on.
pub(super) struct Start {
    pub(super) texts: VecDeque<Bytes>,
    pub(super) after: Position,
}

impl View {
    pub(super) fn list(&self) -> Option<Bytes> {
        self.known.then(|| self.list.get_or_init(|| array(self.thermostats.values())).clone())
    }

    pub(super) fn one(&self, id: &str) -> Found<Bytes> {
        match self.thermostats.get(id) {
            _ if !self.known => Found::NotReady,
            Some(json) => Found::Yes(json.clone()),
            None => Found::No,
        }
    }

    pub(super) fn link(&self) -> Option<&Link> {
        self.link.as_ref()
    }

    /// Takes in an update. What it changed is to be told to all followers.
    pub(super) fn apply(&mut self, update: Update<NestEvent>) -> Option<Frame> {
        let events = match update {
            Update::Snapshot { epoch, sequence, events, .. } => self.begin(Position { epoch, sequence }, events),
            Update::Event { sequence, event } => {
                self.position.sequence = sequence;
                self.take(event)
            }
        };
        if events.is_empty() {
            return None;
        }
        let events: Vec<(&str, &[u8])> = events.iter().map(|(name, json)| (*name, &**json)).collect();
        let frame = Frame { position: self.position, text: frame::text(self.position, &events) };
        self.ring.push_back(frame.clone());
        if self.ring.len() > RING_LEN {
            self.ring_begin = self.ring.pop_front().map_or(self.ring_begin, |oldest| oldest.position.sequence);
        }
        Some(frame)
    }

    /// Where a follower begins that has seen everything until `last`.
    pub(super) fn start(&self, last: Option<Position>) -> Start {
        let present = self.position;
        let Some(list) = self.list() else {
            // The snapshot comes when there is one.
            return Start::with([], present);
        };
        match last.filter(|last| last.epoch == present.epoch) {
            Some(last) if (self.ring_begin..=present.sequence).contains(&last.sequence) => {
                let missed = self.ring.iter().filter(|frame| !frame.position.is_until(last));
                Start::with(missed.map(|frame| frame.text.clone()), present)
            }
            Some(last) if last.sequence > present.sequence && last.sequence - present.sequence <= AHEAD_MAX => {
                Start::with([], last)
            }
            Some(_) | None => Start::with(frame::snapshot(present, list), present),
        }
    }

    /// The present is this, whatever was before.
    fn begin(&mut self, position: Position, events: Vec<NestEvent>) -> Vec<(&'static str, Bytes)> {
        self.position = position;
        self.ring.clear();
        self.ring_begin = position.sequence;
        self.list = OnceLock::new();
        let is_known = events.iter().any(|event| matches!(event, NestEvent::Link(link) if link.known));
        if is_known {
            self.thermostats.clear();
            self.unconfirmed.clear();
        } else {
            // A new helper knows nothing yet: until it does, what the last one knew is better.
            self.unconfirmed = self.thermostats.keys().cloned().collect();
        }
        self.known |= is_known;
        let told: Vec<_> = events.into_iter().flat_map(|event| self.take(event)).collect();
        match self.list() {
            Some(list) if is_known => vec![("snapshot", list)],
            Some(_) | None => told,
        }
    }

    /// Takes in one event; returns what followers are told, by name.
    fn take(&mut self, event: NestEvent) -> Vec<(&'static str, Bytes)> {
        let was_known = self.known;
        let told = match event {
            NestEvent::Link(link) => self.turn(link),
            NestEvent::Thermostat { id, fields } => {
                let json = with_id(fields, "device_id", &id);
                self.unconfirmed.remove(&id);
                if self.thermostats.get(&id) == Some(&json) {
                    return Vec::new();
                }
                self.list = OnceLock::new();
                self.thermostats.insert(id, json.clone());
                vec![("thermostat", json)]
            }
            NestEvent::ThermostatRemoved { id } => {
                self.unconfirmed.remove(&id);
                self.list = OnceLock::new();
                self.thermostats.remove(&id).map(|_| removed(&id)).into_iter().collect()
            }
            NestEvent::Structure { id, fields } => vec![("structure", with_id(fields, "structure_id", &id))],
            NestEvent::StructureRemoved { id } => vec![("structure_removed", line(&json!({"structure_id": id})))],
        };
        // Before the first snapshot nobody could make sense of a change.
        if was_known || self.known { told } else { Vec::new() }
    }

    fn turn(&mut self, link: Link) -> Vec<(&'static str, Bytes)> {
        let mut told = Vec::new();
        if link.known {
            for id in std::mem::take(&mut self.unconfirmed) {
                self.list = OnceLock::new();
                self.thermostats.remove(&id);
                told.push(removed(&id));
            }
            if !self.known {
                self.known = true;
                // Who follows already gets its beginning now.
                told = self.list().map(|list| ("snapshot", list)).into_iter().collect();
            }
        }
        told.push(("upstream", line(&link)));
        self.link = Some(link);
        told
    }
}

fn removed(id: &str) -> (&'static str, Bytes) {
    ("thermostat_removed", line(&json!({"device_id": id})))
}

/// The fields as JSON, with the id among them in any case.
fn with_id(mut fields: Fields, name: &str, id: &str) -> Bytes {
    fields.entry(name).or_insert_with(|| Value::from(id));
    line(&fields)
}

/// JSON in one line.
fn line(value: &impl Serialize) -> Bytes {
    // Nothing of ours has keys that JSON does not take.
    serde_json::to_vec(value).unwrap_or_default().into()
}

fn array<'a>(items: impl Iterator<Item = &'a Bytes>) -> Bytes {
    let mut array = vec![b'['];
    for (at, item) in items.enumerate() {
        if at > 0 {
            array.push(b',');
        }
        array.extend_from_slice(item);
    }
    array.push(b']');
    array.into()
}
