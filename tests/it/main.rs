//! The daemon as its users meet it: real processes, through the command line.

mod client;
mod commands;
mod crashes;
mod documents;
mod hangs;
mod held;
mod isolation;
mod lifecycle;
mod load;
mod logging;
mod orphans;
mod pauses;
mod scarcity;
mod serving;
