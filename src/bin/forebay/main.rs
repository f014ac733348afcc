//! The ready-made daemon: a gateway between thermostats and the programs that watch them.

mod mirror;
mod nest;
mod routes;
mod simulator;
mod simulator_helper;

use std::process::ExitCode;

use forebay::App;

use self::nest::Nest;
use self::simulator_helper::SimulatorHelper;

fn main() -> ExitCode {
    App::new("forebay")
        .version(env!("CARGO_PKG_VERSION"))
        .config_example(include_str!("nest/example.toml"))
        .helper::<SimulatorHelper>("simulator")
        .helper::<Nest>("nest")
        .http(async |worker| routes::router(&worker))
        .main()
}
