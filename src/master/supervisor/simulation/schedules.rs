//! Schedules of faults that once broke the supervisor, written out.

use std::time::Duration;

use super::offers::{name, offer};
use super::play::{LOG, POLICY, Play, WORKER, ZYGOTE};
use crate::contract::ids::{Birth, Generation, Role, WORKERS_MAX};
use crate::contract::orders::HelperOffer;
use crate::master::supervisor::{Action, Event, KILL_GRACE, LOG_GRACE, Outcome, Report, WORKERS_LIVE_MAX};

fn is_unkillable(actions: &[Action], birth: Birth) -> bool {
    let said = |action: &Action| matches!(action, Action::Report(Report::Unkillable(whom, _)) if *whom == birth);
    actions.iter().any(said)
}

fn order(actions: &[Action]) -> Option<(Birth, Birth)> {
    actions.iter().find_map(|action| match *action {
        Action::Fork { birth, zygote, .. } => Some((birth, zygote)),
        _ => None,
    })
}

#[test]
fn the_end_is_told_once() {
    let mut play = Play::serving(POLICY);
    play.tell(Event::Stop);
    play.exit(WORKER);
    play.exit(ZYGOTE);
    assert!(play.exit(LOG).contains(&Action::Exit(Outcome::Stopped)));
    assert_eq!(play.tell(Event::Tick), [], "the master finishes its turn");
    assert_eq!(play.tell(Event::Quit), []);
}

#[test]
fn a_pause_is_noticed_while_nothing_beats_yet() {
    let mut play = Play::start(POLICY);
    play.wait(Duration::from_secs(1));
    let actions = play.pause(POLICY.timeouts.ready * 2);
    assert!(!actions.iter().any(|action| matches!(action, Action::Kill(_))), "{actions:?}");
}

#[test]
fn a_pause_is_noticed_once() {
    let mut play = Play::serving(POLICY);
    play.now += Duration::from_secs(60);
    // The first event after it is the last heartbeat before it.
    let mut actions = play.tell(Event::Heartbeat(WORKER, play.now - Duration::from_secs(60)));
    actions.extend(play.tell(Event::Tick));
    let paused = |action: &&Action| matches!(action, Action::Report(Report::Paused(_)));
    assert_eq!(actions.iter().filter(paused).count(), 1);
    assert!(!actions.contains(&Action::Abort(WORKER)));
}

#[test]
fn a_quit_does_not_wait_for_an_answer() {
    let mut play = Play::start(POLICY);
    let actions = play.tell(Event::Loaded(ZYGOTE, Vec::new()));
    assert_eq!(order(&actions), Some((WORKER, ZYGOTE)));
    assert!(play.tell(Event::Quit).contains(&Action::Kill(ZYGOTE)));
    assert!(play.exit(ZYGOTE).contains(&Action::Forget(WORKER)));
    assert!(play.exit(LOG).contains(&Action::Exit(Outcome::Stopped)));
}

/// The log helper was started again and again for a worker that is not going to say anything.
#[test]
fn a_stop_ends_beside_a_worker_that_cannot_be_killed() {
    let mut play = Play::serving(POLICY);
    play.tell(Event::Quit);
    assert!(is_unkillable(&play.wait(KILL_GRACE), WORKER));
    play.exit(ZYGOTE);
    assert!(play.exit(LOG).contains(&Action::Exit(Outcome::Stopped)));
}

#[test]
fn a_start_gives_up_on_what_cannot_be_killed() {
    let mut play = Play::start(POLICY);
    let actions = play.wait(POLICY.timeouts.ready + KILL_GRACE + LOG_GRACE);
    assert!(is_unkillable(&actions, ZYGOTE));
    let again = |action: &&Action| matches!(action, Action::StartZygote(..));
    assert_eq!(actions.iter().filter(again).count(), 0);
    let failed = |action: &Action| matches!(action, Action::Exit(Outcome::Failed(_)));
    assert!(actions.iter().any(failed) || play.exit(LOG).iter().any(failed));
}

#[test]
fn who_boots_is_not_taken_for_hung_when_it_is_to_end() {
    let mut play = Play::serving(POLICY);
    play.exit(LOG);
    let log = Birth(4);
    let step = Duration::from_millis(200);
    let until = play.now + POLICY.timeouts.hang + step;
    // The second log helper's loop has not turned yet.
    while play.now < until {
        play.now += step;
        play.tell(Event::Heartbeat(WORKER, play.now));
        play.tell(Event::Tick);
    }
    play.tell(Event::Stop);
    play.exit(WORKER);
    assert!(play.exit(ZYGOTE).contains(&Action::Drain(log)));
    assert!(!play.tell(Event::Tick).contains(&Action::Abort(log)));
}

#[test]
fn a_given_up_zygote_takes_no_orders_with_it() {
    let mut play = Play::serving(POLICY);
    play.tell(Event::Broken(ZYGOTE, "broke the rules".to_owned()));
    assert!(is_unkillable(&play.wait(KILL_GRACE), ZYGOTE));
    let next = Birth(4);
    play.tell(Event::Loaded(next, Vec::new()));
    assert_eq!(order(&play.tell(Event::Scale(2))), Some((Birth(5), next)));
    let actions = play.exit(ZYGOTE);
    assert!(!actions.contains(&Action::Forget(Birth(5))), "{actions:?}");
    assert!(play.answer(Birth(5)).contains(&Action::Accept(Birth(5))));
}

