//! curl, in all ways of asking that it has.

use std::io::Write;
use std::net::SocketAddr;
use std::process::{Command, Stdio};

use forebay::testing::Server;

use super::{Program, text};
use crate::client::example;
use crate::reload::{SHORT, commit};

/// What curl says, after these arguments and the URL; with this on its standard input.
fn curl(address: SocketAddr, path: &str, arguments: &[&str], input: &[u8]) -> String {
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--include", "--max-time", "20"]).args(arguments);
    let mut curl = Program::start(command.arg(format!("http://{address}{path}")).stdin(Stdio::piped()));
    curl.child().stdin.take().expect("a pipe").write_all(input).expect("it reads all");
    let output = curl.finish();
    assert!(output.status.success(), "{arguments:?}: {}", text(&output));
    text(&output)
}

#[test]
fn curl_is_answered_in_both_versions_whatever_it_asks() {
    let server = Server::of(example("lasting")).start();
    let body = vec![b'x'; 3 << 20];
    let upload: &[&str] = &["--upload-file", "-"];
    let table: &[(&[&str], &[u8], &str, &str)] = &[
        (&[], b"", "200", "GET "),
        (upload, &body, "200", "PUT "),
        (&["--data-binary", "@-"], &body, "200", "POST "),
        (&["--header", "Expect: 100-continue", "--data-binary", "@-"], &body, "200", "POST "),
        (&["--header", "Range: bytes=5-1,-0", "--header", "If-Range: \"\""], b"", "200", "GET "),
        (&["--request", "OPTIONS"], b"", "200", "OPTIONS "),
        (&["--request", "BREW"], b"", "200", "BREW "),
        (&["--header", "X-Forwarded-For: 198.51.100.9"], b"", "200", " for 198.51.100.9 at "),
        (&["--header", "Host: example.test"], b"", "200", " "),
    ];
    for version in ["1.1", "2"] {
        let of_version = if version == "2" { "--http2-prior-knowledge" } else { "--http1.1" };
        for (arguments, input, status, said) in table {
            let answer = curl(server.address(), "/said", &[&[of_version], *arguments].concat(), input);
            let whole = format!(": {}", input.len());
            assert!(answer.contains(&format!("HTTP/{version} {status}")), "{arguments:?}: {answer}");
            assert!(answer.contains(said) && answer.ends_with(&whole), "{arguments:?}: {answer}");
        }
        let head = curl(server.address(), "/said", &[of_version, "--head"], b"");
        assert!(head.starts_with(&format!("HTTP/{version} 200")) && head.contains("content-length:"), "{head}");
        assert!(head.ends_with("\r\n\r\n"), "no body: {head}");
    }
    server.stop();
}

#[test]
fn curl_has_the_targets_of_a_request_that_are_no_paths_answered() {
    // By default no head may be as long as a path that is too long.
    let server = Server::of(example("lasting")).configuration("[http]\nmax_header_size = \"128K\"\n").start();
    let address = server.address();
    let all = curl(address, "/", &["--request", "OPTIONS", "--request-target", "*"], b"");
    assert!(all.starts_with("HTTP/1.1 404"), "the application knows no such path: {all}");
    let proxy = format!("http://{address}");
    let absolute = curl(address, "/said?a=b", &["--proxy", &proxy], b"");
    assert!(absolute.contains(&format!("GET http://{address}/said?a=b HTTP/1.1")), "{absolute}");
    let continued = curl(address, "/said", &["--header", "Expect: 100-continue", "--data-binary", "hello"], b"");
    assert!(continued.starts_with("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200"), "{continued}");
    let old = curl(address, "/said", &["--http1.0"], b"");
    assert!(old.starts_with("HTTP/1.0 200") && old.contains("GET /said HTTP/1.0 of "), "{old}");
    for (name, len, status) in [("a path", 70_000, "414"), ("a header", 0, "431")] {
        let path = format!("/{}", "x".repeat(len));
        // More than the system takes on a command line is more than any of these.
        let header = format!("X-Long: {}", "x".repeat(if len == 0 { 120_000 } else { 1 }));
        let headers: Vec<&str> = [["--header", header.as_str()]; 8].concat();
        let answer = curl(address, &path, &headers, b"");
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{name}: {answer}");
        assert!(answer.contains("connection: close"), "{name}: {answer}");
    }
    server.stop();
}

/// Over HTTP/1.1: over HTTP/2 without TLS the curl of Debian 12 (7.88) cannot use a connection twice.
#[test]
fn curl_in_parallel_loses_nothing_over_reloads() {
    let server = Server::of(example("lasting")).configuration(SHORT).start();
    let url = format!("http://{}/said?[1-40000]", server.address());
    let arguments = ["--silent", "--show-error", "--http1.1", "--parallel", "--parallel-max", "20", "--max-time", "60"];
    let mut command = Command::new("curl");
    command.args(arguments).args(["--output", "/dev/null", "--write-out", "answer %{http_code}\n", &url]);
    let mut curl = Program::start(command.stdin(Stdio::null()));
    let mut said = curl.child().stdout.take().expect("a pipe");
    let said = std::thread::spawn(move || std::io::read_to_string(&mut said).expect("text"));
    for _ in 0..3 {
        commit(&server);
    }
    assert!(curl.is_running(), "it has seen all of them");
    let output = curl.finish();
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(said.join().expect("text").matches("answer 200").count(), 40_000);
    server.stop();
}
