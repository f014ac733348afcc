//! A test kit: the application's real binary with N workers, driven by its tests; one [`Helper`] in the
//! test's own process; a [`Fake`] in the place of one, for tests of a router.
//!
//! ```no_run
//! use forebay::testing::Server;
//!
//! // In a test of a package with a binary `thermostats`:
//! // let binary = env!("CARGO_BIN_EXE_thermostats");
//! let binary = "target/debug/thermostats";
//! let server = Server::of(binary).workers(3).start();
//! let address = server.address(); // ask it as its clients would
//! server.signal(server.workers()[0], 9); // and see what a crash costs
//! server.wait_until("a new worker", |status| status["workers"][0]["restarts"] == 1);
//! server.stop();
//! ```

mod fake;
mod helper;
mod processes;
mod server;

pub use self::fake::{Fake, FakeBuilder};
pub use self::helper::{Helper, HelperBuilder};
pub use self::server::{Builder, Server};
