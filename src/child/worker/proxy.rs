//! The header that a proxy in front puts before each connection, version 1 or 2 of its protocol.
//!
//! Nothing is guessed: a connection that does not begin with one is closed. No byte after it is taken, what comes
//! next finds its own. <https://www.haproxy.org/download/2.9/doc/proxy-protocol.txt>

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use crc::{CRC_32_ISCSI, Crc};
use hyper_util::rt::TokioIo;
use ppp::{v1, v2};
use tokio::io::{AsyncRead, AsyncReadExt};

use super::http::LAST_REQUEST_GRACE;
use super::wire::peek;
use crate::app::declare::{Arrived, Duplex, Ends};

/// How long the header may take.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);

/// The longest header of version 1, a line, as its specification says.
const LINE_LEN_MAX: usize = 107;

/// The longest header of version 2, with all that a proxy says beside the addresses.
const BINARY_LEN_MAX: usize = 4096;

/// The shortest header of all, `PROXY UNKNOWN` with its line's end: so much belongs to any of them.
const HEADER_LEN_MIN: usize = 15;

/// What a header of version 1 begins with.
const LINE_PREFIX: &[u8] = b"PROXY ";

/// What a header of version 2 has before its addresses; their length is in the last two bytes.
const BINARY_HEAD_LEN: usize = 16;

/// Its kind and its length stand before each value that follows them.
const VALUE_HEAD_LEN: usize = 3;

/// What version 2 calls CRC32c.
const CHECKSUM: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);

/// Reads the header; `None`: there was none, and the connection shall be closed.
pub(super) async fn open<S>(mut stream: S, peer: Option<SocketAddr>, ends: Arc<dyn Ends>) -> Option<Arrived>
where
    S: AsyncRead + AsFd + Unpin,
    TokioIo<S>: Duplex + 'static,
{
    let read = tokio::select! {
        biased;
        () = over(&*ends) => Err(Fault::Over),
        read = tokio::time::timeout(HEADER_TIMEOUT, read(&mut stream)) => read.unwrap_or(Err(Fault::Late)),
    };
    match read {
        Ok(source) => Some((Box::new(TokioIo::new(stream)), source.or(peer))),
        Err(fault) => {
            let peer = peer.map_or_else(|| "a Unix socket".to_owned(), |peer| peer.to_string());
            log::debug!("connection from {peer} closed, as it has no header of the PROXY protocol: {fault}");
            None
        }
    }
}

/// Resolves when the worker waits no longer for who has not said a word.
async fn over(ends: &dyn Ends) {
    let soon = async {
        ends.soon().await;
        tokio::time::sleep(LAST_REQUEST_GRACE).await;
    };
    tokio::select! {
        () = ends.now() => {}
        () = soon => {}
    }
}

/// Takes the header and nothing more; `None`: it names no source that has an address.
async fn read<S: AsyncRead + AsFd + Unpin>(stream: &mut S) -> Result<Option<SocketAddr>, Fault> {
    let mut header = Vec::new();
    loop {
        let more = match look(&header)? {
            Look::Whole(source) => return Ok(source),
            Look::Needs(more) => more,
            Look::NeedsLine => len_of_line(stream, LINE_LEN_MAX - header.len()),
        };
        let begin = header.len();
        header.resize(begin + more, 0);
        let read = stream.read(&mut header[begin..]).await.map_err(Fault::Broken)?;
        header.truncate(begin + read);
        if read == 0 {
            return Err(Fault::Ended);
        }
    }
}

/// How many bytes that are there belong to the line; without any, the next one does.
fn len_of_line(stream: &impl AsFd, len_max: usize) -> usize {
    let mut seen = [0; LINE_LEN_MAX];
    // An error is for the next read.
    let there = peek(stream, &mut seen[..len_max]).unwrap_or(0);
    let seen = &seen[..there];
    seen.iter().position(|byte| *byte == b'\n').map_or(seen.len().max(1), |end| end + 1)
}

/// What has come of a header.
#[derive(Debug, PartialEq)]
enum Look {
    /// So many bytes more belong to it at least.
    Needs(usize),
    /// It goes on to the end of the line.
    NeedsLine,
    /// It is all there.
    Whole(Option<SocketAddr>),
}

