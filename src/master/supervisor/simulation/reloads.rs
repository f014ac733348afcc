//! Reloads, written out: the plain one, and one for each step that can fail.

use std::time::Duration;

use super::offers::offer;
use super::play::POLICY;
use super::script::{Line, Script};
use crate::contract::ids::WORKERS_MAX;
use crate::master::supervisor::{DRAIN_GRACE, KILL_GRACE, Policy};
use crate::settings::Timeouts;

/// `feed` stays as it is, `nest` has changed, `hub` is new, `old` is gone.
const PLAIN: [Line; 14] = [
    ("reload", &["promise 1", "prepare generation 2"]),
    ("prepared", &["start zygote generation 2", "begin zygote generation 2"]),
    ("zygote generation 2 loaded", &["fork helper hub generation 2"]),
    ("helper hub generation 2 born", &["begin helper hub generation 2"]),
    ("helper hub generation 2 ready", &["accept helper hub generation 2", "fork worker 0 generation 2"]),
    ("worker 0 generation 2 born", &["begin worker 0 generation 2"]),
    ("worker 0 generation 2 ready", &["workers ready 1 of 1", "handing over nest", "drain helper nest generation 1"]),
    ("helper nest generation 1 exits", &["fork helper nest generation 2"]),
    ("helper nest generation 2 born", &["begin helper nest generation 2"]),
    (
        "helper nest generation 2 ready",
        &["accept helper nest generation 2", "nest handed over", "accept worker 0 generation 2"],
    ),
    ("stable passes", &["result 1: committed, kept [feed]", "drain worker 0 generation 1"]),
    ("worker 0 generation 1 exits", &["drain helper old generation 1"]),
    ("helper old generation 1 exits", &["drain zygote generation 1"]),
    ("zygote generation 1 exits", &[]),
];

fn plain() -> Script {
    let mut script = Script::serving(&["feed", "nest", "old"]);
    script.next = vec![offer("feed", Vec::new()), offer("nest", Vec::new()), offer("hub", Vec::new())];
    script.next[1].version = "1.4".to_owned();
    script
}

/// So many steps of the plain one have been made.
fn after(steps: usize) -> Script {
    let mut script = plain();
    script.run(&PLAIN[..steps]);
    script
}

#[test]
fn the_plain_one() {
    let mut script = plain();
    for (number, line) in PLAIN.iter().enumerate() {
        assert_eq!(script.play.supervisor.view().generation.0, if number <= 10 { 1 } else { 2 });
        script.run(&[*line]);
    }
    assert_eq!(script.play.supervisor.view().state, "serving");
    // Who was kept is followed by a process of the new generation, and who serves is replaced by one.
    script.run(&[
        ("helper feed generation 1 exits", &["fork helper feed generation 2"]),
        ("helper feed generation 2 born", &["begin helper feed generation 2"]),
        ("worker 0 generation 2 exits", &["fork worker 0 generation 2"]),
    ]);
}

#[test]
fn both_generations_are_seen() {
    let seen = |steps| {
        let view = after(steps).play.supervisor.view();
        assert_eq!(view.state, "reloading");
        assert_eq!(view.generation.0, 1);
        view.places.iter().map(|place| format!("{}: {}", place.role, place.state)).collect::<Vec<_>>()
    };
    let old = ["helper log: serving", "zygote generation 1: serving", "helper feed generation 1: serving"];
    // Of a helper that both have: the one that lives, and the one that may.
    let table: [(usize, &[&str]); 3] = [
        (
            2,
            &[
                "helper nest generation 1: serving",
                "helper old generation 1: serving",
                "worker 0 generation 1: serving",
                "zygote generation 2: booting",
                "worker 0 generation 2: waiting",
            ],
        ),
        (
            7,
            &[
                "helper nest generation 1: draining",
                "helper old generation 1: serving",
                "worker 0 generation 1: serving",
                "zygote generation 2: serving",
                "helper nest generation 2: waiting",
                "helper hub generation 2: serving",
                "worker 0 generation 2: ready",
            ],
        ),
        (
            10,
            &[
                "helper old generation 1: serving",
                "worker 0 generation 1: serving",
                "zygote generation 2: serving",
                "helper nest generation 2: serving",
                "helper hub generation 2: serving",
                "worker 0 generation 2: serving",
            ],
        ),
    ];
    for (steps, new) in table {
        assert_eq!(seen(steps), [&old, new].concat(), "after {steps} steps");
    }
}

