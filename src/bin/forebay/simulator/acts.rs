//! From what is asked of a stream to the pieces that it writes.

use std::time::Duration;

use hyper::body::Bytes;
use serde_json::Value;

use super::changes::Event;
use super::encoder::{BYTE_ORDER_MARK, Framing, cut_point};
use super::faults::{Act, Ending, Then};
use super::refusal::Refusal;
use super::stream::{Order, Piece};

/// How long the last bytes before a rough end may take to leave: an end does not wait for them.
const FLUSH: Duration = Duration::from_millis(50);

/// What a stream writes first.
pub(super) fn opening(snapshot: &Event, framing: &Framing) -> Vec<Piece> {
    let mark = framing.byte_order_mark.then(|| Piece::Bytes(Bytes::from_static(BYTE_ORDER_MARK)));
    let open = Event { name: "open", data: Value::Null };
    mark.into_iter().chain([&open, snapshot].map(|event| Piece::Bytes(framing.encode(event)))).collect()
}

/// `snapshot` is what the stream would be told now if it were new.
pub(super) fn order(act: Act, snapshot: &Event, framing: &Framing) -> Order {
    let event = |name, data| Piece::Bytes(framing.encode(&Event { name, data }));
    let pieces = match act {
        Act::Snapshot => vec![Piece::Bytes(framing.encode(snapshot))],
        Act::Comment => vec![Piece::Bytes(framing.comment())],
        Act::Error => vec![event("error", Refusal::Internal.body(0))],
        Act::AuthRevoked => {
            vec![event("auth_revoked", Value::from("credential is no longer valid")), Piece::End(Ending::Clean)]
        }
        Act::Cancel => vec![event("cancel", Value::Null), Piece::End(Ending::Clean)],
        Act::EndlessLine => vec![Piece::Bytes(Bytes::from_static(b"data: ")), Piece::Endless],
        Act::Cut { at, then, pause } => {
            let mut first = framing.encode(snapshot);
            let rest = first.split_off(cut_point(&first, at));
            let mut pieces = vec![Piece::Bytes(first)];
            pieces.extend(after(then, rest, pause));
            pieces
        }
        Act::Stall => return Order { pieces: vec![Piece::Stall], at_once: true },
        Act::End(ending) => return Order { pieces: vec![Piece::End(ending)], at_once: true },
    };
    Order { pieces, at_once: false }
}

fn after(then: Then, rest: Bytes, pause: Duration) -> Vec<Piece> {
    match then {
        Then::Resume => vec![Piece::Pause(pause), Piece::Bytes(rest)],
        Then::Stall => vec![Piece::Stall],
        Then::Clean => vec![Piece::End(Ending::Clean)],
        Then::Fin => vec![Piece::Pause(FLUSH), Piece::End(Ending::Fin)],
        Then::Reset => vec![Piece::Pause(FLUSH), Piece::End(Ending::Reset)],
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::encoder::CutAt;
    use super::*;

    #[test]
    fn a_cut_loses_no_byte() {
        let snapshot = Event::put("/", &json!("Küche"));
        let framing = Framing::default();
        let whole = framing.encode(&snapshot);
        for at in [CutAt::Character, CutAt::Data, CutAt::LineEnd] {
            let act = Act::Cut { at, then: Then::Resume, pause: FLUSH };
            let pieces = order(act, &snapshot, &framing).pieces;
            let [Piece::Bytes(first), Piece::Pause(FLUSH), Piece::Bytes(rest)] = &pieces[..] else {
                panic!("other pieces: {pieces:?}");
            };
            assert!(!first.is_empty() && !rest.is_empty());
            assert_eq!([&first[..], &rest[..]].concat(), whole);
        }
    }

    #[test]
    fn a_stream_opens_with_a_snapshot() {
        let snapshot = Event::put("/", &json!({}));
        let framing = Framing { byte_order_mark: true, ..Framing::default() };
        let pieces = opening(&snapshot, &framing);
        let expected =
            ["\u{feff}", "event: open\ndata: null\n\n", "event: put\ndata: {\"data\":{},\"path\":\"/\"}\n\n"]
                .map(|text| Piece::Bytes(text.into()));
        assert_eq!(pieces, expected);
    }
}
