//! What is left of a generation that serves no more, or was rolled back: it ends in order.

use std::collections::BTreeSet;
use std::time::Instant;

use super::crew::Crew;
use super::{Birth, Child, Generation, Progress, Role, Stage, Supervisor, ZYGOTE_GRACE};

/// A generation on its way out: workers, then the helpers that only it has, the last one first,
/// then the zygote.
#[derive(Debug)]
pub(super) struct Leaving {
    generation: Generation,
    /// In start order.
    helpers: Vec<Birth>,
    zygote: Option<Birth>,
}

impl Leaving {
    pub(super) fn of(crew: &Crew) -> Self {
        let helpers = crew.helpers.iter().filter_map(|helper| helper.post.occupant).collect();
        Self { generation: crew.generation, helpers, zygote: crew.zygote.occupant }
    }
}

impl Supervisor {
    /// Ends who may end now.
    pub(super) fn see_off(&mut self, now: Instant) {
        for at in (0..self.leaving.len()).rev() {
            let Leaving { generation, helpers, zygote } = &self.leaving[at];
            let mut children = self.children.values();
            let works = |child: &Child| matches!(child.role, Role::Worker(_, of) if of == *generation);
            if children.any(|child| works(child) && child.stage != Stage::Stuck) {
                continue;
            }
            let last = helpers.iter().rev().copied().find(|&helper| self.can_end(helper));
            if let Some(helper) = last {
                self.drain_if_it_works(helper, self.drain_limit(helper, now), now);
                continue;
            }
            match zygote.filter(|&zygote| self.can_end(zygote)) {
                Some(zygote) if self.owes(zygote) => {}
                Some(zygote) => self.drain_if_it_works(zygote, now + ZYGOTE_GRACE, now),
                None => drop(self.leaving.remove(at)),
            }
        }
    }

    /// Two generations live at most: what is left of others is hurried, and waited for within the limits
    /// that it ends by.
    pub(super) fn hurry_the_oldest(&mut self) {
        let generations: BTreeSet<Generation> =
            self.oldest().filter_map(|(_, child)| child.role.generation()).collect();
        for generation in generations {
            self.progress(Progress::Waiting(generation));
        }
    }

    /// Whether there is nobody left to be waited for.
    pub(super) fn the_oldest_is_gone(&self) -> bool {
        self.oldest().next().is_none()
    }

    /// Who belongs neither to the serving generation nor to the new one, by birth or by post.
    fn oldest(&self) -> impl Iterator<Item = (Birth, &Child)> {
        let new = self.reloads.run.as_ref().map(|run| run.generation);
        let is_old = move |role: Role| {
            role.generation().is_some_and(|generation| generation != self.crew.generation && Some(generation) != new)
        };
        let children = self.children.iter().map(|(&birth, child)| (birth, child));
        children.filter(move |(birth, child)| {
            is_old(child.role) && child.stage != Stage::Stuck && !self.is_seated(*birth, child.role)
        })
    }

    /// The helpers of generations that leave, in start order.
    pub(super) fn leaving_helpers(&self) -> impl DoubleEndedIterator<Item = Birth> {
        self.leaving.iter().flat_map(|leaving| leaving.helpers.iter().copied())
    }

    fn can_end(&self, birth: Birth) -> bool {
        self.children.get(&birth).is_some_and(|child| child.stage != Stage::Stuck)
    }

    fn drain_if_it_works(&mut self, birth: Birth, deadline: Instant, now: Instant) {
        match self.children.get(&birth).map(|child| &child.stage) {
            Some(Stage::Booting { .. } | Stage::Ready | Stage::Serving) => self.drain(birth, deadline, now),
            Some(
                Stage::Ordered { .. }
                | Stage::Draining { .. }
                | Stage::Aborting { .. }
                | Stage::Killed { .. }
                | Stage::Stuck,
            )
            | None => {}
        }
    }
}
