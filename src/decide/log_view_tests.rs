use super::*;
use crate::model::{ContainerKind, Generation, PodUid};
use proptest::prelude::*;

/// A reader in the simplest words: the whole log at once, each option over the whole of it.
fn naive(log: &[u8], options: &LogOptions) -> Vec<u8> {
    let text = log.strip_suffix(b"\n").unwrap_or(log);
    let mut lines: Vec<&[u8]> = if log.is_empty() { vec![] } else { text.split(|byte| *byte == b'\n').collect() };
    let wanted = LogSource::wanted(options.stream.as_deref());
    if wanted.is_some() {
        lines.retain(|line| parse_line(line).map(|line| line.source) == wanted);
    }
    if let Some(tail) = options.tail_lines {
        let skip = lines.len().saturating_sub(tail as usize);
        lines.drain(..skip);
    }
    let mut out = vec![];
    let (mut begins_stdout, mut begins_stderr) = (true, true);
    for line in lines.into_iter().filter_map(parse_line) {
        let begins = if line.source == LogSource::Stdout { &mut begins_stdout } else { &mut begins_stderr };
        let prefix = if options.timestamps && *begins { format!("{:.9} ", line.at) } else { String::new() };
        *begins = !line.partial;
        if options.since.is_none_or(|since| line.at >= since) {
            out.extend([prefix.as_bytes(), line.text, if line.partial { b"" } else { b"\n" }].concat());
        }
    }
    out.truncate(options.limit_bytes.map_or(usize::MAX, |limit| limit as usize));
    out
}

/// The real thing, as the agent drives it: backwards in blocks for the tail, then forwards.
fn viewed(log: &[u8], options: &LogOptions, block: usize) -> Vec<u8> {
    let source = LogSource::wanted(options.stream.as_deref());
    let mut start = 0;
    match options.tail_lines {
        Some(0) => start = log.len(),
        Some(tail) => {
            let mut finder = TailFinder::new(tail, source);
            let mut end = log.len();
            while end > 0 {
                let begin = end.saturating_sub(block);
                if let Some(found) = finder.feed(begin as u64, &log[begin..end]) {
                    start = found as usize;
                    break;
                }
                end = begin;
            }
        }
        None => {}
    }
    let mut view = LogView::new(options);
    let mut out = vec![];
    let rest = &log[start..];
    for line in rest.split_inclusive(|byte| *byte == b'\n') {
        if !view.push(line.strip_suffix(b"\n").unwrap_or(line), &mut out) {
            break;
        }
    }
    out
}

fn line() -> impl Strategy<Value = Vec<u8>> {
    let good = (0..50i64, any::<bool>(), any::<bool>(), "[ -~]{0,20}").prop_map(|(second, out, partial, text)| {
        let at = Timestamp::new(1_700_000_000 + second, 120_000_000).unwrap();
        let (source, tag) = (if out { "stdout" } else { "stderr" }, if partial { "P" } else { "F" });
        format!("{at} {source} {tag} {text}").into_bytes()
    });
    prop_oneof![12 => good, 1 => "[a-z ]{0,12}".prop_map(String::into_bytes)]
}

prop_compose! {
    fn options()(
        tail_lines in proptest::option::of(0..40u64),
        since in proptest::option::of(0..60i64),
        limit_bytes in proptest::option::of(1..400u64),
        timestamps in any::<bool>(),
        stream in proptest::option::of(prop_oneof![Just("Stdout"), Just("Stderr"), Just("All")]),
    ) -> LogOptions {
        LogOptions {
            tail_lines, limit_bytes, timestamps,
            since: since.map(|second| Timestamp::new(1_700_000_000 + second, 0).unwrap()),
            stream: stream.map(str::to_owned),
            ..LogOptions::default()
        }
    }
}

proptest! {
    #[test]
    fn a_view_is_what_a_naive_reader_of_the_whole_log_gets(
        lines in proptest::collection::vec(line(), 0..60),
        unfinished in any::<bool>(),
        options in options(),
        block in 1..200usize,
    ) {
        let mut log = lines.join(&b'\n');
        if !unfinished && !lines.is_empty() {
            log.push(b'\n');
        }
        // An empty last line without a newline is no line.
        prop_assume!(!log.ends_with(b"\n\n") || !unfinished);
        prop_assert_eq!(
            String::from_utf8_lossy(&viewed(&log, &options, block)).into_owned(),
            String::from_utf8_lossy(&naive(&log, &options)).into_owned()
        );
    }
}

