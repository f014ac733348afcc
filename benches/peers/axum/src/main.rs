//! The peer without forebay: one axum program with worker threads. Usage: `peer-axum ADDRESS THREADS`.

use std::error::Error;

use axum::{Router, routing::get};
use tokio::net::TcpListener;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [address, threads] = &arguments[..] else {
        return Err("usage: peer-axum ADDRESS THREADS".into());
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads.parse()?)
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind(address).await?;
        let router = Router::new().route("/", get(async || "Hello, World!"));
        Ok(axum::serve(listener, router).await?)
    })
}
