//! The array around every message, read from its front: the last element stays as bytes, because
//! only its owner knows its type. Elements of later versions are ignored, bytes behind the array
//! are not.

use rmp::decode::{read_array_len, read_int, read_str_from_slice};
use serde::de::DeserializeOwned;

use super::frame::{self, FrameError};
use super::value;

/// A message's elements, taken one after the other.
#[derive(Clone, Debug)]
pub(crate) struct Envelope<'a> {
    rest: &'a [u8],
    elements: u32,
}

impl<'a> Envelope<'a> {
    /// Opens a frame's content and reads its first element, the message's kind.
    pub(crate) fn open(body: &'a [u8]) -> Result<(u8, Self), FrameError> {
        let mut envelope = Self { rest: body, elements: 1 };
        envelope.elements = envelope.array()?;
        let kind = u8::try_from(envelope.number()?).map_err(|_| malformed("no such kind of message"))?;
        Ok((kind, envelope))
    }

    /// The next element, a number.
    pub(crate) fn number(&mut self) -> Result<u64, FrameError> {
        self.count()?;
        read_int(&mut self.rest).map_err(|_| malformed("no whole number where one is due"))
    }

    /// The next element, a message's or a subscription's id.
    pub(crate) fn id(&mut self) -> Result<u32, FrameError> {
        u32::try_from(self.number()?).map_err(|_| malformed("an id of more than 32 bits"))
    }

    /// The next element, a string.
    pub(crate) fn text(&mut self) -> Result<&'a str, FrameError> {
        self.count()?;
        let (text, rest) = read_str_from_slice(self.rest).map_err(|_| malformed("no string where one is due"))?;
        self.rest = rest;
        Ok(text)
    }

    /// The next element, as it stands there.
    pub(crate) fn element(&mut self) -> Result<&'a [u8], FrameError> {
        self.count()?;
        value::take(&mut self.rest, 1)
    }

    /// The last element that this version knows, as it stands there. Whoever reads it sees that nothing
    /// stands behind it: only where a later version has put more is its end looked for here.
    pub(crate) fn payload(mut self) -> Result<&'a [u8], FrameError> {
        if self.elements != 1 {
            return self.value();
        }
        self.count()?;
        if self.rest.is_empty() { Err(malformed("it ends too early")) } else { Ok(self.rest) }
    }

    /// The last element that this version knows, looked through: for what nobody may ever read.
    pub(crate) fn value(mut self) -> Result<&'a [u8], FrameError> {
        if self.elements == 1 && value::is_plain(self.rest) {
            return Ok(self.rest);
        }
        let element = self.element()?;
        self.end()?;
        Ok(element)
    }

    /// The last element that this version knows, one of the protocol's own maps.
    pub(crate) fn map<T: DeserializeOwned>(self) -> Result<T, FrameError> {
        named(self.payload()?)
    }

    /// Ends a message that has no more: what a later version has put here is skipped.
    pub(crate) fn end(mut self) -> Result<(), FrameError> {
        while self.elements > 0 {
            self.element()?;
        }
        value::end(self.rest)
    }

    /// Whether the next element is nil; takes it if so.
    pub(crate) fn nil(&mut self) -> Result<bool, FrameError> {
        let Some((&first, rest)) = self.rest.split_first() else { return Err(malformed("it ends too early")) };
        // nil: the MessagePack specification, "nil format".
        if first != 0xc0 {
            return Ok(false);
        }
        self.count()?;
        self.rest = rest;
        Ok(true)
    }

    fn array(&mut self) -> Result<u32, FrameError> {
        read_array_len(&mut self.rest).map_err(|_| malformed("no array where one is due"))
    }

    fn count(&mut self) -> Result<(), FrameError> {
        self.elements = self.elements.checked_sub(1).ok_or_else(|| malformed("an element is missing"))?;
        Ok(())
    }
}

