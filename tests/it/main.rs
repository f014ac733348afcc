//! The daemon as its users meet it: real processes, through the command line.

mod addresses;
mod background;
mod client;
mod cluster;
mod commands;
mod crashes;
mod db;
mod deploy;
mod documents;
mod farewell;
mod faults;
mod follower;
mod gateway;
mod handover;
mod hangs;
mod held;
mod identity;
mod isolation;
mod last_acts;
mod lifecycle;
mod listeners;
mod load;
mod logging;
mod orphans;
mod pauses;
mod peer;
mod peers;
mod places;
mod recycling;
mod reload;
mod retirement;
mod scarcity;
mod serving;
mod settings;
mod shell;
mod simulator;
mod singletons;
mod talker;
mod tls;
#[allow(dead_code, reason = "other programs use it too, each its part")]
#[path = "../load/traffic.rs"]
mod traffic;
mod turns;
mod upstream;
mod verdicts;
mod zygotes;
