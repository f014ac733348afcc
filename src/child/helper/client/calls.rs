//! What a client's process has asked and not yet been told: pure state, no I/O and no clock.
//!
//! A place is used again only when its caller is gone and nothing of it is on the wire. Its id
//! then differs, so a reply can reach no other request.

use std::collections::VecDeque;
use std::task::Waker;

/// The most calls at once; the low bits of an id are its place among them.
const PLACES_MAX: usize = 1 << PLACE_BITS;
const PLACE_BITS: u32 = 12;

/// The most requests that wait to be sent.
pub(super) const WAITING_MAX: usize = 1024;

/// The most bytes of requests that wait; only requests longer than `LONG` are held against it.
const WAITING_LEN_MAX: usize = 64 * 1024 * 1024;
const LONG: usize = WAITING_LEN_MAX / WAITING_MAX;

/// How a call ended, before it is decoded.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Result(Vec<u8>),
    Error(Vec<u8>),
    /// The connection ended after it was sent.
    Lost,
    /// Its deadline passed.
    Late,
    /// It has more bytes than the helper reads.
    TooLong,
}

#[derive(Debug, Default)]
pub(super) struct Calls {
    places: Vec<Call>,
    free: Vec<usize>,
    /// Ids of requests that are not sent, the oldest first.
    waiting: VecDeque<u32>,
    on_the_wire: usize,
}

#[derive(Debug)]
struct Call {
    id: u32,
    has_caller: bool,
    on_the_wire: bool,
    is_idempotent: bool,
    deadline_ms: u64,
    /// The request, while it may have to be sent, or sent again.
    frame: Vec<u8>,
    outcome: Option<Outcome>,
    waker: Option<Waker>,
}

impl Calls {
    /// A new call; `None`: there are too many.
    pub(super) fn begin(&mut self, is_idempotent: bool, deadline_ms: u64) -> Option<u32> {
        let place = match self.free.pop() {
            Some(place) => place,
            None if self.places.len() < PLACES_MAX => {
                let id = u32::try_from(self.places.len()).ok()?;
                let (frame, outcome, waker) = (Vec::new(), None, None);
                let (has_caller, on_the_wire) = (false, false);
                let call = Call { id, has_caller, on_the_wire, is_idempotent, deadline_ms, frame, outcome, waker };
                self.places.push(call);
                self.places.len() - 1
            }
            None => return None,
        };
        let call = &mut self.places[place];
        call.id = call.id.wrapping_add(1 << PLACE_BITS);
        (call.has_caller, call.is_idempotent, call.deadline_ms) = (true, is_idempotent, deadline_ms);
        Some(call.id)
    }

    /// It was written to the connection.
    pub(super) fn sent(&mut self, id: u32) {
        let Some(call) = self.get(id) else { return };
        call.on_the_wire = true;
        self.on_the_wire += 1;
    }

    /// It was written to the connection; should that be lost, it is sent again.
    pub(super) fn sent_with_copy(&mut self, id: u32, frame: Vec<u8>) {
        self.sent(id);
        if let Some(call) = self.get(id) {
            call.frame = frame;
        }
    }

    /// It waits to be sent; false: too many do.
    pub(super) fn wait(&mut self, id: u32, frame: Vec<u8>) -> bool {
        if self.waiting.len() >= WAITING_MAX {
            let places = &self.places;
            self.waiting.retain(|&id| places[place(id)].waits(id));
        }
        let is_too_much = |calls: &Self| {
            let lying: usize = calls.waiting.iter().map(|&id| calls.places[place(id)].frame.len()).sum();
            lying + frame.len() > WAITING_LEN_MAX
        };
        if self.waiting.len() >= WAITING_MAX || (frame.len() > LONG && is_too_much(self)) {
            return false;
        }
        if let Some(call) = self.get(id) {
            call.frame = frame;
            self.waiting.push_back(id);
        }
        true
    }

    /// How many requests are sent and unanswered.
    pub(super) fn on_the_wire(&self) -> usize {
        self.on_the_wire
    }

    /// The earliest deadline of those who wait.
    pub(super) fn next_deadline_ms(&self) -> Option<u64> {
        self.places.iter().filter(|call| call.is_awaited()).map(|call| call.deadline_ms).min()
    }

    /// Whether requests wait to be sent.
    pub(super) fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Sends the oldest that waits.
    pub(super) fn send_next(&mut self, frame_len_max: usize, out: &mut Vec<u8>) {
        let Some(id) = self.waiting.pop_front() else { return };
        // Whoever asked may have gone meanwhile, or it is too late.
        let Some(call) = self.get(id).filter(|call| call.waits(id)) else { return };
        if call.frame.len() > frame_len_max {
            return call.finish(Outcome::TooLong);
        }
        out.extend_from_slice(&call.frame);
        if !call.is_idempotent {
            call.frame = Vec::new();
        }
        self.sent(id);
    }

    /// The answer came. False: nobody asked this.
    pub(super) fn answered(&mut self, id: u32, outcome: Outcome) -> bool {
        let Some(call) = self.get(id).filter(|call| call.on_the_wire) else { return false };
        call.on_the_wire = false;
        call.finish(outcome);
        self.on_the_wire -= 1;
        self.free_if_done(id);
        true
    }

