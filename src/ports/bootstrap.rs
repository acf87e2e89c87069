//! How a machine proves which instance it is, and where it is kept whose an instance is.

use crate::decide::admission::Refusal;
use crate::model::{InstanceId, bootstrap::KeyFingerprint};
use async_trait::async_trait;
use std::{collections::BTreeSet, net::IpAddr};

/// What a machine is to sign, and what it may prove with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Challenge {
    pub nonce: Vec<u8>,
    /// None: not accepted.
    pub sts: Option<StsAudience>,
    /// Whether the identity document will do.
    pub document: bool,
}

/// For whom a request to STS is signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StsAudience {
    pub region: String,
    /// As in the Host header.
    pub host: String,
}

/// A registration. Its parts are as the sender wrote them, but for the address and the key, which the
/// connection and the signing request vouch for.
#[derive(Clone)]
pub struct Claim {
    pub instance: InstanceId,
    pub peer: IpAddr,
    pub key: KeyFingerprint,
    pub proof: InstanceProof,
}

/// What a machine says to prove which instance it is. Has no Debug: it holds secrets.
#[derive(Clone)]
pub enum InstanceProof {
    /// The local cloud's token.
    Token(String),
    Sts(StsProof),
    Document(DocumentProof),
}

/// The variable parts of a signed GetCallerIdentity ([`crate::model::bootstrap`]).
#[derive(Clone)]
pub struct StsProof {
    pub nonce: Vec<u8>,
    pub access_key_id: String,
    pub date: String,
    pub session_token: String,
    pub signature: Vec<u8>,
}

/// EC2's identity document with its PKCS#7 signature (base64).
#[derive(Clone)]
pub struct DocumentProof {
    pub document: Vec<u8>,
    pub signature: String,
}

/// Classified by what the caller does about it: refuse, refuse, ask to come again.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ClaimError {
    #[error("instance {0} is not to be had: {1}")]
    NotAdmitted(InstanceId, #[source] Refusal),
    #[error("the proof for instance {0} is not accepted: {1}")]
    BadProof(InstanceId, #[source] ProofFault),
    /// Nothing is wrong with the claim, as far as is known.
    #[error("the claim for instance {0} can't be settled now: {1}")]
    Unsettled(InstanceId, String),
}

/// What is wrong with a proof. Its text is for our own log: it holds no secret, and no sender sees it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProofFault {
    #[error("proofs of this kind are not taken here")]
    Kind,
    #[error("its {0} is not of the right form")]
    Form(&'static str),
    #[error("the token is wrong")]
    Token,
    #[error("the nonce is not one of ours, or was given to another address")]
    ForeignNonce,
    #[error("the nonce is too old")]
    StaleNonce,
    #[error("the nonce was used before")]
    UsedNonce,
    /// With STS's error code.
    #[error("STS does not take the signature: {0}")]
    Signature(String),
    #[error("STS says that it was signed by {0}")]
    OtherIdentity(String),
    #[error("it is of account {0}")]
    OtherAccount(String),
    #[error("the identity document is not signed by the region's key")]
    DocumentSignature,
    #[error("the identity document has another {0}")]
    DocumentContent(&'static str),
    #[error("the identity document is too old")]
    StaleDocument,
}

impl ProofFault {
    fn reason(&self) -> &'static str {
        match self {
            Self::Kind => "proof-kind",
            Self::Form(_) => "malformed",
            Self::Token => "wrong-token",
            Self::ForeignNonce => "foreign-nonce",
            Self::StaleNonce => "stale-nonce",
            Self::UsedNonce => "used-nonce",
            Self::Signature(_) => "wrong-signature",
            Self::OtherIdentity(_) => "other-identity",
            Self::OtherAccount(_) => "other-account",
            Self::DocumentSignature => "wrong-document-signature",
            Self::DocumentContent(_) => "other-document",
            Self::StaleDocument => "stale-document",
        }
    }
}

impl ClaimError {
    /// For a metric's label: a few fixed words.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NotAdmitted(_, refusal) => refusal.reason(),
            Self::BadProof(_, fault) => fault.reason(),
            Self::Unsettled(..) => "unsettled",
        }
    }
}

/// Whose each instance is. It survives the provider, and is one for all replicas: of two that claim an
/// instance at a time, wherever, one gets it.
#[async_trait]
pub trait ClaimLedger: Send + Sync {
    /// Whose it was when last looked; [`ClaimLedger::claim`] has the last word.
    async fn holder(&self, instance: &InstanceId) -> Result<Option<KeyFingerprint>, LedgerError>;
    /// Makes it this key's if it is nobody's. Returns whose it is, once that is durable.
    async fn claim(&self, instance: &InstanceId, key: KeyFingerprint) -> Result<KeyFingerprint, LedgerError>;
    /// Forgets, some time later, what is not among these. Only of instances that are gone for good: they
    /// could be claimed again.
    fn retain(&self, existing: &BTreeSet<InstanceId>);
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the claims can't be {operation}: {message}")]
pub struct LedgerError {
    pub operation: &'static str,
    pub message: String,
}
