//! What an application holds of the hub.

use std::future::{Future, poll_fn};
use std::marker::PhantomData;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::AbortHandle;

use super::ear::{Ear, Heard};
use super::helper::Exchange;
use super::office::{Answer, Called, Office, Telling, lock};
use super::wire::{Ask, Bytes, Name, Publish, Refusal};
use super::{HubError, Question, Topic};
use crate::child::helper::client::{CallError, Client, DEADLINE};
use crate::child::helper::traits::{Answers, Request};

/// Until a request is sent again that a hub has refused because it ends.
const SUCCESSION: Duration = Duration::from_millis(10);

/// This process's place in the hub, where all processes of the server meet. Cheap to clone.
///
/// What one publisher says under one key, each call after the one before, every listener hears in that
/// order, and nothing twice. Whoever does not keep up loses the oldest and is told so, and nobody waits
/// for it. When the hub's process was replaced, everyone listens and holds its keys again by itself, and
/// every listener hears [`Heard::Missed`].
///
/// A key has one holder, the latest: a device that connects again, to another worker, is asked there. The
/// holder before it is told, see [`Held::replaced`].
///
/// ```
/// use axum::{Router, extract::Path, routing::{get, post}};
/// use forebay::{App, Heard, Question, Topic};
///
/// /// What is said in a room.
/// struct Room;
///
/// impl Topic for Room {
///     const NAME: &'static str = "room";
///     type Message = String;
/// }
///
/// /// Asked of whoever holds a device's connection.
/// struct Locate;
///
/// impl Question for Locate {
///     const NAME: &'static str = "locate";
///     type Ask = ();
///     type Reply = (f64, f64);
/// }
///
/// let app = App::new("chat").hub().http(async |worker| {
///     let hub = worker.hub()?;
///     let held = hub.answer::<Locate, _>("device 7", async |()| (48.2, 16.4)).await?;
///     let mut lobby = hub.subscribe::<Room>("lobby").await?;
///     tokio::spawn(async move {
///         let _held = held; // the key is held until this is dropped
///         loop {
///             match lobby.next().await {
///                 Heard::Message(line) => log::info!("{line}"),
///                 Heard::Missed(count) => log::warn!("missed {count:?} lines"),
///             }
///         }
///     });
///     let (speaker, asker) = (hub.clone(), hub);
///     let say = async move |Path(room): Path<String>, line: String| match speaker.publish::<Room>(&room, &line).await {
///         Ok(()) => "said".to_owned(),
///         Err(error) => error.to_string(),
///     };
///     let locate = async move |Path(device): Path<String>| match asker.request::<Locate>(&device, &()).await {
///         Ok((north, east)) => format!("{north} {east}"),
///         Err(error) => error.to_string(), // nobody holds this key
///     };
///     Ok(Router::new().route("/say/{room}", post(say)).route("/locate/{device}", get(locate)))
/// });
/// ```
#[derive(Clone)]
pub struct Hub {
    place: Arc<Place>,
    deadline: Duration,
}

struct Place {
    office: Arc<Office>,
    /// Attends the hub.
    attending: AbortHandle,
    /// For what belongs to no session.
    client: Client<Exchange>,
}

/// What is said under one key of a topic, from [`Hub::subscribe`] on until this is dropped.
///
/// It holds at most 1024 messages, and 4 MiB of them, that were not heard.
pub struct Listening<T> {
    place: Arc<Place>,
    topic: Name,
    ear: Arc<Mutex<Ear>>,
    kind: PhantomData<fn() -> T>,
}

/// A key that this process holds, until this is dropped.
#[must_use = "the key is let go when this is dropped"]
pub struct Held {
    place: Arc<Place>,
    key: Name,
    replaced: Arc<Notify>,
}

impl Hub {
    /// On the loop of this thread; of the two clients one is for the session.
    pub(super) fn new(session: Client<Exchange>, client: Client<Exchange>, caller: &str) -> Self {
        let office = Office::new(session, caller);
        let attending = tokio::spawn(office.clone().attend()).abort_handle();
        Self { place: Arc::new(Place { office, attending, client }), deadline: DEADLINE }
    }

    /// The same place with another limit for each call; 5 s without this.
    #[must_use]
    pub fn with_deadline(&self, deadline: Duration) -> Self {
        Self { deadline, ..self.clone() }
    }

    /// Tells everyone who listens to this key of the topic, in whatever process, this one included.
    ///
    /// It waits for nobody but the hub. A message may have 1 MiB.
    ///
    /// # Errors
    /// [`HubError::Refused`], within [`CallError::Failed`], beyond a limit; else why there is no answer.
    pub async fn publish<T: Topic>(&self, key: &str, message: &T::Message) -> Result<(), CallError<HubError>> {
        let topic = Name::new(T::NAME, key).map_err(of_the_hub)?;
        let message = Bytes::of(message).map_err(of_the_hub)?;
        self.call(|| Publish { topic: topic.clone(), message: message.clone() }).await
    }

    /// Listens to this key of the topic: when this returns, all that is published from then on is heard.
    ///
    /// # Errors
    /// [`HubError::Refused`], within [`CallError::Failed`], beyond a limit; else why there is no answer.
    pub async fn subscribe<T: Topic>(&self, key: &str) -> Result<Listening<T>, CallError<HubError>> {
        let topic = Name::new(T::NAME, key).map_err(of_the_hub)?;
        let (ear, telling) = self.place.office.listen(topic.clone()).map_err(of_the_hub)?;
        let listening = Listening { place: self.place.clone(), topic, ear, kind: PhantomData };
        let session = telling.session;
        self.confirm(telling).await?;
        lock(&listening.ear).confirm(session);
        Ok(listening)
    }

