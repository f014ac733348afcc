//! An application whose connections last: WebSockets, event streams, downloads; and that does
//! something last, as `LASTING` in the environment says: `fail`, `panic`, `endless`, `refuse`.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path as FilePath;
use std::process::ExitCode;
use std::time::Duration;

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::extract::{ConnectInfo, Path, Request};
use axum::response::Sse;
use axum::response::sse::Event;
use axum::routing::{any, get};
use axum::{Extension, Router};
use forebay::{App, BoxError, Worker};
use futures_util::{SinkExt, Stream, StreamExt, stream};

/// Between two events, pieces of a download, and messages.
const PAUSE: Duration = Duration::from_millis(20);

/// A message that no buffers between a server and its client take.
const BURST_LEN: usize = 16 * 1024 * 1024;

/// How many pieces a download has.
const PIECES: usize = 150;

fn main() -> ExitCode {
    App::new("lasting").http(replica).main()
}

async fn replica(worker: Worker) -> Result<Router, BoxError> {
    last_acts(&worker, &std::env::var("LASTING").unwrap_or_default())?;
    Ok(Router::new()
        .route("/", get(async move || worker.generation().to_string()))
        .route("/said", any(said))
        .route("/echo", get(async |upgrade: WebSocketUpgrade| upgrade.on_upgrade(echo)))
        .route("/push", get(async |upgrade: WebSocketUpgrade| upgrade.on_upgrade(push)))
        .route("/flood", get(async |upgrade: WebSocketUpgrade| upgrade.on_upgrade(flood)))
        .route("/burst", get(async |upgrade: WebSocketUpgrade| upgrade.on_upgrade(burst)))
        .route("/quiet", get(async |upgrade: WebSocketUpgrade| upgrade.on_upgrade(quiet)))
        .route("/events", get(async || Sse::new(events())))
        .route("/large/{mib}", get(async |Path(mib): Path<usize>| vec![b'x'; mib << 20]))
        .route("/download", get(async || Body::from_stream(download())))
        .route("/hold/{*file}", get(async |Path(file): Path<String>| hold(&format!("/{file}")).await)))
}

/// What a client has said, as it has come here, and who that is.
async fn said(peer: Option<Extension<ConnectInfo<SocketAddr>>>, request: Request) -> String {
    let (head, body) = request.into_parts();
    let peer = peer.map_or_else(|| "nobody".to_owned(), |Extension(ConnectInfo(peer))| peer.to_string());
    let of = |name: &str| {
        let all: Vec<&str> = head.headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).collect();
        if all.is_empty() { "-".to_owned() } else { all.join("; ") }
    };
    let (forwarded, host) = (of("x-forwarded-for"), of("host"));
    let body = to_bytes(body, BURST_LEN).await.map_or_else(|error| error.to_string(), |body| body.len().to_string());
    format!("{} {} {:?} of {peer} for {forwarded} at {host}: {body}", head.method, head.uri, head.version)
}

fn last_acts(worker: &Worker, fault: &str) -> Result<(), BoxError> {
    worker.on_stop(async || act("first"));
    match fault {
        "fail" => worker.on_stop(async || Err("the disk is full".into())),
        "panic" => worker.on_stop(async || panic!("the last act panics")),
        "endless" => worker.on_stop(async || std::future::pending().await),
        "refuse" => return Err("no database".into()),
        _ => {}
    }
    worker.on_stop(async || {
        tokio::time::sleep(PAUSE).await;
        act("last")
    });
    Ok(())
}

fn act(which: &str) -> Result<(), BoxError> {
    log::info!(target: "lasting", "{which} act");
    Ok(())
}

/// Says each message again; `hold FILE` once the file is there.
async fn echo(mut socket: WebSocket) {
    while let Some(Ok(message)) = socket.recv().await {
        if let Message::Text(text) = message {
            if let Some(file) = text.strip_prefix("hold ") {
                hold(file).await;
            }
            if socket.send(Message::Text(text)).await.is_err() {
                break;
            }
        }
    }
    log::info!(target: "lasting", "echo ended");
}

/// Speaks without end, in frames of every kind of length, and never listens.
async fn push(mut socket: WebSocket) {
    for number in 0_usize.. {
        let len = [1, 125, 126, 1000, 65_535, 65_536, 200_000][number % 7];
        if socket.send(Message::Binary(vec![0x88; len].into())).await.is_err() {
            break;
        }
        tokio::time::sleep(PAUSE).await;
    }
    log::info!(target: "lasting", "push ended");
}

/// Writes without a pause, while another task listens.
async fn flood(socket: WebSocket) {
    let (mut writer, mut reader) = socket.split();
    drop(tokio::spawn(async move { while let Some(Ok(_)) = reader.next().await {} }));
    while writer.send(Message::Binary(vec![0x88; 20_000].into())).await.is_ok() {}
    log::info!(target: "lasting", "flood ended");
}

/// Says much at once, and then listens.
async fn burst(mut socket: WebSocket) {
    if socket.send(Message::Binary(vec![0x88; BURST_LEN].into())).await.is_ok() {
        while let Some(Ok(_)) = socket.recv().await {}
    }
    log::info!(target: "lasting", "burst ended");
}

/// Speaks once, and never again.
async fn quiet(mut socket: WebSocket) {
    let _ = socket.send(Message::Text("once".into())).await;
    std::future::pending().await
}

fn events() -> impl Stream<Item = Result<Event, Infallible>> {
    stream::unfold(0, async |number: u64| {
        tokio::time::sleep(PAUSE).await;
        Some((Ok(Event::default().data(number.to_string())), number + 1))
    })
}

fn download() -> impl Stream<Item = Result<Bytes, Infallible>> {
    stream::unfold(0, async |number| {
        tokio::time::sleep(PAUSE).await;
        (number < PIECES).then(|| (Ok(Bytes::from_static(&[b'x'; 1000])), number + 1))
    })
}

/// Answers once the file is there.
async fn hold(file: &str) -> &'static str {
    while !FilePath::new(file).exists() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    log::info!(target: "lasting", "let go");
    "held"
}
