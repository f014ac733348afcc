//! All state of the simulator, and the only place where it changes: the world, the faults, the counts and
//! the open streams.
//!
//! Everything runs on one thread; no borrow is held while something is awaited.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Map, Value, json};
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use super::acts;
use super::changes::{self, Event};
use super::connection::Link;
use super::counts::{self, Counts, Request};
use super::faults::{Act, Ending, Fault, Faults, On, RedirectTo, Refuse};
use super::refusal::Refusal;
use super::stream::{EventStream, Frames, ORDERS_MAX, Order, Piece};
use super::world::{self, World};
use super::{Port, Ports};

const STREAMS_MAX: usize = 4096;

pub(super) struct Service {
    state: RefCell<State>,
    keep_alive_changed: Notify,
    /// Shared with every stream, so that it holds in the middle of an event.
    drip: Rc<Cell<Option<Duration>>>,
    ports: Ports,
    bad_tokens: BTreeSet<String>,
    started: Instant,
}

struct State {
    world: World,
    /// The document as the streams know it.
    told: Value,
    faults: Faults,
    counts: Counts,
    streams: BTreeMap<u64, Open>,
    last_stream: u64,
}

struct Open {
    path: Vec<String>,
    token: String,
    orders: mpsc::Sender<Order>,
    link: Rc<Link>,
}

/// Counts a stream down the moment its body is dropped, which is when its connection is gone.
struct Guard {
    service: Rc<Service>,
    stream: u64,
}

impl Drop for Guard {
    fn drop(&mut self) {
        let mut state = self.service.state.borrow_mut();
        if let Some(open) = state.streams.remove(&self.stream) {
            state.counts.stream_gone(&open.token);
        }
    }
}

impl Service {
    pub(super) fn new(world: World, keep_alive: Option<Duration>, ports: Ports, bad_tokens: BTreeSet<String>) -> Self {
        let state = State {
            told: world.document(),
            world,
            faults: Faults::new(keep_alive),
            counts: Counts::default(),
            streams: BTreeMap::new(),
            last_stream: 0,
        };
        Self {
            state: RefCell::new(state),
            keep_alive_changed: Notify::new(),
            drip: Rc::default(),
            ports,
            bad_tokens,
            started: Instant::now(),
        }
    }

    /// The port that callers of this one are sent to, if they are.
    pub(super) fn redirect(&self, port: Port) -> Option<u16> {
        match (port, self.state.borrow().faults.redirect) {
            (Port::Second, _) | (Port::Front, RedirectTo::Off) => None,
            (Port::Front, RedirectTo::Second) => Some(self.ports.second),
            (Port::Front, RedirectTo::Loop) => Some(self.ports.front),
            (Port::Front, RedirectTo::Dead) => Some(self.ports.dead),
        }
    }

    pub(super) fn check_token(&self, token: &str) -> Result<(), Refusal> {
        let state = self.state.borrow();
        let bad = state.faults.unauthorized || self.bad_tokens.contains(token) || state.faults.is_revoked(token);
        if bad { Err(Refusal::Unauthorized) } else { Ok(()) }
    }

    pub(super) fn take_write_refusal(&self) -> Option<Refuse> {
        self.state.borrow_mut().faults.take_write_refusal()
    }

    pub(super) fn take_stream_refusal(&self) -> Option<Refuse> {
        self.state.borrow_mut().faults.take_stream_refusal()
    }

    /// Whether a connection that was just accepted is served.
    pub(super) fn admit(&self, port: Port) -> bool {
        let mut state = self.state.borrow_mut();
        state.counts.connected();
        let refused = state.faults.take_connection_refusal(port);
        if refused {
            state.counts.refused_connection();
        }
        !refused
    }

    pub(super) fn read(&self, path: &[&str]) -> Result<Value, Refusal> {
        world::at(&self.state.borrow().told, path).cloned().ok_or(Refusal::NotFound)
    }

    pub(super) fn write(&self, path: &[&str], body: &Value) -> Result<(), Refusal> {
        let mut state = self.state.borrow_mut();
        let result = state.world.write(path, body, Timestamp::now());
        state.tell();
        result
    }

