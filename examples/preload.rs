//! One gigabyte, built once and shared by all workers: `status` shows it in each of them, `free`
//! shows it once.
//!
//! `cargo run --release --example preload`, then `curl 127.0.0.1:8080/4711`.

use std::process::ExitCode;

use axum::extract::Path;
use axum::http::StatusCode;
use axum::{Router, routing::get};
use forebay::{App, Worker};

const LEN: usize = (1 << 30) / size_of::<u64>();

fn main() -> ExitCode {
    App::new("preload")
        .preload(|_| {
            let squares: Vec<u64> = (0..LEN as u64).map(|number| number * number).collect();
            Ok(squares)
        })
        .http(replica)
        .main()
}

async fn replica(worker: Worker) -> forebay::Result<Router> {
    let squares: &'static [u64] = worker.preloaded::<Vec<u64>>()?;
    let square = async |Path(number): Path<usize>| squares.get(number).map(u64::to_string).ok_or(StatusCode::NOT_FOUND);
    Ok(Router::new().route("/{number}", get(async move |path| square(path).await)))
}
