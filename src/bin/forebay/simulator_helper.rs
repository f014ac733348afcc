//! The simulated upstream as a helper: there is one, beside the helper that connects to it.

use std::cell::Cell;

use forebay::{Configuration, Context, Handle, Helper, Methods, Request, Result};
use serde::{Deserialize, Serialize};

use crate::nest;
use crate::simulator::{self, Simulator};

/// Runs the simulator.
pub(crate) struct SimulatorHelper {
    url: String,
    /// Until it runs.
    simulator: Cell<Option<Simulator>>,
}

/// Where it listens.
#[derive(Serialize, Deserialize)]
pub(crate) struct Url {}

impl Request for Url {
    const METHOD: &'static str = "url";
    const IDEMPOTENT: bool = true;
    type Reply = String;
}

impl Helper for SimulatorHelper {
    type Config = simulator::Config;
    type Event = ();
    type Error = String;

    /// Only where no other upstream is configured.
    fn is_wanted(configuration: &Configuration) -> Result<bool> {
        Ok(configuration.section::<nest::Config>("nest")?.url.is_none())
    }

    async fn start(config: simulator::Config, _: Context<Self>) -> Result<Self> {
        let simulator = Simulator::bind(config).await?;
        let url = simulator.url();
        log::info!("simulating thermostats on {url}");
        Ok(Self { url, simulator: Cell::new(Some(simulator)) })
    }

    async fn run(&self) -> Result<()> {
        match self.simulator.take() {
            Some(simulator) => Ok(simulator.serve().await?),
            None => Err("the simulator runs already".into()),
        }
    }

    fn methods(methods: Methods<Self>) -> Methods<Self> {
        methods.on::<Url>()
    }
}

impl Handle<Url> for SimulatorHelper {
    async fn handle(&self, _: Url) -> Result<String, String> {
        Ok(self.url.clone())
    }
}
