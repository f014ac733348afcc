//! A TCP socket that listens, with the options of its listener: the connections that it accepts inherit them.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};

use crate::settings::{Listener, TcpOptions};
use crate::sys::socket::{set_defer_accept, set_fastopen};

/// Binds, and says where: port 0 means any.
pub(super) fn listen(address: SocketAddr, wanted: &Listener) -> io::Result<(Socket, SocketAddr)> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    // Connections of an earlier process may still be in TIME_WAIT: socket(7).
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        // Either way, whatever `net.ipv6.bindv6only` says.
        socket.set_only_v6(wanted.ipv6_only)?;
    }
    socket.bind(&address.into())?;
    change(&socket, TcpOptions::default(), wanted.tcp)?;
    socket.listen(wanted.backlog)?;
    let bound = socket.local_addr()?.as_socket().unwrap_or(address);
    Ok((socket, bound))
}

/// Sets what differs from what the socket has.
pub(super) fn change(socket: &Socket, old: TcpOptions, new: TcpOptions) -> io::Result<()> {
    if old.nodelay != new.nodelay {
        socket.set_tcp_nodelay(new.nodelay)?;
    }
    if old.keepalive != new.keepalive {
        socket.set_keepalive(new.keepalive > 0)?;
        if new.keepalive > 0 {
            let idle = Duration::from_secs(new.keepalive.into());
            socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(idle))?;
        }
    }
    if old.defer_accept != new.defer_accept {
        set_defer_accept(socket, new.defer_accept)?;
    }
    if old.user_timeout != new.user_timeout {
        socket.set_tcp_user_timeout(Some(new.user_timeout))?;
    }
    if old.fastopen != new.fastopen {
        set_fastopen(socket, new.fastopen)?;
    }
    Ok(())
}

/// Whether this takes IPv4 too, beside IPv6.
pub(super) fn takes_both(address: SocketAddr, is_v6_only: bool) -> bool {
    address.is_ipv6() && address.ip().is_unspecified() && !is_v6_only
}

/// Whether two listeners cannot have these at once; each may be one for IPv6 only.
pub(super) fn overlap((one, one_only): (SocketAddr, bool), (other, other_only): (SocketAddr, bool)) -> bool {
    let (one_ip, other_ip) = (one.ip().to_canonical(), other.ip().to_canonical());
    let is_any = one_ip.is_unspecified() || other_ip.is_unspecified();
    let is_both = takes_both(one, one_only) || takes_both(other, other_only);
    let meets = one_ip == other_ip || is_any && (is_both || one_ip.is_ipv4() == other_ip.is_ipv4());
    one.port() == other.port() && meets
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_in_each_others_way_when_the_kernel_says_so() {
        // Of those for IPv6 the last sign says that they are for that only.
        let table = [
            ("127.0.0.1", "127.0.0.1", true),
            ("127.0.0.1", "127.0.0.2", false),
            ("0.0.0.0", "127.0.0.2", true),
            ("[::]", "[::1]", true),
            ("[::]", "127.0.0.1", true),
            ("[::]", "0.0.0.0", true),
            ("[::]!", "0.0.0.0", false),
            ("[::]!", "127.0.0.1", false),
            ("[::]!", "[::1]", true),
            ("[::1]", "127.0.0.1", false),
            ("[::1]", "0.0.0.0", false),
            ("[::ffff:127.0.0.1]", "127.0.0.1", true),
            ("[::ffff:127.0.0.1]", "0.0.0.0", true),
            ("[::ffff:127.0.0.1]", "[::]", true),
        ];
        let read = |text: &str| (text.trim_end_matches('!').to_owned(), text.ends_with('!'));
        for (one, other, expected) in table {
            let ((one_ip, one_only), (other_ip, other_only)) = (read(one), read(other));
            let listener = |only| Listener { backlog: 1, ipv6_only: only, ..Listener::default() };
            let first = format!("{one_ip}:0").parse().expect("an address");
            let (_first, one) = listen(first, &listener(one_only)).expect("a free port");
            let other: SocketAddr = format!("{other_ip}:{}", one.port()).parse().expect("an address");
            let (one, other) = ((one, one_only), (other, other_only));
            assert_eq!((overlap(one, other), overlap(other, one)), (expected, expected), "{one:?} {other:?}");
            let second = listen(other.0, &listener(other_only));
            assert_eq!(
                second.err().map(|error| error.kind()),
                expected.then_some(io::ErrorKind::AddrInUse),
                "{other:?}"
            );
        }
    }
}
