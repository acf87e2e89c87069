//! Query parameters as the kubelet reads them: pure.
//! Sources: k8s.io/kubelet/pkg/cri/streaming/remotecommand (NewOptions), pkg/kubelet/server/server.go
//! (getContainerLogs), pkg/apis/core/validation (ValidatePodLogOptions).

use crate::model::{LogOptions, Streams};
use http::StatusCode;
use jiff::{SignedDuration, Timestamp};

/// Name and value, in their order, decoded.
pub(super) type Query = [(String, String)];

#[derive(Debug, PartialEq, Eq)]
pub(super) struct BadOptions {
    pub status: StatusCode,
    pub message: &'static str,
}

fn first<'a>(query: &'a Query, name: &str) -> Option<&'a str> {
    query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
}

pub(super) fn streams(query: &Query) -> Result<Streams, BadOptions> {
    // kube-apiserver translates `stdin=true` to `input=1`; a direct caller may use either.
    let on = |names: &[&str]| {
        names.iter().filter_map(|name| first(query, name)).any(|value| value == "1" || value == "true")
    };
    let mut streams = Streams {
        stdin: on(&["input", "stdin"]),
        stdout: on(&["output", "stdout"]),
        stderr: on(&["error", "stderr"]),
        tty: on(&["tty"]),
    };
    // A terminal has one output; the runtime refuses the pair, the kubelet drops stderr.
    streams.stderr &= !streams.tty;
    if !streams.stdin && !streams.stdout && !streams.stderr {
        let message = "you must specify at least 1 of stdin, stdout, stderr";
        return Err(BadOptions { status: StatusCode::BAD_REQUEST, message });
    }
    Ok(streams)
}

pub(super) fn command(query: &Query) -> Vec<String> {
    query.iter().filter(|(key, _)| key == "command").map(|(_, value)| value.clone()).collect()
}

/// `port`, repeated, each a list: only WebSocket clients say it here; SPDY clients on their streams.
pub(super) fn ports(query: &Query) -> Result<Vec<u16>, BadOptions> {
    let bad =
        BadOptions { status: StatusCode::BAD_REQUEST, message: "query parameter \"port\" is not a list of ports" };
    let listed = query.iter().filter(|(key, _)| key == "port").flat_map(|(_, value)| value.split(','));
    listed.map(|port| port.parse().ok().filter(|port| *port != 0)).collect::<Option<_>>().ok_or(bad)
}

