//! An event of EventBridge's, as SQS delivers it. Pure.
//!
//! | `detail-type` | of | becomes |
//! |---|---|---|
//! | `EC2 Spot Instance Interruption Warning` | `aws.ec2` | `Interruption`, two minutes after the event; at once for hibernation |
//! | `EC2 Instance Rebalance Recommendation` | `aws.ec2` | `Rebalance` |
//! | `AWS Health Event`, category `scheduledChange` | `aws.health` | `Maintenance` for each affected instance; nothing where it says that it is over |
//! | any other | | nothing |
//!
//! Sources: AWS, "Spot Instance interruption notices", "EC2 instance rebalance recommendations", "Reference: AWS Health
//! events Amazon EventBridge schema".

use crate::cloud::ec2::records::is_instance_id;
use crate::model::{Announced, InstanceId, Notice};
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use serde_json::Value;

/// From the event until the instance is taken.
const WARNING: SignedDuration = SignedDuration::from_mins(2);

#[derive(Debug, thiserror::Error)]
pub enum EventError {
    #[error("it is no event of EventBridge's: {0}")]
    Envelope(serde_json::Error),
    #[error("{detail_type}: detail.{field} is {value}: expected {expected}")]
    Detail { detail_type: String, field: &'static str, value: Value, expected: &'static str },
}

/// What an event says. `kind` is for counting.
#[derive(Debug, PartialEq, Eq)]
pub struct Read {
    pub kind: &'static str,
    pub announced: Vec<Announced>,
}

#[derive(Deserialize)]
struct Envelope {
    #[serde(rename = "detail-type")]
    detail_type: String,
    time: Timestamp,
    #[serde(default)]
    detail: Value,
}

/// What it announces, of which instances (not all of which are ours).
pub fn announced(body: &str) -> Result<Read, EventError> {
    let event: Envelope = serde_json::from_str(body).map_err(EventError::Envelope)?;
    let one = |kind, notice| -> Result<Read, EventError> {
        Ok(Read { kind, announced: vec![Announced { instance: event.instance()?, notice }] })
    };
    match event.detail_type.as_str() {
        "EC2 Spot Instance Interruption Warning" => {
            let at_once = event.detail["instance-action"] == "hibernate";
            let warning = if at_once { SignedDuration::ZERO } else { WARNING };
            one("interruption", Notice::Interruption { at: event.time.saturating_add(warning).unwrap_or(event.time) })
        }
        "EC2 Instance Rebalance Recommendation" => one("rebalance", Notice::Rebalance { since: event.time }),
        "AWS Health Event" if event.detail["eventTypeCategory"] == "scheduledChange" => event.maintenance(),
        _ => Ok(Read { kind: "ignored", announced: Vec::new() }),
    }
}

impl Envelope {
    fn wrong(&self, field: &'static str, expected: &'static str) -> EventError {
        let value = self.detail[field].clone();
        EventError::Detail { detail_type: self.detail_type.clone(), field, value, expected }
    }

    fn instance(&self) -> Result<InstanceId, EventError> {
        let id = self.detail["instance-id"].as_str().filter(|id| is_instance_id(id));
        id.map(InstanceId::new).ok_or_else(|| self.wrong("instance-id", "an instance's id"))
    }

    /// It is of instances where it is EC2's; of volumes, say, otherwise.
    fn maintenance(&self) -> Result<Read, EventError> {
        let affected = self.detail["affectedEntities"].as_array().map(Vec::as_slice).unwrap_or_default();
        // "open", "upcoming", "closed"; of an entity "PENDING", "RESOLVED", …: each change of a state is an event again.
        let over = |state: &Value, word: &str| state.as_str().is_some_and(|state| state.eq_ignore_ascii_case(word));
        let stands = affected.iter().filter(|entity| !over(&entity["status"], "resolved"));
        let ids: Vec<&str> =
            stands.filter_map(|entity| entity["entityValue"].as_str()).filter(|id| is_instance_id(id)).collect();
        if self.detail["service"] != "EC2" || over(&self.detail["statusCode"], "closed") || ids.is_empty() {
            return Ok(Read { kind: "ignored", announced: Vec::new() });
        }
        let code = self.detail["eventTypeCode"].as_str().unwrap_or("scheduled-change");
        let start = self.detail["startTime"].as_str().and_then(date);
        let not_before =
            start.ok_or_else(|| self.wrong("startTime", "a time such as Sat, 05 Jun 2027 15:10:09 GMT"))?;
        let notice = Notice::Maintenance { code: code.to_owned(), not_before };
        let announced =
            ids.into_iter().map(|id| Announced { instance: InstanceId::new(id), notice: notice.clone() }).collect();
        Ok(Read { kind: "maintenance", announced })
    }
}

