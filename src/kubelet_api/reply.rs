//! Answers in the kubelet's words.

use super::{access::Denied, options::BadOptions};
use crate::ports::TunnelError;
use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use http::{StatusCode, header};

pub(super) type Reply = Result<Response, Failure>;

/// A plain text error.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Failure {
    pub status: StatusCode,
    pub message: String,
}

impl Failure {
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }

    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, message)
    }

    /// What the agent answered.
    pub fn refused(status: u16, message: String) -> Self {
        Self { status: StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), message }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::from(self.message));
        *response.status_mut() = self.status;
        response
            .headers_mut()
            .insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/plain; charset=utf-8"));
        response
    }
}

impl From<Denied> for Failure {
    fn from(denied: Denied) -> Self {
        Self { status: denied.status, message: denied.message }
    }
}

impl From<BadOptions> for Failure {
    fn from(bad: BadOptions) -> Self {
        Self::new(bad.status, bad.message)
    }
}

impl From<TunnelError> for Failure {
    fn from(error: TunnelError) -> Self {
        let status = match error {
            TunnelError::NotConnected(_) => StatusCode::SERVICE_UNAVAILABLE,
            TunnelError::TimedOut(_) => StatusCode::GATEWAY_TIMEOUT,
            TunnelError::Broken(..) => StatusCode::BAD_GATEWAY,
        };
        Self::new(status, error.to_string())
    }
}
