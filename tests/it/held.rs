//! A request that a worker is answering until the test lets it go.

use std::fs::File;
use std::path::PathBuf;
use std::thread::JoinHandle;

use forebay::testing::Server;
use serde_json::Value;

use crate::client::{Answer, get};

/// A request in flight, to the fixture's `/hold`.
pub(crate) struct Held {
    release: PathBuf,
    client: JoinHandle<std::io::Result<Answer>>,
}

impl Held {
    /// Starts a request and waits until a worker has it; no other may start meanwhile.
    pub(crate) fn start(server: &Server, name: &str) -> Self {
        let before = requests(&server.status());
        let release = server.directory().join(name);
        let (address, path) = (server.address(), format!("/hold{}", release.display()));
        let client = std::thread::spawn(move || get(address, &path));
        server.wait_until("a request in flight", |status| requests(status) > before);
        Self { release, client }
    }

    pub(crate) fn is_answered(&self) -> bool {
        self.client.is_finished()
    }

    /// Lets the request finish; returns the pid of the worker that has answered it.
    pub(crate) fn let_go(self) -> u32 {
        File::create(&self.release).expect("let it go");
        let answer = self.client.join().expect("a client does not panic").expect("an answer");
        assert_eq!(answer.status, 200);
        answer.body.parse().expect("a pid")
    }
}

fn requests(status: &Value) -> u64 {
    let workers = status["workers"].as_array().into_iter().flatten();
    workers.filter_map(|worker| worker["requests"].as_u64()).sum()
}
