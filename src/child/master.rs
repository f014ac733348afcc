//! A child's side of its socket to the master.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::contract::orders::{ChildOrder, ChildReport, NOTE_LEN_MAX};
use crate::error::{Chain, Result};
use crate::ipc::channel;
use crate::log::logger;

pub(super) struct Master {
    control: UnixStream,
    term: Signal,
}

/// Why a child ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// Others serve on: the master has retired it, or somebody sent it TERM.
    Retired,
    /// The daemon stops, within so long if that is less than the drain limit; or this process is
    /// waited for.
    Stopped { within: Option<Duration> },
    /// The master is gone.
    Orphaned,
}

impl Master {
    pub(super) fn new(control: std::os::unix::net::UnixStream) -> Result<Self> {
        control.set_nonblocking(true)?;
        Ok(Self { control: UnixStream::from_std(control)?, term: signal(SignalKind::terminate())? })
    }

    /// A way to tell the master a note beside everything else; false: it was not told.
    pub(super) fn noter(&self) -> Result<impl Fn(&str) -> bool + use<>> {
        let control = self.control.as_fd().try_clone_to_owned()?;
        Ok(move |text: &str| {
            let text = text.chars().take(NOTE_LEN_MAX).collect();
            let sent = channel::send(&control, &ChildReport::Note { text });
            if let Err(error) = &sent {
                log::debug!("cannot tell the master a note: {error}");
            }
            sent.is_ok()
        })
    }

    /// Tells the master. A report fits the socket's buffer; a master that is gone is noticed by
    /// the next read.
    pub(super) fn report(&self, report: &ChildReport) {
        if let Err(error) = channel::send(&self.control, report) {
            log::warn!("cannot report to the master: {error}");
        }
    }

    /// Tells the master why this process cannot do its work.
    pub(super) fn refuse(&self, error: &(dyn std::error::Error + 'static)) {
        self.report(&ChildReport::Refused { reason: Chain(error).to_string() });
    }

    /// Waits for the word to begin; `None`: it is to end instead.
    pub(super) async fn says_accept(&mut self) -> Result<Option<()>> {
        match self.order().await {
            Ok(ChildOrder::Accept) => Ok(Some(())),
            Ok(ChildOrder::Drain { .. } | ChildOrder::Filter { .. }) | Err(_) => Ok(None),
            Ok(ChildOrder::Begin(_)) => Err("begun twice".into()),
        }
    }

    /// Waits until this process shall end. A process that was retired may be told again: that all
    /// stops, or that the master is gone.
    pub(super) async fn says_drain(&mut self) -> Ending {
        loop {
            match self.order().await {
                Ok(ChildOrder::Accept | ChildOrder::Begin(_) | ChildOrder::Filter { .. }) => {}
                Ok(ChildOrder::Drain { lazily: true, .. }) => return Ending::Retired,
                Ok(ChildOrder::Drain { lazily: false, within_ms }) => {
                    return Ending::Stopped { within: within_ms.map(Duration::from_millis) };
                }
                Err(ending) => return ending,
            }
        }
    }

    /// The next order, or why there will be none.
    async fn order(&mut self) -> Result<ChildOrder, Ending> {
        loop {
            let ready = tokio::select! {
                _ = self.term.recv() => {
                    log::info!("SIGTERM: draining");
                    // Its slot is filled again when it has ended: nobody waits for idle clients.
                    return Err(Ending::Stopped { within: None });
                }
                ready = self.control.readable() => ready,
            };
            ready.map_err(|_| Ending::Orphaned)?;
            // The master writes an order with one call: what has begun to come is there whole.
            match self.control.try_io(Interest::READABLE, || channel::receive(&self.control)) {
                Ok(Some((ChildOrder::Filter { filter }, _))) => logger::refilter(&filter),
                Ok(Some((order, _))) => return Ok(order),
                Ok(None) => {
                    log::warn!("the master is gone: draining");
                    return Err(Ending::Orphaned);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => {
                    log::error!("cannot read the master's orders: {error}");
                    return Err(Ending::Orphaned);
                }
            }
        }
    }
}
