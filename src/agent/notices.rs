//! What the cloud announces to this instance: asked for every few seconds, told to the provider whole.
//!
//! ```text
//!   metadata, three documents ──every POLL──> notices ──changed──> session
//!      | one is not answered: what it said last stands, the next question comes as usual
//! ```
//!
//! On EC2 it is the metadata service. On the local cloud the same documents are files under the same paths. Source: AWS,
//! "Instance metadata categories": `spot/instance-action`, `events/recommendations/rebalance`,
//! `events/maintenance/scheduled`; two minutes before an interruption, so it is to be asked every 5 seconds.

use super::imds::{Imds, ImdsError};
use crate::model::Notice;
use jiff::{Timestamp, civil::DateTime, tz::TimeZone};
use serde::Deserialize;
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::PathBuf,
    time::Duration,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// As often as AWS says.
pub const POLL: Duration = Duration::from_secs(5);

const ACTION: &str = "/latest/meta-data/spot/instance-action";
const REBALANCE: &str = "/latest/meta-data/events/recommendations/rebalance";
const MAINTENANCE: &str = "/latest/meta-data/events/maintenance/scheduled";

#[derive(Debug, thiserror::Error)]
enum NoticeError {
    #[error(transparent)]
    Imds(#[from] ImdsError),
    #[error("can't read {0}")]
    File(PathBuf, #[source] io::Error),
    #[error("{path}: {text:?} is not understood: expected {expected}")]
    Content { path: &'static str, text: String, expected: &'static str },
}

/// What a document announces, and one entry of it that is not understood.
type Said = (Vec<Notice>, Option<NoticeError>);

/// Where announcements stand.
pub enum Metadata {
    Imds(Imds),
    /// Files under the service's paths.
    Directory(PathBuf),
}

impl Metadata {
    async fn get(&self, path: &str) -> Result<Option<String>, NoticeError> {
        match self {
            Self::Imds(imds) => Ok(imds.get(path).await?),
            Self::Directory(directory) => {
                let file = directory.join(path.trim_start_matches('/'));
                match tokio::fs::read_to_string(&file).await {
                    Ok(text) => Ok(Some(text)),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                    Err(error) => Err(NoticeError::File(file, error)),
                }
            }
        }
    }

    /// Nothing where it is not there.
    async fn read(&self, document: Document) -> Result<Said, NoticeError> {
        match self.get(document.path()).await? {
            None => Ok((Vec::new(), None)),
            Some(text) => document.understand(&text),
        }
    }
}

/// Each announces by itself: one that can't be read hides nothing of the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Document {
    Action,
    Rebalance,
    Maintenance,
}

impl Document {
    const ALL: [Self; 3] = [Self::Action, Self::Rebalance, Self::Maintenance];

    fn path(self) -> &'static str {
        match self {
            Self::Action => ACTION,
            Self::Rebalance => REBALANCE,
            Self::Maintenance => MAINTENANCE,
        }
    }

    fn understand(self, text: &str) -> Result<Said, NoticeError> {
        match self {
            Self::Action => Ok((vec![action(text)?], None)),
            Self::Rebalance => Ok((vec![rebalance(text)?], None)),
            Self::Maintenance => maintenance(text),
        }
    }
}

/// Asks, `every` so often, until cancelled.
pub async fn watch(metadata: Metadata, every: Duration, known: watch::Sender<Vec<Notice>>, cancel: CancellationToken) {
    let mut tick = tokio::time::interval(every);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut told: BTreeMap<Document, Vec<Notice>> = BTreeMap::new();
    let mut failing = BTreeSet::new();
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            _ = tick.tick() => {}
        }
        for document in Document::ALL {
            let odd = match metadata.read(document).await {
                Ok((notices, odd)) => {
                    told.insert(document, notices);
                    odd
                }
                // What it said last stands.
                Err(error) => Some(error),
            };
            match odd {
                None => drop(failing.remove(&document)),
                // Said once: it is asked for ever.
                Some(error) if failing.insert(document) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::error!(error, "an announcement of the cloud can't be read");
                }
                Some(_) => {}
            }
        }
        let mut notices: Vec<Notice> = told.values().flatten().cloned().collect();
        notices.sort();
        known.send_if_modified(|known| {
            let news = *known != notices;
            if news {
                tracing::warn!(?notices, "the cloud announces");
                *known = notices;
            }
            news
        });
    }
}

