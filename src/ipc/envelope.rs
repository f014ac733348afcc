//! The array around every message, read from its front: the last element stays as bytes, because
//! only its owner knows its type.

use rmp::decode::{read_array_len, read_int, read_str_from_slice};

use super::frame::FrameError;

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

    /// The last element that this version knows, as it stands there.
    pub(crate) fn payload(mut self) -> Result<&'a [u8], FrameError> {
        self.count()?;
        if self.rest.is_empty() {
            return Err(malformed("it ends too early"));
        }
        Ok(self.rest)
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

    proptest! {
        #[test]
        fn garbage_never_panics(body in proptest::collection::vec(any::<u8>(), 0..60)) {
            if let Ok((_, mut envelope)) = Envelope::open(&body) {
                let _ = envelope.nil();
                let _ = envelope.id();
                let _ = envelope.text();
                let _ = envelope.payload();
            }
        }
    }
}
