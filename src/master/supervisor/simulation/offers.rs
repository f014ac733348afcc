//! The helpers that a run's application has.

use super::dice::Dice;
use crate::contract::ids::HelperName;
use crate::contract::orders::HelperOffer;

/// None, one, or some that ask each other: a chain, a tree, or strangers.
pub(super) fn draw(dice: &mut Dice) -> Vec<HelperOffer> {
    let count = dice.pick(&[0, 0, 1, 2, 3]);
    let often = dice.pick(&[0, 50, 100]);
    let mut offers: Vec<HelperOffer> = Vec::new();
    for number in 0..count {
        let asks = offers.iter().map(|offer| offer.name).filter(|_| dice.percent(often)).collect();
        offers.push(offer(&format!("h{number}"), asks));
    }
    offers
}

pub(super) fn offer(name: &str, asks: Vec<HelperName>) -> HelperOffer {
    HelperOffer { name: HelperName::parse(name).expect("a name"), version: String::new(), asks }
}
