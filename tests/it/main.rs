//! The daemon as its users meet it: real processes, through the command line.

mod client;
mod cluster;
mod commands;
mod crashes;
mod db;
mod documents;
mod faults;
mod follower;
mod gateway;
mod hangs;
mod held;
mod isolation;
mod lifecycle;
mod load;
mod logging;
mod orphans;
mod pauses;
mod peer;
mod peers;
mod scarcity;
mod serving;
mod shell;
mod simulator;
mod singletons;
mod tls;
mod upstream;
