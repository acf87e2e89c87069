//! Which instance is it that registers? Answered by what AWS attests.
//!
//! In: the challenge that an agent asks for, its claim, and what the cloud's own list says of the instance
//! claimed. Out: whose the instance is, or why not ([`ClaimError`]).
//!
//! ```text
//!   challenge(peer) -> nonce (nonce.rs), STS's region and host
//!
//!   claim -> decide::admission: launched by us, alive, from its own address, nobody else's, in time
//!         -> the proof
//!              STS       its parts have the right form (sts.rs); the nonce is ours, of this address, fresh,
//!                        not used before; the one request that it can be good for, composed here, goes to
//!                        the fixed endpoint (client.rs); the answer names this very instance
//!              document  signed by the region's key (document.rs), of this instance, five minutes old at most
//!         -> the ledger (ports::ClaimLedger): of two keys one gets it, durably
//! ```
//!
//! The cheap checks come first: who is not at the address of an instance of ours that nobody has claimed makes
//! us neither ask STS nor write to the ledger.
//!
//! What the document proof lacks: it is bound to no nonce, no key and no cluster. Who reads it within five
//! minutes, and can speak from the instance's address before the agent does, has the instance. With STS he
//! would need the role's credentials, at the same moment. So the document is taken only where the
//! configuration names the region's certificate.

mod client;
mod document;
mod nonce;
mod sts;

pub use client::{ClientError, StsClient};
pub use document::{IdentityCertificates, NoCertificate};
pub use sts::{SignedQuestion, StsAnswer};

use crate::decide::admission::{Applicant, Refusal, admit};
use crate::model::{InstanceId, InstanceRecord, InstanceState, bootstrap::binding};
use crate::ports::{
    Challenge, Claim, ClaimError, ClaimLedger, DocumentProof, InstanceProof, ProofFault, StsAudience, StsProof,
};
use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use nonce::{NonceFault, Nonces};
use std::{collections::BTreeSet, net::IpAddr, sync::Arc};
use tokio::sync::Semaphore;

/// Questions to STS at a time: it answers within some 50 ms, so 500 instances that come at once are through
/// after two seconds.
const QUESTIONS: usize = 16;

#[derive(Clone)]
pub struct AttestConfig {
    pub cluster: String,
    pub region: String,
    /// None: of any account. The launch ledger is of one account, and an instance's id exists once in the world.
    pub account: Option<String>,
    /// Whose signature makes an identity document a proof. None: documents are none.
    pub identity_certificates: Option<IdentityCertificates>,
    /// How long after its launch an instance may register for the first time: as the policy has it now.
    pub register_within: Arc<dyn Fn() -> SignedDuration + Send + Sync>,
}

/// What the time is; tests have their own.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// Asks the region's STS, and nobody else, who signed.
#[async_trait]
pub trait AskSts: Send + Sync {
    /// Where it is, as in the Host header.
    fn host(&self) -> &str;
    async fn ask(&self, question: &SignedQuestion) -> Result<StsAnswer, ClientError>;
}

pub struct Attestor {
    config: AttestConfig,
    nonces: Nonces,
    sts: Arc<dyn AskSts>,
    questions: Semaphore,
    ledger: Arc<dyn ClaimLedger>,
    clock: Clock,
}

impl Attestor {
    pub fn new(config: AttestConfig, sts: Arc<dyn AskSts>, ledger: Arc<dyn ClaimLedger>) -> Self {
        Self::with_clock(config, sts, ledger, Arc::new(Timestamp::now))
    }

    pub fn with_clock(config: AttestConfig, sts: Arc<dyn AskSts>, ledger: Arc<dyn ClaimLedger>, clock: Clock) -> Self {
        Self { config, nonces: Nonces::new(&rand::random()), sts, questions: Semaphore::new(QUESTIONS), ledger, clock }
    }

    /// What an agent at this address is to sign.
    pub fn challenge(&self, peer: IpAddr) -> Challenge {
        Challenge {
            nonce: self.nonces.mint(peer, (self.clock)(), rand::random()),
            sts: Some(self.audience()),
            document: self.config.identity_certificates.is_some(),
        }
    }

