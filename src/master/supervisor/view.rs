//! The supervisor's state as others may see it.

use std::time::Instant;

use super::crew::Crew;
use super::post::Post;
use super::{Phase, Stage, Supervisor};
use crate::contract::ids::{Birth, Generation, HelperName, Role, Slot};

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
            Phase::Serving if self.reloads.run.is_some() => "reloading",
            Phase::Serving if self.is_complete() => "serving",
            Phase::Serving => "degraded",
            Phase::Stopping { .. } | Phase::Over => "stopping",
        };
        let generation = self.crew.generation;
        let mut places =
            vec![self.place(Role::Log, &self.log), self.place(Role::Zygote(generation), &self.crew.zygote)];
        self.add_forked(&self.crew, &mut places);
        if let Some(crew) = self.reloads.newcomer() {
            places.push(self.place(Role::Zygote(crew.generation), &crew.zygote));
            self.add_forked(crew, &mut places);
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

    /// The places of helpers and workers; of a helper's places in two generations only that which is
    /// filled, or may be.
    fn add_forked(&self, crew: &Crew, places: &mut Vec<Place>) {
        let generation = crew.generation;
        let serving = generation == self.crew.generation;
        for helper in &crew.helpers {
            let name = helper.offer.name;
            let shared = self.reloads.run.as_ref().is_some_and(|run| !run.is_new(name));
            if helper.post.occupant.is_some() || !shared || serving != self.is_claimed(name) {
                places.push(self.place(Role::Helper(name, generation), &helper.post));
            }
        }
        for (slot, post) in (0..).zip(&crew.workers) {
            places.push(self.place(Role::Worker(Slot(slot), generation), post));
        }
    }

    /// How many workers there should be: of the serving generation.
    pub(crate) fn workers_wanted(&self) -> u16 {
        u16::try_from(self.crew.workers.len()).unwrap_or(u16::MAX)
    }

    pub(crate) fn is_starting(&self) -> bool {
        self.phase == Phase::Starting
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping()
    }

    /// Whether this helper has a process that SIGKILL does not end.
    pub(crate) fn is_stuck(&self, name: HelperName) -> bool {
        self.stuck(name).is_some()
    }

    fn place(&self, role: Role, post: &Post) -> Place {
        let child = post.occupant.and_then(|birth| self.children.get(&birth));
        Place {
            // A helper that was kept is of the generation that it was born in.
            role: child.map_or(role, |child| child.role),
            birth: post.occupant,
            state: match child.map(|child| &child.stage) {
                // Nobody may follow it: this is not the end of something that is about to be over.
                Some(Stage::Stuck) => "stuck",
                Some(stage) => stage.name(),
                None => "waiting",
            },
            since: child.map(|child| child.since),
            last_exit: post.last_exit.clone(),
            restarts: post.restarts,
        }
    }
}
