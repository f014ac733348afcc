//! Each fault does what it says.

use std::time::Duration;

use serde_json::{Value, json};

use super::client::{End, call};
use super::{EVENTS, TOKEN, bench};

#[tokio::test]
async fn calls_are_refused_as_often_as_asked() {
    bench(async |bench| {
        let body = json!({"target_temperature_c": 24});
        bench.fault(r#"{"fault":"refuse_writes","with":"blocked","times":2}"#).await;
        for _ in 0..2 {
            let refused = bench.put(&bench.hallway, &body).await;
            assert_eq!((refused.status, refused.headers.get("retry-after")), (429, None));
            assert_eq!(refused.json().await["error"], "Blocked");
        }
        bench.fault(r#"{"fault":"refuse_writes","with":"blocked","retry_after":{"seconds":7}}"#).await;
        assert_eq!(bench.put(&bench.hallway, &body).await.headers["retry-after"], "7");
        bench.fault(r#"{"fault":"refuse_writes","with":"blocked","retry_after":{"date":7}}"#).await;
        let refused = bench.put(&bench.hallway, &body).await;
        assert!(httpdate::parse_http_date(&refused.headers["retry-after"]).is_ok());
        for (with, status) in [
            ("wrong_format", 400),
            ("not_allowed", 400),
            ("no_permission", 400),
            ("low_battery", 400),
            ("unauthorized", 401),
            ("not_found", 404),
            ("internal", 500),
            ("unavailable", 503),
        ] {
            bench.fault(&format!(r#"{{"fault":"refuse_writes","with":"{with}"}}"#)).await;
            let refused = bench.put(&bench.hallway, &body).await;
            assert_eq!(refused.status, status, "{with}");
            if with == "no_permission" {
                assert_eq!(refused.json().await["details"]["fields"], "target_temperature_c");
            }
        }
        assert_eq!(bench.put(&bench.hallway, &body).await.status, 200);
        bench.fault(r#"{"fault":"refuse_streams","with":"unavailable","retry_after":{"seconds":1}}"#).await;
        let refused = bench.stream("/").await;
        assert_eq!((refused.status, refused.headers["retry-after"].as_str()), (503, "1"));
        assert_eq!(bench.stream("/").await.status, 200);
        bench.fault(r#"{"fault":"refuse_streams","with":"silence"}"#).await;
        let silent = call(bench.second, "GET", "/", &[TOKEN, EVENTS], "");
        assert!(tokio::time::timeout(Duration::from_millis(200), silent).await.is_err());
        assert_eq!(bench.report().await["requests"]["stream"]["0"], 1);
    })
    .await;
}

#[tokio::test]
async fn connections_are_refused() {
    bench(async |bench| {
        bench.fault(r#"{"fault":"refuse_connections","port":"second","times":2}"#).await;
        for _ in 0..2 {
            assert_eq!(call(bench.second, "GET", "/", &[TOKEN], "").await.err(), Some(End::Reset));
        }
        assert_eq!(bench.stream("/").await.status, 200);
        assert_eq!(bench.report().await["connections_refused"], 2);
    })
    .await;
}

#[tokio::test]
async fn events_come_on_request() {
    bench(async |bench| {
        let mut stream = bench.opened("/").await;
        assert_eq!(bench.fault(r#"{"fault":"snapshot"}"#).await, 1);
        assert_eq!(stream.event().await.1["data"], bench.document("/").await);
        bench.fault(r#"{"fault":"comment"}"#).await;
        assert_eq!(stream.until("\n\n").await, ": nothing to say\n\n");
        bench.fault(r#"{"fault":"error"}"#).await;
        assert_eq!(stream.event().await.0, "error");
        bench.fault(r#"{"fault":"cancel"}"#).await;
        assert_eq!(stream.event().await, ("cancel".to_owned(), Value::Null));
        assert_eq!(stream.end().await, (Vec::new(), End::Clean));
        // What waits for the next stream meets that one only.
        assert_eq!(bench.fault(r#"{"fault":"error","on":"next"}"#).await, 0);
        assert_eq!(bench.opened("/").await.event().await.0, "error");
        assert_eq!(bench.opened("/").await.silence().await, b"");
    })
    .await;
}

#[tokio::test]
async fn a_stalled_stream_is_silent_and_stays() {
    bench(async |bench| {
        let (mut stalled, mut next) = (bench.opened("/").await, bench.opened("/").await);
        assert_eq!(bench.fault(r#"{"fault":"stall"}"#).await, 2);
        // More than a queue holds: a stalled stream is not cut off for it.
        for _ in 0..100 {
            bench.fault(r#"{"fault":"wall"}"#).await;
        }
        assert_eq!(stalled.silence().await, b"");
        assert_eq!(next.silence().await, b"");
        let report = bench.report().await;
        assert_eq!((&report["streams_open"], &report["streams_cut_off"]), (&json!(2), &json!(0)));
        bench.fault(r#"{"fault":"end","by":"clean"}"#).await;
        assert_eq!(stalled.end().await.1, End::Clean);
        assert_eq!(next.end().await.1, End::Clean);
    })
    .await;
}

#[tokio::test]
async fn streams_end_in_three_ways_and_are_counted_down() {
    bench(async |bench| {
        for (by, expected) in [("clean", End::Clean), ("fin", End::Fin), ("reset", End::Reset)] {
            for on in ["open", "next"] {
                let fault = format!(r#"{{"fault":"end","by":"{by}","on":"{on}"}}"#);
                let stream = if on == "open" {
                    let stream = bench.opened("/").await;
                    bench.fault(&fault).await;
                    stream
                } else {
                    bench.fault(&fault).await;
                    bench.stream("/").await
                };
                assert_eq!(stream.end().await.1, expected, "{by} {on}");
                bench.wait_for("streams_open", 0).await;
            }
        }
    })
    .await;
}

#[tokio::test]
async fn events_are_cut_in_two() {
    bench(async |bench| {
        let snapshot = format!("event: put\ndata: {}\n\n", json!({"path": "/", "data": bench.document("/").await}));
        for at in ["character", "data", "line_end"] {
            for (then, end) in [("clean", End::Clean), ("fin", End::Fin), ("reset", End::Reset)] {
                let stream = bench.opened("/").await;
                bench.fault(&format!(r#"{{"fault":"cut","at":"{at}","then":"{then}"}}"#)).await;
                let (bytes, how) = stream.end().await;
                assert_eq!(how, end, "{at} {then}");
                assert!(snapshot.as_bytes().starts_with(&bytes) && bytes.len() > 11 && bytes.len() < snapshot.len());
                assert_eq!(std::str::from_utf8(&bytes).is_err(), at == "character", "{at}");
                bench.wait_for("streams_open", 0).await;
            }
            let mut stream = bench.opened("/").await;
            bench.fault(&format!(r#"{{"fault":"cut","at":"{at}","pause_ms":1000}}"#)).await;
            let first = stream.silence().await;
            assert!(first.len() < snapshot.len(), "{at}");
            let rest = stream.some(snapshot.len() - first.len()).await;
            assert_eq!([first, rest].concat(), snapshot.as_bytes(), "{at}");
            bench.fault(&format!(r#"{{"fault":"cut","at":"{at}","then":"stall"}}"#)).await;
            assert!(!stream.silence().await.is_empty());
            assert_eq!(stream.silence().await, b"");
            drop(stream);
            bench.wait_for("streams_open", 0).await;
        }
    })
    .await;
}

#[tokio::test]
async fn framing_takes_every_freedom() {
    bench(async |bench| {
        let framing =
            r#"{"fault":"framing","line_ending":"crlf","multi_line":true,"comments":true,"byte_order_mark":true}"#;
        bench.fault(framing).await;
        let mut stream = bench.stream(&bench.leaf("humidity")).await;
        let expected = format!(
            "\u{feff}: a comment\r\nevent: open\r\ndata: null\r\n:\r\n\r\n: a comment\r\nevent: put\r\n\
             data: {{\r\n:\r\ndata:   \"data\": 40,\r\n:\r\ndata:   \"path\": \"{}\"\r\n:\r\ndata: }}\r\n:\r\n\r\n",
            bench.leaf("humidity")
        );
        assert_eq!(stream.until("}\r\n:\r\n\r\n").await, expected);
        bench.fault(r#"{"fault":"framing","line_ending":"cr"}"#).await;
        bench.fault(r#"{"fault":"error"}"#).await;
        assert!(stream.until("\r\r").await.starts_with("event: error\rdata: {"));
    })
    .await;
}

#[tokio::test]
async fn bytes_drip() {
    bench(async |bench| {
        let mut stream = bench.opened(&bench.leaf("humidity")).await;
        bench.fault(r#"{"fault":"framing","drip_ms":5}"#).await;
        bench.fault(r#"{"fault":"snapshot"}"#).await;
        assert_eq!(stream.some(1).await.len(), 1);
        assert_eq!(stream.some(1).await.len(), 1);
        stream.until("\n\n").await;
    })
    .await;
}

#[tokio::test]
async fn a_line_never_ends() {
    bench(async |bench| {
        let mut stream = bench.opened("/").await;
        bench.fault(r#"{"fault":"endless_line"}"#).await;
        let bytes = stream.some(4_000_000).await;
        assert!(bytes.starts_with(b"data: x") && !bytes.contains(&b'\n'));
        // Nobody else is held up by it.
        bench.report().await;
        drop(stream);
        bench.wait_for("streams_open", 0).await;
    })
    .await;
}
