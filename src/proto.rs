//! The generated protocol of proto/agent.proto, and the codec of its messages.
//!
//! A provider has a session with every agent, and each is silent most of the time. tonic's own codec keeps 8 KiB for each
//! direction of each call, used or not; [`LeanCodec`] begins with little and grows by what a message needs.

use std::marker::PhantomData;
use tonic::codec::{BufferSettings, Codec};
use tonic_prost::{ProstCodec, ProstDecoder, ProstEncoder};

mod generated {
    #![allow(clippy::all, missing_docs, reason = "generated code")]
    tonic::include_proto!("pilotlight.agent.v1");
}
pub use generated::*;

/// More than most reports' heads; a whole one is some KiB, and comes seldom.
const BUFFER: usize = 256;
/// A longer desired state or services update goes in pieces of this: the buffer that a message is encoded in stays with
/// its session. Nor is more of what waits encoded together (tonic's own limit is 32 KiB); HTTP/2 sends it together still.
pub const PIECE: usize = 2 * 1024;

/// [`ProstCodec`] with small buffers.
pub struct LeanCodec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for LeanCodec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> Codec for LeanCodec<T, U>
where
    T: prost::Message + Send + 'static,
    U: prost::Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = ProstDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<T, U>::raw_encoder(BufferSettings::new(BUFFER, PIECE))
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<T, U>::raw_decoder(BufferSettings::new(BUFFER, PIECE))
    }
}
