//! Messages: a frame whose content is one array, `[kind, …]`. The kinds are in `ipc-protocol.md`.
//!
//! Kinds 0 and 1 are exactly MessagePack-RPC's request and response.

use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Serialize};

use super::frame::{self, FrameError};

pub(crate) const REQUEST: u8 = 0;
pub(crate) const RESPONSE: u8 = 1;
pub(crate) const HELLO: u8 = 3;
pub(crate) const LOG: u8 = 16;

/// The version of `ipc-protocol.md` that is spoken here.
pub(crate) const PROTOCOL: u32 = 1;

/// The first message on a connection: who speaks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Hello {
    /// What a log line names as its origin: `worker 0 generation 1`.
    pub(crate) name: String,
}

/// One record of a log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LogRecord {
    /// Microseconds since 1970-01-01T00:00:00Z.
    pub(crate) time_us: i64,
    /// 1 error, 2 warn, 3 info, 4 debug, 5 trace.
    pub(crate) level: u8,
    pub(crate) target: String,
    pub(crate) message: String,
}

/// `[0, id, method, params]`
pub(crate) fn request<P: Serialize>(id: u32, method: &str, params: &P, out: &mut Vec<u8>) {
    frame::encode(&(REQUEST, id, method, params), out);
}

/// `[1, id, null, result]`, or `[1, id, error, null]`
pub(crate) fn response<E: Serialize, R: Serialize>(id: u32, outcome: &Result<R, E>, out: &mut Vec<u8>) {
    match outcome {
        Ok(result) => frame::encode(&(RESPONSE, id, (), result), out),
        Err(error) => frame::encode(&(RESPONSE, id, error, ()), out),
    }
}

/// `[3, version, {name}]`
pub(crate) fn hello(hello: &Hello, out: &mut Vec<u8>) {
    frame::encode(&(HELLO, PROTOCOL, hello), out);
}

/// `[16, sequence, {time_us, level, target, message}]`
pub(crate) fn log(sequence: u64, record: &LogRecord, out: &mut Vec<u8>) {
    frame::encode(&(LOG, sequence, record), out);
}

/// The method a request asks for, with its id.
pub(crate) fn requested(body: &[u8]) -> Result<(u32, String), FrameError> {
    let (kind, id, method, _): (u8, u32, String, IgnoredAny) = frame::decode(body)?;
    expect(kind, REQUEST)?;
    Ok((id, method))
}

/// A request's parameters, once its method is known.
pub(crate) fn params<P: DeserializeOwned>(body: &[u8]) -> Result<P, FrameError> {
    let (_, _, _, params): (u8, u32, IgnoredAny, P) = frame::decode(body)?;
    Ok(params)
}

/// What a response says, with its id.
pub(crate) fn outcome<R, E>(body: &[u8]) -> Result<(u32, Result<R, E>), FrameError>
where
    R: DeserializeOwned,
    E: DeserializeOwned,
{
    let (kind, id, error, _): (u8, u32, Option<E>, IgnoredAny) = frame::decode(body)?;
    expect(kind, RESPONSE)?;
    if let Some(error) = error {
        return Ok((id, Err(error)));
    }
    let (_, _, _, result): (u8, u32, IgnoredAny, R) = frame::decode(body)?;
    Ok((id, Ok(result)))
}

/// What a client of the log helper says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ToLog {
    Hello(Hello),
    Record(u64, LogRecord),
}

/// Reads a message to the log helper.
pub(crate) fn to_log(body: &[u8]) -> Result<ToLog, FrameError> {
    // The kind is the array's first element, a positive fixint: the second byte (MessagePack
    // specification, "int format family").
    match body.get(1) {
        Some(&HELLO) => {
            let (_, _version, hello): (u8, u32, Hello) = frame::decode(body)?;
            Ok(ToLog::Hello(hello))
        }
        Some(&LOG) => {
            let (_, sequence, record): (u8, u64, LogRecord) = frame::decode(body)?;
            Ok(ToLog::Record(sequence, record))
        }
        _ => Err(FrameError::Malformed("neither hello nor log".to_owned())),
    }
}

