//! What both ends of the bootstrap must agree on to the byte: the name of a key, and the request to STS
//! that an instance signs and the provider composes anew.
//!
//! ```text
//!   POST / HTTP/1.1
//!   host: <the region's STS, fixed>                     signed
//!   content-type: application/x-www-form-urlencoded     signed
//!   x-amz-date, x-amz-security-token                    signed, the instance's
//!   x-pilotlight-binding: SHA-256(nonce, key, cluster)  signed, known to both
//!   Action=GetCallerIdentity&Version=2011-06-15         signed by its hash
//! ```
//!
//! The signature covers exactly these headers, so one made for any other request, or for another nonce,
//! key or cluster, is not valid for this one.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fmt;

pub const STS_CONTENT_TYPE: &str = "application/x-www-form-urlencoded";
pub const STS_BODY: &str = "Action=GetCallerIdentity&Version=2011-06-15";
pub const BINDING_HEADER: &str = "x-pilotlight-binding";
/// The headers that are signed, as SigV4 lists them.
pub const SIGNED_HEADERS: &str = "content-type;host;x-amz-date;x-amz-security-token;x-pilotlight-binding";

/// Keeps this hash apart from every other use of SHA-256 here.
const BINDING_DOMAIN: &[u8] = b"pilotlight bootstrap 1";

/// A public key's name: SHA-256 of its SubjectPublicKeyInfo (DER).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct KeyFingerprint([u8; 32]);

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is no fingerprint: expected 64 lower-case hexadecimal digits")]
pub struct NoFingerprint(String);

impl KeyFingerprint {
    pub fn of(subject_public_key_info: &[u8]) -> Self {
        Self(Sha256::digest(subject_public_key_info).into())
    }
}

impl fmt::Display for KeyFingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for KeyFingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::str::FromStr for KeyFingerprint {
    type Err = NoFingerprint;

    fn from_str(text: &str) -> Result<Self, NoFingerprint> {
        let digit = |byte: u8| match byte {
            b'0'..=b'9' => Some(byte - b'0'),
            b'a'..=b'f' => Some(byte - b'a' + 10),
            _ => None,
        };
        let mut bytes = [0; 32];
        let fine = text.len() == 64
            && bytes.iter_mut().zip(text.as_bytes().chunks(2)).all(|(byte, pair)| {
                let [high, low] = pair else { return false };
                digit(*high).zip(digit(*low)).map(|(high, low)| *byte = high << 4 | low).is_some()
            });
        if fine { Ok(Self(bytes)) } else { Err(NoFingerprint(text.chars().take(80).collect())) }
    }
}

impl TryFrom<String> for KeyFingerprint {
    type Error = NoFingerprint;

    fn try_from(text: String) -> Result<Self, NoFingerprint> {
        text.parse()
    }
}

impl From<KeyFingerprint> for String {
    fn from(key: KeyFingerprint) -> Self {
        key.to_string()
    }
}

/// The value of [`BINDING_HEADER`]: whoever signed it answered this challenge, for this key, in this cluster.
pub fn binding(nonce: &[u8], key: &KeyFingerprint, cluster: &str) -> String {
    let mut digest = Sha256::new();
    for part in [BINDING_DOMAIN, nonce, &key.0, cluster.as_bytes()] {
        // With its length, so that no two lists of parts read the same.
        digest.update((part.len() as u64).to_be_bytes());
        digest.update(part);
    }
    hex(&digest.finalize())
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_fingerprint_reads_back_as_it_was_written(key in any::<Vec<u8>>()) {
            let fingerprint = KeyFingerprint::of(&key);
            prop_assert_eq!(fingerprint.to_string().parse::<KeyFingerprint>().unwrap(), fingerprint);
        }

        #[test]
        fn two_bindings_are_equal_only_if_all_that_they_bind_is(
            a in (any::<Vec<u8>>(), 0..2u8, "[ab]{0,3}"), b in (any::<Vec<u8>>(), 0..2u8, "[ab]{0,3}")
        ) {
            let of = |(nonce, key, cluster): &(Vec<u8>, u8, String)| binding(nonce, &KeyFingerprint::of(&[*key]), cluster);
            prop_assert_eq!(of(&a) == of(&b), a == b);
        }
    }

    #[test]
    fn what_moves_from_one_part_to_the_next_changes_the_binding() {
        let key = KeyFingerprint::of(b"key");
        assert_ne!(binding(b"ab", &key, "c"), binding(b"a", &key, "bc"));
    }

    #[test]
    fn what_is_no_fingerprint_is_refused() {
        let good = KeyFingerprint::of(b"key").to_string();
        for bad in ["", "00", &good.to_uppercase(), &format!("{good}0"), &good.replace(&good[..1], "g"), "é"] {
            assert!(bad.parse::<KeyFingerprint>().is_err(), "{bad}");
        }
    }
}