    pub(super) fn open_stream(self: &Rc<Self>, path: &[&str], token: &str, link: Rc<Link>) -> Result<Frames, Refusal> {
        let mut state = self.state.borrow_mut();
        if state.streams.len() >= STREAMS_MAX {
            return Err(Refusal::Unavailable("too many streams"));
        }
        if world::at(&state.told, path).is_none() {
            return Err(Refusal::NotFound);
        }
        let snapshot = Event::snapshot(state.faults.form, path, &state.told);
        let mut first = acts::opening(&snapshot, &state.faults.framing);
        for act in state.faults.take_acts() {
            first.extend(acts::order(act, &snapshot, &state.faults.framing).pieces);
            if act == Act::AuthRevoked {
                state.faults.revoke(token);
            }
        }
        let (orders, receiver) = mpsc::channel(ORDERS_MAX);
        let open =
            Open { path: path.iter().map(|part| part.to_string()).collect(), token: token.to_owned(), orders, link };
        let link = open.link.clone();
        state.last_stream += 1;
        let guard = Guard { service: self.clone(), stream: state.last_stream };
        state.counts.stream_opened(token);
        state.streams.insert(guard.stream, open);
        Ok(EventStream::new(receiver, first, self.drip.clone(), link, guard).into_frames())
    }

    /// How many open streams the fault touched.
    pub(super) fn apply(&self, fault: Fault) -> Result<usize, Refusal> {
        let mut state = self.state.borrow_mut();
        if let Fault::Wall { thermostat, fields, ambient_temperature_c } = &fault {
            return state.turn(thermostat.as_deref(), fields, *ambient_temperature_c);
        }
        match fault.act() {
            Some((act, On::Open)) => return Ok(state.act(act)),
            Some((act, On::Next)) => return state.faults.await_stream(act).map(|()| 0),
            None => {}
        }
        let keep_alive = state.faults.keep_alive;
        state.faults.hold(fault)?;
        self.drip.set(state.faults.framing.drip());
        if state.faults.keep_alive != keep_alive {
            self.keep_alive_changed.notify_one();
        }
        Ok(state.streams.len())
    }

    pub(super) fn keep_alive(&self) -> Option<Duration> {
        self.state.borrow().faults.keep_alive
    }

    pub(super) async fn keep_alive_changed(&self) {
        self.keep_alive_changed.notified().await;
    }

    pub(super) fn send_keep_alive(&self) {
        let state = &mut *self.state.borrow_mut();
        let bytes = state.faults.framing.encode(&Event { name: "keep-alive", data: Value::Null });
        for open in state.streams.values() {
            open.send(&mut state.counts, vec![Piece::Bytes(bytes.clone())]);
        }
    }

    pub(super) fn change_at_the_wall(&self) {
        let mut state = self.state.borrow_mut();
        state.world.change_at_the_wall(Timestamp::now());
        state.tell();
    }

    /// Time goes on.
    pub(super) fn advance(&self) {
        let mut state = self.state.borrow_mut();
        state.world.advance(Timestamp::now());
        state.tell();
    }

    pub(super) fn answered(&self, request: Request) {
        self.state.borrow_mut().counts.answered(request);
    }

    /// Milliseconds since the start.
    pub(super) fn elapsed_ms(&self) -> u64 {
        counts::milliseconds(self.started.elapsed())
    }

    pub(super) fn report(&self) -> Value {
        json!(self.state.borrow().counts)
    }
}

impl State {
    /// Tells every stream what has changed since it was last told.
    fn tell(&mut self) {
        let new = self.world.document();
        if new == self.told {
            return;
        }
        let old = std::mem::replace(&mut self.told, new);
        // Streams at the same path get the same bytes; there are few paths and many streams.
        let mut told: BTreeMap<&[String], Vec<Piece>> = BTreeMap::new();
        for open in self.streams.values() {
            let pieces = told.entry(&open.path).or_insert_with(|| {
                let events = changes::events(self.faults.form, &open.parts(), &old, &self.told);
                events.iter().map(|event| Piece::Bytes(self.faults.framing.encode(event))).collect()
            });
            if !pieces.is_empty() {
                open.send(&mut self.counts, pieces.clone());
            }
        }
    }

