//! A worker: one replica of the application, on a tokio loop of one thread.
//!
//! It says ready when the application's closure has returned, takes connections when told so, and
//! drains when told so, when TERM comes, or when the master is gone. What the application does last
//! comes after that.

mod accept;
mod access;
mod answer;
mod body;
mod clock;
mod connection;
mod drain;
mod frames;
mod gate;
mod guard;
mod http;
mod limits;
mod proxy;
mod socket;
mod stops;
#[cfg(feature = "tls")]
pub(super) mod tls;
#[cfg(not(feature = "tls"))]
#[path = "tls/without.rs"]
pub(super) mod tls;
mod watch;
mod wear;
mod wire;

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use self::accept::Queue;
pub use self::body::RequestBody;
use self::drain::{Drain, Pace};
use self::gate::Gate;
use self::stops::Stops;
use self::tls::Tls;
use super::life::record;
use super::master::{Ending, Master};
use super::panics;
use super::zygote::Loaded;
use crate::app::declare::{Replica, Worker};
use crate::contract::ids::{Generation, Slot};
use crate::contract::orders::{Begin, ChildReport};
use crate::contract::time::{heartbeat_period, ms};
use crate::error::Result;

/// One replica's whole life.
pub(super) async fn live(
    slot: Slot,
    generation: Generation,
    begin: Begin,
    listeners: Vec<OwnedFd>,
    mut master: Master,
    loaded: Loaded,
) -> Result<()> {
    let drain = Arc::new(Drain::new(Duration::from_millis(begin.drain_ms)));
    wear::limit(begin.requests_max);
    access::tell(begin.access);
    limits::set(begin.http);
    let heartbeat = heartbeat_period(Duration::from_millis(begin.hang_ms));
    let gate = Gate::new(generation.0, &begin.http, ms(heartbeat));
    let neighbours = loaded.neighbours(&begin);
    let proxied = begin.proxied;
    // A process is one worker, once.
    let draining = Box::leak(Box::new({
        let drain = drain.clone();
        move || drain.reached(Pace::Lazy)
    }));
    let stops: &'static Stops = Box::leak(Box::default());
    let on_stop = Box::leak(Box::new(|act| stops.add(act)));
    let tls = loaded.tls;
    let (slot, generation, preloaded) = (slot.0, generation.0, loaded.preloaded);
    let worker = Worker { slot, generation, preloaded, neighbours, draining, on_stop };
    let started = panics::named("http", (loaded.http)(worker)).await;
    let replica = started.inspect_err(|error| master.refuse(&**error))?;
    master.report(&ChildReport::Ready);
    let served = serve((listeners, proxied, tls), &gate, &*replica, &drain, &mut master).await;
    stops.run(drain.deadline()).await;
    served
}

/// Serves from the master's word on until the last connection has ended.
async fn serve(
    (listeners, proxied, tls): (Vec<OwnedFd>, Vec<bool>, Tls),
    gate: &Gate,
    replica: &dyn Replica,
    drain: &Arc<Drain>,
    master: &mut Master,
) -> Result<()> {
    drop(tokio::spawn(watch::keep()));
    if master.says_accept().await?.is_none() {
        return Ok(());
    }
    let mut queue = Queue::new(listeners, (&proxied, tls), drain.clone())?;
    let ending = loop {
        let requests = tokio::select! {
            biased;
            ending = master.says_drain() => break ending,
            requests = wear::enough() => requests,
            never = accept::all(&mut queue, gate, replica, drain) => match never {},
        };
        master.report(&ChildReport::Spent { requests });
    };
    gate.show(false);
    accept::rest(queue, replica, drain);
    end(drain, ending, master).await;
    Ok(())
}

/// Lets the open connections end as the first word wants it, or sooner when another one says so.
async fn end(drain: &Drain, mut ending: Ending, master: &mut Master) {
    let mut finish = std::pin::pin!(drain.finish());
    loop {
        drain.begin(ending.into());
        if let Ending::Stopped { within: Some(within) } = ending {
            drain.end_within(within);
        }
        tokio::select! {
            () = finish.as_mut() => return,
            // A master that is gone would be heard for ever.
            next = master.says_drain(), if ending != Ending::Orphaned => ending = next,
        }
    }
}
