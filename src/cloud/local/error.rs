//! What can go wrong on the host, each with the operation and what it was done to.

use std::{error::Error, io, path::PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    #[error("can't {operation}")]
    Io {
        operation: String,
        #[source]
        source: io::Error,
    },
    #[error("{command} failed: {message}")]
    Command { command: String, message: String },
    #[error("{path} holds something else than expected: {message}", path = path.display())]
    Content { path: PathBuf, message: String },
    #[error("the local cloud's settings are wrong: {0}")]
    Settings(String),
    #[error("{0} is in use by another process")]
    InUse(String),
    #[error("the host can't hold machines: {0}")]
    Host(String),
    #[error("{0}")]
    Boot(String),
}

/// Says what was being done when an I/O call failed.
pub trait Doing<T> {
    fn doing(self, operation: impl FnOnce() -> String) -> Result<T, LocalError>;
}

impl<T, E: Into<io::Error>> Doing<T> for Result<T, E> {
    fn doing(self, operation: impl FnOnce() -> String) -> Result<T, LocalError> {
        self.map_err(|error| LocalError::Io { operation: operation(), source: error.into() })
    }
}

/// The error with everything beneath it, in one line.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
