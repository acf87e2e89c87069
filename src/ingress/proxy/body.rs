//! Bodies, passed on frame by frame, trailers included.

use super::metrics::Counted;
use super::pool::Lease;
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

/// What a request carries to a backend: the client's body as it comes, or none. None can be sent any number of times.
pub enum Outgoing {
    Client(Incoming),
    Empty,
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        match &mut *self {
            Self::Client(body) => Pin::new(body).poll_frame(context),
            Self::Empty => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Client(body) => body.is_end_stream(),
            Self::Empty => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Client(body) => body.size_hint(),
            Self::Empty => SizeHint::with_exact(0),
        }
    }
}

/// A backend's body with its hold on the connection: given back when the body has been read to its end, let go when
/// it is dropped before.
pub struct Leased {
    body: Incoming,
    lease: Option<Lease>,
}

impl Leased {
    pub(super) fn new(body: Incoming, lease: Lease) -> Self {
        let mut leased = Self { body, lease: Some(lease) };
        leased.finish_at_end();
        leased
    }

    fn finish_at_end(&mut self) {
        if self.body.is_end_stream()
            && let Some(lease) = self.lease.take()
        {
            lease.finish();
        }
    }
}

impl Body for Leased {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        match &frame {
            Some(Ok(_)) => self.finish_at_end(),
            Some(Err(_)) => drop(self.lease.take()),
            None => {
                if let Some(lease) = self.lease.take() {
                    lease.finish();
                }
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// What the gateway answers with: a backend's body, or a short text of its own.
pub struct ProxyBody {
    content: Content,
    _in_flight: Option<Counted>,
}

enum Content {
    Own(Full<Bytes>),
    Backend(Leased),
}

impl ProxyBody {
    pub fn text(text: impl Into<Bytes>) -> Self {
        Self { content: Content::Own(Full::new(text.into())), _in_flight: None }
    }

    pub(super) fn backend(body: Leased) -> Self {
        Self { content: Content::Backend(body), _in_flight: None }
    }

    pub(super) fn counted(mut self, in_flight: Counted) -> Self {
        self._in_flight = Some(in_flight);
        self
    }
}

impl Body for ProxyBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        match &mut self.content {
            Content::Own(body) => Pin::new(body).poll_frame(context).map_err(|never| match never {}),
            Content::Backend(body) => Pin::new(body).poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Own(body) => body.is_end_stream(),
            Content::Backend(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Own(body) => body.size_hint(),
            Content::Backend(body) => body.size_hint(),
        }
    }
}
