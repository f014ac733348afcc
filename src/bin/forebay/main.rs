//! The ready-made daemon: a gateway between thermostats and the programs that watch them.

mod routes;

use std::process::ExitCode;

use forebay::App;

fn main() -> ExitCode {
    App::new("forebay").version(env!("CARGO_PKG_VERSION")).http(async |worker| Ok(routes::router(worker))).main()
}
