//! What the service manager is told (sd_notify(3)): ready, how it goes, stopping.
//!
//! Without `NOTIFY_SOCKET` nobody is. Children do not get that variable.

use sd_notify::NotifyState;

use super::supervisor::View;

#[derive(Debug, Default)]
pub(super) struct Notifier {
    is_ready: bool,
    /// The last status that was told.
    status: String,
}

impl Notifier {
    /// All workers serve, for the first time.
    pub(super) fn ready(&mut self) {
        if !self.is_ready {
            self.is_ready = true;
            tell(&[NotifyState::Ready]);
        }
    }

    /// A reload has begun; the manager waits for the next ready. It compares the time with its own.
    pub(super) fn reloading(&self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) if self.is_ready => tell(&[NotifyState::Reloading, now]),
            Ok(_) | Err(_) => {}
        }
    }

    /// It is over, whatever came of it: the service is ready.
    pub(super) fn reloaded(&self) {
        if self.is_ready {
            tell(&[NotifyState::Ready]);
        }
    }

    pub(super) fn stopping(&self) {
        tell(&[NotifyState::Stopping]);
    }

    /// How things stand, if that has changed.
    pub(super) fn status(&mut self, view: &View, addresses: &str) {
        let is_worker =
            |place: &&super::supervisor::Place| matches!(place.role, crate::contract::ids::Role::Worker(..));
        let workers = || view.places.iter().filter(is_worker);
        let (all, serving) = (workers().count(), workers().filter(|place| place.state == "serving").count());
        let status = format!("{}: {serving} of {all} workers serve on {addresses}", view.state);
        if self.status != status {
            tell(&[NotifyState::Status(&status)]);
            self.status = status;
        }
    }
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        log::warn!(target: "forebay", "cannot tell the service manager: {error}");
    }
}
