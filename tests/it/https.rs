//! Listeners that speak TLS, as openssl(1) and curl(1) meet them.

use std::fs::{self, Permissions};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use forebay::testing::{Builder, Server};
use nix::libc::{SIGHUP, SIGTERM};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use tempfile::TempDir;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::client::{connect, example};
use crate::farewell::connections;
use crate::listeners::address_of;
use crate::places::refused;
use crate::reload::{SHORT, commit, configure, is_alone, roll_back};

// ---- certificates, and clients that believe them ----------------------------------------------

/// A directory of certificates, each for one name and with its key in a file of its own.
pub(crate) struct Certificates(TempDir);

impl Certificates {
    /// For these names: `NAME.pem` and `NAME.key`.
    pub(crate) fn of(names: &[&str]) -> Self {
        let directory = tempfile::Builder::new().permissions(Permissions::from_mode(0o755)).tempdir();
        let all = Self(directory.expect("a directory"));
        names.iter().for_each(|name| all.make(name));
        all
    }

    /// A new one for this name, in the place of another one.
    fn make(&self, name: &str) {
        let CertifiedKey { cert, signing_key } = generate_simple_self_signed([name.to_owned()]).expect("a certificate");
        self.write(&format!("{name}.pem"), &cert.pem());
        self.write(&format!("{name}.key"), &signing_key.serialize_pem());
    }

    /// Only its owner may read it.
    fn write(&self, file: &str, text: &str) {
        fs::write(self.path(file), text).expect("write");
        fs::set_permissions(self.path(file), Permissions::from_mode(0o600)).expect("chmod");
    }

    fn read(&self, file: &str) -> String {
        fs::read_to_string(self.path(file)).expect("it is there")
    }

    pub(crate) fn path(&self, file: &str) -> PathBuf {
        self.0.path().join(file)
    }

    /// A listener with the certificates of these names.
    pub(crate) fn listener(&self, names: &[&str]) -> String {
        let files =
            |kind: &str| -> Vec<PathBuf> { names.iter().map(|name| self.path(&format!("{name}.{kind}"))).collect() };
        let (certificates, keys) = (files("pem"), files("key"));
        format!(
            "[listener.secure]\naddress = \"127.0.0.1:0\"\ncertificate = {certificates:?}\ncertificate_key = {keys:?}\n"
        )
    }

    /// What curl(1) says to this, asking for this name at that address and trusting the certificate of `trusted`.
    fn curl(&self, address: SocketAddr, name: &str, trusted: &str, words: &[&str]) -> Output {
        let port = address.port();
        let mut command = Command::new("curl");
        command
            .args(["--silent", "--show-error", "--max-time", "20", "--cacert"])
            .arg(self.path(&format!("{trusted}.pem")));
        command.arg("--resolve").arg(format!("{name}:{port}:127.0.0.1")).args(words);
        command.arg(format!("https://{name}:{port}/")).output().expect("curl(1) is there")
    }

    /// Whether that server shows the certificate of this name to who asks for that one.
    fn shows(&self, address: SocketAddr, certificate: &str, asked: &[&str]) -> bool {
        let output =
            openssl(address, &[asked, &["-CAfile", text(&self.path(&format!("{certificate}.pem")))]].concat(), b"");
        said(&output).contains("Verify return code: 0 (ok)")
    }

