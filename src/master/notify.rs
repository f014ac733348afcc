//! What the service manager is told (sd_notify(3)): ready, how it goes, reloading, stopping.
//!
//! Without `NOTIFY_SOCKET` nobody is. Children do not get that variable. A manager that does not read
//! makes nobody wait: what it did not take is offered again at the next turn, the newest status only.

use std::io::{self, ErrorKind};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use nix::time::{ClockId, clock_gettime};

use super::children::plain;
use super::supervisor::{Place, View};
use crate::contract::ids::Role;
use crate::contract::status::ReloadStatus;

/// More is not kept for a manager that does not read.
const UNSENT_MAX: usize = 64;

/// So many letters of the last reload's result: it is shown in one line.
const LAST_RELOAD_LEN_MAX: usize = 400;

#[derive(Debug, Default)]
pub(super) struct Notifier {
    manager: Option<(UnixDatagram, SocketAddr)>,
    is_ready: bool,
    /// The last status.
    status: String,
    /// Lines that were not taken yet, but the status.
    unsent: Vec<String>,
    is_status_unsent: bool,
}

impl Notifier {
    /// Whoever the environment names.
    pub(super) fn new() -> io::Result<Self> {
        let Some(name) = std::env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty()) else {
            return Ok(Self::default());
        };
        let address = match name.as_bytes().strip_prefix(b"@") {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None => SocketAddr::from_pathname(&name)?,
        };
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        Ok(Self { manager: Some((socket, address)), ..Self::default() })
    }

    /// All workers serve, for the first time.
    pub(super) fn ready(&mut self) {
        if !self.is_ready {
            self.is_ready = true;
            self.tell("READY=1".to_owned());
        }
    }

    /// A reload has begun; the manager waits for the next ready. It compares the time with its own.
    pub(super) fn reloading(&mut self) {
        if let (true, Ok(now)) = (self.is_ready, clock_gettime(ClockId::CLOCK_MONOTONIC)) {
            let now_us = now.tv_sec() * 1_000_000 + now.tv_nsec() / 1000;
            self.tell(format!("RELOADING=1\nMONOTONIC_USEC={now_us}"));
        }
    }

    /// It is over, whatever came of it: the service is ready.
    pub(super) fn reloaded(&mut self) {
        if self.is_ready {
            self.tell("READY=1".to_owned());
        }
    }

    pub(super) fn stopping(&mut self) {
        self.tell("STOPPING=1".to_owned());
    }

    /// How things stand, if that has changed.
    pub(super) fn status(&mut self, view: &View, addresses: &str, last_reload: Option<&ReloadStatus>) {
        let is_worker = |place: &&Place| matches!(place.role, Role::Worker(..));
        let workers = || view.places.iter().filter(is_worker);
        let (all, serving) = (workers().count(), workers().filter(|place| place.state == "serving").count());
        // Lines are the protocol's, so it is one.
        let last = last_reload.map_or_else(String::new, |last| format!("; last reload: {last}"));
        let last = plain(&last, LAST_RELOAD_LEN_MAX);
        let status = format!("STATUS={}: {serving} of {all} workers serve on {addresses}{last}", view.state);
        if self.status != status {
            self.status = status;
            self.is_status_unsent = true;
            self.flush();
        }
    }

    /// Offers again what was not taken.
    pub(super) fn flush(&mut self) {
        let Some((socket, address)) = &self.manager else { return };
        let send = |text: &str| match socket.send_to_addr(text.as_bytes(), address) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => false,
            Err(error) => {
                log::warn!(target: "forebay", "cannot tell the service manager: {error}");
                true
            }
            Ok(_) => true,
        };
        while let Some(first) = self.unsent.first() {
            if !send(first) {
                return;
            }
            self.unsent.remove(0);
        }
        if self.is_status_unsent && send(&self.status) {
            self.is_status_unsent = false;
        }
    }

    fn tell(&mut self, lines: String) {
        if self.manager.is_some() && self.unsent.len() < UNSENT_MAX {
            self.unsent.push(lines);
        }
        self.flush();
    }
}
