//! EC2's instance identity document, signed by AWS with a key of each region. Pure.
//!
//! ```text
//!   rsa2048 (base64) = PKCS#7 SignedData { content?, signers [ attributes { messageDigest }, RSA signature ] }
//!   content, or the document beside it --SHA-256--> = messageDigest
//!   attributes --RSA, by a certificate of the configuration--> = signature
//!   document: this instance, region, account, address; pending since five minutes at most
//! ```
//!
//! The certificates inside the PKCS#7 count for nothing: its maker chose them. Only those of the configuration
//! do. AWS encodes it in BER with indefinite lengths, so a DER parser would not do.
//!
//! Sources: AWS, "Instance identity documents", "Verify the instance identity document", "Instance identity
//! document signatures"; RFC 5652, sections 5.1 to 5.6.

use crate::model::InstanceId;
use crate::ports::{DocumentProof, ProofFault};
use aws_lc_rs::signature::{RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
use base64::{Engine, engine::general_purpose::STANDARD};
use bcder::{
    Mode, OctetString, Oid, Tag,
    decode::{Constructed, DecodeError, Source},
};
use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::{fmt, net::IpAddr, sync::Arc};
use x509_parser::{parse_x509_certificate, pem::Pem};

/// "pendingTime" is when the instance was launched.
const OLDEST: SignedDuration = SignedDuration::from_mins(5);
/// Clocks differ.
const SKEW: SignedDuration = SignedDuration::from_mins(1);
/// Each has less than 2 KiB.
const LONGEST_DOCUMENT: usize = 8 << 10;
const LONGEST_SIGNATURE: usize = 16 << 10;
/// A PKCS#7 of AWS has one signer.
const MOST_SIGNERS: usize = 4;

const SIGNED_DATA: Oid<&[u8]> = Oid(&[42, 134, 72, 134, 247, 13, 1, 7, 2]);
const DATA: Oid<&[u8]> = Oid(&[42, 134, 72, 134, 247, 13, 1, 7, 1]);
const SHA_256: Oid<&[u8]> = Oid(&[96, 134, 72, 1, 101, 3, 4, 2, 1]);
const CONTENT_TYPE: Oid<&[u8]> = Oid(&[42, 134, 72, 134, 247, 13, 1, 9, 3]);
const MESSAGE_DIGEST: Oid<&[u8]> = Oid(&[42, 134, 72, 134, 247, 13, 1, 9, 4]);

/// Whose signatures count: AWS's for one region, of RSA keys.
#[derive(Clone, PartialEq, Eq)]
pub struct IdentityCertificates(Arc<Vec<Vec<u8>>>);

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("expected PEM certificates of RSA keys with 2048 bits or more: {0}")]
pub struct NoCertificate(&'static str);

impl fmt::Debug for IdentityCertificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IdentityCertificates({})", self.0.len())
    }
}

impl IdentityCertificates {
    /// One or more certificates, as AWS's page shows them.
    pub fn from_pem(text: &str) -> Result<Self, NoCertificate> {
        let mut keys = Vec::new();
        for pem in Pem::iter_from_buffer(text.as_bytes()) {
            let pem = pem.map_err(|_| NoCertificate("it is not PEM"))?;
            let (_, certificate) =
                parse_x509_certificate(&pem.contents).map_err(|_| NoCertificate("it is not X.509"))?;
            let info = certificate.public_key();
            match info.parsed() {
                Ok(x509_parser::public_key::PublicKey::RSA(key)) if key.key_size() >= 2048 => {
                    keys.push(info.subject_public_key.data.to_vec());
                }
                _ => return Err(NoCertificate("it is of another kind of key, or of a smaller one")),
            }
        }
        if keys.is_empty() { Err(NoCertificate("there is none")) } else { Ok(Self(Arc::new(keys))) }
    }

    fn signed(&self, message: &[u8], signature: &[u8]) -> bool {
        let by =
            |key: &Vec<u8>| UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, key).verify(message, signature).is_ok();
        self.0.iter().any(by)
    }
}

/// What the document must say.
pub struct Expected<'a> {
    pub instance: &'a InstanceId,
    pub region: &'a str,
    pub account: Option<&'a str>,
    pub address: IpAddr,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    instance_id: String,
    account_id: String,
    region: String,
    private_ip: IpAddr,
    pending_time: Timestamp,
}