    /// A connection that trusts this certificate, by rustls.
    fn connect(&self, address: SocketAddr, name: &str) -> StreamOwned<ClientConnection, TcpStream> {
        let mut roots = RootCertStore::empty();
        let trusted = CertificateDer::from_pem_file(self.path(&format!("{name}.pem"))).expect("a certificate");
        roots.add(trusted).expect("a root");
        let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
        let config =
            ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().expect("versions");
        let config = config.with_root_certificates(roots).with_no_client_auth();
        let name = ServerName::try_from(name.to_owned()).expect("a name");
        StreamOwned::new(ClientConnection::new(Arc::new(config), name).expect("a client"), connect(address))
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("text")
}

/// `openssl s_client` with these words, which sends this and reads to the end.
pub(crate) fn openssl(address: SocketAddr, words: &[&str], sends: &[u8]) -> Output {
    let mut client = Command::new("timeout")
        .args(["20", "openssl", "s_client", "-connect", &address.to_string()])
        .args(words)
        .args(if sends.is_empty() { &[][..] } else { &["-ign_eof"] })
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("openssl(1) is there");
    // One that was refused is gone.
    let _ = client.stdin.take().expect("its input").write_all(sends);
    client.wait_with_output().expect("it ends")
}

pub(crate) fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

pub(crate) fn fixture(configuration: &str) -> Builder {
    Server::of(example("fixture")).configuration(&format!("{configuration}{SHORT}"))
}

pub(crate) fn address(server: &Server) -> SocketAddr {
    address_of(server, "secure")
}

// ---- names and protocols ----------------------------------------------------------------------

#[test]
fn the_name_that_a_client_asks_for_chooses_the_certificate_and_the_first_is_for_all_others() {
    let certificates = Certificates::of(&["one.test", "*.two.test", "one.two.test"]);
    let server = fixture(&certificates.listener(&["one.test", "*.two.test", "one.two.test"])).start();
    let address = address(&server);
    let table = [
        ("one.test", "one.test"),
        ("ONE.test", "one.test"),
        ("a.two.test", "*.two.test"),
        // The wildcard stands before it.
        ("one.two.test", "*.two.test"),
        ("two.test", "one.test"),
        ("unknown.test", "one.test"),
        ("_", "one.test"),
    ];
    for (asked, shown) in table {
        for other in ["one.test", "*.two.test", "one.two.test"] {
            let is_shown = certificates.shows(address, other, &["-servername", asked]);
            assert_eq!(is_shown, other == shown, "{other} for {asked}");
        }
    }
    assert!(certificates.shows(address, "one.test", &["-noservername"]));
    assert!(certificates.shows(address, "one.test", &["-tls1_2", "-servername", "one.test"]));
    server.stop();
}

#[test]
fn http_2_and_http_1_1_are_agreed_on_and_nothing_else() {
    let certificates = Certificates::of(&["one.test"]);
    let server = fixture(&certificates.listener(&["one.test"])).start();
    let address = address(&server);
    let big = certificates.path("big");
    fs::write(&big, "x".repeat(1 << 20)).expect("write");
    let body = format!("@{}", big.display());
    for (flag, version) in [("--http2", "2"), ("--http1.1", "1.1"), ("--no-alpn", "1.1")] {
        let shown = ["-w", "%{http_version} %{size_download} %{http_code}", "-o", "/dev/null", flag];
        let output = certificates.curl(address, "one.test", "one.test", &shown);
        let words = said(&output);
        assert!(words.starts_with(&format!("{version} ")) && words.ends_with(" 200"), "{flag}: {words}");
        let echo = ["--request-target", "/echo", "--data-binary", &body, flag];
        let output = certificates.curl(address, "one.test", "one.test", &echo);
        assert!(output.stdout == fs::read(&big).expect("it is there"), "{flag}: {} bytes", output.stdout.len());
    }
    let other = openssl(address, &["-alpn", "smtp"], b"");
    assert!(said(&other).contains("no application protocol"), "{}", said(&other));
    let old = openssl(address, &["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"], b"");
    assert!(said(&old).contains(" alert "), "{}", said(&old));
    server.stop();
}

#[test]
fn it_is_said_what_speaks_tls_and_a_unix_socket_may() {
    let certificates = Certificates::of(&["localhost"]);
    let (both, socket) = (certificates.path("both.pem"), certificates.path("app.sock"));
    let chain = [certificates.read("localhost.key"), certificates.read("localhost.pem")].concat();
    certificates.write("both.pem", &chain);
    // Nobody but root reads the certificate, and whoever serves is somebody else.
    let user = if nix::unistd::geteuid().is_root() { "user = \"nobody\"\n" } else { "" };
    let server = fixture(&format!(
        "{user}[listener.local]\naddress = \"unix:{}\"\nmode = \"0606\"\ncertificate = {both:?}\n\
         [listener.secure]\naddress = \"127.0.0.1:0\"\ncertificate = {both:?}\n",
        socket.display()
    ))
    .start();
    let address = address(&server);
    server.wait_for_log(&format!(
        "serving on http://{} unix:{} (TLS) https://{address} with",
        server.address(),
        socket.display()
    ));
    let status = server.status();
    let tls: Vec<bool> = status["listeners"].as_array().expect("a list").iter().map(|one| one["tls"] == true).collect();
    assert_eq!(tls, [false, true, true]);
    assert!(said(&server.command(&["status"])).contains(&format!("{address} (TLS)")));
    let output = certificates.curl(address, "localhost", "localhost", &["--unix-socket", text(&socket)]);
    assert!(output.status.success(), "{}", said(&output));
    assert!(certificates.curl(address, "localhost", "localhost", &[]).status.success());
    server.stop();
}

#[test]
fn a_proxy_in_front_says_who_comes_before_tls_begins() {
    let certificates = Certificates::of(&["one.test"]);
    let secure = certificates.listener(&["one.test"]);
    let server = fixture(&format!("{secure}proxy_protocol = true\n")).start();
    let address = address(&server);
    for flag in ["--http2", "--http1.1"] {
        let output = certificates.curl(address, "one.test", "one.test", &["--haproxy-protocol", flag]);
        assert!(output.status.success(), "{flag}: {}", said(&output));
    }
    let without = certificates.curl(address, "one.test", "one.test", &[]);
    assert!(!without.status.success(), "{}", said(&without));
    server.stop();
}

// ---- who means no good ------------------------------------------------------------------------

#[test]
fn whoever_does_not_speak_tls_hurts_nobody() {
    let certificates = Certificates::of(&["one.test"]);
    let server = fixture(&certificates.listener(&["one.test"])).workers(1).start();
    let address = address(&server);
    let hello = [&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3][..], &[7; 100]].concat();
    let long = [&[0x16, 3, 1, 0xff, 0xff][..], &[7; 70_000]].concat();
    let said: [&[u8]; 6] = [b"GET / HTTP/1.1\r\nHost: test\r\n\r\n", &[0; 100], &[0xff; 70_000], &hello, &long, b""];
    for bytes in said {
        let mut stream = connect(address);
        // It may be told and closed before it has said all.
        let _ = stream.write_all(bytes).and_then(|()| stream.shutdown(std::net::Shutdown::Write));
        let _ = stream.read_to_end(&mut Vec::new());
        assert!(certificates.curl(address, "one.test", "one.test", &[]).status.success());
    }
    server.wait_for("no open connection", || (connections(&server.status()) == 0).then_some(()));
    let log = server.log();
    assert!(!log.contains("WARN  [") && !log.contains("ERROR "), "{log}");
    server.stop();
}

