//! The routes of one worker, with a mirror filled by hand and an upstream that says what a test says.

use std::future::ready;

use axum::body::Body;
use axum::http::{Method, Request};
use futures_util::{FutureExt, StreamExt};
use serde_json::from_slice;
use tower_service::Service;

use super::*;
use crate::mirror::tests::{filled, link, snapshot, thermostat};
use crate::nest::NestEvent;

/// What an answer says.
struct Said {
    status: u16,
    headers: axum::http::HeaderMap,
    body: Bytes,
}

impl Said {
    fn json(&self) -> Value {
        from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {:?}", self.body))
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("text"))
    }
}

fn upstream(outcome: impl Fn(Set) -> SetOutcome + Send + Sync + 'static) -> Setter {
    Arc::new(move |set| Box::pin(ready(outcome(set))))
}

fn echo() -> Setter {
    upstream(|set| Ok(json!({"id": set.id, "fields": set.fields})))
}

fn gateway(mirror: &Mirror, set: Setter) -> Router {
    routes(Gateway { mirror: mirror.clone(), set }, 3, 7)
}

async fn respond(router: &Router, method: Method, path: &str, headers: &[(&str, &str)], body: Body) -> Response {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    router.clone().call(request.body(body).expect("a request")).await.expect("infallible")
}

async fn ask(router: &Router, method: Method, path: &str, body: impl Into<Body>) -> Said {
    let response = respond(router, method, path, &[], body.into()).await;
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let body = axum::body::to_bytes(response.into_body(), usize::MAX).await.expect("a body");
    Said { status, headers, body }
}

async fn get_path(router: &Router, path: &str) -> Said {
    ask(router, Method::GET, path, Body::empty()).await
}

#[tokio::test]
async fn reads_are_answered_from_the_mirror() {
    let router = gateway(&filled(), echo());
    let list = get_path(&router, "/thermostats").await;
    assert_eq!(
        (list.status, list.header("content-type"), list.header("server")),
        (200, "application/json", "forebay/3")
    );
    assert_eq!(list.json(), json!([{"device_id": "a", "label": "Hall"}, {"device_id": "b", "label": "Attic"}]));
    let one = get_path(&router, "/thermostats/b").await;
    assert_eq!((one.status, one.json()), (200, json!({"device_id": "b", "label": "Attic"})));
    let none = get_path(&router, "/thermostats/z").await;
    assert_eq!((none.status, none.header("content-type")), (404, "application/json"));
    assert_eq!(none.json()["error"], "unknown_thermostat");
    let head = ask(&router, Method::HEAD, "/thermostats", Body::empty()).await;
    assert_eq!((head.status, head.body.len(), head.header("content-length")), (200, 0, &*list.body.len().to_string()));
}

#[tokio::test]
async fn what_is_not_there_is_said_in_json() {
    let router = gateway(&filled(), echo());
    let long = vec![b'x'; LOG_LEN_MAX + 1];
    let table = [
        (Method::GET, "/nowhere", Vec::new(), 404, "unknown_route", ""),
        (Method::PUT, "/thermostats/a/label", Vec::new(), 404, "unknown_route", ""),
        (Method::DELETE, "/thermostats/a", Vec::new(), 405, "wrong_method", "GET,HEAD,PUT"),
        (Method::POST, "/thermostats", Vec::new(), 405, "wrong_method", "GET,HEAD"),
        (Method::GET, "/", Vec::new(), 405, "wrong_method", "POST"),
        (Method::GET, "/thermostats/%ff", Vec::new(), 400, "bad_request", ""),
        (Method::POST, "/", long, 413, "too_large", ""),
    ];
    for (method, path, body, status, error, allow) in table {
        let said = ask(&router, method, path, body).await;
        assert_eq!((said.status, said.header("allow"), said.header("server")), (status, allow, "forebay/3"), "{path}");
        assert_eq!(said.header("content-type"), "application/json", "{path}");
        let json = said.json();
        assert_eq!(json["error"], error);
        assert!(json["message"].is_string(), "{json}");
    }
}

