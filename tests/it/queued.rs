//! What waits for its turn: a reload behind another one.

use std::fs;

use nix::libc::SIGHUP;

use crate::reload::{Releases, reloads};

#[test]
fn a_reload_behind_one_that_rolls_back_keeps_what_it_was_prepared_with() {
    let releases = Releases::new();
    let server = releases.serve().workers(1).configuration("[timeouts]\nstable = 0.05\nready = 1\n").start();
    fs::write(releases.fault(), "never").expect("write");
    server.signal(server.pid(), SIGHUP);
    server.wait_for_log("reload 1 generation 2: zygote loaded");
    server.signal(server.pid(), SIGHUP);
    server.wait_for("the second", || (reloads(&server)["asked"] == 2).then_some(()));
    fs::write(releases.fault(), "").expect("write");
    let json = server.wait_for("both results", || Some(reloads(&server)).filter(|json| json["finished"] == 2));
    assert_eq!((&json["last"]["generation"], &json["last"]["outcome"]), (&3.into(), &"committed".into()), "{json}");
    server.wait_for_log("reload 1 generation 2: rolled back");
    assert!(!server.log().contains("is gone"), "{}", server.log());
    server.stop();
}
