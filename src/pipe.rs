//! What both ends of the link between provider and agent share: its limits, and the pump that carries
//! raw bytes between the frames of a tunnel and a local stream.
//!
//! ```text
//!   local reader --read--> data frames -----> outbound      local EOF   -> `end` frame
//!   local writer <-write-- data frames <----- inbound       `end` frame -> local shutdown
//! ```
//!
//! Each direction ends on its own (half-close). Nothing is buffered beyond one frame a direction: a
//! local side that does not read stops the other end through HTTP/2's flow control.

use crate::proto::{TunnelFrame, tunnel_frame::Kind};
use bytes::BytesMut;
use futures::{Stream, StreamExt};
use std::{io, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::mpsc,
};
use tonic::Status;

/// Bytes a frame at most: large enough that the frame's own cost does not matter, small enough for
/// HTTP/2 windows of a hundred kilobytes.
const FRAME_BYTES: usize = 32 * 1024;

/// A silent peer is asked after this time, and given up when it does not answer for as long again: a
/// dead connection is noticed within 20 s, at both ends.
pub const KEEPALIVE: Duration = Duration::from_secs(10);

/// What one stream of a tunnel may have on the way unread, and all streams of a connection together.
/// The second is more than [`MAX_TUNNELS`] times the first, so tunnels that nobody reads can't stop
/// the session that shares the connection with them.
pub const STREAM_WINDOW: u32 = 128 * 1024;
pub const CONNECTION_WINDOW: u32 = 8 * 1024 * 1024;
/// Tunnels of one agent at a time.
pub const MAX_TUNNELS: usize = 56;
const _: () = assert!(MAX_TUNNELS * (STREAM_WINDOW as usize) < CONNECTION_WINDOW as usize);

#[derive(Debug, thiserror::Error)]
pub enum PipeError {
    #[error("the other end of the tunnel went away")]
    Gone,
    #[error("the other end of the tunnel failed")]
    Remote(#[source] Box<Status>),
    #[error("can't {0} the local end of the tunnel")]
    Local(&'static str, #[source] io::Error),
}

fn data(bytes: impl Into<bytes::Bytes>) -> TunnelFrame {
    TunnelFrame { kind: Some(Kind::Data(bytes.into())) }
}

pub fn end() -> TunnelFrame {
    TunnelFrame { kind: Some(Kind::End(true)) }
}

/// Carries both directions until both have ended, or one has failed. Then waits until the other end has
/// closed the call too: whoever drops a call earlier may cut off what is still on its way.
pub async fn pump<T: Send>(
    mut inbound: impl Stream<Item = Result<TunnelFrame, Status>> + Send + Unpin,
    outbound: mpsc::Sender<T>,
    wrap: impl Fn(TunnelFrame) -> T + Send,
    local: (impl AsyncRead + Send + Unpin, impl AsyncWrite + Send + Unpin),
) -> Result<(), PipeError> {
    let (read, write) = local;
    tokio::try_join!(to_local(&mut inbound, write), from_local(read, outbound, wrap))?;
    while inbound.next().await.is_some_and(|frame| frame.is_ok()) {}
    Ok(())
}

/// Frames to the local writer, until `end`.
async fn to_local(
    mut inbound: impl Stream<Item = Result<TunnelFrame, Status>> + Send + Unpin,
    mut write: impl AsyncWrite + Send + Unpin,
) -> Result<(), PipeError> {
    loop {
        let frame = inbound.next().await.ok_or(PipeError::Gone)?.map_err(|s| PipeError::Remote(Box::new(s)))?;
        match frame.kind {
            Some(Kind::Data(bytes)) => {
                write.write_all(&bytes).await.map_err(|error| PipeError::Local("write to", error))?;
                write.flush().await.map_err(|error| PipeError::Local("write to", error))?;
            }
            Some(Kind::End(_)) => {
                return write.shutdown().await.map_err(|error| PipeError::Local("close", error));
            }
            // A second `opened`, or a kind that a later version has: not for us.
            Some(Kind::Opened(_)) | None => {}
        }
    }
}

/// The local reader to frames, until its end.
async fn from_local<T: Send>(
    mut read: impl AsyncRead + Send + Unpin,
    outbound: mpsc::Sender<T>,
    wrap: impl Fn(TunnelFrame) -> T + Send,
) -> Result<(), PipeError> {
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(FRAME_BYTES);
        let mut room = (&mut read).take(FRAME_BYTES as u64);
        let count = tokio::select! {
            count = room.read_buf(&mut buffer) => count.map_err(|error| PipeError::Local("read", error))?,
            () = outbound.closed() => return Err(PipeError::Gone),
        };
        let frame = if count == 0 { end() } else { data(buffer.split().freeze()) };
        outbound.send(wrap(frame)).await.map_err(|_| PipeError::Gone)?;
        if count == 0 {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio_stream::wrappers::ReceiverStream;

    #[tokio::test]
    async fn a_direction_that_ended_leaves_the_other_open() {
        let (local, mut user) = tokio::io::duplex(64);
        let (to_us, inbound) = mpsc::channel(1);
        let (outbound, mut from_us) = mpsc::channel(1);
        let pumped = tokio::spawn(pump(ReceiverStream::new(inbound), outbound, |frame| frame, tokio::io::split(local)));
        user.shutdown().await.unwrap();
        assert_eq!(from_us.recv().await, Some(end()));
        to_us.send(Ok(data("still here"))).await.unwrap();
        to_us.send(Ok(end())).await.unwrap();
        let mut got = String::new();
        user.read_to_string(&mut got).await.unwrap();
        assert_eq!(got, "still here");
        drop(to_us);
        pumped.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_quiet_tunnel_ends_when_the_other_end_goes_away() {
        let (local, mut user) = tokio::io::duplex(64);
        let (to_us, inbound) = mpsc::channel::<Result<TunnelFrame, Status>>(1);
        let (outbound, from_us) = mpsc::channel(1);
        let pumped = tokio::spawn(pump(ReceiverStream::new(inbound), outbound, |frame| frame, tokio::io::split(local)));
        drop(from_us);
        assert!(matches!(pumped.await.unwrap(), Err(PipeError::Gone)));
        assert_eq!(user.read(&mut [0; 8]).await.unwrap(), 0);
        drop(to_us);
    }

    #[tokio::test]
    async fn a_local_end_that_does_not_read_stops_the_sender() {
        let (local, _user) = tokio::io::duplex(64);
        let (to_us, inbound) = mpsc::channel(1);
        let (outbound, _from_us) = mpsc::channel(1);
        let pumped = tokio::spawn(pump(ReceiverStream::new(inbound), outbound, |frame| frame, tokio::io::split(local)));
        let mut taken = 0;
        // What is taken before it stops: one frame being written, one waiting. More would be a buffer.
        while tokio::time::timeout(std::time::Duration::from_millis(200), to_us.send(Ok(data(vec![0; 1024]))))
            .await
            .is_ok()
        {
            taken += 1;
            assert!(taken < 4);
        }
        pumped.abort();
    }
}