pub fn check(
    proof: &DocumentProof,
    certificates: &IdentityCertificates,
    expected: &Expected<'_>,
    now: Timestamp,
) -> Result<(), ProofFault> {
    if proof.document.len() > LONGEST_DOCUMENT {
        return Err(ProofFault::Form("document"));
    }
    if proof.signature.len() > LONGEST_SIGNATURE {
        return Err(ProofFault::Form("document signature"));
    }
    let lines: String = proof.signature.split_ascii_whitespace().collect();
    let pkcs7 = STANDARD.decode(lines).map_err(|_| ProofFault::Form("document signature"))?;
    let SignedData { content, signers } = parse(&pkcs7).map_err(|_| ProofFault::Form("document signature"))?;
    // The one inside is what was signed; it is not always there.
    let document = content.as_deref().unwrap_or(&proof.document);
    if document != proof.document || !signers.iter().any(|signer| signer.signed(document, certificates)) {
        return Err(ProofFault::DocumentSignature);
    }
    let document: Document = serde_json::from_slice(document).map_err(|_| ProofFault::Form("document"))?;
    let other = |what| Err(ProofFault::DocumentContent(what));
    if document.instance_id != expected.instance.as_str() {
        return other("instance");
    }
    if document.region != expected.region {
        return other("region");
    }
    if document.private_ip.to_canonical() != expected.address.to_canonical() {
        return other("address");
    }
    if expected.account.is_some_and(|account| account != document.account_id) {
        return other("account");
    }
    let age = now.duration_since(document.pending_time);
    if age > OLDEST || age < -SKEW { Err(ProofFault::StaleDocument) } else { Ok(()) }
}

/// RFC 5652, section 5.1, as far as it matters here.
struct SignedData {
    content: Option<Bytes>,
    signers: Vec<Signer>,
}

struct Signer {
    attributes: Option<Attributes>,
    signature: Bytes,
}

/// As they stand in the signature (without tag and length), and what two of them say.
struct Attributes {
    encoded: Bytes,
    of_data: bool,
    message_digest: Option<Bytes>,
}

impl Signer {
    /// Section 5.4: over the attributes, of which one is the content's digest; over the content if there are none.
    fn signed(&self, content: &[u8], certificates: &IdentityCertificates) -> bool {
        let Some(attributes) = &self.attributes else { return certificates.signed(content, &self.signature) };
        attributes.of_data
            && attributes.message_digest.as_deref() == Some(&Sha256::digest(content)[..])
            && certificates.signed(&set_of(&attributes.encoded), &self.signature)
    }
}

/// The attributes are signed as a SET OF, in DER, though they stand there as `[0]`.
fn set_of(content: &[u8]) -> Vec<u8> {
    let length = content.len().to_be_bytes();
    let length: Vec<u8> = length.iter().copied().skip_while(|byte| *byte == 0).collect();
    let mut set = vec![0x31];
    match length[..] {
        [] => set.push(0),
        [short] if short < 0x80 => set.push(short),
        _ => {
            // At most 8 of them.
            set.push(0x80 | length.len() as u8);
            set.extend_from_slice(&length);
        }
    }
    set.extend_from_slice(content);
    set
}

fn parse(ber: &[u8]) -> Result<SignedData, DecodeError<std::convert::Infallible>> {
    Mode::Ber.decode(ber, |outer| {
        outer.take_sequence(|outer| {
            must(outer, SIGNED_DATA)?;
            outer.take_constructed_if(Tag::CTX_0, |outer| outer.take_sequence(signed_data))
        })
    })
}

fn signed_data<S: Source>(data: &mut Constructed<'_, S>) -> Result<SignedData, DecodeError<S::Error>> {
    data.skip_u8_if(1)?;
    data.take_set(|algorithms| algorithms.skip_all())?;
    let content = data.take_sequence(|info| {
        must(info, DATA)?;
        info.take_opt_constructed_if(Tag::CTX_0, |content| OctetString::take_from(content))
    })?;
    // Certificates and revocation lists: not believed.
    data.take_opt_constructed_if(Tag::CTX_0, |certificates| certificates.skip_all())?;
    data.take_opt_constructed_if(Tag::CTX_1, |lists| lists.skip_all())?;
    let signers = data.take_set(|set| {
        let mut signers = Vec::new();
        while let Some(signer) = set.take_opt_sequence(signer)? {
            if signers.len() == MOST_SIGNERS {
                return Err(set.content_err("too many signers"));
            }
            signers.push(signer);
        }
        Ok(signers)
    })?;
    Ok(SignedData { content: content.map(|content| content.into_bytes()), signers })
}

