use proptest::prelude::*;

use super::*;
use crate::child::helper::schedule::when::Zone;

/// Both clocks of a test, which go as it says.
struct Clock {
    now: Moment,
}

impl Clock {
    fn at(wall: &str) -> Self {
        Self { now: Moment { wall: time(wall), steady: Instant::now() } }
    }

    /// Time passes.
    fn pass(&mut self, seconds: f64) -> Moment {
        let passed = Duration::from_secs_f64(seconds);
        self.now = Moment { wall: self.now.wall + passed, steady: self.now.steady + passed };
        self.now
    }

    /// The wall clock is set.
    fn set(&mut self, wall: &str) -> Moment {
        self.now.wall = time(wall);
        self.now
    }
}

fn time(text: &str) -> Timestamp {
    text.parse().expect(text)
}

fn cron(name: &'static str, text: &'static str) -> Order {
    order(name, When::cron(text).expect(text))
}

fn every(name: &'static str, ms: u64) -> Order {
    order(name, When::every(Duration::from_millis(ms)).expect("an interval"))
}

fn order(name: &'static str, mut when: When) -> Order {
    if let When::Cron(expression) = &mut when {
        expression.zone = Zone::Utc;
    }
    Order { name, when, overlaps: false, catches_up: false }
}

fn plan(orders: &[Order], now: Moment) -> Plan {
    resumed(orders, BTreeMap::new(), now).0
}

fn resumed(orders: &[Order], known: BTreeMap<String, Memory>, now: Moment) -> (Plan, Vec<Step>) {
    Plan::new(orders.to_vec(), known, TimeZone::UTC, now)
}

fn memories(plan: &Plan) -> BTreeMap<String, Memory> {
    plan.places().iter().map(|place| (place.order.name.to_owned(), place.memory.clone())).collect()
}

fn begin(due: &str, missed: u64) -> Step {
    Step::Begin(Begin { job: 0, due: time(due), missed })
}

#[test]
fn a_job_begins_when_it_is_due_and_not_again() {
    let mut clock = Clock::at("2026-11-23T09:58:30Z");
    let mut plan = plan(&[cron("report", "0 * * * *")], clock.now);
    assert_eq!(plan.sleep(clock.now), SLEEP_MAX, "a clock that is set is noticed");
    assert_eq!(plan.tick(clock.pass(60.0)), []);
    assert_eq!(plan.sleep(clock.now), Duration::from_secs(30));
    assert_eq!(plan.tick(clock.pass(30.002)), [begin("2026-11-23T10:00:00Z", 0)]);
    plan.ended(0, "done".to_owned());
    assert_eq!(plan.tick(clock.now), []);
    assert_eq!(plan.upcoming(clock.now), Some(("report", time("2026-11-23T11:00:00Z"))));
}

#[test]
fn an_interval_keeps_its_beat_whatever_the_wall_clock_shows() {
    let mut clock = Clock::at("2026-11-23T09:00:00Z");
    let mut plan = plan(&[every("poll", 1000)], clock.now);
    assert_eq!(plan.tick(clock.pass(0.999)), []);
    assert_eq!(plan.tick(clock.pass(0.101)), [begin("2026-11-23T09:00:01Z", 0)]);
    plan.ended(0, "done".to_owned());
    assert_eq!(plan.sleep(clock.now), Duration::from_millis(900));
    clock.set("2030-01-01T00:00:00Z");
    assert_eq!(plan.tick(clock.now), []);
    assert_eq!(plan.tick(clock.pass(0.9)), [begin("2030-01-01T00:00:00.9Z", 0)]);
    plan.ended(0, "done".to_owned());
    // The process stood still: the latest one runs.
    let since = time("2030-01-01T00:00:00.9Z");
    let steps = plan.tick(clock.pass(3.5));
    assert_eq!(steps, [Step::Missed { job: 0, count: 2, since }, begin("2030-01-01T00:00:03.9Z", 2)]);
}

#[test]
fn a_run_that_is_due_while_the_last_one_is_busy_is_missed_and_told_to_the_next() {
    let mut clock = Clock::at("2026-11-23T09:00:00Z");
    let mut plan = plan(&[every("poll", 1000)], clock.now);
    assert_eq!(plan.tick(clock.pass(1.0)), [begin("2026-11-23T09:00:01Z", 0)]);
    assert_eq!(plan.tick(clock.pass(1.0)), [Step::Busy { job: 0 }]);
    assert_eq!(plan.tick(clock.pass(1.0)), [], "said once");
    assert!(plan.run_now("poll", clock.now).expect_err("it runs").contains("poll runs"));
    plan.ended(0, "done".to_owned());
    assert_eq!(plan.tick(clock.now), []);
    assert_eq!(plan.tick(clock.pass(1.0)), [begin("2026-11-23T09:00:04Z", 2)]);
    assert_eq!(plan.tick(clock.pass(1.0)), [Step::Busy { job: 0 }], "said again");
}

