//! What requests were answered, as other programs read it, through real requests.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;

use serde_json::Value;

use super::book::Book;
use super::{Site, Way, over_both_ways};
use crate::client::{get, post};

over_both_ways! {
    requests_are_told_in_the_common_log_format,
    requests_are_told_as_json_and_nowhere_else,
}

/// `HOST IDENT USER [DATE] "REQUEST" STATUS BYTES`.
fn parts(line: &str) -> Option<(&str, &str, &str, &str)> {
    let (host, rest) = line.split_once(" - - [")?;
    let (date, rest) = rest.split_once("] \"")?;
    let (request, rest) = rest.rsplit_once("\" ")?;
    Some((host, date, request, rest))
}

fn requests(server: &forebay::testing::Server) {
    let address = server.address();
    get(address, "/?a=b").expect("an answer");
    get(address, "/nowhere").expect("an answer");
    post(address, "/run", b"exit 0").expect("an answer");
    let mut stream = TcpStream::connect(address).expect("connect");
    let forged = "GET /a\"b\\c HTTP/1.0\r\n\r\n";
    stream.write_all(forged.as_bytes()).expect("send");
    let _ = stream.read_to_end(&mut Vec::new());
}

fn requests_are_told_in_the_common_log_format(way: Way) {
    let site = Site::new(way);
    let path = site.path("access.log");
    let access = format!("[log.access]\npath = \"{}\"\n", path.display());
    let server = site.server("", &access).workers(2).start();
    let length = get(server.address(), "/number/3").expect("an answer").body.len();
    requests(&server);
    let book = site.stop(server);
    let text = fs::read_to_string(&path).expect("it is there");
    let all: Vec<_> = text.lines().map(|line| parts(line).unwrap_or_else(|| panic!("{line}"))).collect();
    assert!(all.iter().all(|(host, ..)| *host == "127.0.0.1"));
    // As strftime(3) has it: %d/%b/%Y:%H:%M:%S %z.
    assert!(all.iter().all(|(_, date, ..)| date.len() == 26 && date.is_ascii() && date.ends_with(" +0000")), "{text}");
    let told = |request: &str| all.iter().find(|(_, _, told, _)| *told == request).map(|(.., rest)| *rest);
    assert_eq!(told("GET /number/3 HTTP/1.1"), Some(&*format!("200 {length}")), "{text}");
    assert!(told("GET /?a=b HTTP/1.1").is_some_and(|rest| rest.starts_with("200 ")), "{text}");
    assert_eq!(told("GET /nowhere HTTP/1.1"), Some("404 -"), "{text}");
    assert_eq!(told("POST /run HTTP/1.1"), Some("200 -"), "{text}");
    let forged = all.iter().find(|(_, _, told, _)| told.contains("/a"));
    assert!(forged.is_none_or(|(_, _, told, _)| *told == "GET /a\\\"b\\\\c HTTP/1.0"), "{text}");
    assert!(book.lines.iter().all(|line| line["target"] != "access"), "not in the other file");
}

fn requests_are_told_as_json_and_nowhere_else(way: Way) {
    let site = Site::new(way);
    let path = site.path("access.json");
    let access = format!("[log.access]\npath = \"{}\"\nformat = \"json\"\n", path.display());
    let server = site.server("", &access).workers(2).start();
    for _ in 0..20 {
        get(server.address(), "/number/1").expect("an answer");
    }
    requests(&server);
    let book = site.stop(server);
    let access = Book::read(&[path]);
    let fields = |line: &Value| line["fields"].as_object().is_some();
    let of = |key: &str| -> Vec<Value> {
        access
            .lines
            .iter()
            .map(|line| if fields(line) { line["fields"][key].clone() } else { line[key].clone() })
            .collect()
    };
    assert!(access.lines.iter().all(|line| line["target"] == "access"));
    assert_eq!(of("path").iter().filter(|path| **path == "/number/1").count(), 20);
    assert!(of("took_us").iter().all(|us| us.as_u64().is_some_and(|us| us < 60_000_000)), "{:?}", access.lines);
    assert!(of("peer").iter().all(|peer| peer == "127.0.0.1"));
    let mut ids: Vec<&str> = access.lines.iter().filter_map(|line| line["request"].as_str()).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), access.lines.len(), "an id for each");
    assert!(book.lines.iter().all(|line| line["target"] != "access"), "not in the other file");
}
