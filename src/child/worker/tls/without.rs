//! In the place of TLS in a build without it: no listener speaks it.

use std::io;
use std::os::fd::OwnedFd;

use crate::app::configuration::Configuration;
use crate::app::declare::Stream;
use crate::contract::orders::GivenListener;
use crate::error::mistakes::Mistakes;
use crate::settings::WITHOUT_TLS;

/// No layout of the keys of session tickets.
pub(in crate::child) const TICKETS: u32 = 0;

#[derive(Default)]
pub(in crate::child) struct Tls;

impl Tls {
    /// Another build's master, which reads the settings, may want it of this one.
    pub(in crate::child) fn load(
        listeners: Vec<GivenListener>,
        _: &mut impl Iterator<Item = OwnedFd>,
        configuration: &Configuration,
    ) -> Result<Self, Mistakes> {
        let mut mistakes = Mistakes::default();
        for name in listeners.iter().map(|listener| &listener.name) {
            let place = configuration.place_of(&["listener", name, "certificate"]);
            mistakes.add(place, format!("`listener.{name}.certificate`: {WITHOUT_TLS}"));
        }
        if mistakes.is_empty() { Ok(Self) } else { Err(mistakes) }
    }

    #[expect(clippy::unnecessary_wraps, clippy::unused_self, reason = "as it is with TLS")]
    pub(in crate::child) fn seal_with(&mut self, _: &OwnedFd) -> io::Result<()> {
        Ok(())
    }

    #[expect(clippy::unused_self, reason = "as it is with TLS")]
    pub(super) fn layer(&self, _: usize) -> impl FnOnce(Stream) -> Stream + Send + 'static {
        |stream| stream
    }
}
