//! What happens by itself: keep-alive events, changes at the wall, fans that stop.

use std::time::Duration;

use tokio::time::Instant;

use super::service::Service;
use super::stream::until;

/// How often it is looked whether a fan's time is over.
const FANS: Duration = Duration::from_secs(1);

/// Runs for ever.
pub(super) async fn run(service: &Service, wall: Option<Duration>) {
    let mut next_keep_alive = after(service.keep_alive());
    let mut next_wall = after(wall);
    let mut next_fans = Instant::now() + FANS;
    loop {
        tokio::select! {
            () = until(next_keep_alive) => {
                service.send_keep_alive();
                next_keep_alive = after(service.keep_alive());
            }
            () = service.keep_alive_changed() => next_keep_alive = after(service.keep_alive()),
            () = until(next_wall) => {
                service.change_at_the_wall();
                next_wall = after(wall);
            }
            () = tokio::time::sleep_until(next_fans) => {
                service.advance();
                next_fans = Instant::now() + FANS;
            }
        }
    }
}

fn after(interval: Option<Duration>) -> Option<Instant> {
    interval.map(|interval| Instant::now() + interval)
}