#[tokio::test]
async fn before_anything_is_known_they_say_so() {
    let router = gateway(&Mirror::new(), echo());
    for path in ["/thermostats", "/thermostats/a"] {
        let said = get_path(&router, path).await;
        assert_eq!((said.status, said.header("retry-after"), &said.json()["error"]), (503, "1", &json!("not_ready")));
    }
    let said = ask(&router, Method::PUT, "/thermostats/a", r#"{"label":"x"}"#).await;
    assert_eq!(said.status, 503);
}

#[tokio::test]
async fn health_shows_the_upstream() {
    let mirror = Mirror::new();
    let router = gateway(&mirror, echo());
    let expected = json!({"status": "ok", "worker": 3, "generation": 7, "upstream": {"state": "unknown"}});
    assert_eq!(get_path(&router, "/healthz").await.json(), expected);
    mirror.apply(snapshot(1, 1, vec![link(true)]));
    let said = get_path(&router, "/healthz").await.json();
    assert_eq!((&said["status"], &said["upstream"]["state"]), (&json!("ok"), &json!("open")));
    let NestEvent::Link(link) = link(true) else { panic!("a link") };
    let revoked = link.revoked("gone".to_owned(), std::time::SystemTime::now());
    mirror.apply(forebay::Update::Event { sequence: 2, event: NestEvent::Link(revoked) });
    let said = get_path(&router, "/healthz").await.json();
    assert_eq!((&said["status"], &said["upstream"]["state"]), (&json!("ok"), &json!("auth_revoked")));
    assert_eq!(said["upstream"]["reason"], "gone");
}

#[tokio::test]
async fn writes_go_up_and_their_echo_comes_back() {
    let router = gateway(&filled(), echo());
    let said = ask(&router, Method::PUT, "/thermostats/a", r#"{"target_temperature_c":21.0}"#).await;
    assert_eq!((said.status, said.header("content-type")), (200, "application/json"));
    assert_eq!(said.body, r#"{"fields":{"target_temperature_c":21.0},"id":"a"}"#);
}

#[tokio::test]
async fn writes_that_are_wrong_do_not_go_up() {
    let router = gateway(&filled(), upstream(|set| panic!("{} was written", set.id)));
    let long = format!("{{\"label\":\"{}\"}}", "x".repeat(WRITE_LEN_MAX));
    let table = [
        ("a", "{", 400, "bad_json", Value::Null),
        ("a", r#"{"humidity":1}"#, 422, "wrong_field", json!("humidity")),
        ("a", r#"{"target_temperature_c":99}"#, 422, "wrong_field", json!("target_temperature_c")),
        ("z", r#"{"label":"x"}"#, 404, "unknown_thermostat", Value::Null),
        ("a", &*long, 413, "too_large", Value::Null),
    ];
    for (id, body, status, error, field) in table {
        let said = ask(&router, Method::PUT, &format!("/thermostats/{id}"), body.to_owned()).await;
        let json = said.json();
        assert_eq!((said.status, &json["error"], &json["field"]), (status, &json!(error), &field), "{id} {status}");
        assert!(json["message"].is_string(), "{json}");
    }
}

#[tokio::test]
async fn what_the_upstream_says_becomes_a_status() {
    let refusal = json!({"error": "No write permission", "details": {"fields": ["label"]}});
    let refused = |status, body: Value| CallError::Failed(NestError::Refused { status, body });
    let limited = |retry_after_s| CallError::Failed(NestError::RateLimited { retry_after_s, body: Value::Null });
    let failed = CallError::Failed;
    let unreachable = NestError::Unreachable { reason: "no route".to_owned() };
    let table = [
        (refused(400, refusal.clone()), 400, "", Some(refusal)),
        (refused(403, Value::Null), 400, "", None),
        (refused(404, json!("gone")), 404, "", None),
        (refused(500, json!({"error": "oh"})), 502, "", None),
        (refused(304, Value::Null), 502, "", None),
        (limited(Some(60)), 429, "60", None),
        (limited(None), 429, "", None),
        (failed(NestError::Unauthorized), 502, "", None),
        (failed(unreachable), 503, "1", None),
        (failed(NestError::Overloaded), 503, "1", None),
        (failed(NestError::NotReady), 503, "1", None),
        (failed(NestError::UnknownThermostat { id: "a".to_owned() }), 404, "", None),
        (CallError::DeadlineExceeded, 504, "", None),
        (CallError::Overloaded, 503, "1", None),
        (CallError::OutcomeUnknown, 502, "", None),
        (CallError::Panicked, 502, "", None),
        (CallError::NotHandled("set".to_owned()), 502, "", None),
        (CallError::BadRequest("set".to_owned()), 502, "", None),
    ];
    for (error, status, retry_after, body) in table {
        let name = format!("{error:?}");
        let error = std::sync::Mutex::new(Some(error));
        let set = upstream(move |_| Err(error.lock().expect("no panic").take().expect("one write")));
        let said = ask(&gateway(&filled(), set), Method::PUT, "/thermostats/a", r#"{"label":"x"}"#).await;
        assert_eq!((said.status, said.header("retry-after")), (status, retry_after), "{name}");
        match body {
            Some(body) => assert_eq!(said.json(), body, "{name}"),
            None => assert!(said.json()["error"].is_string() && said.json()["message"].is_string(), "{name}"),
        }
    }
}

/// The pieces of a stream that are there now.
fn now(body: &mut axum::body::BodyDataStream) -> String {
    let mut text = String::new();
    while let Some(piece) = body.next().now_or_never() {
        text.push_str(&String::from_utf8_lossy(&piece.expect("it goes on").expect("infallible")));
    }
    text
}

#[tokio::test]
async fn events_begin_where_the_client_was() {
    let mirror = filled();
    let router = gateway(&mirror, echo());
    let response = respond(&router, Method::GET, "/events", &[], Body::empty()).await;
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let mut fresh = response.into_body().into_data_stream();
    let list = String::from_utf8(mirror.list().expect("known").to_vec()).expect("text");
    assert_eq!(now(&mut fresh), format!("id: 5-10\nevent: snapshot\ndata: {list}\n\n"));

    mirror.apply(forebay::Update::Event { sequence: 11, event: thermostat("a", json!({"label": "Cellar"})) });
    let change = "id: 5-11\nevent: thermostat\ndata: {\"device_id\":\"a\",\"label\":\"Cellar\"}\n\n";
    assert_eq!(now(&mut fresh), change);
    for (last, expected) in [("5-10", change), ("5-11", "")] {
        let back = respond(&router, Method::GET, "/events", &[("last-event-id", last)], Body::empty()).await;
        assert_eq!(now(&mut back.into_body().into_data_stream()), expected, "{last}");
    }
    for last in ["nonsense", "4-11", "5-1"] {
        let back = respond(&router, Method::GET, "/events", &[("last-event-id", last)], Body::empty()).await;
        let text = now(&mut back.into_body().into_data_stream());
        assert!(text.starts_with("id: 5-11\nevent: snapshot\n"), "{last}: {text}");
    }
}

#[tokio::test]
async fn bodies_are_logged_up_to_their_limit() {
    let router = gateway(&Mirror::new(), echo());
    assert_eq!(ask(&router, Method::POST, "/", vec![b'x'; LOG_LEN_MAX]).await.status, 202);
    assert_eq!(ask(&router, Method::POST, "/", vec![b'x'; LOG_LEN_MAX + 1]).await.status, 413);
}
