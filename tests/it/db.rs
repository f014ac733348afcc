//! `examples/db.rs` on a PostgreSQL of the test's own: every worker has one connection and keeps it.

use std::collections::BTreeSet;

use forebay::testing::{Builder, Server};
use nix::libc::SIGKILL;

use crate::client::{example, get};
use crate::cluster::{Cluster, Connection};

fn db(url: &str) -> Builder {
    Server::of(example("db")).workers(3).variable("DATABASE_URL", url)
}

fn names(connections: &[Connection]) -> Vec<&str> {
    connections.iter().map(|connection| connection.name.as_str()).collect()
}

/// Asks until every worker has answered; over which connections they did.
fn answering(server: &Server) -> Vec<Connection> {
    let address = server.address();
    let mut seen = BTreeSet::new();
    server.wait_for("answers of all workers", || {
        let answer = get(address, "/now").expect("an answer");
        assert_eq!(answer.status, 200);
        seen.insert(said(&answer.body));
        (seen.iter().map(|connection| &connection.name).collect::<BTreeSet<_>>().len() == 3).then_some(())
    });
    seen.into_iter().collect()
}

/// `DATE TIME NAME backend PID`
fn said(body: &str) -> Connection {
    let (front, backend) = body.trim_end().split_once(" backend ").expect("its backend");
    let name = front.splitn(3, ' ').nth(2).expect("a name after the time");
    Connection { name: name.to_owned(), backend: backend.parse().expect("a pid") }
}

#[test]
fn every_worker_has_one_connection_and_a_killed_one_leaves_the_others_theirs() {
    let cluster = Cluster::start();
    let server = db(&cluster.url("postgres")).start();
    let before = cluster.connections();
    assert_eq!(names(&before), ["db worker 0", "db worker 1", "db worker 2"]);
    assert_eq!(answering(&server), before, "each asks over its own");
    server.signal(server.workers()[1], SIGKILL);
    server.wait_until("another worker", |status| status["workers"][1]["restarts"] == 1 && status["state"] == "serving");
    // PostgreSQL notices in its own time that the dead worker's socket is closed.
    let after = cluster.wait_until("one connection for each worker", |now| now.len() == 3 && !now.contains(&before[1]));
    assert_eq!(names(&after), names(&before));
    assert_eq!((&after[0], &after[2]), (&before[0], &before[2]), "the others keep theirs");
    assert_eq!(answering(&server), after);
    server.stop();
    cluster.wait_until("no connections", <[_]>::is_empty);
}

#[test]
fn a_lost_connection_is_503_while_the_database_refuses_and_opened_again_when_it_does_not() {
    let cluster = Cluster::start();
    cluster.execute("CREATE ROLE tenant LOGIN");
    let server = db(&cluster.url("tenant")).workers(1).start();
    let (address, workers, before) = (server.address(), server.workers(), cluster.connections());
    cluster.execute("ALTER ROLE tenant NOLOGIN");
    cluster.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'tenant'");
    server.wait_for_log("the database connection is lost: db error: FATAL: terminating connection");
    assert_eq!(get(address, "/now").expect("an answer").status, 503);
    server.wait_for_log("the database does not answer: db error: FATAL: role \"tenant\" is not permitted to log in");
    cluster.execute("ALTER ROLE tenant LOGIN");
    let answer = get(address, "/now").expect("an answer");
    assert_eq!(answer.status, 200);
    let after = cluster.wait_until("one connection", |now| now == [said(&answer.body)]);
    assert_ne!(after, before);
    assert_eq!(server.workers(), workers, "the worker lives on");
    server.stop();
}

#[test]
fn without_a_database_it_does_not_start_and_says_which_variable_is_meant() {
    let table = [
        (&["env", "-u", "DATABASE_URL"][..], "DATABASE_URL must say where the database is, postgres://user@host/name"),
        (&["env", "DATABASE_URL=nowhere"], "DATABASE_URL is wrong: invalid connection string"),
        (
            &["env", "DATABASE_URL=postgres://me@%2Fnowhere/name"],
            "cannot open DATABASE_URL: error connecting to server: No such file or directory",
        ),
    ];
    for (environment, expected) in table {
        let mut server = Server::of(example("db")).workers(1).under(environment).launch();
        assert_eq!(server.wait().code(), Some(1), "{expected}");
        let log = server.log();
        let reason = log.lines().last().unwrap_or_default();
        assert!(reason.starts_with("db: db did not start: worker 0 generation 1: "), "{reason}");
        assert!(reason.contains(expected), "{reason}");
    }
}
