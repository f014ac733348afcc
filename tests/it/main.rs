//! The daemon as its users meet it: real processes, through the command line.

mod addresses;
mod background;
mod client;
mod clients;
mod cluster;
mod commands;
mod crashes;
mod crowd;
mod db;
mod deploy;
mod documents;
mod farewell;
mod faults;
mod follower;
mod foreign;
mod gateway;
mod handover;
mod hangs;
mod held;
mod hub;
mod identity;
mod isolation;
mod kept;
mod kit;
mod last_acts;
mod lifecycle;
mod listeners;
mod load;
mod logging;
mod losses;
mod oom;
mod orphans;
mod pauses;
mod peer;
mod peers;
mod places;
mod queued;
mod recycling;
mod reload;
mod respelled;
mod retirement;
mod rules;
mod scaling;
mod scarcity;
mod serving;
mod settings;
mod shell;
mod simulator;
mod singletons;
mod spelling;
#[allow(dead_code, reason = "another program uses it too, each its part")]
#[path = "../chaos/standing.rs"]
mod standing;
mod stubborn;
mod talker;
mod terminal;
mod tls;
#[allow(dead_code, reason = "other programs use it too, each its part")]
#[path = "../load/traffic.rs"]
mod traffic;
mod trial;
mod turns;
mod upstream;
mod verdicts;
mod wrk;
mod zygotes;
