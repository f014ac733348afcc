//! Helpers in a reload: which keep their process, and how the others go over.
//!
//! There is never a second process of a helper. One that has changed makes room, and only when it
//! is reaped its successor is ordered; calls wait in its socket's queue in between.

use std::time::Instant;

use super::reload::{ONLY_ONE, Step};
use super::{Birth, HelperName, HelperOffer, Progress, Role, Stage, Supervisor};

impl Supervisor {
    /// Compares what the new generation offers with what there is.
    pub(super) fn tell_apart_the_helpers(&mut self) {
        let Some(run) = &mut self.reloads.run else { return };
        let offers = run.crew.iter().flat_map(|crew| &crew.helpers).map(|helper| &helper.offer);
        for offer in offers {
            match self.crew.helper(offer.name).map(|old| &old.offer) {
                Some(old) if is_same(old, offer) => run.kept.push(offer.name),
                Some(_) => run.changed.push(offer.name),
                None => {}
            }
        }
    }

    /// The next helper is asked to make room when the last one's successor serves; when none is
    /// left, the next step begins. False while there is something to wait for.
    pub(super) fn hand_over(&mut self, now: Instant) -> bool {
        let Some(run) = &mut self.reloads.run else { return false };
        if let Some(&name) = run.lent.checked_sub(1).and_then(|last| run.changed.get(last)) {
            let successor = run.crew.as_ref().and_then(|crew| crew.helper(name)).map(|helper| &helper.post);
            let serves = |birth: Birth| self.children.get(&birth).is_some_and(|child| child.stage == Stage::Serving);
            if !successor.and_then(|post| post.occupant).is_some_and(serves) {
                return self.wait_for(name, now);
            }
            let gap = run.vacant_since.take().map(|since| now.saturating_duration_since(since)).unwrap_or_default();
            self.progress(Progress::HandedOver { helper: name, gap });
        }
        let Some(run) = &mut self.reloads.run else { return false };
        match run.changed.get(run.lent).copied() {
            Some(name) => {
                run.lent += 1;
                self.progress(Progress::HandingOver(name));
            }
            None => self.prove(now),
        }
        true
    }

    /// The old process makes room, or is gone and the new one gets ready.
    fn wait_for(&mut self, name: HelperName, now: Instant) -> bool {
        if let Some(role) = self.stuck(name) {
            self.roll_back(Some(role), ONLY_ONE.to_owned(), now);
            return true;
        }
        match self.crew.helper(name).and_then(|helper| helper.post.occupant) {
            Some(old) => self.make_room(old, "a reload hands it over", now),
            None => {
                if let Some(run) = &mut self.reloads.run {
                    run.vacant_since.get_or_insert(now);
                }
            }
        }
        false
    }

    /// Whether the serving generation may not fill this helper's post: a reload hands it over, or
    /// has done so and is not over.
    pub(crate) fn is_handed_over(&self, name: HelperName) -> bool {
        let run = self.reloads.run.as_ref();
        run.is_some_and(|run| run.changed[..run.lent].contains(&name))
    }

    /// Whether the serving generation's post of this helper is at the reload's disposal.
    pub(super) fn is_lent(&self, name: HelperName, birth: Birth) -> bool {
        self.is_claimed(name) && self.crew.helper(name).is_some_and(|helper| helper.post.occupant == Some(birth))
    }

    /// Whether the new generation may fill this helper's post, and the serving one may not.
    pub(super) fn is_claimed(&self, name: HelperName) -> bool {
        let proven = |step: &Step| match step {
            Step::Preparing | Step::Loading | Step::Filling | Step::HandingOver | Step::Proving { .. } => true,
            Step::RollingBack { .. } => false,
        };
        self.is_handed_over(name) && self.reloads.run.as_ref().is_some_and(|run| proven(&run.step))
    }

    /// Whether no process of this helper lives, of whatever generation, and none is ordered.
    pub(super) fn is_free(&self, name: HelperName) -> bool {
        !self.children.values().any(|child| matches!(child.role, Role::Helper(of, _) if of == name))
    }

    /// The process of this helper that SIGKILL does not end.
    pub(super) fn stuck(&self, name: HelperName) -> Option<Role> {
        let is_it = |role| matches!(role, Role::Helper(of, _) if of == name);
        self.children.values().find(|child| is_it(child.role) && child.stage == Stage::Stuck).map(|child| child.role)
    }
}

/// Whether a process of the one is as good as a process of the other.
fn is_same(one: &HelperOffer, other: &HelperOffer) -> bool {
    one.version == other.version && one.digest == other.digest
}
