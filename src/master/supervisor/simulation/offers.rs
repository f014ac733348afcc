//! The helpers that a run's application has.

use super::dice::Dice;
use crate::contract::ids::HelperName;
use crate::contract::orders::HelperOffer;

/// What helpers may be called.
const NAMES: [&str; 5] = ["h0", "h1", "h2", "h3", "h4"];

/// None, one, or some that ask each other: a chain, a tree, or strangers.
pub(super) fn draw(dice: &mut Dice) -> Vec<HelperOffer> {
    let count = dice.pick(&[0, 0, 1, 2, 3]);
    let mut offers: Vec<HelperOffer> = NAMES[..count].iter().map(|name| offer(name, Vec::new())).collect();
    let often = dice.pick(&[0, 50, 100]);
    draw_who_asks(dice, often, &mut offers);
    offers
}

/// The next release's: some as before, some changed, some gone, some new or there again.
pub(super) fn next(dice: &mut Dice, before: &[HelperOffer]) -> Vec<HelperOffer> {
    let (gone, changed, new) = (dice.pick(&[0, 0, 30]), dice.pick(&[0, 30, 100]), dice.pick(&[0, 0, 20]));
    let mut offers = Vec::new();
    for name in NAMES {
        let old = before.iter().find(|offer| offer.name == self::name(name)).cloned();
        let there = if old.is_some() { !dice.percent(gone) } else { dice.percent(new) };
        if !there {
            continue;
        }
        let mut next = old.unwrap_or_else(|| offer(name, Vec::new()));
        if dice.percent(changed) {
            if dice.percent(50) {
                next.digest += 1;
            } else {
                next.version.push('x');
            }
        }
        offers.push(next);
    }
    if dice.percent(30) {
        offers.reverse();
    }
    let often = dice.pick(&[0, 50, 100]);
    draw_who_asks(dice, often, &mut offers);
    offers
}

fn draw_who_asks(dice: &mut Dice, often: u64, offers: &mut [HelperOffer]) {
    let names: Vec<HelperName> = offers.iter().map(|offer| offer.name).collect();
    for (number, offer) in offers.iter_mut().enumerate() {
        offer.asks = names[..number].iter().copied().filter(|_| dice.percent(often)).collect();
    }
}

pub(super) fn any_name(dice: &mut Dice) -> HelperName {
    name(dice.pick(&NAMES))
}

pub(super) fn name(text: &str) -> HelperName {
    HelperName::parse(text).expect("a name")
}

pub(super) fn offer(text: &str, asks: Vec<HelperName>) -> HelperOffer {
    let (version, build) = (String::new(), String::new());
    HelperOffer { name: name(text), version, asks, build, is_foreign: false, reads_app: false, digest: 0 }
}
