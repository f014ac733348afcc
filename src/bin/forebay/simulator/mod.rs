//! A Nest service in small: thermostats that live, one event stream per client, and every bad day of the
//! real one on request.
//!
//! It makes the gateway complete on one machine and is the test bench of its client. It answers on two
//! ports, as the real service redirects every caller to another host; it counts what it answers, so that a
//! test can prove what was asked; and it does what `GET /__simulator/help` lists. It never looks at
//! anything but its own sockets: no file, no environment, no other process.

mod acts;
mod changes;
mod clock;
mod connection;
mod counts;
mod encoder;
mod faults;
mod http;
mod refusal;
mod service;
mod stream;
mod structure;
mod temperature;
#[cfg(test)]
mod tests;
mod thermostat;
mod world;
mod writes;

use std::cell::Cell;
use std::collections::BTreeSet;
use std::convert::Infallible;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, TcpSocket};
use tokio::task::LocalSet;

use service::Service;
use world::World;

/// Thermostats and structures of one account; the whole document goes out with each change.
const THERMOSTATS_MAX: u16 = 1000;
const STRUCTURES_MAX: u16 = 100;

/// Connections on both ports together.
const CONNECTIONS_MAX: usize = 8192;

/// How long accepting rests when the system has no descriptors or no memory left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the simulator has and does.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Config {
    pub(crate) thermostats: u16,
    pub(crate) structures: u16,
    /// Seconds between two `keep-alive` events; 0 is none.
    pub(crate) keep_alive_s: f64,
    /// Seconds between two changes at the wall; 0 is none.
    pub(crate) wall_s: f64,
    /// Where callers come first; any free port of 127.0.0.1 if not given.
    pub(crate) listen: Option<SocketAddr>,
    /// Where they are redirected to; any free port of the same address if not given.
    pub(crate) listen_second: Option<SocketAddr>,
    /// Tokens that get a 401; every other one is good.
    pub(crate) bad_tokens: BTreeSet<String>,
}

/// Bound, not yet serving: what connects meanwhile waits in the kernel's queue.
pub(crate) struct Simulator {
    front: TcpListener,
    second: TcpListener,
    /// Holds a port where nobody listens.
    _dead: TcpSocket,
    ports: Ports,
    front_address: SocketAddr,
    world: World,
    keep_alive: Option<Duration>,
    wall: Option<Duration>,
    bad_tokens: BTreeSet<String>,
}

/// The port that a call came in on.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Port {
    /// Redirects.
    Front,
    /// Serves.
    Second,
}

#[derive(Clone, Copy)]
struct Ports {
    front: u16,
    second: u16,
    dead: u16,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            thermostats: 3,
            structures: 1,
            keep_alive_s: 30.0,
            wall_s: 5.0,
            listen: None,
            listen_second: None,
            bad_tokens: BTreeSet::new(),
        }
    }
}

impl Simulator {
    /// Binds both ports. An error names the address, or the key that is out of range.
    pub(crate) async fn bind(config: Config) -> io::Result<Self> {
        check_count("thermostats", config.thermostats, 0, THERMOSTATS_MAX)?;
        check_count("structures", config.structures, 1, STRUCTURES_MAX)?;
        let keep_alive = seconds("keep_alive_s", config.keep_alive_s)?;
        let wall = seconds("wall_s", config.wall_s)?;
        let listen = config.listen.unwrap_or(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        let second = config.listen_second.unwrap_or(SocketAddr::new(listen.ip(), 0));
        let (front, second) = (listener(listen).await?, listener(second).await?);
        let dead = if listen.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        dead.bind(SocketAddr::new(listen.ip(), 0))?;
        let front_address = front.local_addr()?;
        let ports =
            Ports { front: front_address.port(), second: second.local_addr()?.port(), dead: dead.local_addr()?.port() };
        let world = World::new(config.thermostats, config.structures, Timestamp::now());
        let bad_tokens = config.bad_tokens;
        Ok(Self { front, second, _dead: dead, ports, front_address, world, keep_alive, wall, bad_tokens })
    }

    /// What a client is given as the service's URL.
    pub(crate) fn url(&self) -> String {
        let mut address = self.front_address;
        if address.ip().is_unspecified() {
            address.set_ip(match address.ip() {
                IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
                IpAddr::V6(_) => IpAddr::V6(std::net::Ipv6Addr::LOCALHOST),
            });
        }
        format!("http://{address}")
    }

    /// Serves for ever; an error is the end of a listener. Dropping the future closes every connection.
    pub(crate) async fn serve(self) -> io::Result<()> {
        let service = Rc::new(Service::new(self.world, self.keep_alive, self.ports, self.bad_tokens));
        let connections = Rc::new(Cell::new(0));
        let serving = async {
            tokio::select! {
                never = accept(&self.front, Port::Front, &service, &connections) => never.map(|never| match never {}),
                never = accept(&self.second, Port::Second, &service, &connections) => never.map(|never| match never {}),
                () = clock::run(&service, self.wall) => Ok(()),
            }
        };
        LocalSet::new().run_until(serving).await
    }
}

async fn accept(
    listener: &TcpListener,
    port: Port,
    service: &Rc<Service>,
    connections: &Rc<Cell<usize>>,
) -> io::Result<Infallible> {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            // The socket does not listen any more. All other errors are a client's or pass.
            Err(error) if error.kind() == ErrorKind::InvalidInput => return Err(error),
            Err(error) => {
                log::warn!("simulator cannot accept: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        if connections.get() >= CONNECTIONS_MAX || !service.admit(port) {
            connection::reset(&stream);
            continue;
        }
        let place = Place::take(connections);
        let service = service.clone();
        tokio::task::spawn_local(async move {
            connection::serve(service, stream, port).await;
            drop(place);
        });
    }
}

/// One of the connections that may be open.
struct Place(Rc<Cell<usize>>);

impl Place {
    fn take(connections: &Rc<Cell<usize>>) -> Self {
        connections.set(connections.get() + 1);
        Self(connections.clone())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

async fn listener(address: SocketAddr) -> io::Result<TcpListener> {
    let bound = TcpListener::bind(address).await;
    bound.map_err(|error| io::Error::new(error.kind(), format!("cannot bind {address}: {error}")))
}

fn check_count(key: &str, value: u16, min: u16, max: u16) -> io::Result<()> {
    if (min..=max).contains(&value) {
        return Ok(());
    }
    Err(io::Error::new(ErrorKind::InvalidInput, format!("{key} = {value} is not between {min} and {max}")))
}

fn seconds(key: &str, value: f64) -> io::Result<Option<Duration>> {
    let wrong = |_| io::Error::new(ErrorKind::InvalidInput, format!("{key} = {value} is no time"));
    faults::interval(value).map_err(wrong)
}
