//! One generation's posts: who there should be.

use std::time::Instant;

use super::Policy;
use super::post::Post;
use super::succession::Succession;
use crate::contract::ids::{Birth, Generation, HelperName, Role};
use crate::contract::orders::HelperOffer;

#[derive(Clone, Debug)]
pub(super) struct Crew {
    pub(super) generation: Generation,
    pub(super) policy: Policy,
    pub(super) zygote: Post,
    /// In start order; none until the zygote has said which there are.
    pub(super) helpers: Vec<HelperPost>,
    pub(super) workers: Vec<Post>,
    /// A second post of one slot.
    pub(super) succession: Option<Succession>,
}

/// The place of the one process of this name.
#[derive(Clone, Debug)]
pub(super) struct HelperPost {
    pub(super) offer: HelperOffer,
    pub(super) post: Post,
}

impl Crew {
    pub(super) fn new(generation: Generation, policy: Policy, now: Instant) -> Self {
        let workers = vec![Post::new(now); usize::from(policy.workers)];
        Self { generation, policy, zygote: Post::new(now), helpers: Vec::new(), workers, succession: None }
    }

    /// The zygote offers these. One that was started again offers the same: the master sees to it.
    pub(super) fn adopt(&mut self, offers: Vec<HelperOffer>, now: Instant) {
        if self.helpers.is_empty() {
            let post = |offer: HelperOffer| HelperPost { offer, post: Post::new(now) };
            self.helpers = offers.into_iter().map(post).collect();
        }
    }

    pub(super) fn helper(&self, name: HelperName) -> Option<&HelperPost> {
        self.helpers.iter().find(|helper| helper.offer.name == name)
    }

    pub(super) fn helper_mut(&mut self, name: HelperName) -> Option<&mut HelperPost> {
        self.helpers.iter_mut().find(|helper| helper.offer.name == name)
    }

    /// The post that is there for this: a slot's second one while the first is taken.
    pub(super) fn post(&mut self, role: Role) -> Option<&mut Post> {
        match role {
            Role::Log => None,
            Role::Zygote(_) => Some(&mut self.zygote),
            Role::Helper(name, _) => self.helper_mut(name).map(|helper| &mut helper.post),
            Role::Worker(slot, _) => match &mut self.succession {
                Some(succession) if succession.slot == slot => Some(&mut succession.post),
                Some(_) | None => self.workers.get_mut(usize::from(slot.0)),
            },
        }
    }

    /// The post that this process holds.
    pub(super) fn post_of(&mut self, birth: Birth) -> Option<&mut Post> {
        let helpers = self.helpers.iter_mut().map(|helper| &mut helper.post);
        let succession = self.succession.as_mut().map(|succession| &mut succession.post);
        let mut posts = std::iter::once(&mut self.zygote).chain(helpers).chain(&mut self.workers).chain(succession);
        posts.find(|post| post.occupant == Some(birth))
    }
}