#[test]
fn what_may_overlap_does_up_to_a_limit() {
    let mut clock = Clock::at("2026-11-23T09:00:00Z");
    let mut plan = plan(&[Order { overlaps: true, ..every("poll", 1000) }], clock.now);
    for _ in 0..OVERLAP_MAX {
        assert!(matches!(plan.tick(clock.pass(1.0))[..], [Step::Begin(_)]));
    }
    assert_eq!(plan.tick(clock.pass(1.0)), [Step::Busy { job: 0 }]);
}

#[test]
fn the_next_process_counts_what_was_missed_and_runs_none_of_it_unless_it_catches_up() {
    let mut clock = Clock::at("2026-11-23T09:59:59Z");
    let both = [cron("report", "0 * * * *"), every("poll", 3_600_000)];
    for catches_up in [false, true] {
        let orders = both.clone().map(|order| Order { catches_up, ..order });
        let mut first = plan(&orders, clock.now);
        assert_eq!(first.tick(clock.pass(1.0)), [Step::Begin(Begin { job: 0, due: clock.now.wall, missed: 0 })]);
        let begun = clock.now.wall;
        let (mut next, steps) = resumed(&orders, memories(&first), clock.pass(3.0 * 3600.0 + 1.0));
        let missed = |job, since| Step::Missed { job, count: 3 - u64::from(catches_up), since };
        let first_seen = begun - Duration::from_secs(1);
        let unfinished = Step::Unfinished { job: 0, begun };
        assert_eq!(steps, [unfinished, missed(0, begun), missed(1, first_seen)]);
        let steps = next.tick(clock.now);
        if !catches_up {
            assert_eq!(steps, []);
            assert!(next.places().iter().all(|place| place.missed == 3));
        } else {
            let due = [begun, first_seen].map(|since| since + Duration::from_secs(3 * 3600));
            let begin = |job: usize| Step::Begin(Begin { job, due: due[job], missed: 2 });
            assert_eq!(steps, [begin(0), begin(1)]);
            assert_eq!(next.tick(clock.now), [], "one of them");
        }
        // The beat goes on.
        let due: Vec<_> = next.places().iter().map(|place| place.due(clock.now)).collect();
        let hours = Duration::from_secs(4 * 3600);
        assert_eq!(due, [Some(begun + hours), Some(first_seen + hours)]);
        clock.set("2026-11-23T09:59:59Z");
    }
}

#[test]
fn another_order_has_missed_nothing_and_keeps_the_last_outcome() {
    let mut clock = Clock::at("2026-11-23T09:59:59Z");
    let mut first = plan(&[cron("report", "0 * * * *")], clock.now);
    first.tick(clock.pass(1.0));
    first.ended(0, "done".to_owned());
    let (next, steps) = resumed(&[cron("report", "* * * * *")], memories(&first), clock.pass(3600.0));
    assert_eq!(steps, []);
    assert_eq!((next.places()[0].missed, next.places()[0].memory.outcome.as_deref()), (0, Some("done")));
}

#[test]
fn a_clock_set_forwards_misses_runs_and_one_set_back_runs_none_twice() {
    let mut clock = Clock::at("2026-11-23T09:59:59Z");
    let mut plan = plan(&[cron("report", "0 * * * *")], clock.now);
    assert_eq!(plan.tick(clock.pass(1.0)), [begin("2026-11-23T10:00:00Z", 0)]);
    plan.ended(0, "done".to_owned());
    let since = time("2026-11-23T10:00:00Z");
    let steps = plan.tick(clock.set("2026-11-23T13:30:00Z"));
    assert_eq!(steps, [Step::Missed { job: 0, count: 3, since }]);
    assert_eq!(plan.tick(clock.set("2026-11-23T09:59:59Z")), []);
    assert_eq!(plan.tick(clock.pass(1.0)), [], "ten o'clock was");
    assert_eq!(plan.tick(clock.set("2026-11-23T14:00:01Z")), [begin("2026-11-23T14:00:00Z", 3)]);
    plan.ended(0, "done".to_owned());
    // It was wrong for years.
    assert_eq!(plan.tick(clock.set("2026-11-20T14:59:00Z")), []);
    assert_eq!(plan.tick(clock.pass(61.0)), [begin("2026-11-20T15:00:00Z", 0)]);
}