/// A client that begins a handshake and says no more, which is an open connection.
fn begin(server: &Server) -> TcpStream {
    let mut stream = connect(address(server));
    stream.write_all(&[0x16, 3, 1, 2, 0, 1, 0]).expect("the head of a hello");
    server.wait_for("an open connection", || (connections(&server.status()) == 1).then_some(()));
    stream
}

#[test]
fn a_handshake_has_the_time_of_a_head() {
    let certificates = Certificates::of(&["one.test"]);
    let server = fixture(&format!("{}[http]\nheader_timeout = 1\n", certificates.listener(&["one.test"]))).start();
    let mut silent = begin(&server);
    assert_eq!(silent.read(&mut [0]).unwrap_or(0), 0, "it was let go");
    // Nor does who says a byte from time to time have longer.
    let mut slow = begin(&server);
    let began = Instant::now();
    server.wait_for("its end", || slow.write_all(&[1]).is_err().then_some(()));
    assert!(began.elapsed() < Duration::from_secs(10));
    let mut shaken = certificates.connect(address(&server), "one.test");
    shaken.write_all(b"GET ").expect("sent");
    let mut answer = String::new();
    shaken.read_to_string(&mut answer).expect("an end that is said");
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    server.stop();
}

#[test]
fn a_client_that_takes_nothing_is_cut() {
    let certificates = Certificates::of(&["one.test"]);
    let server = fixture(&format!("{}[http]\nsend_timeout = 1\n", certificates.listener(&["one.test"]))).start();
    let mut greedy = certificates.connect(address(&server), "one.test");
    let body = vec![b'x'; 1 << 20];
    let head = format!("POST /echo HTTP/1.1\r\nHost: one.test\r\nContent-Length: {}\r\n\r\n", body.len());
    // Of the answers nothing is taken, until there is room for no more of them.
    let ask = |_| greedy.write_all(head.as_bytes()).and_then(|()| greedy.write_all(&body)).is_err();
    assert!((0..64).any(ask), "it was not cut");
    server.wait_for("its end", || (connections(&server.status()) == 0).then_some(()));
    server.stop();
}