/// Every process has a record in the scoreboard, and there are so many.
#[test]
fn a_scale_that_swings_does_not_make_processes_without_end() {
    let mut play = Play::serving(POLICY);
    let mut worker = WORKER;
    for _ in 0..4 {
        let mut ordered = order(&play.tell(Event::Scale(WORKERS_MAX)));
        while let Some((birth, _)) = ordered {
            worker = birth;
            let born = play.tell(Event::Born(birth));
            play.tell(Event::Ready(birth));
            ordered = order(&born);
        }
        play.tell(Event::Scale(1));
    }
    // And the log helper, and the zygote.
    assert_eq!(play.live(), WORKERS_LIVE_MAX + 2);
    play.tell(Event::Scale(2));
    assert!(play.supervisor.due().is_some_and(|due| due > play.now), "nothing spins");
    assert!(order(&play.exit(worker)).is_some(), "room was made");
}

// ---- helpers ----------------------------------------------------------------------------------

/// In this order they are born, before the worker.
const NEST: Birth = Birth(3);
const HUB: Birth = Birth(4);

/// The hub asks the nest.
fn helpers() -> Vec<HelperOffer> {
    vec![offer("nest", Vec::new()), offer("hub", vec![name("nest")])]
}

fn forked(actions: &[Action]) -> Option<Role> {
    actions.iter().find_map(|action| match *action {
        Action::Fork { role, .. } => Some(role),
        _ => None,
    })
}

/// All serve: the log helper, the zygote, the nest, the hub, the worker.
fn served_by_helpers() -> Play {
    let mut play = Play::start(POLICY);
    play.tell(Event::Ready(LOG));
    play.tell(Event::Loaded(ZYGOTE, helpers()));
    for birth in [NEST, HUB, Birth(5)] {
        play.answer(birth);
    }
    assert_eq!(play.supervisor.view().state, "serving");
    play
}

#[test]
fn helpers_start_after_those_they_ask_and_workers_after_all() {
    let role = |helper| Some(Role::Helper(name(helper), Generation(1)));
    let mut play = Play::start(POLICY);
    play.tell(Event::Ready(LOG));
    assert_eq!(forked(&play.tell(Event::Loaded(ZYGOTE, helpers()))), role("nest"));
    assert_eq!(forked(&play.tell(Event::Born(NEST))), None, "the hub waits until the nest serves");
    assert_eq!(forked(&play.tell(Event::Ready(NEST))), role("hub"));
    assert_eq!(forked(&play.tell(Event::Born(HUB))), None);
    assert!(matches!(forked(&play.tell(Event::Ready(HUB))), Some(Role::Worker(..))));
}

#[test]
fn a_stop_ends_workers_then_helpers_the_last_one_first() {
    let mut play = served_by_helpers();
    let drained = |actions: &[Action]| {
        actions.iter().find_map(|action| if let Action::Drain(birth) = *action { Some(birth) } else { None })
    };
    assert_eq!(drained(&play.tell(Event::Stop)), Some(Birth(5)));
    assert_eq!(drained(&play.exit(Birth(5))), Some(HUB));
    assert_eq!(drained(&play.exit(HUB)), Some(NEST));
    assert_eq!(drained(&play.exit(NEST)), Some(ZYGOTE));
    assert_eq!(drained(&play.exit(ZYGOTE)), Some(LOG));
    assert!(play.exit(LOG).contains(&Action::Exit(Outcome::Stopped)));
}

#[test]
fn a_restart_is_no_crash_however_often_and_nobody_comes_early() {
    let mut play = served_by_helpers();
    let mut nest = NEST;
    for number in 0..u64::from(POLICY.restart.intensity) * 2 {
        let asked = play.tell(Event::Restart(name("nest")));
        assert!(asked.contains(&Action::Drain(nest)) && forked(&asked).is_none(), "{asked:?}");
        assert_eq!(play.supervisor.view().state, "degraded");
        assert_eq!(order(&play.exit(nest)), Some((Birth(6 + number), ZYGOTE)), "at once");
        nest = Birth(6 + number);
        play.answer(nest);
    }
    assert_eq!(play.supervisor.view().state, "serving");
}

#[test]
fn a_restart_that_is_not_obeyed_ends_by_force_and_is_no_crash_either() {
    let mut play = served_by_helpers();
    play.tell(Event::Restart(name("nest")));
    let waited = play.wait(POLICY.timeouts.drain + super::DRAIN_GRACE);
    assert!(waited.contains(&Action::Kill(NEST)) && forked(&waited).is_none());
    let actions = play.exit(NEST);
    assert_eq!(order(&actions), Some((Birth(6), ZYGOTE)));
    assert!(!actions.iter().any(|action| matches!(action, Action::Report(Report::Died { .. }))), "{actions:?}");
}

#[test]
fn a_helper_that_cannot_be_killed_is_not_replaced() {
    let mut play = served_by_helpers();
    play.tell(Event::Broken(NEST, "broke the rules".to_owned()));
    let waited = play.wait(KILL_GRACE * 2);
    assert!(is_unkillable(&waited, NEST) && forked(&waited).is_none());
    assert!(play.supervisor.is_stuck(name("nest")));
    let place = |place: &&crate::master::supervisor::Place| place.birth == Some(NEST);
    assert_eq!(play.supervisor.view().places.iter().find(place).map(|place| place.state), Some("stuck"));
    assert_eq!(forked(&play.tell(Event::Restart(name("nest")))), None);
    assert!(order(&play.exit(NEST)).is_some(), "once it is gone there is room");
}
