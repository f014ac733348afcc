//! What the application does last in a replica, in the order in which it said so.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::app::declare::StopFn;
use crate::child::panics;
use crate::error::Chain;

/// How long after the drain limit all of it may last: the master ends a worker another second later.
const STOP_GRACE: Duration = Duration::from_secs(1);

/// How many there may be.
const STOPS_MAX: usize = 64;

#[derive(Default)]
pub(super) struct Stops(Mutex<Vec<StopFn>>);

impl Stops {
    pub(super) fn add(&self, act: StopFn) {
        let mut acts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if acts.len() == STOPS_MAX {
            log::error!("on_stop was given more than {STOPS_MAX} closures: one is left out");
            return;
        }
        acts.push(act);
    }

    /// Runs all, until shortly after the drain's deadline.
    pub(super) async fn run(&self, deadline: Instant) {
        let acts = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        let (count, mut ended) = (acts.len(), 0);
        let all = async {
            for act in acts {
                if let Err(error) = panics::named("on_stop", async { act().await }).await {
                    log::error!("a closure of on_stop failed: {}", Chain(&*error));
                }
                ended += 1;
            }
        };
        if tokio::time::timeout_at(deadline + STOP_GRACE, all).await.is_err() {
            let grace = STOP_GRACE.as_secs();
            log::error!("on_stop: cut {grace} s after the drain limit, {ended} of {count} had ended");
        }
    }
}
