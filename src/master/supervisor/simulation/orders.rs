//! What the supervisor's actions do in the world.

use std::time::{Duration, Instant};

use super::character::{Boot, Character};
use super::offers;
use super::world::{Happening, Process, Release, State, World};
use crate::contract::ids::{Birth, Generation, Role};
use crate::master::supervisor::{Action, Event, Fault, Policy, ReloadOutcome, Wear};

impl World {
    /// Does what the supervisor wants; returns what the master learns at once.
    pub(super) fn carry_out(&mut self, action: &Action, now: Instant) -> Option<Event> {
        match *action {
            Action::ForkLog(birth) => Some(self.make_at_once(birth, Role::Log, now)),
            Action::StartZygote(birth, generation) => Some(self.make_at_once(birth, Role::Zygote(generation), now)),
            Action::Fork { birth, role, zygote } => self.order(birth, role, zygote, now),
            Action::Forget(birth) => {
                self.processes.remove(&birth);
                self.secrets.remove(&birth);
                None
            }
            Action::Begin(birth) => {
                self.begin(birth, now);
                self.maybe_deaf(birth)
            }
            Action::Accept(birth) => self.maybe_deaf(birth),
            Action::Drain(birth) => {
                let end = self.alive(birth).filter(|process| process.hung.is_none())?.character.on_drain;
                self.die_after(birth, end, now);
                self.maybe_deaf(birth)
            }
            Action::Abort(birth) => {
                let end = self.alive(birth)?.character.on_abort;
                self.die_after(birth, end, now);
                None
            }
            Action::Kill(birth) => {
                let process = self.alive(birth)?;
                process.killed = true;
                let end = process.character.on_kill;
                self.die_after(birth, end, now);
                None
            }
            Action::Prepare(generation) => self.prepare(generation, now),
            Action::Reloaded { generation, outcome: ReloadOutcome::Committed { .. }, .. } => {
                self.serving = generation;
                None
            }
            Action::Reloaded { .. } | Action::Promise(_) | Action::Report(_) | Action::Exit(_) => None,
        }
    }

    fn die_after(&mut self, birth: Birth, delay: Option<Duration>, now: Instant) {
        if let Some(delay) = delay {
            self.push(now + delay, Happening::Die(birth));
        }
    }

    /// Sometimes an order to a child cannot be written.
    fn maybe_deaf(&mut self, birth: Birth) -> Option<Event> {
        let chance = if self.is_calm_start() { 0 } else { self.weather.babbles / 4 };
        let deaf = self.fails(chance);
        deaf.then(|| Event::Broken(birth, "does not take orders".to_owned()))
    }

    fn is_calm_start(&self) -> bool {
        self.weather.gentle && !self.served
    }

    fn insert(&mut self, birth: Birth, role: Role, zygote: Option<Birth>, now: Instant) {
        let gentle = self.is_calm_start();
        let timeouts = self.releases[&role.generation().unwrap_or(self.serving)].policy.timeouts;
        let character = if self.faults {
            Character::draw(&mut self.dice, &self.weather, role, &timeouts, gentle)
        } else {
            Character::good(&mut self.dice, &timeouts)
        };
        let process = Process {
            role,
            zygote,
            state: State::Ordered,
            character,
            timeouts,
            made: now,
            begun: false,
            ready: false,
            hung: None,
            told: None,
            killed: false,
            orders: 0,
        };
        self.processes.insert(birth, process);
    }

    /// The master reads the configuration and opens the program, or cannot.
    fn prepare(&mut self, generation: Generation, now: Instant) -> Option<Event> {
        let answer = if self.fails(self.weather.boots_badly / 4) {
            Event::NotPrepared("forebay.toml:3: unknown key".to_owned())
        } else {
            let before = self.releases[&self.serving].offers.clone();
            let age_max = self.releases[&self.serving].policy.age_max;
            let policy = Policy { age_max, ..super::draw_policy(&mut self.dice) };
            let release = Release { policy, offers: offers::next(&mut self.dice, &before) };
            self.releases.insert(generation, release);
            Event::Prepared(policy)
        };
        if self.dice.percent(80) {
            return Some(answer);
        }
        let delay = self.dice.millis(0, 50);
        self.push(now + delay, Happening::Wish(answer));
        None
    }

    fn make_at_once(&mut self, birth: Birth, role: Role, now: Instant) -> Event {
        if self.fails(self.trouble) {
            return Event::BirthFailed(birth, "no memory".to_owned());
        }
        self.insert(birth, role, None, now);
        self.make(birth, now);
        Event::Born(birth)
    }

    fn order(&mut self, birth: Birth, role: Role, zygote: Birth, now: Instant) -> Option<Event> {
        if self.fails(self.trouble / 4) {
            return Some(Event::BirthFailed(birth, "no descriptors".to_owned()));
        }
        self.insert(birth, role, Some(zygote), now);
        let parent = self.alive(zygote)?;
        parent.orders += 1;
        let character = &parent.character;
        let silent = character.silent_after.is_some_and(|orders| parent.orders > orders);
        let struck = character.struck_by.is_some_and(|order| parent.orders == order);
        if struck {
            let delay = self.dice.millis(0, 10);
            self.push(now + delay, Happening::Doom(zygote));
        }
        if !silent {
            let longest = self.dice.pick(&[0, 2, 20, 500]);
            let delay = self.dice.millis(0, longest);
            self.push(now + delay, Happening::Answer { zygote, birth });
        }
        None
    }

    pub(super) fn make(&mut self, birth: Birth, now: Instant) {
        let Some(process) = self.processes.get_mut(&birth) else {
            return;
        };
        process.state = State::Alive;
        process.made = now;
        let Character { dies, hangs, babbles, wears, .. } = process.character;
        if let Some(after) = dies {
            self.push(now + after, Happening::Doom(birth));
        }
        if let Some(after) = hangs {
            self.push(now + after, Happening::Hang(birth));
        }
        if let Some(after) = babbles {
            let nonsense = Event::Broken(birth, "broke the rules".to_owned());
            self.push(now + after, Happening::Say(birth, nonsense));
        }
        if let Some(after) = wears {
            self.push(now + after, Happening::Say(birth, Event::Worn(birth, Wear::Requests(1000))));
        }
    }

    fn begin(&mut self, birth: Birth, now: Instant) {
        let Some(process) = self.alive(birth) else {
            return;
        };
        process.begun = true;
        let role = process.role;
        match process.character.boot {
            Boot::Ready(after) => {
                let news = self.good_news(birth, role);
                self.push(now + after, Happening::Say(birth, news));
            }
            Boot::Never => {}
            Boot::Refuses(after, ends) => {
                let fault = self.dice.pick(&[Fault::Application, Fault::Configuration, Fault::System]);
                let refusal = Event::Refused(birth, fault, "no database".to_owned());
                self.push(now + after, Happening::Say(birth, refusal));
                self.die_after(birth, ends.map(|ends| after + ends), now);
            }
        }
    }
}