fn expect(kind: u8, wanted: u8) -> Result<(), FrameError> {
    if kind == wanted {
        return Ok(());
    }
    Err(FrameError::Malformed(format!("kind {kind} where {wanted} is due")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::control::{Nothing, Refusal, Scale};

    /// The protocol's own page: its examples are these tests' vectors.
    const PAGE: &str = include_str!("../../ipc-protocol.md");

    /// What the page shows under these names, as this code writes it.
    fn ours() -> Vec<(&'static str, Vec<u8>)> {
        let encoded = |write: &dyn Fn(&mut Vec<u8>)| {
            let mut out = Vec::new();
            write(&mut out);
            out
        };
        let refusal = Refusal { exit: 75, reason: "stopping".to_owned() };
        let name = Hello { name: "worker 0 generation 1".to_owned() };
        let record = LogRecord {
            time_us: 1_700_000_000_000_000,
            level: 3,
            target: "app".to_owned(),
            message: "ready".to_owned(),
        };
        vec![
            ("scale", encoded(&|out| request(1, "scale", &Scale { workers: 3 }, out))),
            ("scaled", encoded(&|out| response(1, &Ok::<_, Refusal>(Scale { workers: 3 }), out))),
            ("stop", encoded(&|out| request(2, "stop", &Nothing {}, out))),
            ("refused", encoded(&|out| response(2, &Err::<Nothing, _>(refusal.clone()), out))),
            ("hello", encoded(&|out| hello(&name, out))),
            ("log", encoded(&|out| log(1, &record, out))),
        ]
    }

    fn shown() -> Vec<(&'static str, Vec<u8>)> {
        let blocks = PAGE.split("```hex ").skip(1).map(|rest| rest.split("```").next().expect("its end"));
        let bytes = |text: &str| {
            let pairs = text.split_ascii_whitespace();
            pairs.map(|pair| u8::from_str_radix(pair, 16).expect("hex")).collect()
        };
        blocks.filter_map(|block| block.split_once('\n')).map(|(name, text)| (name, bytes(text))).collect()
    }

    #[test]
    fn every_example_of_the_page_is_what_we_write() {
        assert_eq!(shown(), ours());
    }

    #[test]
    fn what_we_write_we_read() {
        for (name, bytes) in ours() {
            let body = &bytes[frame::HEADER_LEN..];
            match name {
                "scale" => {
                    assert_eq!(requested(body), Ok((1, "scale".to_owned())));
                    assert_eq!(params::<Scale>(body).map(|scale| scale.workers), Ok(3));
                }
                "stop" => assert_eq!(requested(body), Ok((2, "stop".to_owned()))),
                "scaled" => assert!(matches!(outcome::<Scale, Refusal>(body), Ok((1, Ok(Scale { workers: 3 }))))),
                "refused" => {
                    assert!(matches!(outcome::<Nothing, Refusal>(body), Ok((2, Err(Refusal { exit: 75, .. })))))
                }
                "hello" => assert!(matches!(to_log(body), Ok(ToLog::Hello(_)))),
                _ => assert!(matches!(to_log(body), Ok(ToLog::Record(1, _)))),
            }
        }
    }

    #[test]
    fn a_field_of_a_later_version_is_ignored_and_a_missing_one_is_not() {
        #[derive(Serialize)]
        struct Later {
            colour: &'static str,
            name: &'static str,
        }
        let mut out = Vec::new();
        frame::encode(&(HELLO, 2, Later { colour: "blue", name: "hub" }), &mut out);
        let read = to_log(&out[frame::HEADER_LEN..]);
        assert_eq!(read, Ok(ToLog::Hello(Hello { name: "hub".to_owned() })));
        out.clear();
        frame::encode(&(HELLO, 2, Nothing {}), &mut out);
        assert!(to_log(&out[frame::HEADER_LEN..]).is_err());
    }

    #[test]
    fn every_truncation_is_an_error() {
        for (name, bytes) in ours() {
            let body = &bytes[frame::HEADER_LEN..];
            for cut in 0..body.len() {
                assert!(requested(&body[..cut]).is_err(), "{name} cut at {cut}");
                assert!(outcome::<Scale, Refusal>(&body[..cut]).is_err(), "{name} cut at {cut}");
                assert!(to_log(&body[..cut]).is_err(), "{name} cut at {cut}");
            }
        }
    }
}