fn look(header: &[u8]) -> Result<Look, Fault> {
    let begins = |prefix: &[u8]| {
        let len = header.len().min(prefix.len());
        header[..len] == prefix[..len]
    };
    match (begins(LINE_PREFIX), begins(v2::PROTOCOL_PREFIX)) {
        (false, false) => Err(Fault::Other),
        _ if header.len() < HEADER_LEN_MIN => Ok(Look::Needs(HEADER_LEN_MIN - header.len())),
        (true, _) => look_at_line(header),
        (false, true) => look_at_binary(header),
    }
}

fn look_at_line(header: &[u8]) -> Result<Look, Fault> {
    if !header.contains(&b'\n') {
        return if header.len() < LINE_LEN_MAX { Ok(Look::NeedsLine) } else { Err(Fault::TooLong) };
    }
    let line = v1::Header::try_from(header).map_err(Fault::Line)?;
    // A line that is shorter than any may be has brought something else along.
    if line.header.len() != header.len() {
        return Err(Fault::Other);
    }
    Ok(Look::Whole(match line.addresses {
        v1::Addresses::Unknown => None,
        v1::Addresses::Tcp4(both) => Some((both.source_address, both.source_port).into()),
        v1::Addresses::Tcp6(both) => Some((both.source_address, both.source_port).into()),
    }))
}

fn look_at_binary(header: &[u8]) -> Result<Look, Fault> {
    let Some(head) = header.first_chunk::<BINARY_HEAD_LEN>() else {
        return Ok(Look::Needs(BINARY_HEAD_LEN - header.len()));
    };
    let len = BINARY_HEAD_LEN + usize::from(u16::from_be_bytes([head[14], head[15]]));
    if len > BINARY_LEN_MAX {
        return Err(Fault::TooLong);
    }
    if header.len() < len {
        return Ok(Look::Needs(len - header.len()));
    }
    let read = v2::Header::try_from(header).map_err(Fault::Binary)?;
    check(&read)?;
    Ok(Look::Whole(match (read.command, read.protocol, read.addresses) {
        (v2::Command::Proxy, v2::Protocol::Stream, v2::Addresses::IPv4(both)) => {
            Some((both.source_address, both.source_port).into())
        }
        (v2::Command::Proxy, v2::Protocol::Stream, v2::Addresses::IPv6(both)) => {
            Some((both.source_address, both.source_port).into())
        }
        // The proxy itself, which looks whether we are well, or one whose client has no such address.
        _ => None,
    }))
}

/// Checks what a header says beside the addresses, and its checksum if that is there.
fn check(header: &v2::Header<'_>) -> Result<(), Fault> {
    let bytes = header.as_bytes();
    let mut end = bytes.len() - header.tlv_bytes().len();
    let mut checksum = None;
    for value in header.tlvs() {
        let value = value.map_err(Fault::Binary)?;
        let begin = end + VALUE_HEAD_LEN;
        end = begin + value.len();
        // Two of them cannot both be right, and many would take long.
        if value.kind == u8::from(v2::Type::CRC32C) && checksum.replace(begin..end).is_some() {
            return Err(Fault::Checksum);
        }
    }
    let Some(place) = checksum else { return Ok(()) };
    let mut sum = CHECKSUM.digest();
    // Where it stands it counts as zeros.
    [&bytes[..place.start], &[0; 4], &bytes[place.end..]].iter().for_each(|part| sum.update(part));
    let is_right = bytes[place] == sum.finalize().to_be_bytes();
    is_right.then_some(()).ok_or(Fault::Checksum)
}

