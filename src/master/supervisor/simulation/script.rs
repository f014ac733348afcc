//! Schedules as texts: what happens, and what the supervisor does then, in its order.

use std::collections::BTreeMap;

use super::offers::{name, offer};
use super::play::{LOG, POLICY, Play};
use crate::contract::ids::{Birth, Role};
use crate::contract::orders::HelperOffer;
use crate::master::supervisor::{Action, Event, Fault, Outcome, Policy, Progress, ReloadOutcome, Report};

/// What happens, and what is done then.
pub(super) type Line = (&'static str, &'static [&'static str]);

/// A play whose processes are called by their roles.
pub(super) struct Script {
    pub(super) play: Play,
    roles: BTreeMap<Birth, Role>,
    /// What the next generation offers.
    pub(super) next: Vec<HelperOffer>,
    pub(super) policy: Policy,
}

impl Script {
    /// One worker serves, and helpers which are called so.
    pub(super) fn serving(helpers: &[&str]) -> Self {
        let play = Play::start(POLICY);
        let mut script = Self { play, roles: BTreeMap::new(), next: Vec::new(), policy: POLICY };
        script.roles.extend([(Birth(1), Role::Log), (Birth(2), Role::Zygote(crate::contract::ids::Generation(1)))]);
        script.tell(Event::Ready(LOG));
        script.next = helpers.iter().map(|name| offer(name, Vec::new())).collect();
        script.happen("zygote generation 1 loaded");
        for name in helpers {
            script.happen(&format!("helper {name} generation 1 born"));
            script.happen(&format!("helper {name} generation 1 ready"));
        }
        script.happen("worker 0 generation 1 born");
        script.happen("worker 0 generation 1 ready");
        assert_eq!(script.play.supervisor.view().state, "serving");
        script
    }

    /// Plays the lines, and compares.
    pub(super) fn run(&mut self, lines: &[Line]) {
        for (what, expected) in lines {
            let done = self.happen(what);
            assert_eq!(done, *expected, "when this happens: {what}");
        }
    }

    /// `prepared`, `worker 0 generation 2 born`, … and what is done then.
    pub(super) fn happen(&mut self, what: &str) -> Vec<String> {
        let one = match what {
            "reload" => Event::Reload,
            "prepared" => Event::Prepared(self.policy),
            "not prepared" => Event::NotPrepared("forebay.toml:3: unknown key".to_owned()),
            "stop" => Event::Stop,
            "quit" => Event::Quit,
            "a restart of nest" => Event::Restart(name("nest")),
            "stable passes" => return self.wait(|policy| policy.timeouts.stable),
            "ready passes" => return self.wait(|policy| policy.timeouts.ready),
            _ => match what.strip_suffix(" workers are wanted") {
                Some(count) => Event::Scale(count.parse().expect("a number")),
                None => self.told_by(what),
            },
        };
        self.tell(one)
    }

    fn told_by(&self, what: &str) -> Event {
        let (who, verb) = what.rsplit_once(' ').expect("WHO does");
        let birth = self.birth(who);
        match verb {
            "born" => Event::Born(birth),
            "unborn" => Event::BirthFailed(birth, "too many processes".to_owned()),
            "loaded" => Event::Loaded(birth, self.next.clone()),
            "ready" => Event::Ready(birth),
            "refuses" => Event::Refused(birth, Fault::Application, "no database".to_owned()),
            "babbles" => Event::Broken(birth, "broke the rules".to_owned()),
            "exits" => Event::Exited(birth, "exited with 7".to_owned()),
            verb => panic!("nobody {verb}"),
        }
    }

    /// The last process that was made for this.
    fn birth(&self, who: &str) -> Birth {
        let is_it = |(_, role): &(&Birth, &Role)| role.to_string() == who;
        *self.roles.iter().rfind(is_it).unwrap_or_else(|| panic!("there is no {who}")).0
    }

    fn wait(&mut self, time: fn(Policy) -> std::time::Duration) -> Vec<String> {
        let actions = self.play.wait(time(self.policy));
        self.words(actions)
    }

    fn tell(&mut self, event: Event) -> Vec<String> {
        let actions = self.play.tell(event);
        self.words(actions)
    }

    fn words(&mut self, actions: Vec<Action>) -> Vec<String> {
        actions.into_iter().filter_map(|action| self.word(action)).collect()
    }

    fn word(&mut self, action: Action) -> Option<String> {
        let who = |birth: &Birth| self.roles[birth].to_string();
        Some(match action {
            Action::ForkLog(birth) => {
                self.roles.insert(birth, Role::Log);
                "fork log".to_owned()
            }
            Action::StartZygote(birth, generation) => {
                self.roles.insert(birth, Role::Zygote(generation));
                format!("start zygote {generation}")
            }
            Action::Fork { birth, role, zygote } => {
                assert_eq!(self.roles[&zygote].generation(), role.generation());
                self.roles.insert(birth, role);
                format!("fork {role}")
            }
            Action::Forget(birth) => format!("forget {}", who(&birth)),
            Action::Begin(birth) => format!("begin {}", who(&birth)),
            Action::Accept(birth) => format!("accept {}", who(&birth)),
            Action::Drain(birth) => format!("drain {}", who(&birth)),
            Action::Abort(birth) => format!("abort {}", who(&birth)),
            Action::Kill(birth) => format!("kill {}", who(&birth)),
            Action::Prepare(generation) => format!("prepare {generation}"),
            Action::Promise(number) => format!("promise {}", number.0),
            Action::Reloaded { number, outcome: ReloadOutcome::Committed { kept }, .. } => {
                format!("result {}: committed, kept {kept:?}", number.0)
            }
            Action::Reloaded { number, outcome: ReloadOutcome::RolledBack { reason, .. }, .. } => {
                format!("result {}: {reason}", number.0)
            }
            Action::Report(Report::Reload(_, _, progress)) => progress_in_words(progress)?,
            Action::Report(Report::Unkillable(_, role)) => format!("{role} is unkillable"),
            Action::Report(Report::NotRestarted(name)) => format!("{name} is not restarted"),
            Action::Report(_) => return None,
            Action::Exit(Outcome::Stopped) => "exit".to_owned(),
            Action::Exit(outcome) => format!("exit: {outcome:?}"),
        })
    }
}

/// What is not said by the actions beside it.
fn progress_in_words(progress: Progress) -> Option<String> {
    match progress {
        Progress::Begun | Progress::Accepting | Progress::Stable(_) | Progress::Committed { .. } => None,
        Progress::ZygoteLoaded | Progress::RolledBack => None,
        Progress::Waiting(generation) => Some(format!("waiting for {generation}")),
        Progress::WorkersReady { ready, of } => Some(format!("workers ready {ready} of {of}")),
        Progress::HandingOver(name) => Some(format!("handing over {name}")),
        Progress::HandedOver { helper, .. } => Some(format!("{helper} handed over")),
        Progress::RollingBack { reason } => Some(format!("rolling back: {reason}")),
    }
}
