//! Whether a request that was sent and not answered is sent once more. Pure.
//!
//! ```text
//!   sent --answered-----------------------------------------------------> passed on
//!    ^  \--broken off, or a 502 that Knative's proxies made themselves
//!    |            |
//!    |            +-- not repeatable, too long ago, too many others wait -> 502
//!    +---pause----+
//! ```
//!
//! Behind an activator or a queue-proxy stands a process that may end at any time. Until Kubernetes knows that, and
//! the activator keeps its requests waiting, the proxy in front of it answers 502 in its place. Nothing comes of telling
//! the client: some milliseconds later the same request is kept waiting, and then answered.
//!
//! It may have been carried out all the same, and its answer lost. So only what may be done twice by its method's
//! definition (RFC 9110, 9.2.2) is sent twice, and only without a body: that has passed through and is not kept.

use http::{HeaderMap, Method, StatusCode, header};
use std::time::Duration;

/// The longest that a request is repeated for. Long enough for a process that starts anew: until it listens, its Pod
/// counts as ready, by what its queue-proxy said before.
const LONGEST: Duration = Duration::from_secs(10);
/// The pause before the first repetition; each further one is twice as long, up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(25);
const LONGEST_PAUSE: Duration = Duration::from_millis(400);
/// An error's text. What is longer was written by somebody for somebody.
const LONGEST_TEXT: u64 = 1024;

/// How sending it ended.
#[derive(Clone, Copy, Debug)]
pub enum End<'a> {
    /// No endpoint is ready, or none was reached.
    Unreached,
    /// The connection broke before there was an answer.
    Broken,
    Answer(StatusCode, &'a HeaderMap),
}

/// Why a request is sent once more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    Broken,
    /// A proxy of Knative's did not reach the process behind it.
    Gateway,
}

impl Cause {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Broken => "broken",
            Self::Gateway => "gateway",
        }
    }
}

/// Whether it may be sent twice. `empty`: it has no body; `upgrade`: it asks for another protocol.
pub fn repeatable(method: &Method, empty: bool, upgrade: bool) -> bool {
    empty && !upgrade && method.is_idempotent()
}

/// Why sending it again may help; None: that is the answer. `before`: why it was sent this time, unless it was the first.
pub fn cause(end: End<'_>, before: Option<Cause>) -> Option<Cause> {
    match end {
        // What broke off is not back yet.
        End::Unreached => before,
        End::Broken => Some(Cause::Broken),
        End::Answer(status, headers) => {
            (status == StatusCode::BAD_GATEWAY && is_error_text(headers)).then_some(Cause::Gateway)
        }
    }
}

/// What Go's `http.Error` writes, by which Knative's proxies say why they did not reach their backend: plain text that
/// is not to be taken for anything else, and short. A service's own 502 is seldom like that.
fn is_error_text(headers: &HeaderMap) -> bool {
    let is = |name: &header::HeaderName, value: &str| headers.get(name).is_some_and(|found| found == value);
    let length = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    is(&header::CONTENT_TYPE, "text/plain; charset=utf-8")
        && is(&header::X_CONTENT_TYPE_OPTIONS, "nosniff")
        && length.is_some_and(|length| length <= LONGEST_TEXT)
}

