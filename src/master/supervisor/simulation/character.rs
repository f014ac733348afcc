//! How one process will behave, drawn when it is made.

use std::time::Duration;

use super::dice::Dice;
use crate::contract::ids::Role;
use crate::settings::Timeouts;

/// How many processes in a hundred have which fault, in one run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Weather {
    /// Nothing is wrong until the first start has succeeded.
    pub(super) gentle: bool,
    /// Never ready, or refuses.
    pub(super) boots_badly: u64,
    pub(super) dies: u64,
    pub(super) hangs: u64,
    /// Ignores SIGABRT and the order to drain, or takes its time.
    pub(super) stubborn: u64,
    pub(super) unkillable: u64,
    /// Says what no child says, or does not take orders.
    pub(super) babbles: u64,
    /// A zygote that does not answer, or dies of an order.
    pub(super) silent: u64,
    /// A worker that has served for long enough.
    pub(super) wears: u64,
}

impl Weather {
    pub(super) fn draw(dice: &mut Dice) -> Self {
        let mut often = || dice.pick(&[0, 0, 5, 20, 50]);
        let (boots_badly, dies, hangs, stubborn, silent) = (often(), often(), often(), often(), often());
        let unkillable = dice.pick(&[0, 0, 3, 15, 30]);
        let babbles = dice.pick(&[0, 0, 0, 5, 20]);
        let wears = 0;
        Self { gentle: dice.percent(85), boots_badly, dies, hangs, stubborn, unkillable, babbles, silent, wears }
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Boot {
    Ready(Duration),
    Never,
    /// It says so after the first time, and ends after the second, if at all.
    Refuses(Duration, Option<Duration>),
}

/// `None` where it never does.
#[derive(Clone, Debug)]
pub(super) struct Character {
    pub(super) boot: Boot,
    pub(super) dies: Option<Duration>,
    pub(super) hangs: Option<Duration>,
    pub(super) babbles: Option<Duration>,
    pub(super) wears: Option<Duration>,
    pub(super) on_drain: Option<Duration>,
    pub(super) on_abort: Option<Duration>,
    pub(super) on_kill: Option<Duration>,
    /// Answers so many orders and no more.
    pub(super) silent_after: Option<u32>,
    /// Dies of this order.
    pub(super) struck_by: Option<u32>,
}

impl Character {
    pub(super) fn good(dice: &mut Dice, timeouts: &Timeouts) -> Self {
        let slowest = dice.pick(&[5, 50, timeouts.ready.as_millis() as u64 / 2]);
        Self {
            boot: Boot::Ready(dice.millis(0, slowest)),
            dies: None,
            hangs: None,
            babbles: None,
            wears: None,
            on_drain: Some(dice.millis(0, 200)),
            on_abort: Some(dice.millis(0, 500)),
            on_kill: Some(dice.millis(0, 10)),
            silent_after: None,
            struck_by: None,
        }
    }

    /// `gentle`: it starts well, whatever comes later.
    pub(super) fn draw(dice: &mut Dice, weather: &Weather, role: Role, timeouts: &Timeouts, gentle: bool) -> Self {
        let mut drawn = Self::good(dice, timeouts);
        let start = if gentle { 2000 } else { 0 };
        let moment = |dice: &mut Dice, chance| {
            let longest = dice.pick(&[0, 100, 1000, 10_000]);
            dice.percent(chance).then(|| dice.millis(start, start + longest))
        };
        drawn.dies = moment(dice, weather.dies);
        drawn.hangs = moment(dice, weather.hangs);
        drawn.babbles = moment(dice, weather.babbles);
        drawn.wears = moment(dice, weather.wears);
        if !gentle && dice.percent(weather.boots_badly) {
            let ends = dice.percent(80).then(|| dice.millis(0, 20));
            let refuses = Boot::Refuses(dice.millis(0, 300), ends);
            drawn.boot = if dice.percent(50) { Boot::Never } else { refuses };
        }
        if dice.percent(weather.stubborn) {
            let slow = dice.millis(0, 10_000);
            drawn.on_drain = dice.pick(&[None, Some(slow)]);
            drawn.on_abort = dice.pick(&[None, drawn.on_abort]);
            drawn.on_kill = Some(dice.millis(0, 4500));
        }
        if dice.percent(weather.unkillable) {
            // Some in vain for a while, some for ever.
            let long = dice.millis(4500, 15_000);
            drawn.on_kill = dice.pick(&[None, Some(long)]);
            drawn.on_abort = None;
        }
        if matches!(role, Role::Zygote(_)) && dice.percent(weather.silent) {
            let orders = dice.between(0, 8) as u32;
            drawn.silent_after = dice.pick(&[None, Some(orders)]).filter(|_| !gentle || orders > 4);
            drawn.struck_by = dice.pick(&[None, Some(orders)]).filter(|_| !gentle || orders > 4);
        }
        drawn
    }

    /// Of its faults only those remain that have begun.
    pub(super) fn mend(&mut self, orders: u32) {
        self.on_kill = Some(Duration::from_millis(10));
        self.silent_after = self.silent_after.filter(|&after| orders > after);
        self.struck_by = None;
    }
}