#[test]
fn a_handshake_is_an_open_connection_and_ends_with_its_worker() {
    let certificates = Certificates::of(&["one.test"]);
    let drain = "[timeouts]\nstable = 0.05\ndrain = 0.5\n";
    let configuration = format!("{}{drain}", certificates.listener(&["one.test"]));
    let server = Server::of(example("fixture")).configuration(&configuration).workers(1).start();
    let address = address(&server);
    let mut first = begin(&server);
    server.signal(server.pid(), SIGHUP);
    server.wait_for_log("drained for 0.5 s: 1 connection is cut");
    assert_eq!(first.read(&mut [0]).unwrap_or(0), 0, "it was cut");
    server.wait_until("one generation", is_alone);
    let mut second = begin(&server);
    server.signal(server.workers()[0], SIGTERM);
    assert_eq!(second.read(&mut [0]).unwrap_or(0), 0, "it was cut, or ended");
    server.wait_until("a worker", |status| status["state"] == "serving");
    assert!(certificates.curl(address, "one.test", "one.test", &[]).status.success());
    server.stop();
}

// ---- the end of a connection ------------------------------------------------------------------

const KEEP: &[u8] = b"GET / HTTP/1.1\r\nHost: one.test\r\n\r\n";

/// The head of the next answer; of a body of known length, as the fixture's are.
fn answer(stream: &mut impl Read) -> String {
    let mut all = Vec::new();
    let mut byte = [0];
    loop {
        stream.read_exact(&mut byte).expect("an answer");
        all.push(byte[0]);
        let text = String::from_utf8_lossy(&all).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let head = head.to_ascii_lowercase();
            let len = head.lines().find_map(|line| line.strip_prefix("content-length: ")).expect("a length");
            if body.len() == len.parse::<usize>().expect("a number") {
                return head;
            }
        }
    }
}

#[test]
fn an_idle_connection_is_told_of_its_end_by_its_next_answer_or_by_close_notify() {
    let certificates = Certificates::of(&["one.test"]);
    let server = fixture(&certificates.listener(&["one.test"])).start();
    let (mut asks, mut waits) =
        (certificates.connect(address(&server), "one.test"), certificates.connect(address(&server), "one.test"));
    for stream in [&mut asks, &mut waits] {
        stream.write_all(KEEP).expect("asked");
        assert!(!answer(stream).contains("connection: close"));
    }
    commit(&server);
    // Its worker may not have heard yet.
    server.wait_for("the last answer", || {
        asks.write_all(KEEP).expect("asked");
        answer(&mut asks).contains("connection: close").then_some(())
    });
    // Without close_notify this is an error: an attacker may have cut what follows.
    assert_eq!(asks.read(&mut [0]).expect("an end that is said"), 0);
    server.signal(server.pid(), SIGTERM);
    assert_eq!(waits.read(&mut [0]).expect("an end that is said"), 0);
    server.stop();
}

// ---- reload, and what is wrong ----------------------------------------------------------------

#[test]
fn a_reload_reads_certificates_anew_and_one_that_is_wrong_leaves_the_old_ones() {
    let certificates = Certificates::of(&["one.test"]);
    let server = fixture(&certificates.listener(&["one.test"])).start();
    let address = address(&server);
    let is_served = || certificates.curl(address, "one.test", "one.test", &[]).status.success();
    assert!(is_served());
    let old = certificates.read("one.test.pem");
    certificates.make("one.test");
    assert!(!is_served(), "it is not read before");
    commit(&server);
    assert!(is_served());
    let new = certificates.read("one.test.pem");
    for (text, why) in
        [("no certificate", "there is no certificate in it"), (&old, "not that of the first certificate")]
    {
        certificates.write("one.test.pem", text);
        let reason = roll_back(&server);
        assert!(reason.contains(text_of(&certificates, "one.test.pem").as_str()) && reason.contains(why), "{reason}");
        certificates.write("one.test.pem", &new);
        assert!(is_served());
    }
    fs::remove_file(certificates.path("one.test.key")).expect("it was there");
    let reason = roll_back(&server);
    assert!(reason.contains("`listener.secure.certificate_key`") && reason.contains("No such file"), "{reason}");
    assert!(is_served());
    configure(&server, SHORT);
    commit(&server);
    server.wait_for("an address that nobody has", || TcpStream::connect(address).is_err().then_some(()));
    server.stop();
}

fn text_of(certificates: &Certificates, file: &str) -> String {
    text(&certificates.path(file)).to_owned()
}