/// Reads one of the protocol's own maps. What serde derives would take positions for names too.
pub(crate) fn named<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, FrameError> {
    if !value::has_names(bytes)? {
        return Err(malformed("no map with names where one is due"));
    }
    frame::decode(bytes)
}

fn malformed(why: &str) -> FrameError {
    FrameError::Malformed(why.to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes<T: serde::Serialize>(value: &T) -> Vec<u8> {
        rmp_serde::to_vec_named(value).expect("encode")
    }

    #[test]
    fn elements_come_in_order_and_the_last_as_bytes() {
        let body = bytes(&(0, 300, "add", (1, 2)));
        let (kind, mut envelope) = Envelope::open(&body).expect("an array");
        assert_eq!((kind, envelope.id(), envelope.text()), (0, Ok(300), Ok("add")));
        assert_eq!(envelope.payload(), Ok(&bytes(&(1, 2))[..]));
    }

    #[test]
    fn what_is_not_there_is_an_error() {
        for body in [bytes(&7), bytes(&("x",)), bytes(&(1, "x")), bytes(&(1, -1)), bytes(&(1, 1_u64 << 32)), vec![]] {
            let id = Envelope::open(&body).and_then(|(_, mut envelope)| envelope.id());
            assert!(id.is_err(), "{body:x?}");
        }
    }

    #[test]
    fn elements_of_a_later_version_are_ignored_and_bytes_behind_the_array_are_not() {
        fn number(envelope: Envelope<'_>) -> Result<(), FrameError> {
            let mut envelope = envelope;
            envelope.number()?;
            envelope.end()
        }
        type Read = fn(Envelope<'_>) -> Result<(), FrameError>;
        let payload: Read = |envelope| frame::decode::<u8>(envelope.payload()?).map(drop);
        let value: Read = |envelope| envelope.value().map(drop);
        let map: Read = |envelope| envelope.map::<std::collections::BTreeMap<String, u8>>().map(drop);
        let named = serde_json::json!({"a": 1});
        let table = [
            (number as Read, bytes(&(5, 7)), bytes(&(5, 7, "later", [1, 2]))),
            (payload, bytes(&(5, 7)), bytes(&(5, 7, "later", [1, 2]))),
            (value, bytes(&(5, 7)), bytes(&(5, 7, "later", [1, 2]))),
            (map, bytes(&(5, &named)), bytes(&(5, &named, "later", [1, 2]))),
        ];
        for (read, now, later) in table {
            let read = |body: &[u8]| Envelope::open(body).and_then(|(_, envelope)| read(envelope));
            for body in [&now, &later] {
                assert_eq!(read(body), Ok(()), "{body:x?}");
                assert!(read(&[body, &[7][..]].concat()).is_err(), "{body:x?} and a byte");
                assert!(read(&body[..body.len() - 1]).is_err(), "{body:x?} without a byte");
            }
        }
        assert!(number(Envelope::open(&bytes(&(5,))).expect("an array").1).is_err());
    }

    #[test]
    fn a_map_has_strings_as_keys() {
        #[derive(Debug, PartialEq, serde::Deserialize)]
        struct Named {
            a: u8,
        }
        assert_eq!(named(&bytes(&serde_json::json!({"b": {}, "a": 7}))), Ok(Named { a: 7 }));
        // Positions and an index, which serde takes for the field's name.
        for other in [&[0x91, 7][..], &[0x81, 0, 7], &[7], &[0xc0], &[0x81, 0xa1, b'a']] {
            assert!(named::<Named>(other).is_err(), "{other:x?}");
        }
    }

    proptest! {
        #[test]
        fn garbage_never_panics(body in proptest::collection::vec(any::<u8>(), 0..60)) {
            if let Ok((_, mut envelope)) = Envelope::open(&body) {
                let _ = envelope.nil();
                let _ = envelope.id();
                let _ = envelope.text();
                let _ = envelope.clone().payload();
                let _ = envelope.clone().map::<serde_json::Value>();
                let _ = envelope.clone().value();
                let _ = envelope.end();
            }
        }
    }
}
