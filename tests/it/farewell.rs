//! How connections that last end with their worker: what their clients are told.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use forebay::testing::{Builder, Server};
use nix::libc::SIGTERM;
use serde_json::Value;

use crate::client::{connect, example, get};
use crate::talker::{Heard, Talker};

/// What an end that waits for nobody may take on a busy machine; the drain limit is 30 s.
const SOON: Duration = Duration::from_secs(10);

/// A server goes away (RFC 6455, section 7.4.1).
const GOING_AWAY: u16 = 1001;

/// A download of the fixture's, in bytes.
const DOWNLOAD_LEN: usize = 150_000;

fn lasting() -> Builder {
    Server::of(example("lasting"))
}

/// Open connections of all workers.
pub(crate) fn connections(status: &Value) -> u64 {
    let workers = status["workers"].as_array().into_iter().flatten();
    workers.filter_map(|worker| worker["connections"].as_u64()).sum()
}

/// Takes what serves now out of service; others serve on.
fn reload(server: &Server) {
    let output = server.command(&["reload"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(get(server.address(), "/").expect("an answer").body, "2", "the new generation serves");
}

fn wait_for_the_old_ones_end(server: &Server) {
    server.wait_until("the end of the old workers", |status| {
        let workers = status["workers"].as_array().map_or(&[][..], Vec::as_slice);
        workers.iter().all(|worker| worker["generation"] == 2)
    });
}

// ---- WebSockets -------------------------------------------------------------------------------

#[test]
fn a_websocket_is_told_1001_over_a_reload_and_nobody_is_cut() {
    let server = lasting().start();
    let mut talkers: Vec<_> = (0..8).map(|_| Talker::open(server.address(), "/echo")).collect();
    for (number, talker) in talkers.iter_mut().enumerate() {
        talker.say(&number.to_string());
        assert_eq!(talker.hear(), Heard::Text(number.to_string()));
    }
    assert_eq!(connections(&server.status()), 8, "a WebSocket is an open connection");
    reload(&server);
    let begun = Instant::now();
    for mut talker in talkers {
        assert_eq!(talker.hear(), Heard::Close(GOING_AWAY));
        let mut next = Talker::open(server.address(), "/echo");
        next.say("again");
        assert_eq!(next.hear(), Heard::Text("again".to_owned()));
        talker.answer_close(GOING_AWAY);
        talker.wait_for_the_end();
    }
    wait_for_the_old_ones_end(&server);
    assert!(begun.elapsed() < SOON, "{} ms", begun.elapsed().as_millis());
    server
        .wait_for("the application's end of each", || (server.log().matches("echo ended").count() == 16).then_some(()));
    assert!(!server.log().contains("are cut"));
    server.stop();
}

#[test]
fn what_a_websocket_has_asked_is_answered_before_it_is_told() {
    let server = lasting().workers(1).start();
    let mut talker = Talker::open(server.address(), "/echo");
    let release = server.directory().join("release");
    let question = format!("hold {}", release.display());
    talker.say(&question);
    reload(&server);
    assert!(talker.is_silent_for(Duration::from_millis(500)), "it was told before its answer");
    File::create(release).expect("let it go");
    assert_eq!(talker.hear(), Heard::Text(question));
    talker.part(GOING_AWAY);
    wait_for_the_old_ones_end(&server);
    assert!(!server.log().contains("are cut"));
    server.stop();
}

#[test]
fn a_websocket_whose_application_only_speaks_is_told_between_two_frames() {
    let server = lasting().configuration("[timeouts]\ndrain = 4\n").start();
    let mut talkers: Vec<_> = (0..4).map(|_| Talker::open(server.address(), "/push")).collect();
    talkers.iter_mut().for_each(|talker| assert_eq!(talker.hear(), Heard::Binary(1)));
    let talkers: Vec<_> = talkers
        .into_iter()
        .map(|mut talker| {
            std::thread::spawn(move || {
                let (heard, code) = talker.hear_until_close();
                assert!(heard.iter().all(|heard| matches!(heard, Heard::Binary(_))));
                talker.answer_close(code);
                talker.wait_for_the_end();
                code
            })
        })
        .collect();
    reload(&server);
    for talker in talkers {
        assert_eq!(talker.join().expect("it hears whole frames"), GOING_AWAY);
    }
    wait_for_the_old_ones_end(&server);
    assert!(!server.log().contains("are cut"));
    server.stop();
}

#[test]
fn an_application_that_writes_without_a_pause_holds_up_nobody() {
    let server = lasting().workers(1).configuration("[timeouts]\nhang = 1\ndrain = 8\n").start();
    let mut talker = Talker::open(server.address(), "/flood");
    assert_eq!(talker.hear(), Heard::Binary(20_000));
    let download = Download::start(server.address());
    server.wait_until("the download", |status| status["workers"][0]["requests"].as_u64() == Some(2));
    let talking = std::thread::spawn(move || {
        let (_, code) = talker.hear_until_close();
        // A client that does not answer: the application writes on, until the limit.
        (talker, code)
    });
    reload(&server);
    assert_eq!(talking.join().expect("it hears whole frames").1, GOING_AWAY);
    download.assert_whole();
    wait_for_the_old_ones_end(&server);
    assert!(!server.log().contains("hung for"), "its loop turned all the time");
    server.stop();
}

#[test]
fn a_websocket_is_not_told_within_a_frame_however_late_it_reads() {
    let server = lasting().workers(1).configuration("[timeouts]\ndrain = 8\n").start();
    let mut talker = Talker::open(server.address(), "/burst");
    reload(&server);
    // After a quarter of the limit the worker does not wait for the application any longer.
    let drained = Instant::now();
    server.wait_for("the time of the farewell", || (drained.elapsed() > Duration::from_secs(3)).then_some(()));
    assert_eq!(talker.hear(), Heard::Binary(16 * 1024 * 1024));
    talker.part(GOING_AWAY);
    wait_for_the_old_ones_end(&server);
    assert!(!server.log().contains("are cut"));
    server.stop();
}

#[test]
fn a_websocket_whose_application_does_nothing_is_told_and_holds_no_stop_up() {
    let mut server = lasting().workers(1).start();
    let mut talker = Talker::open(server.address(), "/quiet");
    assert_eq!(talker.hear(), Heard::Text("once".to_owned()));
    let begun = Instant::now();
    server.signal(server.pid(), SIGTERM);
    talker.part(GOING_AWAY);
    assert!(server.wait().success());
    assert!(begun.elapsed() < SOON, "{} ms", begun.elapsed().as_millis());
    assert!(!server.log().contains("are cut"));
}

#[test]
fn a_websocket_that_does_not_answer_is_cut_at_the_drain_limit_and_counted() {
    let mut server = lasting().workers(1).configuration("[timeouts]\ndrain = 2\n").start();
    let mut silent: Vec<_> = (0..2).map(|_| Talker::open(server.address(), "/echo")).collect();
    let mut asking = TcpStream::connect(server.address()).expect("connect");
    asking.write_all(b"GET /hold/nowhere HTTP/1.1\r\nHost: test\r\n\r\n").expect("send");
    server.wait_until("all of them", |status| {
        connections(status) == 3 && status["workers"][0]["requests"].as_u64() == Some(3)
    });
    let begun = Instant::now();
    server.signal(server.pid(), SIGTERM);
    silent.iter_mut().for_each(|talker| assert_eq!(talker.hear(), Heard::Close(GOING_AWAY)));
    for talker in silent {
        talker.wait_for_the_end();
    }
    assert!(begun.elapsed() > Duration::from_millis(1900), "{} ms", begun.elapsed().as_millis());
    let mut rest = Vec::new();
    let _ = asking.read_to_end(&mut rest);
    assert!(rest.is_empty(), "a request that is too slow has no answer");
    assert!(server.wait().success());
    server.wait_for_log("drained for 2 s: 3 connections are cut, 2 of them WebSockets, 1 of them in a request");
}

/// An answer that takes its time.
struct Download(TcpStream);

impl Download {
    fn start(address: SocketAddr) -> Self {
        let mut stream = TcpStream::connect(address).expect("connect");
        stream.write_all(b"GET /download HTTP/1.0\r\nHost: test\r\n\r\n").expect("send");
        Self(stream)
    }

    fn assert_whole(mut self) {
        let mut whole = String::new();
        self.0.read_to_string(&mut whole).expect("an orderly end");
        assert_eq!(whole.split_once("\r\n\r\n").expect("a head").1.len(), DOWNLOAD_LEN);
    }
}

// ---- event streams ----------------------------------------------------------------------------

/// An event stream whose first event has come.
struct Following {
    stream: TcpStream,
    text: Vec<u8>,
}

impl Following {
    fn start(address: SocketAddr) -> Self {
        let mut stream = connect(address);
        stream.write_all(b"GET /events HTTP/1.1\r\nHost: test\r\n\r\n").expect("send");
        let mut text = Vec::new();
        while !text.ends_with(b"data: 0\n\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).expect("an event");
            text.extend(byte);
        }
        Self { stream, text }
    }

    /// All of it, to the connection's orderly end.
    fn whole(mut self) -> String {
        self.stream.read_to_end(&mut self.text).expect("an orderly end");
        String::from_utf8(self.text).expect("text")
    }
}

#[test]
fn an_event_stream_ends_over_a_reload_and_a_download_does_not() {
    let server = lasting().workers(1).start();
    let events = Following::start(server.address());
    let begun = Instant::now();
    let download = Download::start(server.address());
    server.wait_until("the download", |status| status["workers"][0]["requests"].as_u64() == Some(2));
    reload(&server);
    let reloaded = Instant::now();
    let events = events.whole();
    assert!(events.contains("\r\ndata: 1\n\n\r\n"), "{events}");
    assert!(events.ends_with("\n\n\r\n0\r\n\r\n"), "the last event is whole, and so is the answer: {events:?}");
    assert!(reloaded.elapsed() < SOON, "{} ms", reloaded.elapsed().as_millis());
    download.assert_whole();
    assert!(begun.elapsed() > Duration::from_secs(3), "it outlived the reload");
    wait_for_the_old_ones_end(&server);
    assert!(!server.log().contains("are cut"));
    server.stop();
}

/// The head of its answer could not say that it is the last one.
#[test]
fn a_client_whose_answer_began_before_the_stop_may_ask_once_more() {
    let mut server = lasting().workers(1).start();
    let mut client = connect(server.address());
    client.write_all(b"GET /download HTTP/1.1\r\nHost: test\r\n\r\n").expect("send");
    assert_eq!(client.peek(&mut [0]).expect("a head"), 1);
    server.signal(server.pid(), SIGTERM);
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n0\r\n\r\n") {
        let mut bytes = [0; 4096];
        let len = client.read(&mut bytes).expect("more");
        assert!(len > 0, "closed within the answer");
        answer.extend(&bytes[..len]);
    }
    let answer = String::from_utf8(answer).expect("text");
    let head = answer.split_once("\r\n\r\n").expect("a head").0;
    assert!(!head.contains("connection: close"), "it was late: {head}");
    // What an end at once would send has come by then.
    std::thread::sleep(Duration::from_millis(50));
    client.write_all(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n").expect("send");
    let mut last = String::new();
    client.read_to_string(&mut last).expect("an orderly end");
    assert!(last.starts_with("HTTP/1.1 200 ") && last.contains("connection: close\r\n"), "{last:?}");
    assert!(server.wait().success());
    assert!(!server.log().contains("are cut"));
}

#[test]
fn an_event_stream_ends_at_a_stop_within_no_time() {
    let mut server = lasting().workers(1).start();
    let events = Following::start(server.address());
    let begun = Instant::now();
    server.signal(server.pid(), SIGTERM);
    assert!(events.whole().ends_with("\n\n\r\n0\r\n\r\n"));
    assert!(server.wait().success());
    assert!(begun.elapsed() < SOON, "{} ms", begun.elapsed().as_millis());
    assert!(!server.log().contains("are cut"));
}

// ---- HTTP/2 -----------------------------------------------------------------------------------

/// A connection whose requests share it.
struct Client2 {
    requests: h2::client::SendRequest<&'static [u8]>,
    /// How the connection ends.
    end: tokio::task::JoinHandle<Result<(), h2::Error>>,
}

type Body2 = std::pin::Pin<Box<dyn Future<Output = Result<Vec<u8>, h2::Error>>>>;

impl Client2 {
    async fn connect(address: SocketAddr) -> Self {
        Self::over(tokio::net::TcpStream::connect(address).await.expect("connect")).await
    }

    async fn over(stream: tokio::net::TcpStream) -> Self {
        let (requests, connection) = h2::client::Builder::new().handshake(stream).await.expect("HTTP/2");
        Self { requests, end: tokio::spawn(connection) }
    }

    /// Asks; the answer has begun when this returns.
    async fn ask(&mut self, path: &str) -> Result<Body2, h2::Error> {
        let mut requests = self.requests.clone().ready().await?;
        let request = http::Request::get(format!("http://test{path}")).body(()).expect("a request");
        let answer = requests.send_request(request, true)?.0;
        let mut body = answer.await?.into_body();
        Ok(Box::pin(async move {
            let mut bytes = Vec::new();
            while let Some(data) = body.data().await {
                let data = data?;
                body.flow_control().release_capacity(data.len())?;
                bytes.extend_from_slice(&data);
            }
            Ok(bytes)
        }))
    }
}

fn on_a_loop<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a loop");
    runtime.block_on(async { tokio::time::timeout(Duration::from_secs(30), test).await.expect("it ends") })
}

#[test]
fn over_http_2_streams_are_finished_events_end_and_new_requests_go_elsewhere() {
    let server = lasting().workers(1).start();
    on_a_loop(async {
        let mut client = Client2::connect(server.address()).await;
        let download = client.ask("/download").await.expect("an answer");
        let events = client.ask("/events").await.expect("an answer");
        let command = std::thread::scope(|scope| scope.spawn(|| reload(&server)).join());
        command.expect("it commits");
        let events = String::from_utf8(events.await.expect("an orderly end")).expect("text");
        assert!(events.starts_with("data: 0\n\n") && events.ends_with("\n\n"), "{events:?}");
        let refused = client.ask("/").await.err().expect("GOAWAY has come");
        assert!(refused.is_go_away() || refused.is_io() || refused.to_string().contains("closed"), "{refused:?}");
        assert_eq!(download.await.expect("whole").len(), DOWNLOAD_LEN);
        drop(client.requests);
        client.end.await.expect("no panic").expect("an orderly end");
    });
    wait_for_the_old_ones_end(&server);
    assert!(!server.log().contains("are cut"));
    server.stop();
}

#[test]
fn a_connection_that_has_said_nothing_when_its_worker_drains_may_still_be_http_2() {
    let server = lasting().workers(1).start();
    on_a_loop(async {
        let silent = tokio::net::TcpStream::connect(server.address()).await.expect("connect");
        server.wait_until("its connection", |status| connections(status) == 1);
        reload(&server);
        let mut client = Client2::over(silent).await;
        let answer = client.ask("/").await.expect("an answer");
        assert_eq!(answer.await.expect("whole"), b"1", "the old generation answers");
        drop(client.requests);
        client.end.await.expect("no panic").expect("an orderly end");
    });
    wait_for_the_old_ones_end(&server);
    server.stop();
}

#[test]
fn a_request_of_http_2_that_is_too_slow_is_cut_and_counted() {
    let mut server = lasting().workers(1).configuration("[timeouts]\ndrain = 1\n").start();
    on_a_loop(async {
        let mut client = Client2::connect(server.address()).await;
        let (asked, ()) = tokio::join!(client.ask("/hold/nowhere"), async {
            while server.status()["workers"][0]["requests"] != 1 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            server.signal(server.pid(), SIGTERM);
        });
        assert!(asked.is_err(), "it was cut");
    });
    assert!(server.wait().success());
    server.wait_for_log("drained for 1 s: 1 connection is cut, 1 of them in a request");
}
