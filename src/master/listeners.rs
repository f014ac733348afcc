//! The listening sockets: bound once by the master, shared by all workers.

use std::net::{Shutdown, TcpListener};
use std::os::fd::{AsFd, BorrowedFd};

use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::contract::status::ListenerStatus;
use crate::error::{Context, Error};
use crate::settings::Address;

/// Connections that may wait in a listener's queue; the kernel caps it (net.core.somaxconn).
const BACKLOG: i32 = 4096;

pub(super) struct Listeners(Vec<Listener>);

struct Listener {
    name: String,
    address: Address,
    socket: TcpListener,
}

impl Listeners {
    /// Binds all addresses, or none.
    pub(super) fn bind(addresses: &[Address]) -> Result<Self, Error> {
        let bind = |(number, &wanted): (usize, &Address)| {
            let socket = listen(wanted).or_refused(|| format!("cannot listen on {wanted}"))?;
            let address = socket.local_addr().map(Address).or_refused(|| format!("cannot listen on {wanted}"))?;
            let name = if number == 0 { "http".to_owned() } else { format!("http{number}") };
            Ok(Listener { name, address, socket })
        };
        Ok(Self(addresses.iter().enumerate().map(bind).collect::<Result<_, Error>>()?))
    }

    /// Ends the queues, whoever else holds them: a worker's own child that kept its copy must not
    /// take connections that nobody answers, nor keep the next master from listening.
    pub(super) fn shut(&self) {
        for listener in &self.0 {
            if let Err(error) = SockRef::from(&listener.socket).shutdown(Shutdown::Both) {
                log::warn!("cannot shut {}: {error}", listener.address);
            }
        }
    }

    pub(super) fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.0.iter().map(|listener| listener.socket.as_fd())
    }

    /// What to open in a browser.
    pub(super) fn urls(&self) -> Vec<String> {
        self.0.iter().map(|listener| format!("http://{}", listener.address)).collect()
    }

    pub(super) fn status(&self) -> Vec<ListenerStatus> {
        let status =
            |listener: &Listener| ListenerStatus { name: listener.name.clone(), address: listener.address.to_string() };
        self.0.iter().map(status).collect()
    }
}

fn listen(Address(address): Address) -> std::io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    // Connections of an earlier process may still be in TIME_WAIT: socket(7).
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}
