//! A peer of its own kind: one actix-web program, each worker thread with its own loop. Usage:
//! `peer-actix ADDRESS THREADS`.

use std::error::Error;

use actix_web::{App, HttpServer, web};

#[actix_web::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [address, threads] = &arguments[..] else {
        return Err("usage: peer-actix ADDRESS THREADS".into());
    };
    let server = HttpServer::new(|| App::new().route("/", web::get().to(async || "Hello, World!")));
    Ok(server.workers(threads.parse()?).bind(address)?.run().await?)
}
