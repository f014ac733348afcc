//! The supervisor's state as others may see it.

use std::time::Instant;

use super::post::Post;
use super::{Phase, Supervisor};
use crate::contract::ids::{Birth, Generation, Role, Slot};

/// The whole.
#[derive(Clone, Debug)]
pub(crate) struct View {
    /// The word of `status`.
    pub(crate) state: &'static str,
    pub(crate) generation: Generation,
    /// Every post, then every process that has lost its post.
    pub(crate) places: Vec<Place>,
}

/// A post with its occupant, a vacant post, or a process without a post.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) role: Role,
    pub(crate) birth: Option<Birth>,
    pub(crate) state: &'static str,
    pub(crate) since: Option<Instant>,
    pub(crate) last_exit: Option<String>,
    pub(crate) restarts: u64,
}

impl Supervisor {
    pub(crate) fn view(&self) -> View {
        let state = match self.phase {
            Phase::Starting => "starting",
            Phase::Serving if self.is_complete() => "serving",
            Phase::Serving => "degraded",
            Phase::Stopping { .. } | Phase::Over => "stopping",
        };
        let generation = self.crew.generation;
        let mut places =
            vec![self.place(Role::Log, &self.log), self.place(Role::Zygote(generation), &self.crew.zygote)];
        for (slot, post) in (0..).zip(&self.crew.workers) {
            places.push(self.place(Role::Worker(Slot(slot), generation), post));
        }
        let seated: Vec<Birth> = places.iter().filter_map(|place| place.birth).collect();
        for (&birth, child) in self.children.iter().filter(|(birth, _)| !seated.contains(birth)) {
            places.push(Place {
                role: child.role,
                birth: Some(birth),
                state: child.stage.name(),
                since: Some(child.since),
                last_exit: None,
                restarts: 0,
            });
        }
        View { state, generation, places }
    }

    /// How many workers there should be.
    pub(crate) fn workers_wanted(&self) -> u16 {
        u16::try_from(self.crew.workers.len()).unwrap_or(u16::MAX)
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping()
    }

    fn place(&self, role: Role, post: &Post) -> Place {
        let child = post.occupant.and_then(|birth| self.children.get(&birth));
        Place {
            role,
            birth: post.occupant,
            state: child.map_or("waiting", |child| child.stage.name()),
            since: child.map(|child| child.since),
            last_exit: post.last_exit.clone(),
            restarts: post.restarts,
        }
    }
}
