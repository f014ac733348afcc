//! The helper against an upstream that misbehaves.

mod server;
mod simulated;

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use self::server::{Server, Step, answer, events, stream};
use super::config::Protocol;
use super::*;

const SNAPSHOT: &str = concat!(
    "event: open\ndata: null\n\nevent: put\ndata: {\"path\":\"/\",\"data\":",
    "{\"devices\":{\"thermostats\":{\"a\":{\"label\":\"Hall\"},\"b\":{\"label\":\"Attic\"}}},\"structures\":{}}}\n\n"
);
const LEAF: &str = "event: put\ndata: {\"path\":\"/devices/thermostats/a/label\",\"data\":\"Cellar\"}\n\n";
const KEEP_ALIVE: &str = "event: keep-alive\ndata: null\n\n";

/// No test waits longer for anything.
const PATIENCE: Duration = Duration::from_secs(10);

/// A helper under test, what it has published, and its state directory.
struct Bench {
    nest: Nest,
    published: Rc<RefCell<Vec<NestEvent>>>,
    directory: Rc<TempDir>,
}

impl Bench {
    fn new(url: &str, change: impl FnOnce(&mut Config)) -> Self {
        Self::after(Rc::new(tempfile::tempdir().expect("a directory")), url, change)
    }

    /// A helper in the place of one that was there before.
    fn after(directory: Rc<TempDir>, url: &str, change: impl FnOnce(&mut Config)) -> Self {
        let token_file = directory.path().join("token");
        std::fs::write(&token_file, "c.token\n").expect("write");
        let mut config = Config {
            url: Some(config::base(url).expect("a URL")),
            token_file: Some(forebay::SecretFile::open(token_file).expect("a file")),
            dead_link: Duration::from_secs(5),
            backoff_min: Duration::from_millis(20),
            backoff_max: Duration::from_millis(50),
            ..Config::default()
        };
        change(&mut config);
        let settings = config.settings().expect("settings");
        let source = Source::Url(settings.url.clone().expect("a URL"));
        let published: Rc<RefCell<Vec<NestEvent>>> = Rc::default();
        let sink = published.clone();
        let retry_after = RetryAfter::load(directory.path(), settings.identity());
        let nest = Nest::new(settings, source, retry_after, move |event| {
            sink.borrow_mut().push(event.clone());
        });
        Self { nest, published, directory }
    }

    /// Runs the helper while the test looks on.
    async fn run(&self, test: impl Future<Output = ()>) {
        let both = async {
            tokio::select! {
                biased;
                () = test => {}
                () = async {
                    self.nest.run().await.expect("runs");
                    std::future::pending::<()>().await;
                } => {}
            }
        };
        tokio::time::timeout(PATIENCE, both).await.unwrap_or_else(|_| panic!("still waiting: {:?}", self.published));
    }

    /// Waits for an event that a new subscriber would not have to be told.
    async fn published(&self, wanted: impl Fn(&NestEvent) -> bool) {
        until(|| self.published.borrow().iter().any(&wanted)).await;
    }

    async fn state(&self, wanted: State) {
        until(|| self.nest.link.borrow().state == wanted).await;
    }

    /// How many times the link has become this.
    fn times(&self, wanted: State) -> usize {
        let is = |event: &&NestEvent| matches!(event, NestEvent::Link(link) if link.state == wanted);
        self.published.borrow().iter().filter(is).count()
    }

    async fn set(&self) -> Result<Value, NestError> {
        let Value::Object(fields) = json!({"target_temperature_c": 21.5}) else { panic!("an object") };
        self.nest.handle(Set { id: "a".to_owned(), fields }).await
    }
}