    /// The outcome, or who is to be woken with it.
    pub(super) fn poll(&mut self, id: u32, waker: &Waker) -> Option<Outcome> {
        let call = self.get(id)?;
        if let Some(outcome) = call.outcome.take() {
            call.has_caller = false;
            self.free_if_done(id);
            return Some(outcome);
        }
        match &mut call.waker {
            Some(known) => known.clone_from(waker),
            None => call.waker = Some(waker.clone()),
        }
        None
    }

    /// Its caller is gone. True: it is on the wire, and should be cancelled.
    pub(super) fn leave(&mut self, id: u32) -> bool {
        let Some(call) = self.get(id) else { return false };
        let is_open = call.on_the_wire && call.outcome.is_none() && call.has_caller;
        call.has_caller = false;
        call.outcome = None;
        self.free_if_done(id);
        is_open
    }

    /// Ends what is late; returns what is to be cancelled.
    pub(super) fn sweep(&mut self, now_ms: u64) -> Vec<u32> {
        let is_late = |call: &&mut Call| call.is_awaited() && call.deadline_ms <= now_ms;
        let mut late = Vec::new();
        for call in self.places.iter_mut().filter(is_late) {
            call.finish(Outcome::Late);
            call.is_idempotent = false;
            late.push((call.id, call.on_the_wire));
        }
        late.into_iter().filter_map(|(id, on_the_wire)| on_the_wire.then_some(id)).collect()
    }

    /// The connection is gone: what may be sent again waits for the next one, before all others.
    pub(super) fn lost(&mut self) {
        let mut again = Vec::new();
        for place in 0..self.places.len() {
            let call = &mut self.places[place];
            if !std::mem::replace(&mut call.on_the_wire, false) {
                continue;
            }
            let id = call.id;
            if call.has_caller && call.is_idempotent && call.outcome.is_none() {
                again.push((call.deadline_ms, id));
            } else if call.outcome.is_none() {
                call.finish(Outcome::Lost);
            }
            self.free_if_done(id);
        }
        self.on_the_wire = 0;
        // Deadlines tell the order of most of them, which is all that is asked of it.
        again.sort_unstable_by(|one, other| other.cmp(one));
        again.into_iter().for_each(|(_, id)| self.waiting.push_front(id));
    }

    fn get(&mut self, id: u32) -> Option<&mut Call> {
        self.places.get_mut(place(id)).filter(|call| call.id == id)
    }

    fn free_if_done(&mut self, id: u32) {
        let Some(call) = self.get(id) else { return };
        if !call.has_caller && !call.on_the_wire {
            call.frame = Vec::new();
            call.waker = None;
            call.outcome = None;
            // Before the next call here gets one: an id that is answered twice is nobody's.
            call.id = call.id.wrapping_add(1 << PLACE_BITS);
            self.free.push(place(id));
        }
    }
}

impl Call {
    fn is_awaited(&self) -> bool {
        self.has_caller && self.outcome.is_none()
    }

    fn waits(&self, id: u32) -> bool {
        self.id == id && self.has_caller && self.outcome.is_none() && !self.on_the_wire
    }

    fn finish(&mut self, outcome: Outcome) {
        if self.has_caller && self.outcome.is_none() {
            self.outcome = Some(outcome);
            if let Some(waker) = &self.waker {
                waker.wake_by_ref();
            }
        }
    }
}

