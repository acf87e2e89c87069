//! The second way to hear what EC2 announces: EventBridge's events, through a queue of SQS.
//!
//! ```text
//!  EventBridge --rules--> SQS --ReceiveMessage--> event ──> notices ──> the reconciler ──> DeleteMessageBatch
//!                           ^      (20 s long)      | not understood, or no notice: counted, and deleted too
//!                           |                       |
//!                           +--- shown again -------+--- a crash before the deletion
//! ```
//!
//! The first way is the agent, which asks its metadata service: nearer, exact, and it says what was withdrawn. This one
//! hears of an instance whose agent can't speak. One queue serves one cluster: who receives a message, deletes it.
//! `manifests/aws/interruption-queue.yaml` makes both ends of it.
//!
//! Sources: AWS, "Amazon SQS API Reference" (ReceiveMessage, DeleteMessageBatch), "Using AWS JSON protocol"; for the
//! events, [`event`].

pub mod event;

use super::{
    endpoint::{Endpoint, EndpointError},
    json_service::JsonService,
    refusal::{Refusal, Verdict},
};
use crate::{ports::AgentUpdate, retry::Backoff, telemetry::Metrics};
use aws_credential_types::provider::SharedCredentialsProvider;
use serde::Deserialize;
use serde_json::json;
use std::time::Duration;
use tokio::sync::mpsc;

/// The longest that SQS waits for a message.
const WAITS_SECONDS: u32 = 20;
/// Beyond that, an answer is late.
const TIMEOUT: Duration = Duration::from_secs(30);
/// A message that was not deleted is shown again: a spot notice is two minutes long.
const SHOWN_AGAIN_SECONDS: u32 = 20;
/// The most that one answer has.
const MESSAGES: usize = 10;
/// A message has at most 1 MiB (AWS, "Amazon SQS message quotas"); escaped in JSON it may be somewhat longer.
const LONGEST_ANSWER: usize = 16 << 20;
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

pub struct Queue {
    service: JsonService,
    url: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Received {
    /// Missing where there are none.
    #[serde(default)]
    messages: Vec<Message>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Message {
    receipt_handle: String,
    body: String,
}

/// What could not be deleted is shown again, and told again: that changes nothing.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Deleted {
    #[serde(default)]
    failed: Vec<serde_json::Value>,
}

impl Queue {
    /// `url` is the queue's, as SQS names it: `https://sqs.<region>.amazonaws.com/<account>/<name>`.
    pub fn new(url: &str, region: &str, credentials: SharedCredentialsProvider) -> Result<Self, EndpointError> {
        let wrong = || EndpointError::Endpoint(url.to_owned());
        let path =
            url.find("://").and_then(|scheme| Some(scheme + 3 + url[scheme + 3..].find('/')?)).ok_or_else(wrong)?;
        let endpoint = Endpoint::at(&url[..path], TIMEOUT, LONGEST_ANSWER)?;
        let content_type = "application/x-amz-json-1.0";
        let service = JsonService { endpoint, service: "sqs", region: region.to_owned(), content_type, credentials };
        Ok(Self { service, url: url.to_owned() })
    }

    /// Whether messages may be received. Those that are there stay visible to others.
    pub async fn may_ask(&self) -> Result<(), Refusal> {
        self.receive(1, 0, 0).await.map(drop)
    }

    async fn receive(&self, most: usize, waits: u32, hidden: u32) -> Result<Vec<Message>, Refusal> {
        let question = json!({
            "QueueUrl": self.url, "MaxNumberOfMessages": most, "WaitTimeSeconds": waits, "VisibilityTimeout": hidden,
        });
        let answer = self.service.call("AmazonSQS.ReceiveMessage", &question).await?;
        let received: Received = serde_json::from_slice(&answer)
            .map_err(|error| Refusal::unanswered(format!("the queue's answer is not understood: {error}")))?;
        Ok(received.messages)
    }

    async fn delete(&self, messages: &[Message]) -> Result<(), Refusal> {
        let entries = messages.iter().enumerate();
        let entries: Vec<_> = entries
            .map(|(n, message)| json!({ "Id": n.to_string(), "ReceiptHandle": message.receipt_handle }))
            .collect();
        let question = json!({ "QueueUrl": self.url, "Entries": entries });
        let answer = self.service.call("AmazonSQS.DeleteMessageBatch", &question).await?;
        match serde_json::from_slice(&answer) {
            Ok(Deleted { failed }) if failed.is_empty() => Ok(()),
            Ok(Deleted { failed }) => Err(Refusal::unanswered(format!("{} messages were not deleted", failed.len()))),
            Err(error) => Err(Refusal::unanswered(format!("the queue's answer is not understood: {error}"))),
        }
    }

    /// Receives for ever, until nobody takes updates any more. To be dropped to end it.
    pub async fn run(self, updates: mpsc::Sender<AgentUpdate>, metrics: Metrics) {
        let mut pauses = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        // Said when it changes: it is asked for ever.
        let mut said = None;
        loop {
            match self.pass(&updates, &metrics).await {
                Ok(true) => {
                    pauses.reset();
                    if said.take().is_some() {
                        tracing::info!(queue = self.url, "the queue answers again");
                    }
                }
                Ok(false) => return,
                Err(refusal) => {
                    if said.as_ref() != Some(&refusal.code) {
                        let denied = refusal.verdict == Verdict::Denied;
                        tracing::warn!(queue = self.url, %refusal, denied, "announcements can't be received from the queue");
                        said = Some(refusal.code);
                    }
                    tokio::time::sleep(pauses.next_wait()).await;
                }
            }
        }
    }

    /// One answer's messages. False: nobody takes them.
    async fn pass(&self, updates: &mpsc::Sender<AgentUpdate>, metrics: &Metrics) -> Result<bool, Refusal> {
        let messages = self.receive(MESSAGES, WAITS_SECONDS, SHOWN_AGAIN_SECONDS).await?;
        if messages.is_empty() {
            return Ok(true);
        }
        for message in &messages {
            match event::announced(&message.body) {
                Ok(read) => {
                    metrics.cloud_event(read.kind);
                    for announced in read.announced {
                        if updates.send(AgentUpdate::Announced(announced)).await.is_err() {
                            return Ok(false);
                        }
                    }
                }
                Err(error) => {
                    metrics.cloud_event("not-understood");
                    tracing::warn!(%error, "a message of the queue is no event of EventBridge's that is understood; deleted");
                }
            }
        }
        // At the latest now it is with the reconciler's queue: what is lost in a crash from here on, agents say again.
        self.delete(&messages).await.map(|()| true)
    }
}
