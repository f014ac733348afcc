//! One value of MessagePack, without reading it: where it ends, and whether it is one at all.

use rmp::Marker;

use super::frame::FrameError;

/// How deep arrays and maps may stand within each other, the frame's own array counted.
pub(crate) const DEPTH_MAX: usize = 128;

/// Takes the value at the front of `rest`, which stands within `outer` arrays and maps.
pub(crate) fn take<'a>(rest: &mut &'a [u8], outer: usize) -> Result<&'a [u8], FrameError> {
    let whole = *rest;
    skip(rest, DEPTH_MAX.saturating_sub(outer))?;
    Ok(&whole[..whole.len() - rest.len()])
}

/// Whether `bytes` are one value within `outer` arrays and maps, and nothing behind it.
pub(crate) fn check(mut bytes: &[u8], outer: usize) -> Result<(), FrameError> {
    take(&mut bytes, outer)?;
    end(bytes)
}

/// Whether `bytes` are one number, nil, a truth value or a short string, and nothing behind it: what most
/// answers are is seen at once. False says nothing.
#[inline]
pub(crate) fn is_plain(bytes: &[u8]) -> bool {
    let len = match bytes.first() {
        Some(0..=0x7f | 0xe0.. | 0xc0 | 0xc2 | 0xc3) => 1,
        Some(&byte @ 0xa0..=0xbf) => 1 + usize::from(byte & 0x1f),
        Some(0xcc | 0xd0) => 2,
        Some(0xcd | 0xd1) => 3,
        Some(0xca | 0xce | 0xd2) => 5,
        Some(0xcb | 0xcf | 0xd3) => 9,
        Some(_) | None => return false,
    };
    bytes.len() == len
}

/// Whether nothing is left.
pub(crate) fn end(rest: &[u8]) -> Result<(), FrameError> {
    if rest.is_empty() { Ok(()) } else { Err(FrameError::Malformed("bytes behind the message".to_owned())) }
}

/// Whether `bytes` begin with an array: fixarray, array 16 and array 32.
#[inline]
pub(crate) fn is_array(bytes: &[u8]) -> bool {
    matches!(bytes.first(), Some(0x90..=0x9f | 0xdc | 0xdd))
}

/// Whether `bytes` begin with a map: fixmap, map 16 and map 32.
pub(crate) fn is_map(bytes: &[u8]) -> bool {
    matches!(bytes.first(), Some(0x80..=0x8f | 0xde | 0xdf))
}

/// Whether `bytes` begin with a map, the payload of a message, that has only strings as keys.
pub(crate) fn has_names(mut bytes: &[u8]) -> Result<bool, FrameError> {
    let Ok(count) = rmp::decode::read_map_len(&mut bytes) else { return Ok(false) };
    for _ in 0..count {
        if rmp::decode::read_str_from_slice(bytes).is_err() {
            return Ok(false);
        }
        skip(&mut bytes, 0)?;
        skip(&mut bytes, DEPTH_MAX - 2)?;
    }
    Ok(true)
}

/// Moves `rest` behind its first value, in which arrays and maps stand `depth` deep at most. Each of
/// their elements has a byte at least, so a count that lies ends with the bytes.
fn skip(rest: &mut &[u8], depth: usize) -> Result<(), FrameError> {
    let [byte] = array(rest)?;
    let values = match Marker::from_u8(byte) {
        Marker::FixPos(_) | Marker::FixNeg(_) | Marker::Null | Marker::True | Marker::False => return Ok(()),
        Marker::U8 | Marker::I8 => return advance(rest, 1),
        Marker::U16 | Marker::I16 => return advance(rest, 2),
        Marker::U32 | Marker::I32 | Marker::F32 => return advance(rest, 4),
        Marker::U64 | Marker::I64 | Marker::F64 => return advance(rest, 8),
        Marker::FixStr(len) => return advance(rest, len.into()),
        Marker::Str8 | Marker::Bin8 => {
            let len = len_8(rest)?;
            return advance(rest, len);
        }
        Marker::Str16 | Marker::Bin16 => {
            let len = len_16(rest)?;
            return advance(rest, len);
        }
        Marker::Str32 | Marker::Bin32 => {
            let len = len_32(rest)?;
            return advance(rest, len);
        }
        // The byte more is the extension's type.
        Marker::FixExt1 => return advance(rest, 2),
        Marker::FixExt2 => return advance(rest, 3),
        Marker::FixExt4 => return advance(rest, 5),
        Marker::FixExt8 => return advance(rest, 9),
        Marker::FixExt16 => return advance(rest, 17),
        Marker::Ext8 => {
            let len = len_8(rest)?;
            return advance(rest, len + 1);
        }
        Marker::Ext16 => {
            let len = len_16(rest)?;
            return advance(rest, len + 1);
        }
        Marker::Ext32 => {
            let len = len_32(rest)?;
            return advance(rest, len.saturating_add(1));
        }
        Marker::FixArray(count) => count.into(),
        Marker::Array16 => len_16(rest)?,
        Marker::Array32 => len_32(rest)?,
        Marker::FixMap(count) => 2 * usize::from(count),
        Marker::Map16 => 2 * len_16(rest)?,
        Marker::Map32 => len_32(rest)?.saturating_mul(2),
        Marker::Reserved => return Err(FrameError::Malformed("a byte that begins nothing".to_owned())),
    };
    let Some(depth) = depth.checked_sub(1) else {
        return Err(FrameError::Malformed(format!("arrays and maps more than {DEPTH_MAX} deep in each other")));
    };
    (0..values).try_for_each(|_| skip(rest, depth))
}