async fn until(condition: impl Fn() -> bool) {
    while !condition() {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

fn is_label(event: &NestEvent, wanted: &str) -> bool {
    matches!(event, NestEvent::Thermostat { fields, .. } if fields["label"] == wanted)
}

#[tokio::test]
async fn it_tells_the_document_and_then_each_change() {
    let server = Server::start(|_| events(&[SNAPSHOT, LEAF])).await;
    let bench = Bench::new(&server.url(), |_| {});
    bench.run(bench.published(|event| is_label(event, "Cellar"))).await;

    let told: Vec<String> = bench.published.borrow().iter().map(|event| format!("{event:?}")).collect();
    assert_eq!(told.len(), 5, "{told:#?}");
    for (event, word) in told.iter().zip(["Connecting", "Hall", "Attic", "Open", "Cellar"]) {
        assert!(event.contains(word), "{told:#?}");
    }
    let link = bench.nest.link.borrow().clone();
    assert_eq!((link.url, link.known), (Some(server.url()), true));
    assert_eq!(bench.nest.snapshot().len(), 3);
    assert_eq!(server.asked()[0].header("authorization").as_deref(), Some("Bearer c.token"));
    assert_eq!(server.asked()[0].line, "GET / HTTP/1.1");
}

#[tokio::test]
async fn a_redirect_gets_the_same_request_and_its_host_is_remembered() {
    for status in ["301", "302", "307", "308"] {
        let target = Server::start(|asked| {
            if asked.is_stream() { events(&[SNAPSHOT]) } else { answer("200", &[], "{\"target_temperature_c\":21.5}") }
        })
        .await;
        let to = target.url();
        let front = Server::start(move |asked| {
            let path = asked.line.split(' ').nth(1).expect("a path");
            answer(status, &[("location", &format!("{to}{path}"))], "elsewhere")
        })
        .await;
        let bench = Bench::new(&front.url(), |_| {});
        bench
            .run(async {
                bench.state(State::Open).await;
                assert_eq!(bench.set().await, Ok(json!({"target_temperature_c": 21.5})));
                // As if the stream had never been redirected.
                bench.nest.upstream.forget();
                assert_eq!(bench.set().await, Ok(json!({"target_temperature_c": 21.5})));
            })
            .await;
        let lines: Vec<String> = front.asked().into_iter().map(|asked| asked.line).collect();
        let write = "PUT /devices/thermostats/a HTTP/1.1";
        assert_eq!(lines, ["GET / HTTP/1.1", write], "{status}");
        let asked = target.asked();
        assert_eq!(asked.iter().map(|asked| &*asked.line).collect::<Vec<_>>(), ["GET / HTTP/1.1", write, write]);
        for asked in &asked {
            assert_eq!(asked.header("authorization").as_deref(), Some("Bearer c.token"), "{status}");
        }
        for write in &asked[1..] {
            assert_eq!(write.body, "{\"target_temperature_c\":21.5}");
            assert_eq!(write.header("content-type").as_deref(), Some("application/json"));
        }
        assert_eq!(bench.nest.link.borrow().url, Some(target.url()));
    }
}

#[tokio::test]
async fn redirects_end_at_ten() {
    let server = Server::start(|_| answer("307", &[("location", "/")], "")).await;
    let bench = Bench::new(&server.url(), |config| config.backoff_min = PATIENCE * 6);
    bench.run(bench.state(State::Waiting)).await;
    assert_eq!(server.asked().len(), 11);
    let reason = bench.nest.link.borrow().reason.clone().expect("a reason");
    assert!(reason.starts_with("more than 10 redirects"), "{reason}");
}

#[tokio::test]
async fn a_silent_upstream_is_left_and_the_first_host_asked_again() {
    // What stalls: the answer, the first event, the events after it, an event that drips.
    let drip = |_: &server::Asked| {
        let bytes = SNAPSHOT.bytes().map(|byte| char::from(byte).to_string());
        let slow = bytes.flat_map(|byte| [Step::Say(byte), Step::Pause(Duration::from_millis(20))]);
        stream().into_iter().chain(slow).collect()
    };
    let scripts: [fn(&server::Asked) -> Vec<Step>; 4] =
        [|_| vec![Step::Hold], |_| events(&[]), |_| events(&[SNAPSHOT, ": comment\n\n"]), drip];
    for (number, script) in scripts.into_iter().enumerate() {
        let target = Server::start(script).await;
        let to = target.url();
        let front = Server::start(move |_| answer("307", &[("location", &to)], "")).await;
        let bench = Bench::new(&front.url(), |config| config.dead_link = Duration::from_millis(100));
        bench.run(until(|| target.asked().len() >= 3)).await;
        assert!(front.asked().len() >= 3, "script {number}: the host is forgotten");
        assert_eq!(target.most_open_streams(), 1, "script {number}");
        let silent = |event: &NestEvent| matches!(event, NestEvent::Link(link) if link.reason.as_deref() == Some("the upstream is silent for 0.1 s"));
        assert!(bench.published.borrow().iter().any(silent), "script {number}");
    }
}

#[tokio::test]
async fn keep_alives_keep_the_connection() {
    let server = Server::start(|_| {
        let mut steps = stream();
        steps.push(Step::Say(SNAPSHOT.to_owned()));
        for _ in 0..8 {
            steps.extend([Step::Pause(Duration::from_millis(50)), Step::Say(KEEP_ALIVE.to_owned())]);
        }
        steps.extend([Step::Say(LEAF.to_owned()), Step::Hold]);
        steps
    })
    .await;
    let bench = Bench::new(&server.url(), |config| config.dead_link = Duration::from_millis(200));
    bench.run(bench.published(|event| is_label(event, "Cellar"))).await;
    assert_eq!(server.asked().len(), 1);
}

#[tokio::test]
async fn after_a_cut_only_what_changed_is_told() {
    let server = Server::start(|asked| {
        let mut steps = stream();
        steps.push(Step::Say(SNAPSHOT.to_owned()));
        match asked.number {
            0 => steps.push(Step::Say("event: put\ndata: {\"path\":\"/\",\"da".to_owned())),
            _ => steps.extend([Step::Say(LEAF.to_owned()), Step::Hold]),
        }
        steps
    })
    .await;
    let bench = Bench::new(&server.url(), |_| {});
    bench
        .run(async {
            bench.published(|event| is_label(event, "Cellar")).await;
            assert_eq!(server.open_streams(), 1);
        })
        .await;
    let thermostats =
        bench.published.borrow().iter().filter(|event| matches!(event, NestEvent::Thermostat { .. })).count();
    assert_eq!(thermostats, 3, "two at first, one change: {:?}", bench.published);
    assert_eq!((bench.times(State::Open), server.most_open_streams()), (2, 1));
    // In between, what was known stayed known.
    let knew = |event: &NestEvent| matches!(event, NestEvent::Link(link) if link.state == State::Waiting && link.known);
    assert!(bench.published.borrow().iter().any(knew));
}

#[tokio::test]
async fn a_host_that_ends_the_stream_is_still_remembered_until_it_is_away() {
    let last = Server::start(|_| events(&[SNAPSHOT])).await;
    let target = Server::start(|asked| if asked.number < 2 { stream() } else { answer("500", &[], "") }).await;
    let to = [target.url(), last.url()];
    let front = Server::start(move |asked| answer("307", &[("location", &to[asked.number.min(1)])], "")).await;
    let bench = Bench::new(&front.url(), |_| {});
    bench.run(bench.state(State::Open)).await;
    assert_eq!(target.asked().len(), 3);
    assert_eq!(front.asked().len(), 2);
    assert_eq!(bench.nest.link.borrow().url, Some(last.url()));
}

#[tokio::test]
async fn a_revoked_token_ends_it() {
    let server = Server::start(|_| events(&[SNAPSHOT, "event: auth_revoked\ndata: \"by the user\"\n\n"])).await;
    let bench = Bench::new(&server.url(), |_| {});
    bench
        .run(async {
            bench.state(State::AuthRevoked).await;
            until(|| server.open_streams() == 0).await;
            assert_eq!(bench.set().await, Err(NestError::Unauthorized));
            // Several times the delay of any other end.
            tokio::time::sleep(Duration::from_millis(300)).await;
        })
        .await;
    assert_eq!(server.asked().len(), 1);
}

#[tokio::test]
async fn a_token_that_is_not_accepted_is_tried_rarely() {
    let server =
        Server::start(|asked| if asked.number < 2 { answer("401", &[], "") } else { events(&[SNAPSHOT]) }).await;
    let bench = Bench::new(&server.url(), |config| config.unauthorized_retry = Duration::from_millis(100));
    bench
        .run(async {
            bench.state(State::Unauthorized).await;
            assert_eq!(bench.set().await, Err(NestError::NotReady));
            bench.state(State::Open).await;
        })
        .await;
    assert_eq!(bench.times(State::Unauthorized), 2);
}

#[tokio::test]
async fn errors_and_cancels_are_survived() {
    for event in ["event: error\ndata: oh\n\n", "event: cancel\ndata: null\n\n", "event: put\ndata: oh\n\n"] {
        let server = Server::start(move |asked| match asked.number {
            0 => events(&[SNAPSHOT, event]),
            _ => events(&[SNAPSHOT, LEAF]),
        })
        .await;
        let bench = Bench::new(&server.url(), |_| {});
        bench.run(bench.published(|event| is_label(event, "Cellar"))).await;
        assert_eq!(server.most_open_streams(), 1, "{event}");
    }
}

#[tokio::test]
async fn retry_after_holds_for_the_next_process_too() {
    let server = Server::start(|asked| match asked.number {
        0 => answer("429", &[("retry-after", "1")], "{\"error\":\"Blocked\"}"),
        _ => events(&[SNAPSHOT]),
    })
    .await;
    let first = Bench::new(&server.url(), |_| {});
    first.run(first.state(State::Waiting)).await;
    let next = Bench::after(first.directory.clone(), &server.url(), |_| {});
    let started = Instant::now();
    next.run(next.state(State::Open)).await;
    assert!(started.elapsed() > Duration::from_millis(700), "{:?}", started.elapsed());
    assert_eq!(server.asked().len(), 2);
    assert_eq!(next.times(State::Waiting), 1);
}

#[tokio::test]
async fn an_upstream_that_asks_for_no_delay_gets_one() {
    for (status, asked_for) in [("429", "0"), ("503", "0"), ("429", "Sun, 06 Nov 1994 08:49:37 GMT")] {
        let server = Server::start(move |_| answer(status, &[("retry-after", asked_for)], "")).await;
        let bench = Bench::new(&server.url(), |config| {
            (config.backoff_min, config.backoff_max) = (PATIENCE * 6, PATIENCE * 6);
        });
        bench.run(bench.state(State::Waiting)).await;
        let link = bench.nest.link.borrow().clone();
        let retry_at_s = link.retry_at_s.expect("it waits");
        assert!(retry_at_s >= link.since_s + PATIENCE.as_secs(), "{status} {asked_for}: {link:?}");
        assert_eq!((server.asked().len(), bench.times(State::Connecting)), (1, 1), "{status} {asked_for}");
        assert!(!bench.directory.path().join("retry-after.json").exists());
    }
}

#[tokio::test]
async fn what_is_no_event_stream_is_said_to_be_none() {
    let server = Server::start(|_| answer("200", &[("content-type", "text/html")], "<p>Welcome to the hotel")).await;
    let bench = Bench::new(&server.url(), |_| {});
    bench.run(bench.state(State::Waiting)).await;
    let reason = bench.nest.link.borrow().reason.clone().expect("a reason");
    assert!(reason.contains("no event stream"), "{reason}");
}

#[tokio::test]
async fn an_upstream_that_is_away_is_named() {
    let gone = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
    let bench = Bench::new(&format!("http://{gone}"), |_| {});
    bench.run(until(|| bench.times(State::Waiting) > 2)).await;
    let reason = bench.published.borrow().iter().find_map(|event| match event {
        NestEvent::Link(link) => link.reason.clone(),
        NestEvent::Thermostat { .. }
        | NestEvent::ThermostatRemoved { .. }
        | NestEvent::Structure { .. }
        | NestEvent::StructureRemoved { .. } => None,
    });
    let reason = reason.expect("a reason");
    assert!(reason.starts_with(&format!("cannot reach http://{gone}")) && reason.contains("refused"), "{reason}");
}

#[tokio::test]
async fn https_is_tried_with_the_systems_roots_and_never_in_the_clear() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let first_bytes = Arc::new(Mutex::new(Vec::new()));
    let seen = first_bytes.clone();
    tokio::spawn(async move {
        while let Ok((mut connection, _)) = listener.accept().await {
            let first = connection.read_u8().await.unwrap_or_default();
            seen.lock().expect("no panic").push(first);
            let _ = connection.write_all(b"HTTP/1.1 400 no TLS here\r\n\r\n").await;
        }
    });
    let bench = Bench::new(&format!("https://{address}"), |_| {});
    bench.run(bench.state(State::Waiting)).await;
    let reason = bench.nest.link.borrow().reason.clone().expect("a reason");
    assert!(reason.starts_with(&format!("cannot reach https://{address}")), "{reason}");
    const HANDSHAKE: u8 = 0x16;
    let first_bytes = first_bytes.lock().expect("no panic");
    assert!(!first_bytes.is_empty() && first_bytes.iter().all(|byte| *byte == HANDSHAKE), "{first_bytes:?}");
}

#[test]
fn what_the_upstream_says_is_told_in_part() {
    assert_eq!(excerpt("short"), "short");
    let long = "ü".repeat(REASON_LEN_MAX);
    assert_eq!(excerpt(&long), long);
    assert_eq!(excerpt(&format!("{long}ü")), format!("{long}…"));
}

#[tokio::test]
async fn writes_are_answered_with_what_the_upstream_says() {
    let refused = json!({"error": "Temperature too high", "details": {"fields": ["target_temperature_c"]}});
    let table = [
        ("200", "{\"target_temperature_c\":21.5}", Ok(json!({"target_temperature_c": 21.5}))),
        ("200", "", Ok(Value::Null)),
        ("400", &*refused.to_string(), Err(NestError::Refused { status: 400, body: refused.clone() })),
        ("404", "", Err(NestError::Refused { status: 404, body: Value::Null })),
        ("500", "oh", Err(NestError::Refused { status: 500, body: json!("oh") })),
        ("401", "{}", Err(NestError::Unauthorized)),
        ("429", "\"Blocked\"", Err(NestError::RateLimited { retry_after_s: None, body: json!("Blocked") })),
    ];
    for (status, body, expected) in table {
        let said = body.to_owned();
        let server = Server::start(
            move |asked| {
                if asked.is_stream() { events(&[SNAPSHOT]) } else { answer(status, &[], &said) }
            },
        )
        .await;
        let bench = Bench::new(&server.url(), |_| {});
        bench
            .run(async {
                bench.state(State::Open).await;
                assert_eq!(bench.set().await, expected, "{status} {body}");
            })
            .await;
        assert_eq!(server.asked()[1].body, "{\"target_temperature_c\":21.5}");
    }
}

#[tokio::test]
async fn writes_that_cannot_succeed_are_not_sent() {
    let server = Server::start(|asked| {
        if asked.is_stream() { events(&[SNAPSHOT]) } else { answer("429", &[("retry-after", "60")], "") }
    })
    .await;
    let bench = Bench::new(&server.url(), |_| {});
    assert_eq!(bench.set().await, Err(NestError::NotReady));
    bench
        .run(async {
            bench.state(State::Open).await;
            let unknown = Set { id: "z".to_owned(), fields: Fields::new() };
            assert_eq!(bench.nest.handle(unknown).await, Err(NestError::UnknownThermostat { id: "z".to_owned() }));
            for _ in 0..3 {
                let outcome = bench.set().await;
                let Err(NestError::RateLimited { retry_after_s: Some(seconds), .. }) = outcome else {
                    panic!("{outcome:?}")
                };
                assert!((59..=60).contains(&seconds), "{seconds}");
            }
        })
        .await;
    assert_eq!(server.asked().len(), 2, "one stream, one write");
}

#[tokio::test]
async fn firebase_has_its_own_words() {
    let server = Server::start(|asked| {
        if asked.is_stream() {
            let patch = "event: patch\ndata: {\"path\":\"/devices/thermostats\",\"data\":{\"a/label\":\"Cellar\",\"b\":null}}\n\n";
            events(&[SNAPSHOT, patch])
        } else {
            answer("200", &[], &asked.body)
        }
    })
    .await;
    let bench = Bench::new(&format!("{}/homes/1?auth=x", server.url()), |config| config.protocol = Protocol::Firebase);
    bench
        .run(async {
            bench.published(|event| is_label(event, "Cellar")).await;
            bench.published(|event| *event == NestEvent::ThermostatRemoved { id: "b".to_owned() }).await;
            assert_eq!(bench.set().await, Ok(json!({"target_temperature_c": 21.5})));
        })
        .await;
    let lines: Vec<String> = server.asked().into_iter().map(|asked| asked.line).collect();
    let write = "PATCH /homes/1/devices/thermostats/a.json?auth=x HTTP/1.1";
    assert_eq!(lines, ["GET /homes/1.json?auth=x HTTP/1.1", write]);
}
