//! What EC2 answers when it does not do what was asked. Source: AWS, "Error codes for the Amazon EC2 API".

use super::xml::{leaf, node, print};
use serde_json::json;
use xmltree::Element;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub code: String,
    pub message: String,
    pub status: u16,
}

impl Refusal {
    pub fn new(code: &str, message: impl Into<String>) -> Self {
        Self { code: code.to_owned(), message: message.into(), status: status_of(code) }
    }

    /// The form of errors of AWS's JSON protocols.
    pub fn json(&self) -> String {
        json!({ "__type": self.code, "message": self.message }).to_string()
    }

    /// The form of errors of the Query protocol for EC2.
    pub fn xml(&self, request_id: &str) -> String {
        let mut root = Element::new("Response");
        let error = node("Error", vec![leaf("Code", &self.code), leaf("Message", &self.message)]);
        root.children = vec![node("Errors", vec![error]), leaf("RequestID", request_id)];
        print(&root)
    }
}

/// Client errors are 400, but for these; those of the server are 500 or 503.
pub fn status_of(code: &str) -> u16 {
    match code {
        "AuthFailure" => 401,
        "UnauthorizedOperation" => 403,
        "DryRunOperation" => 412,
        "InternalError"
        | "InternalFailure"
        | "InsufficientInstanceCapacity"
        | "InsufficientCapacity"
        | "InsufficientHostCapacity"
        | "InsufficientReservedInstanceCapacity" => 500,
        "RequestLimitExceeded" | "Unavailable" | "ServiceUnavailable" => 503,
        _ => 400,
    }
}

pub fn throttled() -> Refusal {
    Refusal::new("RequestLimitExceeded", "Request limit exceeded.")
}

pub fn no_capacity(instance_type: &str, zone: &str) -> Refusal {
    Refusal::new(
        "InsufficientInstanceCapacity",
        format!(
            "We currently do not have sufficient {instance_type} capacity in the Availability Zone you requested ({zone})."
        ),
    )
}

pub fn no_such_instances(ids: &[String]) -> Refusal {
    let (noun, verb) = if ids.len() == 1 { ("ID", "does") } else { ("IDs", "do") };
    Refusal::new("InvalidInstanceID.NotFound", format!("The instance {noun} '{}' {verb} not exist", ids.join(", ")))
}