    /// Settles a claim. `record` is what our own list of instances (those with our tags) says of the one that is
    /// claimed; None: it is not in it.
    pub async fn claim(&self, claim: &Claim, record: Option<InstanceRecord>) -> Result<InstanceRecord, ClaimError> {
        let id = &claim.instance;
        let unsettled = |why: String| ClaimError::Unsettled(id.clone(), why);
        let applicant = Applicant { peer: claim.peer, key: claim.key };
        let admitted = |holder| {
            let now = (self.clock)();
            admit(&applicant, record.as_ref(), holder, (self.config.register_within)(), now)
                .map_err(|refusal| ClaimError::NotAdmitted(id.clone(), refusal))
        };
        let holder = self.ledger.holder(id).await.map_err(|error| unsettled(error.to_string()))?;
        admitted(holder.as_ref())?;
        match &claim.proof {
            InstanceProof::Sts(proof) => self.check_sts(claim, proof).await?,
            InstanceProof::Document(proof) => self.check_document(claim, proof)?,
            InstanceProof::Token(_) => return Err(ClaimError::BadProof(id.clone(), ProofFault::Kind)),
        }
        // Two may have come this far; the ledger lets one of them.
        let holder = self.ledger.claim(id, claim.key).await.map_err(|error| unsettled(error.to_string()))?;
        if holder != claim.key {
            return Err(ClaimError::NotAdmitted(id.clone(), Refusal::OtherKey));
        }
        record.ok_or_else(|| ClaimError::NotAdmitted(id.clone(), Refusal::Unknown))
    }

    /// To be told each whole list of our instances: what is gone for good need not be remembered.
    pub fn listed(&self, records: &[InstanceRecord]) {
        let exists = |record: &&InstanceRecord| record.state != InstanceState::Terminated;
        let existing: BTreeSet<InstanceId> = records.iter().filter(exists).map(|record| record.id.clone()).collect();
        self.ledger.retain(&existing);
    }

    fn audience(&self) -> StsAudience {
        StsAudience { region: self.config.region.clone(), host: self.sts.host().to_owned() }
    }

    async fn check_sts(&self, claim: &Claim, proof: &StsProof) -> Result<(), ClaimError> {
        let id = &claim.instance;
        let bad = |fault| ClaimError::BadProof(id.clone(), fault);
        let unsettled = |why: String| ClaimError::Unsettled(id.clone(), why);
        let binding = binding(&proof.nonce, &claim.key, &self.config.cluster);
        let question = sts::question(&self.audience(), proof, &binding).map_err(bad)?;
        self.nonces.spend(&proof.nonce, claim.peer, (self.clock)()).map_err(|fault| match fault {
            NonceFault::Foreign => bad(ProofFault::ForeignNonce),
            NonceFault::Stale => bad(ProofFault::StaleNonce),
            NonceFault::Used => bad(ProofFault::UsedNonce),
            NonceFault::TooMany => unsettled("too many registrations in a minute".to_owned()),
        })?;
        let _place = self.questions.acquire().await.map_err(|error| unsettled(error.to_string()))?;
        let answer = self.sts.ask(&question).await.map_err(|error| unsettled(error.to_string()))?;
        let caller = match sts::caller(&answer) {
            Ok(caller) => caller,
            Err(sts::NoCaller::Refused(code)) => return Err(bad(ProofFault::Signature(code))),
            Err(sts::NoCaller::NotNow(why)) => return Err(unsettled(why)),
        };
        sts::must_be(&caller, id, self.config.account.as_deref()).map_err(bad)
    }

    fn check_document(&self, claim: &Claim, proof: &DocumentProof) -> Result<(), ClaimError> {
        let bad = |fault| ClaimError::BadProof(claim.instance.clone(), fault);
        let certificates = self.config.identity_certificates.as_ref().ok_or_else(|| bad(ProofFault::Kind))?;
        let expected = document::Expected {
            instance: &claim.instance,
            region: &self.config.region,
            account: self.config.account.as_deref(),
            address: claim.peer,
        };
        document::check(proof, certificates, &expected, (self.clock)()).map_err(bad)
    }
}
