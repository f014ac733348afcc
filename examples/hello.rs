//! The smallest application: every replica answers every path with a greeting.

use std::process::ExitCode;

use axum::{Router, routing::get};
use forebay::App;

fn main() -> ExitCode {
    App::new("hello").http(async |_worker| Ok(Router::new().route("/", get("Hello, World!")))).main()
}