#[test]
fn nothing_is_prepared() {
    after(1).run(&[(
        "not prepared",
        &["rolling back: forebay.toml:3: unknown key", "result 1: forebay.toml:3: unknown key"],
    )]);
}

#[test]
fn a_zygote_that_refuses() {
    after(2).run(&[
        (
            "zygote generation 2 refuses",
            &["rolling back: zygote generation 2: no database", "kill zygote generation 2"],
        ),
        ("zygote generation 2 exits", &["result 1: no database"]),
    ]);
}

#[test]
fn a_zygote_that_does_not_load_in_time() {
    after(2).run(&[
        ("ready passes", &["kill zygote generation 2", "rolling back: zygote generation 2: not ready within 20 s"]),
        ("zygote generation 2 exits", &["result 1: not ready within 20 s"]),
    ]);
}

#[test]
fn a_new_helper_that_cannot_be_forked() {
    after(3).run(&[
        (
            "helper hub generation 2 unborn",
            &["rolling back: helper hub generation 2: cannot start: too many processes", "kill zygote generation 2"],
        ),
        ("zygote generation 2 exits", &["result 1: cannot start: too many processes"]),
    ]);
}

#[test]
fn a_new_worker_that_exits() {
    after(6).run(&[
        (
            "worker 0 generation 2 exits",
            &[
                "rolling back: worker 0 generation 2: exited with 7",
                "kill zygote generation 2",
                // No worker is left that could ask it.
                "drain helper hub generation 2",
            ],
        ),
        ("zygote generation 2 exits", &[]),
        ("helper hub generation 2 exits", &["result 1: exited with 7"]),
    ]);
}

#[test]
fn a_new_zygote_that_dies_with_an_order() {
    after(5).run(&[
        (
            "zygote generation 2 exits",
            &[
                "forget worker 0 generation 2",
                "rolling back: zygote generation 2: exited with 7",
                "drain helper hub generation 2",
            ],
        ),
        ("helper hub generation 2 exits", &["result 1: exited with 7"]),
    ]);
}

#[test]
fn a_new_worker_that_dies_while_a_helper_makes_room() {
    after(7).run(&[
        (
            "worker 0 generation 2 exits",
            &[
                "rolling back: worker 0 generation 2: exited with 7",
                "kill zygote generation 2",
                "drain helper hub generation 2",
            ],
        ),
        ("zygote generation 2 exits", &[]),
        ("helper nest generation 1 exits", &["fork helper nest generation 1"]),
        ("helper nest generation 1 born", &["begin helper nest generation 1"]),
        ("helper nest generation 1 ready", &["accept helper nest generation 1"]),
        ("helper hub generation 2 exits", &["result 1: exited with 7"]),
    ]);
}

#[test]
fn a_successor_that_refuses() {
    after(9).run(&[
        (
            "helper nest generation 2 refuses",
            &[
                "rolling back: helper nest generation 2: no database",
                "kill zygote generation 2",
                "kill helper nest generation 2",
                "kill worker 0 generation 2",
            ],
        ),
        ("zygote generation 2 exits", &[]),
        ("helper nest generation 2 exits", &["fork helper nest generation 1"]),
        ("helper nest generation 1 born", &["begin helper nest generation 1"]),
        ("worker 0 generation 2 exits", &["drain helper hub generation 2"]),
        ("helper nest generation 1 ready", &["accept helper nest generation 1"]),
        ("helper hub generation 2 exits", &["result 1: no database"]),
    ]);
}

