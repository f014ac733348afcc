//! What runs in the processes that the master has made: the zygote, and what it forks.
//!
//! A child is told everything by its master and believes it. It ends when told so, or when the
//! master is gone: then it finishes what is open within the drain limit.

mod boot;
mod company;
mod foreign;
pub(crate) mod helper;
mod life;
mod master;
mod panics;
mod turn;
mod worker;
pub(crate) mod zygote;

pub use self::worker::RequestBody;
