//! Which requests a helper answers: the method's name to the code that knows its types.

use std::collections::HashMap;
use std::fmt::Display;
use std::rc::Rc;

use serde::Serialize;

use super::traits::{Handle, Helper, Request};
use crate::app::declare::{LocalFuture, Unanswerable};
use crate::child::panics::Caught;
use crate::ipc::message::{self, Code};

/// Begins one kind of request.
type Begin<H> = fn(Rc<H>, &[u8], u64) -> Result<LocalFuture<Vec<u8>>, Unanswerable>;

/// The requests that a helper handles.
pub struct Methods<H> {
    known: HashMap<&'static str, Begin<H>>,
}

/// An error as it travels: the application's own stands in `data`.
#[derive(Serialize)]
struct Failed<'a, E> {
    code: Code,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a E>,
}

impl<H: Helper> Methods<H> {
    pub(super) fn of() -> Self {
        H::methods(Self { known: HashMap::new() })
    }

    /// Handles requests of this type, by its [`Handle`].
    #[must_use]
    pub fn on<R: Request>(mut self) -> Self
    where
        H: Handle<R>,
    {
        self.known.insert(R::METHOD, begin::<H, R>);
        self
    }

    pub(super) fn begin(
        &self,
        helper: Rc<H>,
        method: &str,
        params: &[u8],
        now_ms: u64,
    ) -> Result<LocalFuture<Vec<u8>>, Unanswerable> {
        match self.known.get(method) {
            Some(begin) => begin(helper, params, now_ms),
            None => {
                let mut names: Vec<&'static str> = self.known.keys().copied().collect();
                names.sort_unstable();
                Err(Unanswerable::NoMethod(names))
            }
        }
    }
}

fn begin<H, R>(helper: Rc<H>, params: &[u8], now_ms: u64) -> Result<LocalFuture<Vec<u8>>, Unanswerable>
where
    H: Handle<R>,
    R: Request,
{
    answer(params, now_ms, async move |request: R| helper.handle(request).await)
}

/// Reads a request and has it handled; the future gives the response's last two elements.
pub(super) fn answer<R, E>(
    params: &[u8],
    now_ms: u64,
    handle: impl AsyncFnOnce(R) -> Result<R::Reply, E> + 'static,
) -> Result<LocalFuture<Vec<u8>>, Unanswerable>
where
    R: Request,
    E: Display + Serialize + 'static,
{
    let (request, deadline_ms) =
        message::params::<R>(params).map_err(|error| Unanswerable::BadParams(error.reason()))?;
    if deadline_ms.is_some_and(|deadline_ms| deadline_ms <= now_ms) {
        return Err(Unanswerable::TooLate);
    }
    // All of the application's code is within: a panic of its error's `Display` is its request's too.
    let answering = Caught::new(async move {
        let mut out = Vec::new();
        let encoded = match handle(request).await {
            Ok(reply) => message::result(&reply, &mut out),
            Err(error) => {
                let failed = Failed { code: Code::Failed, message: error.to_string(), data: Some(&error) };
                message::failed(&failed, &mut out)
            }
        };
        encoded.map(|()| out)
    });
    Ok(Box::pin(async move {
        match answering.await {
            Ok(Ok(out)) => out,
            Ok(Err(error)) => {
                log::error!("the answer to {:?} cannot be encoded: {error}", R::METHOD);
                broken(format!("the answer to {} cannot be encoded", R::METHOD))
            }
            Err(_) => broken(format!("{} panicked: the log says where", R::METHOD)),
        }
    }))
}

fn broken(message: String) -> Vec<u8> {
    let mut out = Vec::new();
    let failed = Failed::<()> { code: Code::Panicked, message, data: None };
    message::failed(&failed, &mut out).expect("a code and a sentence encode");
    out
}

#[cfg(test)]
mod tests {
    use std::fmt;

    use serde::Deserialize;
    use serde_json::Value;

    use super::*;
    use crate::Context;
    use crate::error::Result;
    use crate::ipc::frame;

    /// Does what its requests say.
    struct Victim;

    #[derive(Serialize, Deserialize)]
    struct Do {
        what: String,
    }

    /// An error that panics where it should be shown.
    #[derive(Serialize, Deserialize)]
    struct Shy {}

    impl fmt::Display for Shy {
        fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
            panic!("not to be shown")
        }
    }

    impl Request for Do {
        const METHOD: &'static str = "do";
        type Reply = Value;
    }

    impl Helper for Victim {
        type Config = ();
        type Event = ();
        type Error = Shy;

        async fn start((): (), _: Context<Self>) -> Result<Self> {
            Ok(Self)
        }

        fn methods(methods: Methods<Self>) -> Methods<Self> {
            methods.on::<Do>()
        }
    }

    impl Handle<Do> for Victim {
        /// Panics before there is a future, where it is told so.
        fn handle(&self, Do { what }: Do) -> impl Future<Output = Result<Value, Shy>> {
            assert_ne!(what, "panic at once");
            async move {
                match &what[..] {
                    "panic" => panic!("as it was told"),
                    "fail" => Err(Shy {}),
                    "deep" => Ok((0..200).fold(Value::Null, |inner, _| Value::Array(vec![inner]))),
                    _ => Ok(what.into()),
                }
            }
        }
    }

    /// The answer's two elements.
    fn answer(what: &str) -> Vec<Value> {
        let mut request = Vec::new();
        message::request(1, "do", &Do { what: what.to_owned() }, &mut request);
        let (_, method, params) = message::requested(&request[frame::HEADER_LEN..]).expect("a request");
        let begun = Methods::of().begin(Rc::new(Victim), method, params, 0).expect("begun");
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let mut out = &runtime.block_on(begun)[..];
        (0..2).map(|_| frame::take(&mut out, 1).expect("whole")).collect()
    }

    #[test]
    fn whatever_panics_in_a_request_answers_that_request() {
        assert_eq!(answer("well"), [Value::Null, "well".into()]);
        for what in ["panic", "panic at once", "fail", "deep"] {
            assert_eq!(answer(what)[0]["code"], "panicked", "{what}");
        }
    }
}
