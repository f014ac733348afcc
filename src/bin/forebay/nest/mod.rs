//! The helper that holds the one streaming connection to Nest.
//!
//! It connects, follows redirects, reads events, and tells its subscribers what changed. When the
//! connection ends, it waits and connects again. There is never a second connection: the old one
//! is closed before the wait begins. Writes go to the upstream beside it; their effect comes back
//! on the stream, and only from there into the document.

mod api;
mod config;
mod depth;
mod document;
mod end;
mod link;
mod redirect;
mod retry;
mod retry_after;
mod set;
mod stream;
mod upstream;

use std::cell::RefCell;
use std::error::Error;
use std::time::{Duration, Instant, SystemTime};

use forebay::{Client, Context, Handle, Helper, Methods, Result};
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, StatusCode, Uri};
use serde_json::Value;

pub(crate) use self::api::{Fields, Get, LinkState, List, NestError, NestEvent, Set, Thermostat};
pub(crate) use self::config::Config;
pub(crate) use self::link::{Link, State};
pub(crate) use self::set::WRITE_TIMEOUT;

use self::config::Settings;
use self::document::{Applied, Document};
use self::end::{End, Next};
use self::retry::Backoff;
use self::retry_after::{Method, RetryAfter};
use self::set::Writes;
use self::stream::{Message, Messages, Stop};
use self::upstream::Upstream;
use crate::simulator_helper::{SimulatorHelper, Url};

/// The longest reason that is logged and told, in characters: the upstream's words may be in it.
const REASON_LEN_MAX: usize = 300;

/// The one connection, and what is known through it.
pub(crate) struct Nest {
    settings: Settings,
    source: Source,
    upstream: Upstream,
    document: RefCell<Document>,
    link: RefCell<Link>,
    retry_after: RefCell<RetryAfter>,
    writes: Writes,
    publish: Box<dyn Fn(&NestEvent)>,
}

/// Where the upstream is.
enum Source {
    Url(Uri),
    /// Asked before each connection: a new simulator has another port.
    Simulator(Client<SimulatorHelper>),
}

impl Helper for Nest {
    const ASKS: &'static [&'static str] = &["simulator"];
    type Config = Config;
    type Event = NestEvent;
    type Error = NestError;

    async fn start(config: Config, context: Context<Self>) -> Result<Self> {
        let settings = config.settings()?;
        let source = match &settings.url {
            Some(url) => Source::Url(url.clone()),
            None => {
                let simulator = context.helper("simulator")?;
                Source::Simulator(simulator.ok_or("without nest.url the simulator is needed")?)
            }
        };
        let retry_after = RetryAfter::load(context.state_dir(), settings.identity());
        Ok(Self::new(settings, source, retry_after, move |event| {
            if let NestEvent::Link(link) = event {
                context.note(&link.note());
            }
            context.publish(event);
        }))
    }

    /// Connects again and again, until the token is revoked.
    async fn run(&self) -> Result<()> {
        let mut backoff = Backoff::new(self.settings.backoff_min, self.settings.backoff_max);
        self.wait_as_told_before().await;
        loop {
            let (end, open_for) = self.connection().await;
            let dice = fastrand::f64();
            match end.next(&mut backoff, open_for, self.settings.unauthorized_retry, dice) {
                Next::Again(delay, state) => self.wait(&end, delay, state).await,
                Next::Never => {
                    let reason = excerpt(&end.to_string());
                    log::error!("{reason}: not connecting again until this helper is restarted");
                    self.turn(|link, now| link.revoked(reason, now));
                    return Ok(());
                }
            }
        }
    }

    fn methods(methods: Methods<Self>) -> Methods<Self> {
        methods.on::<List>().on::<Get>().on::<LinkState>().on::<Set>()
    }

    fn snapshot(&self) -> Vec<NestEvent> {
        let document = self.document.borrow();
        document.events().chain([NestEvent::Link(self.link.borrow().clone())]).collect()
    }
}

impl Handle<List> for Nest {
    async fn handle(&self, _: List) -> Result<Vec<Thermostat>, NestError> {
        self.must_be_known()?;
        let document = self.document.borrow();
        let one = |(id, fields): (&String, &Fields)| Thermostat { id: id.clone(), fields: fields.clone() };
        Ok(document.thermostats().iter().map(one).collect())
    }
}

impl Handle<Get> for Nest {
    async fn handle(&self, Get { id }: Get) -> Result<Fields, NestError> {
        self.must_be_known()?;
        let fields = self.document.borrow().thermostats().get(&id).cloned();
        fields.ok_or(NestError::UnknownThermostat { id })
    }
}

impl Handle<LinkState> for Nest {
    async fn handle(&self, _: LinkState) -> Result<Link, NestError> {
        Ok(self.link.borrow().clone())
    }
}

impl Handle<Set> for Nest {
    async fn handle(&self, set: Set) -> Result<Value, NestError> {
        self.set(set).await
    }
}

impl Nest {
    fn new(
        settings: Settings,
        source: Source,
        retry_after: RetryAfter,
        publish: impl Fn(&NestEvent) + 'static,
    ) -> Self {
        Self {
            upstream: Upstream::new(settings.authorization.clone()),
            settings,
            source,
            document: RefCell::default(),
            link: RefCell::new(Link::new(SystemTime::now())),
            retry_after: RefCell::new(retry_after),
            writes: Writes::default(),
            publish: Box::new(publish),
        }
    }

    /// One connection, from its making to its end, and how long it was open. It is closed when this
    /// returns.
    async fn connection(&self) -> (End, Duration) {
        self.turn(Link::connecting);
        let mut opened = None;
        let end = self.read(&mut opened).await;
        if end.blames_the_host() {
            self.upstream.forget();
        }
        (end, opened.map_or(Duration::ZERO, |opened: Instant| opened.elapsed()))
    }

