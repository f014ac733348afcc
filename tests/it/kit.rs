//! The test kit: one helper in this process, and a fake in the place of one.

use std::cell::Cell;
use std::time::Duration;

use forebay::{
    Answers, CallError, Client, Context, Handle, Helper, Interface, Methods, Request, Result, Update, testing,
};
use serde::{Deserialize, Serialize};

/// Adds up what the one that it asks says.
struct Sum {
    sum: Cell<u64>,
    context: Context<Self>,
    source: Option<Client<Source>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    start: u64,
    #[serde(default)]
    fails: bool,
}

/// Adds what the source says now.
#[derive(Serialize, Deserialize)]
struct Draw {}

impl Request for Draw {
    const METHOD: &'static str = "draw";
    type Reply = u64;
}

/// Takes its time.
#[derive(Serialize, Deserialize)]
struct Wait {}

impl Request for Wait {
    const METHOD: &'static str = "wait";
    type Reply = ();
}

impl Helper for Sum {
    const ASKS: &'static [&'static str] = &["source"];
    type Config = Settings;
    type Event = u64;
    type Error = String;

    async fn start(settings: Settings, context: Context<Self>) -> Result<Self> {
        std::fs::write(context.state_dir().join("sum.started"), "yes")?;
        context.note("adding");
        let source = context.helper::<Source>("source")?;
        if settings.fails {
            return Err("it was told to fail".into());
        }
        Ok(Self { sum: Cell::new(settings.start), context, source })
    }

    async fn run(&self) -> Result<()> {
        if self.sum.get() == 13 { Err("not this number".into()) } else { std::future::pending().await }
    }

    fn methods(methods: Methods<Self>) -> Methods<Self> {
        methods.on::<Draw>().on::<Wait>()
    }

    fn snapshot(&self) -> Vec<u64> {
        vec![self.sum.get()]
    }
}

impl Handle<Draw> for Sum {
    async fn handle(&self, _: Draw) -> Result<u64, String> {
        let source = self.source.as_ref().ok_or("there is no source")?;
        let more = source.call(Draw {}).await.map_err(|error| error.to_string())?;
        self.sum.set(self.sum.get() + more);
        self.context.publish(&self.sum.get());
        Ok(self.sum.get())
    }
}

impl Handle<Wait> for Sum {
    async fn handle(&self, _: Wait) -> Result<(), String> {
        std::future::pending().await
    }
}

struct Source;

impl Interface for Source {
    type Event = u64;
    type Error = String;
}

impl Answers<Draw> for Source {}
impl Answers<Wait> for Source {}

fn sum(text: &str) -> testing::HelperBuilder<'_, Sum> {
    testing::Helper::named("sum").configuration(text)
}

#[tokio::test]
async fn a_helper_asks_the_fake_beside_it_and_tells_its_subscribers() {
    let source = testing::Fake::<Source>::named("source").on(async |_: Draw| Ok(4)).start().expect("a fake");
    let sum = sum("[sum]\nstart = 10").beside(&source).start().expect("a helper");
    assert_eq!(sum.note(), "adding");
    assert!(sum.state_dir().join("sum.started").exists());
    let client = sum.client().expect("a client");
    let mut news = client.subscribe().expect("room");
    assert!(matches!(news.next().await, Update::Snapshot { events, .. } if events == [10]));
    assert_eq!(client.call(Draw {}).await, Ok(14));
    assert!(matches!(news.next().await, Update::Event { event: 14, .. }));
}

#[tokio::test]
async fn a_restart_is_a_crash_behind_the_same_socket() {
    let source = testing::Fake::<Source>::named("source").on(async |_: Draw| Ok(4)).start().expect("a fake");
    let mut sum = sum("[sum]\nstart = 10").beside(&source).start().expect("a helper");
    let client = sum.client().expect("a client");
    let mut news = client.subscribe().expect("room");
    let Update::Snapshot { epoch, .. } = news.next().await else { panic!("a snapshot first") };
    assert_eq!(client.call(Draw {}).await, Ok(14));
    let (waiting, ()) = tokio::join!(client.call(Wait {}), async {
        // It is on the way when the helper has answered what was asked after it.
        assert_eq!(client.call(Draw {}).await, Ok(18));
        sum.restart().expect("its successor");
    });
    assert_eq!(waiting, Err(CallError::OutcomeUnknown));
    assert_eq!(client.call(Draw {}).await, Ok(14), "it has begun anew");
    loop {
        if let Update::Snapshot { epoch: next, .. } = news.next().await {
            break assert!(next > epoch);
        }
    }
}

#[tokio::test]
async fn what_is_wrong_is_said_as_a_daemon_would() {
    for (text, words) in [
        ("[sum]\nstart = 1\nstrat = 2", "the configuration:3: [sum]: there is no key `strat`: did you mean `start`?"),
        ("[sum]\n", "start"),
        ("[sum", "the configuration: "),
        ("[sum]\nstart = 1\nfails = true", "it was told to fail"),
    ] {
        let error = sum(text).start().err().expect(text).to_string();
        assert!(error.contains(words), "{error}");
    }
    let alone = sum("[sum]\nstart = 13").start().expect("a helper");
    let failed = async {
        while alone.failure().is_none() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), failed).await.expect("its `run` fails at once");
    assert_eq!(alone.failure().as_deref(), Some("not this number"));
    let alone = sum("[sum]\nstart = 1").start().expect("a helper");
    let refused = alone.client().expect("a client").call(Draw {}).await;
    assert_eq!(refused, Err(CallError::Failed("there is no source".to_owned())));
}

#[tokio::test]
async fn a_fake_answers_refuses_tells_and_knows_no_more_than_it_was_told() {
    let source = testing::Fake::<Source>::named("source").on(async |_: Draw| Err("empty".to_owned())).start();
    let source = source.expect("a fake");
    source.stands(&[1, 2]).expect("numbers encode");
    let client = source.client().expect("a client").with_deadline(Duration::from_secs(20));
    let mut news = client.subscribe().expect("room");
    assert!(matches!(news.next().await, Update::Snapshot { events, .. } if events == [1, 2]));
    source.publish(&3).expect("a number encodes");
    assert!(matches!(news.next().await, Update::Event { event: 3, .. }));
    assert_eq!(client.call(Draw {}).await, Err(CallError::Failed("empty".to_owned())));
    assert!(matches!(client.call(Wait {}).await, Err(CallError::NotHandled(_))));
}