#[test]
fn a_new_worker_that_dies_before_it_was_stable() {
    let mut script = plain();
    script.policy.workers = 2;
    script.run(&PLAIN[..5]);
    script.run(&[
        ("worker 0 generation 2 born", &["begin worker 0 generation 2", "fork worker 1 generation 2"]),
        ("worker 0 generation 2 ready", &["workers ready 1 of 2"]),
        ("worker 1 generation 2 born", &["begin worker 1 generation 2"]),
        (
            "worker 1 generation 2 ready",
            &["workers ready 2 of 2", "handing over nest", "drain helper nest generation 1"],
        ),
    ]);
    script.run(&PLAIN[7..9]);
    script.happen("helper nest generation 2 ready");
    script.run(&[
        (
            "worker 1 generation 2 exits",
            &[
                "rolling back: worker 1 generation 2: exited with 7",
                "kill zygote generation 2",
                "drain helper nest generation 2",
                // It has taken requests.
                "drain worker 0 generation 2",
            ],
        ),
        ("zygote generation 2 exits", &[]),
        ("helper nest generation 2 exits", &["fork helper nest generation 1"]),
        ("helper nest generation 1 born", &["begin helper nest generation 1"]),
        ("helper nest generation 1 ready", &["accept helper nest generation 1", "result 1: exited with 7"]),
        ("worker 0 generation 2 exits", &["drain helper hub generation 2"]),
    ]);
    assert_eq!(script.play.supervisor.view().generation.0, 1);
}

#[test]
fn an_old_helper_that_cannot_be_killed() {
    let mut script = after(7);
    script.play.wait(POLICY.timeouts.drain + DRAIN_GRACE);
    let done = script.play.wait(KILL_GRACE);
    let said = format!("{done:?}");
    assert!(said.contains("RollingBack { reason: \"helper nest generation 1: cannot be killed"), "{said}");
    assert!(!said.contains("Fork"), "{said}");
    assert!(script.play.supervisor.is_stuck(super::offers::name("nest")));
}

#[test]
fn a_stop_at_every_step() {
    for steps in 1..=10 {
        let mut script = after(steps);
        let done = script.happen("stop");
        assert!(done.contains(&"result 1: stopping".to_owned()), "after {steps}: {done:?}");
        assert!(script.happen("reload").contains(&"result 2: stopping".to_owned()), "after {steps}");
    }
}

#[test]
fn who_asks_meanwhile_gets_the_result_of_one_more_run() {
    let mut script = after(1);
    script.run(&[
        ("reload", &["promise 2"]),
        ("reload", &["promise 2"]),
        (
            "not prepared",
            &[
                "rolling back: forebay.toml:3: unknown key",
                "result 1: forebay.toml:3: unknown key",
                // Nothing was loaded under this number.
                "prepare generation 2",
            ],
        ),
        ("reload", &["promise 3"]),
    ]);
}

#[test]
fn the_old_generation_is_supervised_as_ever() {
    after(6).run(&[
        ("worker 0 generation 1 exits", &["fork worker 0 generation 1"]),
        (
            "zygote generation 1 exits",
            &["forget worker 0 generation 1", "start zygote generation 1", "begin zygote generation 1"],
        ),
        ("helper feed generation 1 exits", &[]),
        ("3 workers are wanted", &[]),
    ]);
}

#[test]
fn a_reload_during_the_start_begins_when_all_serve() {
    let mut script = Script::serving(&[]);
    script.play = super::play::Play::start(POLICY);
    script.run(&[("reload", &["promise 1"]), ("zygote generation 1 loaded", &["fork worker 0 generation 1"])]);
    script.run(&[
        ("worker 0 generation 1 born", &["begin worker 0 generation 1"]),
        ("worker 0 generation 1 ready", &["accept worker 0 generation 1"]),
        ("helper log ready", &["prepare generation 2"]),
    ]);
}

#[test]
fn a_third_generation_waits_for_the_oldest() {
    let mut script = after(11);
    script.run(&[
        ("reload", &["promise 2", "prepare generation 3"]),
        ("prepared", &["start zygote generation 3", "begin zygote generation 3"]),
        ("zygote generation 3 loaded", &["waiting for generation 1"]),
        ("worker 0 generation 1 exits", &["drain helper old generation 1"]),
        ("helper old generation 1 exits", &["drain zygote generation 1"]),
        ("zygote generation 1 exits", &["fork worker 0 generation 3"]),
    ]);
}