pub(super) fn logs(query: &Query, now: Timestamp) -> Result<LogOptions, BadOptions> {
    let undecodable =
        || BadOptions { status: StatusCode::BAD_REQUEST, message: "{\"message\": \"Unable to decode query.\"}" };
    let invalid =
        || BadOptions { status: StatusCode::UNPROCESSABLE_ENTITY, message: "{\"message\": \"Invalid request.\"}" };
    // Go's conversion of query values to bool: only "0" and "false" say no.
    let flag = |name| first(query, name).is_some_and(|value| value != "0" && !value.eq_ignore_ascii_case("false"));
    let number = |name| match first(query, name) {
        None | Some("") => Ok(None),
        Some(text) => text.parse::<i64>().map(Some).map_err(|_| undecodable()),
    };
    let at_least = |number: Option<i64>, least: i64| match number {
        Some(number) if number < least => Err(invalid()),
        Some(number) => Ok(u64::try_from(number).ok()),
        None => Ok(None),
    };
    let tail = match first(query, "tail") {
        // The old name, where "all" is the same as nothing.
        Some("all") => None,
        Some(text) if !text.is_empty() => Some(text.parse::<i64>().map_err(|_| undecodable())?),
        _ => number("tailLines")?,
    };
    let since_time = match first(query, "sinceTime") {
        None | Some("" | "null") => None,
        Some(text) => Some(text.parse::<Timestamp>().map_err(|_| undecodable())?),
    };
    let (since_seconds, limit) = (number("sinceSeconds")?, number("limitBytes")?);
    let stream = first(query, "stream").filter(|stream| !stream.is_empty());

    let tail_lines = at_least(tail, 0)?;
    let limit_bytes = at_least(limit, 1)?;
    let since_seconds = at_least(since_seconds, 1)?;
    if since_seconds.is_some() && since_time.is_some() {
        return Err(invalid());
    }
    if stream.is_some_and(|stream| !["All", "Stdout", "Stderr"].contains(&stream)) {
        return Err(invalid());
    }
    if tail_lines.is_some() && stream.is_some_and(|stream| stream != "All") {
        return Err(invalid());
    }
    let ago = |seconds: u64| {
        let duration = SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(i64::MAX));
        now.checked_sub(duration).unwrap_or(Timestamp::MIN)
    };
    Ok(LogOptions {
        follow: flag("follow"),
        previous: flag("previous"),
        timestamps: flag("timestamps"),
        tail_lines,
        since: since_time.or(since_seconds.map(ago)),
        limit_bytes,
        stream: stream.filter(|stream| *stream != "All").map(str::to_owned),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(text: &str) -> Vec<(String, String)> {
        let pairs = text.split('&').filter(|pair| !pair.is_empty());
        pairs.map(|pair| pair.split_once('=').unwrap_or((pair, ""))).map(|(k, v)| (k.into(), v.into())).collect()
    }

    #[test]
    fn streams_are_read_in_both_spellings_and_a_terminal_has_no_stderr() {
        let read = |text| streams(&query(text)).map(|s| (s.stdin, s.stdout, s.stderr, s.tty));
        assert_eq!(read("input=1&output=1&error=1"), Ok((true, true, true, false)));
        assert_eq!(read("stdin=true&stdout=true&tty=true&stderr=true"), Ok((true, true, false, true)));
        for nothing in ["", "tty=1", "tty=1&error=1", "output=0", "output=yes"] {
            assert_eq!(read(nothing).unwrap_err().status, StatusCode::BAD_REQUEST, "{nothing}");
        }
        assert_eq!(command(&query("command=sh&x=1&command=-c")), ["sh", "-c"]);
        assert_eq!(ports(&query("port=80&port=81,82")), Ok(vec![80, 81, 82]));
        assert!(ports(&query("port=0")).is_err() && ports(&query("port=x")).is_err());
        assert_eq!(ports(&query("")), Ok(vec![]));
    }

    #[test]
    fn log_options_are_read_as_kubectl_sends_them() {
        let now: Timestamp = "2026-01-02T00:00:00Z".parse().unwrap();
        let read =
            logs(&query("follow=true&previous=0&timestamps&tailLines=10&limitBytes=5&sinceSeconds=60"), now).unwrap();
        assert_eq!((read.follow, read.previous, read.timestamps), (true, false, true));
        assert_eq!((read.tail_lines, read.limit_bytes), (Some(10), Some(5)));
        assert_eq!(read.since, Some("2026-01-01T23:59:00Z".parse().unwrap()));
        let read = logs(&query("sinceTime=2026-01-01T00:00:00Z&stream=Stderr"), now).unwrap();
        assert_eq!(
            (read.since.unwrap().to_string(), read.stream.as_deref()),
            ("2026-01-01T00:00:00Z".into(), Some("Stderr"))
        );
        assert_eq!(logs(&query("tail=all&stream=All"), now), Ok(LogOptions::default()));
        assert_eq!(logs(&query("tail=3"), now).unwrap().tail_lines, Some(3));
    }

    #[test]
    fn bad_log_options_are_told_apart_as_the_kubelet_does() {
        let now = Timestamp::UNIX_EPOCH;
        for (text, status) in [
            ("tailLines=x", 400),
            ("sinceTime=yesterday", 400),
            ("tailLines=-1", 422),
            ("limitBytes=0", 422),
            ("sinceSeconds=0", 422),
            ("sinceSeconds=1&sinceTime=2026-01-01T00:00:00Z", 422),
            ("stream=stdout", 422),
            ("stream=Stdout&tailLines=1", 422),
        ] {
            assert_eq!(logs(&query(text), now).unwrap_err().status.as_u16(), status, "{text}");
        }
        assert!(logs(&query("sinceSeconds=9223372036854775807"), now).is_ok());
    }
}
