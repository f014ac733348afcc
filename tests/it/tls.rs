//! An upstream behind TLS: it is believed if the system trusts its certificate, and told nothing if not.

use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;

use rcgen::{CertifiedKey, generate_simple_self_signed};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

use crate::client::get;
use crate::simulator::{Simulator, Streams, wait_for_state};

/// Carries TLS connections to a server that speaks plainly, for as long as the test lives.
struct Terminator {
    port: u16,
    /// In PEM.
    certificate: String,
    _alive: oneshot::Sender<()>,
}

impl Terminator {
    fn before(plain: SocketAddr) -> Self {
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        let key = PrivateKeyDer::try_from(signing_key.serialize_der()).expect("a key");
        let config =
            ServerConfig::builder_with_provider(Arc::new(tokio_rustls::rustls::crypto::ring::default_provider()))
                .with_safe_default_protocol_versions()
                .expect("versions")
                .with_no_client_auth()
                .with_single_cert(vec![cert.der().clone()], key)
                .expect("a key that fits");
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
        listener.set_nonblocking(true).expect("set");
        let port = listener.local_addr().expect("an address").port();
        let (alive, ended) = oneshot::channel::<()>();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let listener = TcpListener::from_std(listener).expect("listen");
                tokio::select! {
                    _ = ended => {}
                    () = carry(listener, acceptor, plain) => {}
                }
            });
        });
        Self { port, certificate: cert.pem(), _alive: alive }
    }
}

async fn carry(listener: TcpListener, acceptor: TlsAcceptor, plain: SocketAddr) {
    while let Ok((stream, _)) = listener.accept().await {
        let acceptor = acceptor.clone();
        tokio::spawn(async move {
            let mut secret = acceptor.accept(stream).await?;
            let mut plain = TcpStream::connect(plain).await?;
            tokio::io::copy_bidirectional(&mut secret, &mut plain).await
        });
    }
}

#[test]
fn a_trusted_certificate_is_believed_and_another_one_gets_no_token() {
    let simulator = Simulator::start();
    // From https a redirect to http would not be followed.
    simulator.fault(&json!({"fault": "redirect", "to": "off"}));
    let terminator = Terminator::before(simulator.address());
    let directory = tempfile::tempdir().expect("a directory");
    let roots = directory.path().join("roots.pem");
    fs::write(&roots, &terminator.certificate).expect("write");
    let url = format!("https://localhost:{}", terminator.port);
    let token = |name: &str| {
        let file = directory.path().join(name);
        fs::write(&file, name).expect("write");
        format!(
            "[nest]\nurl = \"{url}\"\ntoken_file = \"{}\"\nbackoff_min_s = 0.05\nbackoff_max_s = 0.3\n",
            file.display()
        )
    };
    let gateway =
        |name: &str| forebay::testing::Server::of(env!("CARGO_BIN_EXE_forebay")).workers(1).configuration(&token(name));

    let trusting = gateway("c.trusting").variable("SSL_CERT_FILE", &roots).start();
    let upstream = wait_for_state(&trusting, "open");
    assert_eq!(upstream["url"], url);
    assert_eq!(get(trusting.address(), "/thermostats").expect("an answer").status, 200);
    assert_eq!(simulator.streams("c.trusting"), Streams { open: 1, open_max: 1, total: 1 });

    let doubting = gateway("c.doubting").start();
    let upstream = wait_for_state(&doubting, "waiting");
    assert!(upstream["reason"].as_str().is_some_and(|reason| reason.contains("certificate")), "{upstream}");
    assert_eq!(get(doubting.address(), "/thermostats").expect("an answer").status, 503);
    assert_eq!(simulator.counts()["tokens"]["c.doubting"], serde_json::Value::Null, "it was told nothing");
    trusting.stop();
    doubting.stop();
    simulator.stop();
}
