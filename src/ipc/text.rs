//! Strings of the protocol's own maps, for serde's `deserialize_with`: what it derives would take bytes
//! for a string, and a number for the name of a code.

use std::fmt;
use std::marker::PhantomData;

use serde::Deserializer;
use serde::de::{DeserializeOwned, Error, IntoDeserializer, Visitor};

/// A string.
pub(crate) fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    deserializer.deserialize_str(Text(PhantomData))
}

/// What has a name.
pub(crate) fn named<'de, T: DeserializeOwned, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    deserializer.deserialize_str(Text(PhantomData))
}

/// What a string stands for.
struct Text<T>(PhantomData<T>);

impl<T: DeserializeOwned> Visitor<'_> for Text<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        T::deserialize(text.into_deserializer())
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum Colour {
        DarkBlue,
        #[serde(other)]
        Other,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    struct Pen {
        #[serde(deserialize_with = "super::read")]
        name: String,
        #[serde(deserialize_with = "super::named")]
        colour: Colour,
    }

    fn pen(name: &[u8], colour: &[u8]) -> Option<Pen> {
        let bytes = [&[0x82, 0xa4][..], b"name", name, &[0xa6], b"colour", colour].concat();
        rmp_serde::from_slice(&bytes).ok()
    }

    #[test]
    fn only_a_string_is_one() {
        let blue = b"\xa9dark_blue";
        assert_eq!(pen(b"\xa1x", blue), Some(Pen { name: "x".to_owned(), colour: Colour::DarkBlue }));
        assert_eq!(pen(b"\xa1x", b"\xa3red").map(|pen| pen.colour), Some(Colour::Other));
        // Bytes, a number, no UTF-8, nil; a number where a name is due.
        for name in [&b"\xc4\x01x"[..], b"\x07", b"\xa1\xff", b"\xc0"] {
            assert_eq!(pen(name, blue), None, "{name:x?}");
        }
        for colour in [&b"\x00"[..], b"\xc4\x03red", b"\xc0"] {
            assert_eq!(pen(b"\xa1x", colour), None, "{colour:x?}");
        }
    }
}
