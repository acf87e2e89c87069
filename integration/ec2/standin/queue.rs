//! SQS, in AWS's JSON 1.0: moto's, with one queue. EventBridge is whoever tells the stand-in of an event.

use super::{authorize, iam::on_queue, moto::Moto, refusal::Refusal, world::World};
use http::HeaderMap;
use serde_json::{Value, json};

const SERVICE: &str = "AmazonSQS.";

/// The operation, if it is one of SQS's.
pub fn asked(headers: &HeaderMap) -> Option<&str> {
    headers.get("x-amz-target")?.to_str().ok()?.strip_prefix(SERVICE)
}

/// As IAM names the right to it (AWS, "Actions, resources, and condition keys for Amazon SQS").
pub fn action(operation: &str) -> &str {
    operation.strip_suffix("Batch").unwrap_or(operation)
}

/// A queue's URL is on whatever host it is asked from; this is the rest of it.
pub async fn seed(moto: &Moto, account: &str, name: &str) -> Result<String, Refusal> {
    call(moto, "CreateQueue", json!({ "QueueName": name })).await?;
    Ok(format!("/{account}/{name}"))
}

/// What EventBridge would put into it.
pub async fn send(world: &World, event: &str) -> Result<(), Refusal> {
    let url = format!("http://sqs{}", world.queue);
    call(&world.moto, "SendMessage", json!({ "QueueUrl": url, "MessageBody": event })).await.map(drop)
}

/// A client's question, signed for SQS.
pub async fn pass_on(world: &World, operation: &str, headers: &HeaderMap, body: &[u8]) -> Result<String, Refusal> {
    let authorization = headers.get("authorization").and_then(|value| value.to_str().ok()).unwrap_or_default();
    if !authorization.contains("/sqs/aws4_request") {
        return Err(Refusal::new("UnrecognizedClientException", "The request is not signed for SQS."));
    }
    let wrong = |_| Refusal::new("InvalidParameterValue", "The body is no JSON.");
    let question: Value = serde_json::from_slice(body).map_err(wrong)?;
    let url = question["QueueUrl"].as_str().unwrap_or_default();
    authorize::other(world, &on_queue(action(operation), &world.region, url))?;
    call(&world.moto, operation, question).await
}

async fn call(moto: &Moto, operation: &str, question: Value) -> Result<String, Refusal> {
    let (status, text) = moto.json("sqs", &format!("{SERVICE}{operation}"), &question.to_string()).await?;
    if status == 200 {
        return Ok(text);
    }
    let fault: Value = serde_json::from_str(&text).unwrap_or_default();
    let kind = fault["__type"].as_str().unwrap_or("InternalError");
    Err(Refusal::new(kind, fault["message"].as_str().unwrap_or(&text)))
}