#[test]
fn a_memory_of_the_far_future_is_not_believed() {
    let mut clock = Clock::at("2036-11-23T09:59:59Z");
    let orders = [cron("report", "0 * * * *"), every("poll", 60_000)];
    let first = plan(&orders, clock.now);
    let (next, steps) = resumed(&orders, memories(&first), clock.set("2026-11-23T09:59:59Z"));
    assert_eq!(steps, []);
    assert_eq!(next.upcoming(clock.now), Some(("report", time("2026-11-23T10:00:00Z"))));
}

#[test]
fn a_run_by_hand_leaves_the_beat_as_it_is() {
    let mut clock = Clock::at("2026-11-23T09:00:00Z");
    let orders = [every("poll", 10_000)];
    let mut first = plan(&orders, clock.now);
    first.tick(clock.pass(13.0));
    first.ended(0, "done".to_owned());
    let begun = first.run_now("poll", clock.now).expect("it does not run");
    assert_eq!(begun, Begin { job: 0, due: clock.now.wall, missed: 0 });
    first.ended(0, "done".to_owned());
    assert!(first.run_now("pol", clock.now).expect_err("there is none").contains("poll"));
    let (next, steps) = resumed(&orders, memories(&first), clock.pass(1.0));
    assert_eq!(steps, []);
    assert_eq!(next.upcoming(clock.now), Some(("poll", time("2026-11-23T09:00:20Z"))));
}

/// What happens to the jobs: time passes, runs end, the process is replaced, the clock is set.
#[derive(Clone, Copy, Debug)]
enum Event {
    Pass(u32),
    End(usize),
    Replace(u32),
    Set(i32),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        6 => (1..90_000_u32).prop_map(Event::Pass),
        3 => (0..3_usize).prop_map(Event::End),
        1 => (0..600_000_u32).prop_map(Event::Replace),
        1 => (-7_200_000..7_200_000_i32).prop_map(Event::Set),
    ];
    prop::collection::vec(event, 1..120)
}

proptest! {
    #[test]
    fn no_due_time_is_begun_twice_and_none_is_lost(events in events(), catches_up: bool, sets: bool) {
        let orders = [cron("minutely", "* * * * *"), cron("often", "*/7 * * * * *"), every("poll", 11_000)];
        let orders = orders.map(|order| Order { catches_up, ..order });
        let mut clock = Clock::at("2026-11-23T09:00:00.25Z");
        let start = clock.now.wall;
        let mut plan = plan(&orders, clock.now);
        let mut last: [Option<Timestamp>; 3] = [None; 3];
        let mut accounted = [0_u64; 3];
        for event in events {
            let mut steps = match event {
                Event::Pass(ms) => plan.tick(clock.pass(f64::from(ms) / 1000.0)),
                Event::End(job) => {
                    plan.ended(job, "done".to_owned());
                    plan.tick(clock.now)
                }
                Event::Replace(ms) => {
                    let known = memories(&plan);
                    let (next, steps) = resumed(&orders, known, clock.pass(f64::from(ms) / 1000.0));
                    plan = next;
                    steps
                }
                Event::Set(ms) if sets => {
                    let wall = clock.now.wall + jiff::SignedDuration::from_millis(i64::from(ms));
                    plan.tick(clock.set(&wall.to_string()))
                }
                Event::Set(_) => Vec::new(),
            };
            steps.extend(plan.tick(clock.now));
            for step in steps {
                let Step::Begin(Begin { job, due, missed }) = step else { continue };
                accounted[job] += missed + 1;
                // Intervals have no due time of their own on a wall clock that is set.
                if job < 2 {
                    prop_assert!(last[job].is_none_or(|last| last < due), "{job}: {due} after {:?}", last[job]);
                }
                last[job] = Some(due);
            }
            prop_assert!(plan.sleep(clock.now) <= SLEEP_MAX);
            for (job, place) in plan.places().iter().enumerate() {
                prop_assert!(place.running <= 1);
                if !sets && let When::Cron(expression) = &place.order.when {
                    let all = expression.between(start, clock.now.wall, &TimeZone::UTC).map_or(0, |passed| passed.count);
                    let owed = u64::from(place.owed.is_some());
                    prop_assert_eq!(accounted[job] + place.missed + owed, all, "{}", place.order.name);
                }
            }
        }
    }
}