#[test]
fn a_restart_waits_for_nobody_in_a_hand_over() {
    after(6).run(&[("a restart of nest", &["drain helper nest generation 1"])]);
    for steps in 7..=10 {
        after(steps).run(&[("a restart of nest", &["nest is not restarted"])]);
    }
    after(11).run(&[("a restart of nest", &["drain helper nest generation 2"])]);
}

/// It beats as often as it was told at its birth.
#[test]
fn who_was_born_before_is_judged_by_what_it_was_told() {
    let mut script = Script::serving(&["feed"]);
    script.next = vec![offer("feed", Vec::new())];
    let timeouts = Timeouts { hang: Duration::from_secs(2), stable: Duration::ZERO, ..POLICY.timeouts };
    script.policy = Policy { timeouts, ..POLICY };
    for what in ["reload", "prepared", "zygote generation 2 loaded", "worker 0 generation 2 born"] {
        script.happen(what);
    }
    script.run(&[(
        "worker 0 generation 2 ready",
        &[
            "workers ready 1 of 1",
            "accept worker 0 generation 2",
            "result 1: committed, kept [feed]",
            "drain worker 0 generation 1",
        ],
    )]);
    // Nobody's heart beats for three seconds, and the master looks in time.
    let mut done = Vec::new();
    for _ in 0..12 {
        script.play.now += Duration::from_millis(250);
        done.extend(script.play.tell(crate::master::supervisor::Event::Tick));
    }
    let aborted = done.iter().filter(|action| matches!(action, crate::master::supervisor::Action::Abort(_))).count();
    assert_eq!(aborted, 1, "the new worker: {done:?}");
}

#[test]
fn a_pause_does_not_shorten_the_proof() {
    let mut script = after(10);
    let done = script.play.pause(POLICY.timeouts.stable * 20);
    assert!(!format!("{done:?}").contains("Reloaded"), "{done:?}");
    script.run(&[PLAIN[10]]);
}

#[test]
fn two_generations_of_the_most_workers_have_room() {
    let mut script = Script::serving(&[]);
    script.policy = Policy { workers: WORKERS_MAX, ..POLICY };
    for what in ["reload", "prepared", "zygote generation 2 loaded"] {
        script.happen(what);
    }
    for slot in 0..WORKERS_MAX {
        script.happen(&format!("worker {slot} generation 2 born"));
        script.happen(&format!("worker {slot} generation 2 ready"));
    }
    script.happen("stable passes");
    // The next one has as many beside the old ones, and waits for the one that drains still.
    for what in ["reload", "prepared", "zygote generation 3 loaded", "zygote generation 1 exits"] {
        script.happen(what);
    }
    script.run(&[("worker 0 generation 1 exits", &["fork worker 0 generation 3"])]);
    for slot in 0..WORKERS_MAX {
        script.happen(&format!("worker {slot} generation 3 born"));
    }
    script.happen(&format!("worker {} generation 3 ready", WORKERS_MAX - 1));
    assert_eq!(script.play.supervisor.view().state, "reloading");
}

#[test]
fn a_reload_without_room_fails() {
    let mut script = Script::serving(&[]);
    // Those who drain are too many to wait for.
    for wanted in [WORKERS_MAX, 1, WORKERS_MAX] {
        script.happen(&format!("{wanted} workers are wanted"));
        for slot in 1..wanted {
            script.happen(&format!("worker {slot} generation 1 born"));
            script.happen(&format!("worker {slot} generation 1 ready"));
        }
    }
    script.policy = Policy { workers: 2, ..POLICY };
    script.happen("reload");
    script.happen("prepared");
    script.run(&[
        ("zygote generation 2 loaded", &["fork worker 0 generation 2"]),
        (
            "worker 0 generation 2 born",
            &[
                "begin worker 0 generation 2",
                "rolling back: no room: 2048 workers live",
                "kill zygote generation 2",
                "kill worker 0 generation 2",
            ],
        ),
    ]);
}
