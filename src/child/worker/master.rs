//! The worker's side of its socket to the master.

use std::io;

use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::drain::Drain;
use crate::contract::orders::{WorkerOrder, WorkerReport};
use crate::error::Result;
use crate::ipc::channel;

pub(super) struct Master {
    control: UnixStream,
    term: Signal,
}

impl Master {
    pub(super) fn new(control: std::os::unix::net::UnixStream) -> Result<Self> {
        control.set_nonblocking(true)?;
        Ok(Self { control: UnixStream::from_std(control)?, term: signal(SignalKind::terminate())? })
    }

    /// Tells the master. A report fits the socket's buffer; a master that is gone is noticed by
    /// the next read.
    pub(super) fn report(&self, report: &WorkerReport) {
        if let Err(error) = channel::send(&self.control, report) {
            log::warn!("cannot report to the master: {error}");
        }
    }

    /// Waits for the order to take connections; false when the order is to drain instead.
    pub(super) async fn says_accept(&mut self, drain: &Drain) -> Result<bool> {
        match self.order().await {
            Some(WorkerOrder::Accept) => Ok(true),
            Some(WorkerOrder::Drain) | None => {
                drain.begin();
                Ok(false)
            }
            Some(WorkerOrder::Begin(_)) => Err("begun twice".into()),
        }
    }

    /// Waits until this worker shall drain.
    pub(super) async fn says_drain(&mut self, drain: &Drain) {
        while let Some(WorkerOrder::Accept | WorkerOrder::Begin(_)) = self.order().await {}
        drain.begin();
    }

    /// The next order. `None`: the master is gone, or somebody sent TERM.
    async fn order(&mut self) -> Option<WorkerOrder> {
        loop {
            let ready = tokio::select! {
                _ = self.term.recv() => {
                    log::info!("SIGTERM: draining");
                    return None;
                }
                ready = self.control.readable() => ready,
            };
            ready.ok()?;
            // The master writes an order with one call: what has begun to come is there whole.
            match self.control.try_io(Interest::READABLE, || channel::receive(&self.control)) {
                Ok(Some((order, _))) => return Some(order),
                Ok(None) => {
                    log::warn!("the master is gone: draining");
                    return None;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => {
                    log::error!("cannot read the master's orders: {error}");
                    return None;
                }
            }
        }
    }
}