/// As HTTP writes it.
fn date(text: &str) -> Option<Timestamp> {
    jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const ID: &str = "i-1234567890abcdef0";

    fn event(detail_type: &str, detail: Value) -> String {
        json!({
            "version": "0", "id": "12345678-1234-1234-1234-123456789012", "detail-type": detail_type,
            "source": "aws.ec2", "account": "123456789012", "time": "2027-01-01T00:00:00Z", "region": "us-east-1",
            "resources": [], "detail": detail,
        })
        .to_string()
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn only(read: Read) -> (String, Notice) {
        let [Announced { instance, notice }] = <[_; 1]>::try_from(read.announced).unwrap();
        (instance.to_string(), notice)
    }

    #[test]
    fn a_spot_warning_leaves_two_minutes_and_hibernation_none() {
        for (action, ends) in [
            ("terminate", "2027-01-01T00:02:00Z"),
            ("stop", "2027-01-01T00:02:00Z"),
            ("hibernate", "2027-01-01T00:00:00Z"),
        ] {
            let body = event(
                "EC2 Spot Instance Interruption Warning",
                json!({ "instance-id": ID, "instance-action": action }),
            );
            let read = announced(&body).unwrap();
            assert_eq!(read.kind, "interruption");
            assert_eq!(only(read), (ID.to_owned(), Notice::Interruption { at: at(ends) }), "{action}");
        }
    }

    #[test]
    fn a_rebalance_recommendation_stands_since_its_event() {
        let read = announced(&event("EC2 Instance Rebalance Recommendation", json!({ "instance-id": ID }))).unwrap();
        assert_eq!(only(read).1, Notice::Rebalance { since: at("2027-01-01T00:00:00Z") });
    }

    #[test]
    fn a_scheduled_change_is_announced_to_each_instance_it_affects_and_to_nothing_else() {
        let change = |service: &str, category: &str| {
            json!({
                "eventArn": "arn:aws:health:us-east-1::event/EC2/X", "service": service, "eventTypeCategory": category,
                "eventTypeCode": "AWS_EC2_INSTANCE_RETIREMENT_SCHEDULED", "startTime": "Sat, 05 Jun 2027 15:10:09 GMT",
                "affectedEntities": [{ "entityValue": ID }, { "entityValue": "vol-0123" }, { "entityValue": "i-0123456a" }],
            })
        };
        let read = announced(&event("AWS Health Event", change("EC2", "scheduledChange"))).unwrap();
        let code = "AWS_EC2_INSTANCE_RETIREMENT_SCHEDULED".to_owned();
        let notice = Notice::Maintenance { code, not_before: at("2027-06-05T15:10:09Z") };
        let ids: Vec<_> = read.announced.iter().map(|a| (a.instance.as_str(), &a.notice)).collect();
        assert_eq!(ids, [(ID, &notice), ("i-0123456a", &notice)]);
        for (service, category) in [("EC2", "issue"), ("EBS", "scheduledChange")] {
            let read = announced(&event("AWS Health Event", change(service, category))).unwrap();
            assert_eq!(read, Read { kind: "ignored", announced: Vec::new() });
        }
    }

    #[test]
    fn a_scheduled_change_that_is_over_is_announced_to_nobody() {
        let change = |status: &str, of_the_instance: &str| {
            let detail = json!({
                "service": "EC2", "eventTypeCategory": "scheduledChange", "statusCode": status,
                "eventTypeCode": "AWS_EC2_INSTANCE_REBOOT_MAINTENANCE_SCHEDULED",
                "startTime": "Sat, 05 Jun 2027 15:10:09 GMT",
                "affectedEntities": [{ "entityValue": ID, "status": of_the_instance }],
            });
            announced(&event("AWS Health Event", detail)).unwrap().announced.len()
        };
        assert_eq!((change("upcoming", "PENDING"), change("open", "IMPAIRED")), (1, 1));
        assert_eq!((change("closed", "PENDING"), change("open", "RESOLVED")), (0, 0));
    }

    #[test]
    fn what_else_happens_in_an_account_is_no_announcement() {
        let body =
            event("EC2 Instance State-change Notification", json!({ "instance-id": ID, "state": "shutting-down" }));
        assert_eq!(announced(&body).unwrap().announced, []);
    }

    #[test]
    fn what_is_not_understood_is_named_with_its_field_and_value() {
        for (body, parts) in [
            ("hello".to_owned(), ["no event", "expected"]),
            ("{}".to_owned(), ["no event", "detail-type"]),
            (
                event("EC2 Instance Rebalance Recommendation", json!({})),
                ["detail.instance-id is null", "an instance's id"],
            ),
            (
                event("EC2 Spot Instance Interruption Warning", json!({ "instance-id": "../../etc" })),
                ["detail.instance-id is \"../../etc\"", "an instance's id"],
            ),
            (
                event(
                    "AWS Health Event",
                    json!({
                        "service": "EC2", "eventTypeCategory": "scheduledChange", "startTime": "soon",
                        "affectedEntities": [{ "entityValue": ID }],
                    }),
                ),
                ["detail.startTime is \"soon\"", "05 Jun"],
            ),
        ] {
            let error = announced(&body).unwrap_err().to_string();
            assert!(parts.iter().all(|part| error.contains(part)), "{body}: {error}");
        }
    }
}
