//! A helper that answers as the test says: for whoever asks one.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;

use crate::child::helper::solo::{self, Answer, Place, Solo};
use crate::child::helper::{Answers, Client, Interface, Request, encoded};
use crate::error::Result;

/// In the place of a helper, for tests of what asks it: a router, or another helper.
///
/// ```
/// use forebay::{Answers, CallError, Interface, Request, testing};
/// use serde::{Deserialize, Serialize};
///
/// # struct Tariff;
/// # impl Interface for Tariff {
/// #     type Event = f64;
/// #     type Error = String;
/// # }
/// # #[derive(Serialize, Deserialize)]
/// # struct Price { kwh: f64 }
/// # impl Request for Price {
/// #     const METHOD: &'static str = "price";
/// #     type Reply = f64;
/// # }
/// # impl Answers<Price> for Tariff {}
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> forebay::Result<()> {
/// let tariff = testing::Fake::<Tariff>::named("tariff")
///     .on(async |Price { kwh }| if kwh < 0.0 { Err("less than nothing".to_owned()) } else { Ok(kwh * 31.0) })
///     .start()?;
/// let client = tariff.client()?; // what a router's state would hold
/// assert_eq!(client.call(Price { kwh: 2.0 }).await, Ok(62.0));
/// let refused = client.call(Price { kwh: -1.0 }).await;
/// assert_eq!(refused, Err(CallError::Failed("less than nothing".to_owned())));
/// # Ok(())
/// # }
/// ```
pub struct Fake<F> {
    /// It ends before its directory does.
    solo: Solo,
    place: Place,
    events: Arc<Mutex<Vec<u8>>>,
    helper: PhantomData<fn() -> F>,
}

/// A fake that is not started yet.
pub struct FakeBuilder<F> {
    name: &'static str,
    answers: BTreeMap<&'static str, Answer>,
    helper: PhantomData<fn() -> F>,
}

impl<F: Interface> Fake<F> {
    /// In the place of the helper of this name.
    #[must_use]
    pub fn named(name: &'static str) -> FakeBuilder<F> {
        FakeBuilder { name, answers: BTreeMap::new(), helper: PhantomData }
    }

    /// A client of it; to be called, and used, within a tokio runtime.
    ///
    /// # Errors
    /// None that a test would handle.
    pub fn client(&self) -> Result<Client<F>> {
        self.place.client()
    }

    /// What a subscriber is told first from now on; nothing if never said.
    ///
    /// # Errors
    /// An event does not encode.
    pub fn stands(&self, events: &[F::Event]) -> Result<()>
    where
        F::Event: Serialize,
    {
        *self.events.lock().unwrap_or_else(PoisonError::into_inner) = encoded(events)?;
        Ok(())
    }

    /// Tells every subscriber.
    ///
    /// # Errors
    /// The event does not encode.
    pub fn publish(&self, event: &F::Event) -> Result<()>
    where
        F::Event: Serialize,
    {
        self.solo.publish(encoded(event)?);
        Ok(())
    }

    pub(super) fn place(&self) -> &Place {
        &self.place
    }
}

impl<F: Interface> FakeBuilder<F> {
    /// Answers requests of this type like that; those of no type said are answered with
    /// [`CallError::NotHandled`](crate::CallError::NotHandled).
    #[must_use]
    pub fn on<R: Request>(
        mut self,
        answer: impl AsyncFn(R) -> Result<R::Reply, F::Error> + Send + Sync + 'static,
    ) -> Self
    where
        F: Answers<R>,
        F::Error: Serialize + Display,
    {
        self.answers.insert(R::METHOD, solo::answer(answer));
        self
    }

    /// Starts it.
    ///
    /// # Errors
    /// The temporary directory takes no socket.
    pub fn start(self) -> Result<Fake<F>> {
        let place = Place::make(self.name)?;
        let events = Arc::new(Mutex::new(encoded::<[u8]>(&[])?));
        let solo = place.pretend(self.answers, events.clone())?;
        Ok(Fake { place, solo, events, helper: PhantomData })
    }
}