fn signer<S: Source>(signer: &mut Constructed<'_, S>) -> Result<Signer, DecodeError<S::Error>> {
    // 1 where the certificate is named by issuer and serial number.
    signer.skip_u8_if(1)?;
    signer.take_sequence(|name| name.skip_all())?;
    signer.take_sequence(|digest| {
        must(digest, SHA_256)?;
        digest.skip_all()
    })?;
    let encoded = signer.take_opt_constructed_if(Tag::CTX_0, |attributes| attributes.capture_all())?;
    let attributes = match encoded {
        Some(encoded) => {
            let (of_data, message_digest) =
                encoded.clone().decode(attributes).map_err(|_| signer.content_err("the attributes are malformed"))?;
            Some(Attributes { encoded: encoded.into_bytes(), of_data, message_digest })
        }
        None => None,
    };
    // RSA by what the certificate's key is; PKCS#1 v1.5 is all that is tried.
    signer.take_sequence(|algorithm| algorithm.skip_all())?;
    let signature = OctetString::take_from(signer)?.into_bytes();
    signer.take_opt_constructed_if(Tag::CTX_1, |unsigned| unsigned.skip_all())?;
    Ok(Signer { attributes, signature })
}

fn attributes<S: Source>(set: &mut Constructed<'_, S>) -> Result<(bool, Option<Bytes>), DecodeError<S::Error>> {
    let (mut of_data, mut message_digest) = (false, None);
    let one = |attribute: &mut Constructed<'_, S>| {
        let kind = Oid::take_from(attribute)?;
        attribute.take_set(|values| {
            if kind == CONTENT_TYPE {
                must(values, DATA)?;
                of_data = true;
            } else if kind == MESSAGE_DIGEST {
                message_digest = Some(OctetString::take_from(values)?.into_bytes());
            } else {
                values.skip_all()?;
            }
            Ok(())
        })
    };
    let mut one = one;
    while set.take_opt_sequence(&mut one)?.is_some() {}
    Ok((of_data, message_digest))
}