    /// Answers what is asked of this key, in whatever process, until what this returns is dropped. Whoever
    /// holds the key already holds it no longer.
    ///
    /// Requests run beside each other; a panic answers its request with [`CallError::Panicked`]. One whose
    /// asker has given up runs to its end.
    ///
    /// # Errors
    /// [`HubError::Refused`], within [`CallError::Failed`], beyond a limit; else why there is no answer.
    pub async fn answer<Q: Question, A>(
        &self,
        key: &str,
        answer: impl FnOnce(Q::Ask) -> A + Clone + Send + Sync + 'static,
    ) -> Result<Held, CallError<HubError>>
    where
        A: Future<Output = Q::Reply> + Send + 'static,
    {
        let key = Name::new(Q::NAME, key).map_err(of_the_hub)?;
        let answer: Answer = Arc::new(move |ask: Bytes| {
            let answer = answer.clone();
            Box::pin(async move {
                let ask = ask.decode().map_err(|why| not_understood("the request", &why))?;
                Bytes::of(&answer(ask).await)
            })
        });
        let (replaced, telling) = self.place.office.hold(key.clone(), answer).map_err(of_the_hub)?;
        let held = Held { place: self.place.clone(), key, replaced };
        self.confirm(telling).await?;
        Ok(held)
    }

    /// Asks whoever holds this key.
    ///
    /// # Errors
    /// [`HubError::NobodyThere`], within [`CallError::Failed`]: nothing was done. [`CallError::OutcomeUnknown`]:
    /// who held the key was told and has ended, or the hub has. [`CallError::Overloaded`]: 1024 requests to
    /// its process wait already; nothing was done. Else why there is no answer.
    pub async fn request<Q: Question>(&self, key: &str, ask: &Q::Ask) -> Result<Q::Reply, CallError<HubError>> {
        let key = Name::new(Q::NAME, key).map_err(of_the_hub)?;
        let ask = Bytes::of(ask).map_err(of_the_hub)?;
        let reply = self.call(|| Ask { key: key.clone(), ask: ask.clone() }).await?;
        reply.decode().map_err(|why| of_the_hub(not_understood("the answer", &why)))
    }

    /// Calls the hub, or its successor if it does nothing any more.
    async fn call<R: Request>(&self, request: impl Fn() -> R) -> Result<R::Reply, CallError<HubError>>
    where
        Exchange: Answers<R>,
    {
        let client = self.place.client.with_deadline(self.deadline);
        let calling = async {
            loop {
                match client.call(request()).await {
                    Err(CallError::Failed(Refusal::Ending)) => tokio::time::sleep(SUCCESSION).await,
                    called => return called,
                }
            }
        };
        self.within(calling).await
    }

    async fn confirm(&self, telling: Telling) -> Result<(), CallError<HubError>> {
        self.within(self.place.office.confirm(telling)).await
    }

    async fn within<T>(&self, calling: impl Future<Output = Called<T>>) -> Result<T, CallError<HubError>> {
        let called = tokio::time::timeout(self.deadline, calling).await;
        called.unwrap_or(Err(CallError::DeadlineExceeded)).map_err(heard)
    }
}

impl<T: Topic> Listening<T> {
    /// Waits for the next message. It never ends; dropping the future loses nothing.
    pub async fn next(&mut self) -> Heard<T::Message> {
        loop {
            match poll_fn(|context| lock(&self.ear).poll(context.waker())).await {
                Heard::Missed(count) => return Heard::Missed(count),
                Heard::Message(message) => match message.decode() {
                    Ok(message) => return Heard::Message(message),
                    Err(why) => log::error!("a message of another release is not understood: {why}"),
                },
            }
        }
    }
}

impl Held {
    /// Resolves when another one holds the key: the same device, say, has connected elsewhere.
    pub async fn replaced(&mut self) {
        self.replaced.notified().await;
        // Whoever waits again is told again.
        self.replaced.notify_one();
    }
}

impl<T> Drop for Listening<T> {
    fn drop(&mut self) {
        self.place.office.stop_listening(&self.topic, &self.ear);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.place.office.let_go(&self.key, &self.replaced);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.attending.abort();
    }
}

fn not_understood(what: &str, why: &str) -> Refusal {
    Refusal::Refused(format!("{what} is not understood: {why}"))
}

fn of_the_hub(refusal: Refusal) -> CallError<HubError> {
    heard(CallError::Failed(refusal))
}

/// The hub's refusals as those outside it know them.
fn heard(error: CallError<Refusal>) -> CallError<HubError> {
    match error {
        CallError::Failed(Refusal::NobodyThere) => CallError::Failed(HubError::NobodyThere),
        CallError::Failed(Refusal::OutcomeUnknown) | CallError::OutcomeUnknown => CallError::OutcomeUnknown,
        CallError::Failed(Refusal::Panicked) | CallError::Panicked => CallError::Panicked,
        CallError::Failed(Refusal::Overloaded) | CallError::Overloaded => CallError::Overloaded,
        CallError::Failed(refusal @ (Refusal::NotAttached | Refusal::Ending | Refusal::Refused(_))) => {
            CallError::Failed(HubError::Refused(refusal.to_string()))
        }
        CallError::DeadlineExceeded => CallError::DeadlineExceeded,
        CallError::NotHandled(why) => CallError::NotHandled(why),
        CallError::BadRequest(why) => CallError::BadRequest(why),
    }
}

#[cfg(all(test, feature = "testing"))]
mod tests;