/// A private key that openssl(1) has encrypted.
fn encrypted(certificates: &Certificates, words: &[&str]) -> String {
    let output = Command::new("openssl").args(words).arg("-in").arg(certificates.path("one.test.key")).output();
    let output = output.expect("openssl(1) is there");
    assert!(output.status.success(), "{}", said(&output));
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn wrong_certificates_are_told_with_file_line_key_and_what_to_do() {
    let certificates = Certificates::of(&["one.test", "two.test"]);
    let pem = certificates.read("one.test.pem");
    let broken = pem.replacen("\nMI", "\n*!", 1);
    let cut = pem.replace("-----END CERTIFICATE-----", "");
    let no_der =
        format!("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n{}", certificates.read("one.test.key"));
    let no_key = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    let pkcs8 = encrypted(&certificates, &["pkcs8", "-topk8", "-passout", "pass:secret"]);
    let older = encrypted(&certificates, &["ec", "-aes128", "-passout", "pass:secret"]);
    let table = [
        ("certificate", "", "there is no certificate in it"),
        ("certificate", "nothing\n", "there is no certificate in it"),
        ("certificate", &broken, "not Base64"),
        ("certificate", &cut, "does not end"),
        ("certificate", &no_der, "invalid peer certificate"),
        ("certificate", &pem, "there is no private key in it"),
        ("certificate_key", &pem, "there is no private key in it"),
        ("certificate_key", no_key, "its private key cannot be used"),
        ("certificate_key", &certificates.read("two.test.key"), "not that of the first certificate"),
        ("certificate_key", &pkcs8, "its private key is encrypted"),
        ("certificate_key", &older, "its private key is encrypted"),
    ];
    for (number, (key, content, why)) in table.into_iter().enumerate() {
        certificates.write("wrong.pem", content);
        let (wrong, good) = (certificates.path("wrong.pem"), certificates.path("one.test.pem"));
        let keys = if key == "certificate" {
            format!("certificate = {wrong:?}\n")
        } else {
            format!("certificate = {good:?}\n\ncertificate_key = {wrong:?}\n")
        };
        let line = if key == "certificate" { 3 } else { 5 };
        let configuration = format!("[listener.public]\naddress = \"127.0.0.1:0\"\n{keys}");
        let (code, log) = refused(Server::of(example("fixture")).configuration(&configuration));
        assert_eq!(code, Some(78), "{number}: {log}");
        let place = format!("configuration.toml:{line}: `listener.public.{key}`: {}: ", wrong.display());
        assert!(log.contains(&place) && log.contains(why), "{number} {place} {why}: {log}");
    }
}

#[test]
fn check_tells_everything_that_is_wrong_with_certificates_at_once() {
    let certificates = Certificates::of(&["one.test"]);
    let scratch = tempfile::tempdir().expect("a directory");
    let config = scratch.path().join("x.toml");
    let good = certificates.path("one.test.pem");
    let listener = |name: &str, keys: &str| format!("[listener.{name}]\naddress = \"127.0.0.1:0\"\n{keys}");
    let check = |text: &str| {
        fs::write(&config, text).expect("write");
        let output = Command::new(example("fixture")).args(["check", "--config"]).arg(&config).output();
        output.expect("the program starts")
    };
    let two = [
        listener("a", &format!("certificate = [{good:?}, \"/nowhere.pem\"]\n")),
        listener("b", &format!("certificate = {good:?}\n")),
        "[fixtrue]\n".to_owned(),
    ];
    let output = check(&two.concat());
    assert_eq!(output.status.code(), Some(78));
    let lines: Vec<String> = said(&output).lines().map(str::to_owned).collect();
    assert_eq!(lines.len(), 4, "{lines:?}");
    let place = |line: usize| format!("{}:{line}: ", config.display());
    for (line, why) in [
        (3, "there is no private key in it"),
        (3, "/nowhere.pem: cannot read it"),
        (6, "no private key"),
        (7, "fixtrue"),
    ] {
        assert!(lines.iter().any(|said| said.contains(&place(line)) && said.contains(why)), "{line} {why}: {lines:?}");
    }
    let fine = format!(
        "{}certificate_key = {:?}\n",
        listener("a", &format!("certificate = {good:?}\n")),
        certificates.path("one.test.key")
    );
    assert_eq!(check(&fine).status.code(), Some(0));
    let uneven = format!("{fine}{}", listener("b", "certificate_key = \"/k\"\n"));
    let output = check(&uneven);
    assert_eq!(output.status.code(), Some(78));
    assert!(said(&output).contains(&format!("{}`listener.b.certificate_key`", place(7))), "{}", said(&output));
}
