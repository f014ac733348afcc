//! The body of an answer: an event stream ends when its worker drains, everything else when it is
//! whole.

use std::pin::Pin;
use std::task::{Context, Poll};

use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use http::{HeaderMap, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::Empty;
use pin_project_lite::pin_project;

use super::access::Visit;
use super::connection::Asking;
use super::limits::limits;
use crate::app::declare::BoxFuture;

/// When a client may come again for whom there was no room, in seconds.
const RETRY_AFTER_S: &str = "1";

pin_project! {
    /// An application's body, or none.
    pub(super) struct Answer<B> {
        // `None`: there is none, or it was ended.
        #[pin]
        body: Option<B>,
        // When a stream that has no end of its own shall end.
        ends: Option<BoxFuture<()>>,
        // The request is answered when this goes.
        request: Option<Asking>,
    }

    impl<B> PinnedDrop for Answer<B> {
        fn drop(this: Pin<&mut Self>) {
            let mut this = this.project();
            let _scope = this.request.as_ref().map(Asking::enter);
            this.body.set(None);
        }
    }
}

impl<B: Body> Answer<B> {
    /// In the place of the application's, which has none or was not asked.
    pub(super) fn refused(status: StatusCode, mut request: Option<Asking>) -> Response<Self> {
        let mut response = Response::new(Empty::<B::Data>::new());
        *response.status_mut() = status;
        if status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER_S));
        }
        if let Some(asking) = &mut request {
            // What is left of the body nobody reads, and what follows a broken request nobody believes.
            let statuses = [StatusCode::BAD_REQUEST, StatusCode::PAYLOAD_TOO_LARGE, StatusCode::REQUEST_TIMEOUT];
            if statuses.contains(&status) || asking.is_the_last(limits()) {
                asking.life().close_after(&mut response);
                asking.say_close_alone(&mut response);
            }
            asking.visit().into_iter().for_each(|visit| visit.answer(&response));
        }
        response.map(|_| Self { body: None, ends: None, request })
    }

    pub(super) fn of(mut response: Response<B>, mut request: Option<Asking>) -> Response<Self> {
        if let Some(asking) = &mut request {
            asking.say_close_alone(&mut response);
            asking.visit().into_iter().for_each(|visit| visit.answer(&response));
        }
        // What has a length was promised whole; most have one, and their headers are not looked at.
        let is_endless = response.body().size_hint().exact().is_none()
            && is(response.headers(), &CONTENT_TYPE, "text/event-stream")
            && !response.headers().contains_key(CONTENT_LENGTH);
        let ends = request.as_ref().filter(|_| is_endless).map(|request| request.life().ends().next());
        response.map(|body| Self { body: Some(body), ends, request })
    }
}

/// Whether a header says this, in whatever case and with whatever parameters.
pub(super) fn is(headers: &HeaderMap, name: &HeaderName, what: &str) -> bool {
    let Some(value) = headers.get(name) else { return false };
    let value = value.as_bytes();
    let word = value.split(|byte| *byte == b';').next().unwrap_or(value);
    word.trim_ascii().eq_ignore_ascii_case(what.as_bytes())
}

impl<B: Body> Body for Answer<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let mut this = self.project();
        let _scope = this.request.as_ref().map(Asking::enter);
        // Between two frames, each of which is whole: whoever streams events always has a next one.
        if let Some(ends) = this.ends
            && ends.as_mut().poll(context).is_ready()
        {
            *this.ends = None;
            this.body.set(None);
            if let Some(mut request) = this.request.take() {
                request.life().answered();
                request.visit().into_iter().for_each(Visit::end);
            }
        }
        let Some(mut body) = this.body.as_pin_mut() else { return Poll::Ready(None) };
        let poll = body.as_mut().poll_frame(context);
        if let Some(visit) = this.request.as_mut().and_then(Asking::visit) {
            visit.take(&poll, body.is_end_stream());
        }
        poll
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::convert::Infallible;
    use std::sync::Arc;
    use std::time::Duration;

    use http::Request;
    use hyper::body::Bytes;

    use super::*;
    use crate::child::worker::connection::Life;
    use crate::child::worker::drain::Drain;
    use crate::log::request;

    thread_local! {
        static SEEN: RefCell<Vec<String>> = RefCell::default();
    }

    /// A body that says whose it is.
    struct Witness;

    impl Witness {
        fn look(what: &str) {
            SEEN.with_borrow_mut(|seen| seen.push(request::current(|id| format!("{what} {id}"))));
        }
    }

    impl Body for Witness {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Self::look("polled");
            Poll::Pending
        }
    }

    impl Drop for Witness {
        fn drop(&mut self) {
            Self::look("dropped");
        }
    }

    #[test]
    fn a_body_runs_for_its_own_request_to_its_end() {
        let life = Life::begin(Arc::new(Drain::new(Duration::ZERO)), None);
        let mut answers = ["first", "second"].map(|id| {
            let request = Request::builder().header("x-request-id", id).body(()).expect("a request");
            Box::pin(Answer::of(Response::new(Witness), Some(Asking::new(&life, &request))).into_body())
        });
        let mut context = Context::from_waker(std::task::Waker::noop());
        for number in [0, 1, 0] {
            assert!(answers[number].as_mut().poll_frame(&mut context).is_pending());
            Witness::look("between");
        }
        drop(answers);
        let expected = [
            "polled first",
            "between ",
            "polled second",
            "between ",
            "polled first",
            "between ",
            "dropped first",
            "dropped second",
        ];
        assert_eq!(SEEN.take(), expected);
    }

    #[test]
    fn a_header_is_what_its_first_word_says() {
        let table = [
            ("text/event-stream", true),
            ("text/event-stream; charset=utf-8", true),
            ("Text/Event-Stream ;charset=utf-8", true),
            ("text/event-streams", false),
            ("text/plain; as=text/event-stream", false),
            ("", false),
        ];
        for (value, expected) in table {
            let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(value))]);
            assert_eq!(is(&headers, &CONTENT_TYPE, "text/event-stream"), expected, "{value}");
        }
        assert!(!is(&HeaderMap::new(), &CONTENT_TYPE, "text/event-stream"));
    }
}
