//! The body of an answer: an event stream ends when its worker drains, everything else when it is
//! whole.

use std::pin::Pin;
use std::task::{Context, Poll};

use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderName};
use http::{HeaderMap, Response};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::guard::Asking;
use crate::app::declare::BoxFuture;

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
}

impl<B: Body> Answer<B> {
    pub(super) fn empty(request: Option<Asking>) -> Self {
        Self { body: None, ends: None, request }
    }

    pub(super) fn of(response: Response<B>, request: Option<Asking>) -> Response<Self> {
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
        // Between two frames, each of which is whole: whoever streams events always has a next one.
        if let Some(ends) = this.ends
            && ends.as_mut().poll(context).is_ready()
        {
            *this.ends = None;
            this.body.set(None);
            if let Some(request) = this.request.take() {
                request.life().answered();
            }
        }
        match this.body.as_pin_mut() {
            Some(body) => body.poll_frame(context),
            None => Poll::Ready(None),
        }
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
    use http::HeaderValue;

    use super::*;

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