    fn act(&mut self, act: Act) -> usize {
        for open in self.streams.values() {
            // These do not wait until the client reads.
            if let Act::End(ending @ (Ending::Fin | Ending::Reset)) = act {
                open.link.end(ending);
                continue;
            }
            if act == Act::AuthRevoked {
                self.faults.revoke(&open.token);
            }
            let snapshot = Event::snapshot(self.faults.form, &open.parts(), &self.told);
            open.order(&mut self.counts, acts::order(act, &snapshot, &self.faults.framing));
        }
        self.streams.len()
    }

    fn turn(
        &mut self,
        thermostat: Option<&str>,
        fields: &Map<String, Value>,
        ambient_celsius: Option<f64>,
    ) -> Result<usize, Refusal> {
        let now = Timestamp::now();
        if thermostat.is_none() && fields.is_empty() && ambient_celsius.is_none() {
            self.world.change_at_the_wall(now);
        } else {
            self.world.turn(thermostat, fields, ambient_celsius, now)?;
        }
        self.tell();
        Ok(self.streams.len())
    }
}

impl Open {
    fn parts(&self) -> Vec<&str> {
        self.path.iter().map(String::as_str).collect()
    }

    fn send(&self, counts: &mut Counts, pieces: Vec<Piece>) {
        self.order(counts, Order { pieces, at_once: false });
    }

    /// A client that does not read is cut off: it sees an end, never a gap, and the snapshot of its next
    /// stream makes up for what it missed.
    fn order(&self, counts: &mut Counts, order: Order) {
        if self.orders.try_send(order).is_err() && self.link.end(Ending::Fin) {
            counts.cut_off();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_bounded_and_counted_down() {
        let ports = Ports { front: 1, second: 2, dead: 3 };
        let world = World::new(1, 1, Timestamp::UNIX_EPOCH);
        let service = Rc::new(service(world, ports));
        let mut streams: Vec<Frames> = (0..STREAMS_MAX).map(|_| open(&service).expect("room")).collect();
        assert_eq!(open(&service).err(), Some(Refusal::Unavailable("too many streams")));
        streams.pop();
        streams.push(open(&service).expect("room again"));
        assert_eq!(service.report()["streams_open"], STREAMS_MAX);
        drop(streams);
        let report = service.report();
        assert_eq!((&report["streams_open"], &report["streams_total"]), (&json!(0), &json!(STREAMS_MAX + 1)));
    }

    #[test]
    fn clear_takes_everything_back() {
        let service = service(World::new(1, 1, Timestamp::UNIX_EPOCH), Ports { front: 1, second: 2, dead: 3 });
        for fault in [
            r#"{"fault":"redirect","to":"loop"}"#,
            r#"{"fault":"unauthorized","on":true}"#,
            r#"{"fault":"keep_alive","seconds":1}"#,
            r#"{"fault":"framing","drip_ms":1}"#,
            r#"{"fault":"refuse_connections","port":"front"}"#,
            r#"{"fault":"clear"}"#,
        ] {
            let fault = Fault::parse(fault.as_bytes()).expect("a fault");
            assert_eq!(service.apply(fault), Ok(0));
        }
        assert_eq!(service.redirect(Port::Front), Some(2));
        assert_eq!(service.check_token("c.one"), Ok(()));
        assert_eq!(service.keep_alive(), None);
        assert_eq!(service.drip.get(), None);
        assert!(service.admit(Port::Front));
    }

    fn service(world: World, ports: Ports) -> Service {
        Service::new(world, None, ports, BTreeSet::new())
    }

    fn open(service: &Rc<Service>) -> Result<Frames, Refusal> {
        service.open_stream(&["devices"], "c.one", Rc::default())
    }
}