fn place(id: u32) -> usize {
    id as usize & (PLACES_MAX - 1)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use proptest::prelude::*;

    use super::*;

    #[derive(Default)]
    struct Bell(AtomicUsize);

    impl Wake for Bell {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn result(byte: u8) -> Outcome {
        Outcome::Result(vec![byte])
    }

    #[test]
    fn an_answer_wakes_its_caller_and_nobody_else() {
        let (bell, other) = (Arc::new(Bell::default()), Arc::new(Bell::default()));
        let mut calls = Calls::default();
        let ids = [calls.begin(false, 9).expect("room"), calls.begin(false, 9).expect("room")];
        ids.iter().for_each(|&id| calls.sent(id));
        assert_eq!(calls.poll(ids[0], &bell.clone().into()), None);
        assert_eq!(calls.poll(ids[1], &other.clone().into()), None);
        assert!(calls.answered(ids[0], result(1)));
        assert_eq!((bell.0.load(Ordering::Relaxed), other.0.load(Ordering::Relaxed)), (1, 0));
        assert_eq!(calls.poll(ids[0], Waker::noop()), Some(result(1)));
    }

    #[test]
    fn a_late_answer_reaches_nobody() {
        let mut calls = Calls::default();
        let first = calls.begin(false, 9).expect("room");
        calls.sent(first);
        assert!(calls.leave(first), "it is on the wire: cancel it");
        let second = calls.begin(false, 9).expect("room");
        calls.sent(second);
        assert_ne!(place(first), place(second), "its place is taken until it is answered");
        assert!(calls.answered(first, result(1)));
        let third = calls.begin(false, 9).expect("room");
        assert_eq!((place(first), first == third), (place(third), false));
        assert!(!calls.answered(first, result(1)), "answered twice");
        calls.sent(third);
        assert!(!calls.answered(first, result(1)));
        assert_eq!(calls.poll(third, Waker::noop()), None);
    }

    #[test]
    fn a_lost_connection_ends_what_may_not_be_done_twice() {
        let mut calls = Calls::default();
        let once = calls.begin(false, 5).expect("room");
        calls.sent(once);
        let again: Vec<u32> = (1..4).map(|deadline| calls.begin(true, deadline).expect("room")).collect();
        for (byte, &id) in (1..).zip(&again) {
            calls.sent_with_copy(id, vec![byte]);
        }
        let waiting = calls.begin(false, 9).expect("room");
        assert!(calls.wait(waiting, vec![9]));
        calls.lost();
        assert_eq!(calls.poll(once, Waker::noop()), Some(Outcome::Lost));
        let mut out = Vec::new();
        (0..5).for_each(|_| calls.send_next(9, &mut out));
        assert_eq!(out, [1, 2, 3, 9], "in their order, before what came later");
    }

    #[test]
    fn what_is_late_ends_and_is_not_sent() {
        let mut calls = Calls::default();
        let (sent, waits) = (calls.begin(true, 5).expect("room"), calls.begin(false, 5).expect("room"));
        calls.sent_with_copy(sent, vec![1]);
        assert!(calls.wait(waits, vec![2]));
        assert!(calls.sweep(4).is_empty());
        assert_eq!(calls.next_deadline_ms(), Some(5));
        assert_eq!(calls.sweep(5), [sent]);
        assert_eq!(calls.next_deadline_ms(), None, "nobody waits for it any more");
        assert_eq!(calls.poll(sent, Waker::noop()), Some(Outcome::Late));
        assert_eq!(calls.poll(waits, Waker::noop()), Some(Outcome::Late));
        let mut out = Vec::new();
        calls.send_next(9, &mut out);
        calls.lost();
        calls.send_next(9, &mut out);
        assert!(out.is_empty());
    }

    #[test]
    fn long_requests_are_bounded_together_and_one_too_long_for_the_helper_is_not_sent() {
        let mut calls = Calls::default();
        let long = || vec![0; WAITING_LEN_MAX / 4];
        let ids: Vec<u32> = (0..5).map(|_| calls.begin(false, 9).expect("room")).collect();
        assert!(ids[..4].iter().all(|&id| calls.wait(id, long())) && !calls.wait(ids[4], long()));
        let mut out = Vec::new();
        calls.send_next(9, &mut out);
        assert_eq!(calls.poll(ids[0], Waker::noop()), Some(Outcome::TooLong));
        assert!(out.is_empty());
    }

    #[test]
    fn waiting_is_bounded_and_who_left_makes_room() {
        let mut calls = Calls::default();
        let ids: Vec<u32> = (0..WAITING_MAX).map(|_| calls.begin(false, 9).expect("room")).collect();
        assert!(ids.iter().all(|&id| calls.wait(id, vec![1])));
        let more = calls.begin(false, 9).expect("room");
        assert!(!calls.wait(more, vec![1]));
        calls.leave(ids[7]);
        assert!(calls.wait(more, vec![1]));
        let all = (0..2 * PLACES_MAX).map_while(|_| calls.begin(false, 9)).count();
        assert!(all < PLACES_MAX, "calls are bounded too");
    }

    proptest! {
        /// Whatever happens in whatever order: an outcome reaches the call it is for, and only once.
        #[test]
        fn no_reply_reaches_another_call(steps in proptest::collection::vec((0_u8..6, any::<u8>()), 0..200)) {
            let mut calls = Calls::default();
            let (mut open, mut wire): (Vec<u32>, Vec<u32>) = (Vec::new(), Vec::new());
            for (step, which) in steps {
                let pick = |from: &[u32]| from.get(usize::from(which) % from.len().max(1)).copied();
                match step {
                    0 => {
                        let id = calls.begin(which % 2 == 0, 1000).expect("few");
                        prop_assert!(!wire.contains(&id) && !open.contains(&id));
                        calls.sent_with_copy(id, vec![]);
                        open.push(id);
                        wire.push(id);
                    }
                    1 => if let Some(id) = pick(&wire) {
                        prop_assert!(calls.answered(id, Outcome::Result(id.to_be_bytes().to_vec())));
                        wire.retain(|&known| known != id);
                    },
                    2 => if let Some(id) = pick(&open) {
                        calls.leave(id);
                        open.retain(|&known| known != id);
                    },
                    3 => if let Some(id) = pick(&open)
                        && let Some(Outcome::Result(bytes)) = calls.poll(id, Waker::noop()) {
                        prop_assert_eq!(bytes, id.to_be_bytes().to_vec());
                    },
                    4 => {
                        calls.lost();
                        wire.clear();
                    }
                    _ => {
                        calls.sweep(u64::from(which) * 8);
                    }
                }
                prop_assert_eq!(calls.on_the_wire(), wire.len());
            }
        }
    }
}
