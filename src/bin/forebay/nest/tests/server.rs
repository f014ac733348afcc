//! An upstream whose every word is written by a test.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A request as it came.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    /// How many came before it.
    pub(super) number: usize,
    pub(super) line: String,
    pub(super) head: String,
    pub(super) body: String,
}

impl Asked {
    pub(super) fn is_stream(&self) -> bool {
        self.header("accept").as_deref() == Some("text/event-stream")
    }

    pub(super) fn header(&self, name: &str) -> Option<String> {
        let lines = self.head.lines().skip(1).filter_map(|line| line.split_once(':'));
        let mut values = lines.filter(|(key, _)| key.eq_ignore_ascii_case(name));
        values.next().map(|(_, value)| value.trim().to_owned())
    }
}

/// What is done on a connection after a request.
#[derive(Clone, Debug)]
pub(super) enum Step {
    Say(String),
    /// So long, unless the client closes.
    Pause(Duration),
    /// Until the client closes.
    Hold,
}

/// An answer with a body, after which the connection ends.
pub(super) fn answer(status: &str, headers: &[(&str, &str)], body: &str) -> Vec<Step> {
    let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let len = body.len();
    vec![Step::Say(format!("HTTP/1.1 {status} x\r\n{headers}content-length: {len}\r\nconnection: close\r\n\r\n{body}"))]
}

/// The head of a stream.
pub(super) fn stream() -> Vec<Step> {
    vec![Step::Say("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n".to_owned())]
}

/// A stream that says these events and stays.
pub(super) fn events(texts: &[&str]) -> Vec<Step> {
    let mut steps = stream();
    steps.extend(texts.iter().map(|text| Step::Say((*text).to_owned())));
    steps.push(Step::Hold);
    steps
}

pub(super) struct Server {
    pub(super) address: SocketAddr,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    asked: Mutex<Vec<Asked>>,
    open_streams: AtomicUsize,
    most_open_streams: AtomicUsize,
}

impl Server {
    pub(super) async fn start(script: impl Fn(&Asked) -> Vec<Step> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let state = Arc::new(State::default());
        let shared = state.clone();
        let script = Arc::new(script);
        tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                tokio::spawn(serve(connection, shared.clone(), script.clone()));
            }
        });
        Self { address, state }
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(super) fn asked(&self) -> Vec<Asked> {
        self.state.asked.lock().expect("no panic").clone()
    }

    pub(super) fn open_streams(&self) -> usize {
        self.state.open_streams.load(Ordering::Relaxed)
    }

    pub(super) fn most_open_streams(&self) -> usize {
        self.state.most_open_streams.load(Ordering::Relaxed)
    }
}

async fn serve(mut connection: TcpStream, state: Arc<State>, script: Arc<impl Fn(&Asked) -> Vec<Step>>) {
    let Some(asked) = read(&mut connection, &state).await else {
        return;
    };
    let is_stream = asked.is_stream();
    if is_stream {
        let open = state.open_streams.fetch_add(1, Ordering::Relaxed) + 1;
        state.most_open_streams.fetch_max(open, Ordering::Relaxed);
    }
    for step in script(&asked) {
        let goes_on = match step {
            Step::Say(text) => connection.write_all(text.as_bytes()).await.is_ok(),
            Step::Pause(time) => tokio::time::timeout(time, closed(&mut connection)).await.is_err(),
            Step::Hold => {
                closed(&mut connection).await;
                false
            }
        };
        if !goes_on {
            break;
        }
    }
    if is_stream {
        state.open_streams.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Waits until the client has closed.
async fn closed(connection: &mut TcpStream) {
    while connection.read(&mut [0; 64]).await.is_ok_and(|len| len > 0) {}
}

async fn read(connection: &mut TcpStream, state: &State) -> Option<Asked> {
    let mut bytes = Vec::new();
    let head_len = loop {
        if let Some(at) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break at + 4;
        }
        if connection.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8_lossy(&bytes[..head_len]).into_owned();
    let mut asked = Asked { number: 0, line: head.lines().next()?.to_owned(), head, body: String::new() };
    let body_len: usize = asked.header("content-length").map_or(0, |len| len.parse().expect("a number"));
    while bytes.len() < head_len + body_len {
        connection.read_buf(&mut bytes).await.ok()?;
    }
    asked.body = String::from_utf8_lossy(&bytes[head_len..]).into_owned();
    let mut all = state.asked.lock().expect("no panic");
    asked.number = all.len();
    all.push(asked.clone());
    Some(asked)
}