#[test]
fn a_line_is_read_as_the_runtime_writes_it() {
    let line = parse_line(b"2016-10-06T00:17:09.669794202Z stdout P some  text ").unwrap();
    assert_eq!((line.source, line.partial, line.text), (LogSource::Stdout, true, &b"some  text "[..]));
    let line = parse_line(b"2016-10-06T02:17:09+02:00 stderr F:tag ").unwrap();
    assert_eq!((line.at.to_string().as_str(), line.partial, line.text), ("2016-10-06T00:17:09Z", false, &b""[..]));
    for bad in ["", "x", "2016-10-06T00:17:09Z stdout F", "2016-10-06T00:17:09Z stdin F x", "yesterday stdout F x"] {
        assert_eq!(parse_line(bad.as_bytes()), None, "{bad}");
    }
}

#[test]
fn a_time_is_printed_once_a_line_with_all_its_digits() {
    let mut view = LogView::new(&LogOptions { timestamps: true, ..LogOptions::default() });
    let mut out = vec![];
    for line in [
        "2024-01-01T00:00:00.5Z stdout P one ",
        "2024-01-01T00:00:01Z stdout F line",
        "2024-01-01T00:00:02Z stdout F two",
    ] {
        assert!(view.push(line.as_bytes(), &mut out));
    }
    let out = String::from_utf8(out).unwrap();
    assert_eq!(out, "2024-01-01T00:00:00.500000000Z one line\n2024-01-01T00:00:02.000000000Z two\n");
}

fn container(state: ContainerState, last: Option<&str>) -> PodReport {
    let containers = vec![ContainerReport {
        name: "c".into(),
        kind: ContainerKind::App,
        state,
        last: last.map(|id| termination(Some(id))),
        restart_count: 1,
        container_id: Some("containerd://now".into()),
        image: String::new(),
        image_id: String::new(),
        started: true,
        ready: true,
    }];
    PodReport {
        uid: PodUid::new("u"),
        generation: Generation(1),
        sandbox_ready_at: None,
        pod_ip: None,
        containers,
        terminated: false,
    }
}

fn termination(id: Option<&str>) -> Termination {
    Termination {
        exit_code: 1,
        signal: None,
        reason: "Error".into(),
        message: String::new(),
        started_at: None,
        finished_at: Timestamp::UNIX_EPOCH,
        container_id: id.map(|id| format!("containerd://{id}")),
    }
}

#[test]
fn the_log_of_the_container_that_kubelet_would_read_is_read() {
    let running = ContainerState::Running { started_at: Timestamp::UNIX_EPOCH };
    let ended = |id| ContainerState::Terminated(termination(id));
    let waiting = |reason: &str| ContainerState::Waiting { reason: reason.into(), message: String::new() };
    for (state, last, previous, expected) in [
        (running.clone(), None, false, Ok("now")),
        (running.clone(), Some("before"), true, Ok("before")),
        (running, None, true, Err("previous terminated container \"c\" in pod \"p\" not found")),
        (ended(Some("it")), Some("before"), false, Ok("it")),
        (ended(None), Some("before"), false, Ok("before")),
        (ended(None), None, false, Err("container \"c\" in pod \"p\" is terminated")),
        (waiting("CrashLoopBackOff"), Some("before"), false, Ok("before")),
        (
            waiting("ErrImagePull"),
            None,
            false,
            Err("container \"c\" in pod \"p\" is waiting to start: image can't be pulled"),
        ),
        (
            waiting("ImagePullBackOff"),
            None,
            false,
            Err("container \"c\" in pod \"p\" is waiting to start: trying and failing to pull image"),
        ),
        (
            waiting("ContainerCreating"),
            None,
            false,
            Err("container \"c\" in pod \"p\" is waiting to start: ContainerCreating"),
        ),
    ] {
        let report = container(state, last);
        let found = container_to_read(Some(&report), "p", "c", previous).map_err(|error| error.to_string());
        assert_eq!(found, expected.map(str::to_owned).map_err(str::to_owned));
    }
    assert!(container_to_read(None, "p", "c", false).unwrap_err().to_string().ends_with("is not available"));
}
