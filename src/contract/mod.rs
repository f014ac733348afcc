//! What processes, and two releases of a program, must agree on.
//!
//! Master, children and command line meet only here: their orders and reports, the zygote's
//! manifest, the scoreboard, the keys of session tickets, and the answer to `status`. Structs travel
//! as maps: a field may be added with a default, none changes its meaning.

pub(crate) mod control;
pub(crate) mod ids;
pub(crate) mod lock;
pub(crate) mod orders;
pub(crate) mod scoreboard;
pub(crate) mod status;
pub(crate) mod tickets;
pub(crate) mod time;