    /// Opens the stream and takes in what it says, until it ends.
    async fn read(&self, opened: &mut Option<Instant>) -> End {
        let limit = self.settings.dead_link;
        let (mut messages, origin) = match tokio::time::timeout(limit, self.open()).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(end)) => return end,
            Err(_) => return End::Silent(limit),
        };
        loop {
            let message = match tokio::time::timeout(limit, messages.next()).await {
                Ok(Ok(message)) => message,
                Ok(Err(Stop::Ended)) => return End::Ended,
                Ok(Err(Stop::Broken(why))) => return End::Lost(why),
                Err(_) => return End::Silent(limit),
            };
            match message {
                Message::Put { path, data } => {
                    let applied = self.document.borrow_mut().put(&path, data);
                    self.tell(applied);
                    // The first one is the whole document.
                    if opened.is_none() {
                        *opened = Some(Instant::now());
                        self.is_open(&origin);
                    }
                }
                Message::Patch { path, data } => {
                    let applied = self.document.borrow_mut().patch(&path, data);
                    self.tell(applied);
                }
                Message::Open | Message::KeepAlive => {}
                Message::Other(name) => {
                    log::debug!("the upstream sends {:?}, which means nothing here", excerpt(&name))
                }
                Message::Cancel(what) => return End::Cancelled(what),
                Message::Error(what) => return End::Failed(what),
                Message::AuthRevoked(what) => return End::Revoked(what),
            }
        }
    }

    /// Asks for the stream.
    async fn open(&self) -> Result<(Messages, String), End> {
        let base = self.source.base().await.map_err(End::Lost)?;
        let call = self.settings.protocol.stream(&base).map_err(End::Lost)?;
        let answer = self.upstream.stream(&call).await.map_err(End::Lost)?;
        let (status, headers) = (answer.response.status(), answer.response.headers());
        let asked_for = retry_after(headers);
        match status {
            StatusCode::OK if is_event_stream(headers) => {}
            StatusCode::OK => return Err(End::Lost(format!("{} answers with no event stream", answer.origin))),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => return Err(End::Unauthorized),
            StatusCode::TOO_MANY_REQUESTS => return Err(self.limited(asked_for)),
            StatusCode::SERVICE_UNAVAILABLE if asked_for.is_some() => return Err(self.limited(asked_for)),
            _ => return Err(End::Lost(format!("{} answers with status {}", answer.origin, status.as_u16()))),
        }
        Ok((Messages::new(answer.response.into_body()), answer.origin))
    }

    fn limited(&self, asked_for: Option<Duration>) -> End {
        if let Some(delay) = asked_for {
            self.retry_after.borrow_mut().remember(Method::Get, delay, SystemTime::now());
        }
        End::RateLimited(asked_for)
    }

    /// The document has come.
    fn is_open(&self, origin: &str) {
        let thermostats = match self.document.borrow().thermostats().len() {
            1 => "1 thermostat".to_owned(),
            number => format!("{number} thermostats"),
        };
        log::info!("connected to {origin}, {thermostats}");
        self.turn(|link, now| link.open(origin.to_owned(), now));
    }

    /// What the upstream has told the last process holds for this one.
    async fn wait_as_told_before(&self) {
        let remaining = self.retry_after.borrow().remaining(Method::Get, SystemTime::now());
        if let Some(delay) = remaining {
            self.wait(&End::RateLimited(Some(delay)), delay, State::Waiting).await;
        }
    }

    async fn wait(&self, end: &End, delay: Duration, state: State) {
        let reason = excerpt(&end.to_string());
        log::warn!("{reason}: connecting again in {:.1} s", delay.as_secs_f64());
        self.turn(|link, now| link.waiting(state, reason, delay, now));
        tokio::time::sleep(delay).await;
    }

    /// The link's next state, told at once.
    fn turn(&self, next: impl FnOnce(&Link, SystemTime) -> Link) {
        let link = next(&self.link.borrow(), SystemTime::now());
        self.link.replace(link.clone());
        (self.publish)(&NestEvent::Link(link));
    }

    fn tell(&self, applied: Applied) {
        for event in &applied.events {
            (self.publish)(event);
        }
        if applied.left_out > 0 {
            log::warn!("{} values of the upstream are beyond the limits and left out", applied.left_out);
        }
    }

    fn must_be_known(&self) -> Result<(), NestError> {
        if self.link.borrow().known { Ok(()) } else { Err(NestError::NotReady) }
    }
}

impl Source {
    async fn base(&self) -> Result<Uri, String> {
        match self {
            Self::Url(url) => Ok(url.clone()),
            Self::Simulator(simulator) => {
                let url = simulator.call(Url {}).await;
                config::base(&url.map_err(|error| format!("the simulator does not answer: {error}"))?)
            }
        }
    }
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    retry_after::parse(headers.get(RETRY_AFTER)?.to_str().ok()?, SystemTime::now())
}

/// Whether it is none would only show in its silence.
fn is_event_stream(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    kind.is_none_or(|kind| kind.trim_start().to_ascii_lowercase().starts_with("text/event-stream"))
}

/// The beginning of what a peer says, for people.
fn excerpt(text: &str) -> String {
    match text.char_indices().nth(REASON_LEN_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// An error with its causes, in one line.
fn error_chain(error: &dyn Error) -> String {
    let mut chain = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let words = error.to_string();
        // Many errors say their cause themselves.
        if !chain.ends_with(&words) {
            chain.push_str(": ");
            chain.push_str(&words);
        }
        cause = error.source();
    }
    chain
}

#[cfg(test)]
mod tests;