#[derive(Deserialize)]
struct Action {
    time: Timestamp,
}

/// Stop and hibernate take the instance away as terminate does: it never runs its Pod again.
fn action(text: &str) -> Result<Notice, NoticeError> {
    let expected = "{\"action\": …, \"time\": \"2026-01-01T00:00:00Z\"}";
    let Action { time } = understood(ACTION, text, expected)?;
    Ok(Notice::Interruption { at: time })
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Recommendation {
    notice_time: Timestamp,
}

fn rebalance(text: &str) -> Result<Notice, NoticeError> {
    let expected = "{\"noticeTime\": \"2026-01-01T00:00:00Z\"}";
    let Recommendation { notice_time } = understood(REBALANCE, text, expected)?;
    Ok(Notice::Rebalance { since: notice_time })
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Event {
    code: String,
    not_before: String,
}

/// Events that are completed or cancelled stand there for a while too.
fn maintenance(text: &str) -> Result<Said, NoticeError> {
    let expected = "[{\"Code\": …, \"NotBefore\": \"21 Jan 2026 09:00:43 GMT\", \"State\": …}, …]";
    let events: Vec<Value> = understood(MAINTENANCE, text, expected)?;
    let notice = |event: &Value| {
        let Event { code, not_before } = Event::deserialize(event).ok()?;
        Some(Notice::Maintenance { code, not_before: date(&not_before)? })
    };
    let (mut notices, mut odd) = (Vec::new(), None);
    for event in events.iter().filter(|event| matches!(event["State"].as_str(), None | Some("" | "active"))) {
        match notice(event) {
            Some(notice) => notices.push(notice),
            None => odd = Some(NoticeError::Content { path: MAINTENANCE, text: event.to_string(), expected }),
        }
    }
    Ok((notices, odd))
}

/// `21 Jan 2026 09:00:43 GMT`
fn date(text: &str) -> Option<Timestamp> {
    let civil = DateTime::strptime("%d %b %Y %H:%M:%S", text.trim().strip_suffix(" GMT")?).ok()?;
    Some(civil.to_zoned(TimeZone::UTC).ok()?.timestamp())
}

fn understood<'t, T: Deserialize<'t>>(
    path: &'static str,
    text: &'t str,
    expected: &'static str,
) -> Result<T, NoticeError> {
    serde_json::from_str(text).map_err(|_| NoticeError::Content { path, text: text.to_owned(), expected })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn put(directory: &std::path::Path, path: &str, text: &str) {
        let file = directory.join(path.trim_start_matches('/'));
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, text).unwrap();
    }

    async fn all(metadata: &Metadata) -> Result<Vec<Notice>, NoticeError> {
        let mut all = Vec::new();
        for document in Document::ALL {
            let (notices, odd) = metadata.read(document).await?;
            all.extend(notices);
            odd.map_or(Ok(()), Err)?;
        }
        Ok(all)
    }

    #[tokio::test]
    async fn a_document_that_is_not_understood_hides_nothing_of_the_others_and_what_it_said_last_stands() {
        let directory = tempfile::tempdir().unwrap();
        let metadata = Metadata::Directory(directory.path().to_owned());
        let (known, mut seen) = watch::channel(Vec::new());
        let cancel = CancellationToken::new();
        let task = tokio::spawn(super::watch(metadata, Duration::from_millis(5), known, cancel.clone()));
        put(directory.path(), REBALANCE, r#"{"noticeTime": "2026-09-18T08:00:00Z"}"#);
        seen.wait_for(|notices| notices.len() == 1).await.unwrap();
        put(directory.path(), REBALANCE, "nonsense");
        put(
            directory.path(),
            MAINTENANCE,
            r#"[{"Code": "x", "NotBefore": "May"}, {"Code": "y", "NotBefore": "21 Jan 2027 09:00:43 GMT"}]"#,
        );
        put(directory.path(), ACTION, r#"{"action": "stop", "time": "2026-09-18T08:22:00Z"}"#);
        let action = Notice::Interruption { at: at("2026-09-18T08:22:00Z") };
        let notices = seen.wait_for(|notices| notices.contains(&action)).await.unwrap().clone();
        assert_eq!(notices.len(), 3, "the new, the event that is understood, and what stood: {notices:?}");
        cancel.cancel();
        task.await.unwrap();
    }

    #[tokio::test]
    async fn what_the_metadata_service_says_becomes_notices() {
        let directory = tempfile::tempdir().unwrap();
        let metadata = Metadata::Directory(directory.path().to_owned());
        assert_eq!(all(&metadata).await.unwrap(), []);
        put(directory.path(), ACTION, r#"{"action": "terminate", "time": "2026-09-18T08:22:00Z"}"#);
        put(directory.path(), REBALANCE, r#"{"noticeTime": "2026-09-18T08:00:00Z"}"#);
        let events = r#"[
          {"NotBefore": "21 Jan 2027 09:00:43 GMT", "Code": "system-reboot", "Description": "scheduled reboot",
           "EventId": "instance-event-0d59937288b749b32", "NotAfter": "21 Jan 2027 09:17:23 GMT", "State": "active"},
          {"NotBefore": "22 Jan 2027 09:00:43 GMT", "Code": "instance-stop", "EventId": "e", "State": "canceled"},
          {"Code": "system-maintenance", "EventId": "f", "State": "completed"}]"#;
        put(directory.path(), MAINTENANCE, events);
        let expected = [
            Notice::Interruption { at: at("2026-09-18T08:22:00Z") },
            Notice::Rebalance { since: at("2026-09-18T08:00:00Z") },
            Notice::Maintenance { code: "system-reboot".to_owned(), not_before: at("2027-01-21T09:00:43Z") },
        ];
        assert_eq!(all(&metadata).await.unwrap(), expected);
    }

    #[tokio::test]
    async fn what_is_not_understood_is_said_with_its_path_and_text() {
        for (path, text) in
            [(ACTION, "soon"), (REBALANCE, "{}"), (MAINTENANCE, r#"[{"Code": "x", "NotBefore": "May"}]"#)]
        {
            let directory = tempfile::tempdir().unwrap();
            put(directory.path(), path, text);
            let error = all(&Metadata::Directory(directory.path().to_owned())).await.unwrap_err().to_string();
            assert!(error.contains(path) && error.contains("expected"), "{error}");
        }
    }

    #[tokio::test]
    async fn a_notice_that_is_withdrawn_is_told_too_and_what_cant_be_read_does_not_end_the_watch() {
        let directory = tempfile::tempdir().unwrap();
        let metadata = Metadata::Directory(directory.path().to_owned());
        let (known, mut seen) = watch::channel(Vec::new());
        let cancel = CancellationToken::new();
        let task = tokio::spawn(super::watch(metadata, Duration::from_millis(5), known, cancel.clone()));
        put(directory.path(), ACTION, "nonsense");
        put(directory.path(), REBALANCE, r#"{"noticeTime": "2026-09-18T08:00:00Z"}"#);
        put(directory.path(), ACTION, r#"{"action": "stop", "time": "2026-09-18T08:22:00Z"}"#);
        seen.wait_for(|notices| notices.len() == 2).await.unwrap();
        for path in [ACTION, REBALANCE] {
            fs::remove_file(directory.path().join(path.trim_start_matches('/'))).unwrap();
        }
        seen.wait_for(Vec::is_empty).await.unwrap();
        cancel.cancel();
        task.await.unwrap();
    }
}