/// Why a connection is closed.
#[derive(Debug)]
enum Fault {
    /// It begins in another way.
    Other,
    TooLong,
    Line(v1::BinaryParseError),
    Binary(v2::ParseError),
    Checksum,
    Ended,
    Broken(io::Error),
    Late,
    Over,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Other => f.write_str("it begins in another way"),
            Self::TooLong => f.write_str("it is too long"),
            Self::Line(error) => write!(f, "{error}"),
            Self::Binary(error) => write!(f, "{error}"),
            Self::Checksum => f.write_str("its checksum is another"),
            Self::Ended => f.write_str("the connection has ended"),
            Self::Broken(error) => write!(f, "{error}"),
            Self::Late => write!(f, "{} s are over", HEADER_TIMEOUT.as_secs()),
            Self::Over => f.write_str("the worker ends"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use tokio::io::AsyncWriteExt;
    use tokio::net::UnixStream;

    use super::*;

    const V4: [u8; 12] = [192, 0, 2, 7, 10, 0, 0, 1, 0x12, 0x67, 0, 80];

    /// A header of version 2.
    fn binary(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let len = u16::try_from(rest.len()).expect("short").to_be_bytes();
        [v2::PROTOCOL_PREFIX, &[0x20 | command, family], &len, rest].concat()
    }

    fn value(kind: u8, value: &[u8]) -> Vec<u8> {
        [&[kind][..], &u16::try_from(value.len()).expect("short").to_be_bytes(), value].concat()
    }

    /// One for IPv4 with a checksum between two other values.
    fn summed() -> Vec<u8> {
        let before =
            binary(1, 0x11, &[&V4[..], &value(4, b"padding"), &value(3, &[0; 4]), &value(2, b"host")].concat());
        let sum = CHECKSUM.checksum(&before).to_be_bytes();
        [&before[..16 + 12 + 10 + 3], &sum, &before[16 + 12 + 10 + 3 + 4..]].concat()
    }

    fn address(text: &str) -> Option<SocketAddr> {
        Some(text.parse().expect("an address"))
    }

    /// What comes of bytes that arrive in such pieces, and what is left of them.
    fn arrive(bytes: &[u8], piece_len: usize) -> (Result<Option<SocketAddr>, Fault>, Vec<u8>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a loop");
        runtime.block_on(async {
            let (mut client, mut server) = UnixStream::pair().expect("a pair");
            let write = async {
                for piece in bytes.chunks(piece_len) {
                    client.write_all(piece).await.expect("somebody reads");
                    tokio::task::yield_now().await;
                }
                drop(client);
            };
            let mut rest = Vec::new();
            let take = async {
                let source = read(&mut server).await;
                server.read_to_end(&mut rest).await.expect("the rest");
                source
            };
            (tokio::join!(take, write).0, rest)
        })
    }

    fn headers() -> Vec<(Vec<u8>, Option<SocketAddr>)> {
        let (v4, longest) = (address("192.0.2.7:4711"), "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff");
        let v6 = [&[0x20, 1, 0xd, 0xb8][..], &[0; 11], &[1], &[0; 15], &[1, 0x12, 0x67, 0, 80]].concat();
        let long = format!("PROXY UNKNOWN {longest} {longest} 65535 65535\r\n");
        assert_eq!(long.len(), LINE_LEN_MAX);
        vec![
            (b"PROXY TCP4 192.0.2.7 10.0.0.1 4711 80\r\n".to_vec(), v4),
            (b"PROXY TCP6 2001:db8::1 ::1 4711 80\r\n".to_vec(), address("[2001:db8::1]:4711")),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (long.into_bytes(), None),
            (binary(1, 0x11, &V4), v4),
            (binary(1, 0x21, &v6), address("[2001:db8::1]:4711")),
            (binary(1, 0x31, &[b'/'; 216]), None),
            (binary(1, 0x12, &V4), None),
            (binary(0, 0x00, &[]), None),
            (binary(0, 0x11, &V4), None),
            (binary(1, 0x00, b"whatever"), None),
            (binary(1, 0x11, &[&V4[..], &value(4, &[0; BINARY_LEN_MAX - 16 - 12 - 3])].concat()), v4),
            (summed(), v4),
        ]
    }

    #[test]
    fn the_source_is_the_headers_and_what_follows_is_left_for_others() {
        for (header, source) in headers() {
            let bytes = [&header[..], b"GET / HTTP/1.1\r\n"].concat();
            for piece_len in [1, 2, 15, 16, bytes.len()] {
                let (read, rest) = arrive(&bytes, piece_len);
                let shown = header.escape_ascii();
                assert_eq!(read.unwrap_or_else(|fault| panic!("{shown}: {fault}")), source, "{shown}");
                assert_eq!(rest, b"GET / HTTP/1.1\r\n", "{shown}");
            }
        }
    }

    #[test]
    fn a_header_that_ends_anywhere_is_none() {
        for (header, _) in headers() {
            for len in 0..header.len().min(200) {
                let (read, rest) = arrive(&header[..len], len.max(1));
                assert!(matches!(read, Err(Fault::Ended)), "{len} of {}: {read:?}", header.escape_ascii());
                assert!(rest.is_empty());
            }
        }
    }

    #[test]
    fn what_is_no_header_is_refused() {
        let mut wrong_sum = summed();
        wrong_sum[16] ^= 1;
        let (sum, short) = (value(3, &[0; 4]), [&[4, 0, 9][..], b"short"].concat());
        let table: &[(&[u8], &str)] = &[
            (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "another way"),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "another way"),
            (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03AAAA", "another way"),
            (b"proxy TCP4 1.2.3.4 1.2.3.4 1 2\r\n", "another way"),
            (b"PROXY UNKN\r\nGET / HTTP/1.1\r\n", "protocol"),
            (b"PROXY TCP5 1.2.3.4 1.2.3.4 1 2\r\n", "protocol"),
            (b"PROXY TCP4 1.2.3.4 1.2.3.4 1 65536\r\n", "port"),
            (b"PROXY TCP4 ::1 ::1 1 2\r\n", "address"),
            (b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\n", ""),
            (b"PROXY UNKNOWN \xff\xfe\r\n", ""),
            (&[b"PROXY UNKNOWN ", &[b'a'; 92][..], b"\r\n"].concat(), "too long"),
            (&[b"PROXY TCP4 ", &[b'1'; 4000][..]].concat(), "too long"),
            (&[v2::PROTOCOL_PREFIX, b"\x11\x11\x00\x0c", &V4].concat(), "ersion"),
            (&binary(2, 0x11, &V4), "ommand"),
            (&binary(1, 0x41, &V4), "amily"),
            (&binary(1, 0x13, &V4), "rotocol"),
            (&binary(1, 0x11, &V4[..8]), ""),
            (&binary(1, 0x21, &V4), ""),
            (&binary(1, 0x31, &V4), ""),
            (&binary(1, 0x11, &[&V4[..], &short].concat()), ""),
            (&binary(1, 0x11, &[&V4[..], &[4]].concat()), ""),
            (&wrong_sum, "checksum"),
            (&binary(1, 0x11, &[&V4[..], &value(3, &[0; 3])].concat()), "checksum"),
            (&binary(1, 0x11, &[&V4[..], &sum, &sum].concat()), "checksum"),
            (&binary(1, 0x11, &[0; BINARY_LEN_MAX - 15]), "too long"),
        ];
        for (bytes, why) in table {
            let (read, _) = arrive(bytes, bytes.len());
            let fault = read.expect_err(&bytes.escape_ascii().to_string());
            assert!(!matches!(fault, Fault::Ended | Fault::Broken(_)), "{}: {fault}", bytes.escape_ascii());
            assert!(fault.to_string().contains(why), "{}: {fault}", bytes.escape_ascii());
        }
    }

    fn begin() -> impl Strategy<Value = Vec<u8>> {
        let binary = [v2::PROTOCOL_PREFIX, &[0x21, 0x11, 0]].concat();
        let begins = [vec![], LINE_PREFIX.to_vec(), b"PROXY TCP4 ".to_vec(), b"PROXY UNKNOWN".to_vec(), binary];
        proptest::sample::select(begins.to_vec())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn no_bytes_panic_nor_are_more_taken_than_a_header_may_have(
            begin in begin(), rest in vec(any::<u8>(), 0..300), piece_len in 1..64_usize,
        ) {
            let bytes = [begin, rest].concat();
            let (read, left) = arrive(&bytes, piece_len);
            if read.is_ok() {
                let taken = bytes.len() - left.len();
                let again = look(&bytes[..taken]);
                prop_assert!(matches!(again, Ok(Look::Whole(_))), "{again:?}");
                prop_assert_eq!(&bytes[taken..], &left[..]);
            }
        }

        #[test]
        fn what_follows_a_header_is_never_touched(
            which in any::<prop::sample::Index>(), rest in vec(any::<u8>(), 0..200), piece_len in 1..300_usize,
        ) {
            let headers = headers();
            let (header, source) = which.get(&headers);
            let (read, left) = arrive(&[&header[..], &rest].concat(), piece_len);
            prop_assert_eq!(read.expect("a header"), *source);
            prop_assert_eq!(left, rest);
        }
    }
}