fn array<const LEN: usize>(rest: &mut &[u8]) -> Result<[u8; LEN], FrameError> {
    let (bytes, behind) = rest.split_first_chunk().ok_or_else(too_early)?;
    *rest = behind;
    Ok(*bytes)
}

fn len_8(rest: &mut &[u8]) -> Result<usize, FrameError> {
    array::<1>(rest).map(|[len]| len.into())
}

fn len_16(rest: &mut &[u8]) -> Result<usize, FrameError> {
    array(rest).map(|bytes| u16::from_be_bytes(bytes).into())
}

fn len_32(rest: &mut &[u8]) -> Result<usize, FrameError> {
    array(rest).map(|bytes| u32::from_be_bytes(bytes) as usize)
}

fn advance(rest: &mut &[u8], len: usize) -> Result<(), FrameError> {
    *rest = rest.get(len..).ok_or_else(too_early)?;
    Ok(())
}

fn too_early() -> FrameError {
    FrameError::Malformed("it ends too early".to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn tower(depth: usize) -> Vec<u8> {
        let mut bytes = vec![0x91; depth];
        bytes.push(7);
        bytes
    }

    #[test]
    fn each_kind_of_value_ends_where_it_ends() {
        let mut values: Vec<Vec<u8>> = [
            json!(7),
            json!(-7),
            json!(200),
            json!(-200),
            json!(70_000),
            json!(-70_000),
            json!(u64::MAX),
            json!(i64::MIN),
            json!(1.5),
            json!(null),
            json!(true),
            json!(false),
            json!("short"),
            json!("x".repeat(100)),
            json!("x".repeat(1000)),
            json!("x".repeat(70_000)),
            json!([]),
            json!([1, [2, "three"], {}]),
            json!(vec![1; 100]),
            json!(vec![1; 70_000]),
            json!({"a": {"b": [1]}, "c": null}),
        ]
        .iter()
        .map(|value| rmp_serde::to_vec_named(value).expect("encode"))
        .collect();
        let many: serde_json::Map<String, Value> = (0..70_000).map(|key| (key.to_string(), json!(key))).collect();
        values.push(rmp_serde::to_vec_named(&many).expect("encode"));
        // float 32, then bin 8 to bin 32, fixext 1 to 16, ext 8 to 32: the MessagePack specification.
        values.push(vec![0xca, 0, 0, 0, 0]);
        values.extend([vec![0xc4, 1, 0], vec![0xc5, 0, 1, 0], vec![0xc6, 0, 0, 0, 1, 0]]);
        values.extend((0..5).map(|power| [vec![0xd4 + power, 1], vec![0; 1 << power]].concat()));
        values.extend([vec![0xc7, 1, 5, 0], vec![0xc8, 0, 1, 5, 0], vec![0xc9, 0, 0, 0, 1, 5, 0]]);
        for value in values {
            let followed = [&value[..], &[1, 2]].concat();
            let mut rest = &followed[..];
            let first = &value[..value.len().min(8)];
            assert_eq!(take(&mut rest, 1).map(<[u8]>::len), Ok(value.len()), "{first:x?}");
            assert_eq!(rest, [1, 2]);
            for cut in (0..value.len()).step_by(value.len() / 50 + 1) {
                assert!(check(&value[..cut], 0).is_err(), "{first:x?} cut at {cut}");
            }
        }
        assert!(check(&[0xc1], 0).is_err() && check(&[7, 7], 0).is_err());
    }

    #[test]
    fn a_tower_of_arrays_has_128_of_them_with_what_it_stands_in() {
        for outer in [0, 1, 2] {
            assert_eq!(check(&tower(DEPTH_MAX - outer), outer), Ok(()));
            assert!(check(&tower(DEPTH_MAX + 1 - outer), outer).is_err());
        }
    }

    #[test]
    fn keys_are_strings() {
        let named = |value: &Value| has_names(&rmp_serde::to_vec_named(value).expect("encode"));
        assert_eq!(
            (named(&json!({"a": [1], "b": {}})), named(&json!([1])), named(&json!({}))),
            (Ok(true), Ok(false), Ok(true))
        );
        assert_eq!(has_names(&[0x82, 0xa1, b'a', 1, 7, 1]), Ok(false));
        assert!(has_names(&[0x82, 0xa1, b'a', 1]).is_ok_and(|named| !named));
    }

    proptest! {
        #[test]
        fn what_is_plain_is_one_value(bytes in proptest::collection::vec(any::<u8>(), 0..12)) {
            prop_assert!(!is_plain(&bytes) || check(&bytes, 127).is_ok());
        }

        /// What another reader takes for one value is one, and nothing else is.
        #[test]
        fn another_reader_agrees(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let mut theirs = rmp_serde::Deserializer::new(&bytes[..]);
            theirs.set_max_depth(1000);
            let read = <serde::de::IgnoredAny as serde::Deserialize>::deserialize(&mut theirs);
            if read.is_ok() {
                let left = theirs.get_ref().len();
                prop_assert_eq!(take(&mut &bytes[..], 0).map(<[u8]>::len), Ok(bytes.len() - left));
            }
        }
    }
}