/// How long to wait before it is sent once more; `sent` times it was, `since` the first time this long has passed.
/// None: that was long enough. `random` is uniform: of many that failed together not all come back together.
pub fn pause(sent: u32, since: Duration, random: u32) -> Option<Duration> {
    let doubled = FIRST_PAUSE.saturating_mul(1_u32.checked_shl(sent.saturating_sub(1)).unwrap_or(u32::MAX));
    let most = doubled.min(LONGEST_PAUSE);
    // Half of it is certain.
    let pause = most / 2 + (most / 2).mul_f64(f64::from(random) / f64::from(u32::MAX));
    (since + pause <= LONGEST).then_some(pause)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use proptest::prelude::*;

    fn go_error() -> HeaderMap {
        let of = |(name, value): (header::HeaderName, &'static str)| (name, HeaderValue::from_static(value));
        let all = [
            (header::CONTENT_TYPE, "text/plain; charset=utf-8"),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (header::CONTENT_LENGTH, "58"),
        ];
        all.into_iter().map(of).collect()
    }

    #[test]
    fn what_may_have_been_done_is_repeated_only_if_its_method_allows_that_and_nothing_of_it_is_lost() {
        for method in [Method::GET, Method::HEAD, Method::OPTIONS, Method::TRACE, Method::PUT, Method::DELETE] {
            assert!(repeatable(&method, true, false), "{method}");
            assert!(!repeatable(&method, false, false), "{method} with a body");
            assert!(!repeatable(&method, true, true), "{method} that switches protocols");
        }
        for method in [Method::POST, Method::PATCH, Method::CONNECT, Method::from_bytes(b"PURGE").unwrap()] {
            assert!(!repeatable(&method, true, false), "{method}");
        }
    }

    #[test]
    fn a_502_of_knative_s_proxies_is_no_answer_and_a_service_s_own_is() {
        let gateway = |headers: &HeaderMap| cause(End::Answer(StatusCode::BAD_GATEWAY, headers), None);
        assert_eq!(gateway(&go_error()), Some(Cause::Gateway));
        assert_eq!(gateway(&HeaderMap::new()), None);
        for (name, other) in [
            (header::CONTENT_TYPE, Some("application/json")),
            (header::X_CONTENT_TYPE_OPTIONS, None),
            (header::CONTENT_LENGTH, Some("100000")),
            (header::CONTENT_LENGTH, Some("many")),
            (header::CONTENT_LENGTH, None),
        ] {
            let mut headers = go_error();
            headers.remove(&name);
            headers.extend(other.map(|other| (name.clone(), HeaderValue::from_static(other))));
            assert_eq!(gateway(&headers), None, "{name}: {other:?}");
        }
    }

    #[test]
    fn no_other_status_is_repeated() {
        for status in (100..1000).filter_map(|code| StatusCode::from_u16(code).ok()) {
            let again = cause(End::Answer(status, &go_error()), None).is_some();
            assert_eq!(again, status == StatusCode::BAD_GATEWAY, "{status}");
        }
        assert_eq!(cause(End::Broken, None), Some(Cause::Broken));
    }

    #[test]
    fn that_nobody_is_there_is_an_answer_unless_somebody_just_was() {
        assert_eq!(cause(End::Unreached, None), None);
        for before in [Cause::Broken, Cause::Gateway] {
            assert_eq!(cause(End::Unreached, Some(before)), Some(before));
        }
    }

    proptest! {
        #[test]
        fn repetitions_come_ever_later_and_end(randoms in proptest::collection::vec(any::<u32>(), 1..200)) {
            let (mut since, mut sent) = (Duration::ZERO, 1);
            let mut pauses = Vec::new();
            for random in randoms {
                let Some(pause) = pause(sent, since, random) else { break };
                pauses.push(pause);
                since += pause;
                sent += 1;
            }
            prop_assert!(since <= LONGEST);
            for (index, pause) in (0..).zip(&pauses) {
                // The reference: powers of two, up to the longest.
                let most = (25.0 * 2_f64.powi(index)).min(400.0);
                let millis = pause.as_secs_f64() * 1000.0;
                prop_assert!(millis >= most / 2.0 - 0.01 && millis <= most + 0.01, "{millis} of {most}");
            }
        }

        #[test]
        fn whatever_is_asked_it_ends_in_time(sent in any::<u32>(), millis in 0_u64..20_000, random in any::<u32>()) {
            let since = Duration::from_millis(millis);
            match pause(sent, since, random) {
                Some(pause) => prop_assert!(since + pause <= LONGEST && pause <= LONGEST_PAUSE),
                None => prop_assert!(since + LONGEST_PAUSE > LONGEST),
            }
        }
    }
}