fn must<S: Source>(here: &mut Constructed<'_, S>, expected: Oid<&[u8]>) -> Result<(), DecodeError<S::Error>> {
    if Oid::take_from(here)? == expected { Ok(()) } else { Err(here.content_err("another object identifier")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    // Made by `openssl smime -sign` with a key that was thrown away: streamed (BER, as AWS's are), in DER, without
    // the document inside, without attributes, by SHA-512, and by another key that brings its certificate along.
    const CERTIFICATE: &str = include_str!("testdata/certificate.pem");
    const DOCUMENT: &[u8] = include_bytes!("testdata/document.json");
    const BER: &str = include_str!("testdata/ber.txt");
    const GOOD: [&str; 4] = [
        BER,
        include_str!("testdata/der.txt"),
        include_str!("testdata/detached.txt"),
        include_str!("testdata/plain.txt"),
    ];
    const SHA_512: &str = include_str!("testdata/sha512.txt");
    const OTHER_KEY: &str = include_str!("testdata/other.txt");

    fn certificates() -> IdentityCertificates {
        IdentityCertificates::from_pem(CERTIFICATE).unwrap()
    }

    fn launched() -> Timestamp {
        "2026-01-01T00:00:00Z".parse().unwrap()
    }

    fn judge(
        document: &[u8],
        signature: &str,
        change: impl FnOnce(&mut Expected<'_>),
        now: Timestamp,
    ) -> Result<(), ProofFault> {
        let instance = InstanceId::new("i-0123456789abcdef0");
        let address = [10, 0, 0, 1].into();
        let mut expected =
            Expected { instance: &instance, region: "us-east-1", account: Some("123456789012"), address };
        change(&mut expected);
        let proof = DocumentProof { document: document.to_vec(), signature: signature.to_owned() };
        check(&proof, &certificates(), &expected, now)
    }

    #[test]
    fn a_document_that_the_regions_key_signed_is_taken_however_it_is_encoded() {
        for signature in GOOD {
            assert_eq!(judge(DOCUMENT, signature, |_| {}, launched()), Ok(()));
        }
    }

    #[test]
    fn one_that_was_altered_or_that_another_key_signed_is_not() {
        let altered = String::from_utf8_lossy(DOCUMENT).replace("10.0.0.1", "10.0.0.2").into_bytes();
        for signature in GOOD {
            assert_eq!(judge(&altered, signature, |_| {}, launched()), Err(ProofFault::DocumentSignature));
        }
        assert_eq!(judge(DOCUMENT, OTHER_KEY, |_| {}, launched()), Err(ProofFault::DocumentSignature));
        assert_eq!(judge(DOCUMENT, SHA_512, |_| {}, launched()), Err(ProofFault::Form("document signature")));
    }

    #[test]
    fn it_must_be_of_this_very_instance() {
        let other = InstanceId::new("i-1");
        let fault = |change: fn(&mut Expected<'_>)| judge(DOCUMENT, BER, change, launched());
        assert_eq!(
            judge(DOCUMENT, BER, |e| e.region = "eu-west-1", launched()),
            Err(ProofFault::DocumentContent("region"))
        );
        assert_eq!(fault(|e| e.account = Some("1")), Err(ProofFault::DocumentContent("account")));
        assert_eq!(fault(|e| e.account = None), Ok(()));
        assert_eq!(fault(|e| e.address = [10, 0, 0, 2].into()), Err(ProofFault::DocumentContent("address")));
        let proof = DocumentProof { document: DOCUMENT.to_vec(), signature: BER.to_owned() };
        let expected = Expected { instance: &other, region: "us-east-1", account: None, address: [10, 0, 0, 1].into() };
        let judged = check(&proof, &certificates(), &expected, launched());
        assert_eq!(judged, Err(ProofFault::DocumentContent("instance")));
    }

    #[test]
    fn it_is_good_for_five_minutes_after_the_launch() {
        let at = |age| judge(DOCUMENT, BER, |_| {}, launched() + age);
        assert_eq!(at(OLDEST), Ok(()));
        assert_eq!(at(OLDEST + SignedDuration::from_secs(1)), Err(ProofFault::StaleDocument));
        assert_eq!(at(-SKEW), Ok(()));
        assert_eq!(at(-SKEW - SignedDuration::from_secs(1)), Err(ProofFault::StaleDocument));
    }

    #[test]
    fn what_is_too_large_is_not_looked_at() {
        let large = vec![b'x'; LONGEST_DOCUMENT + 1];
        assert_eq!(judge(&large, BER, |_| {}, launched()), Err(ProofFault::Form("document")));
        let large = "A".repeat(LONGEST_SIGNATURE + 1);
        assert_eq!(judge(DOCUMENT, &large, |_| {}, launched()), Err(ProofFault::Form("document signature")));
    }

    #[test]
    fn a_certificate_is_one_of_an_rsa_key_and_there_is_at_least_one() {
        assert!(IdentityCertificates::from_pem(&CERTIFICATE.repeat(2)).is_ok());
        let key = rcgen::KeyPair::generate().unwrap();
        let elliptic = rcgen::CertificateParams::default().self_signed(&key).unwrap().pem();
        for wrong in ["", "nonsense", &elliptic, &CERTIFICATE.replace("MII", "MIJ")] {
            assert!(IdentityCertificates::from_pem(wrong).is_err(), "{wrong}");
        }
    }

    proptest! {
        /// Certificates and such inside may be anything; but what is taken is what was signed.
        #[test]
        fn no_change_of_a_signature_makes_another_document_good(index in any::<prop::sample::Index>(), byte: u8) {
            for signature in GOOD {
                let mut bytes = STANDARD.decode(signature.replace('\n', "")).unwrap();
                let at = index.index(bytes.len());
                bytes[at] = byte;
                let _ = judge(DOCUMENT, &STANDARD.encode(&bytes), |_| {}, launched());
                if let Ok(parsed) = parse(&bytes) {
                    let content = parsed.content.as_deref().unwrap_or(DOCUMENT);
                    let good = parsed.signers.iter().any(|signer| signer.signed(content, &certificates()));
                    prop_assert!(!good || content == DOCUMENT);
                }
            }
        }

        #[test]
        fn whatever_is_sent_is_judged(signature: Vec<u8>, document: Vec<u8>) {
            let judged = judge(&document, &STANDARD.encode(signature), |_| (), launched());
            prop_assert!(judged.is_err());
        }
    }
}
