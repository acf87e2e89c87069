//! Traces: who was asked when, and how long the work took.
//!
//! A CSV file with the columns `time`, `service` and `duration`, in any order. Times and durations are seconds
//! (decimals allowed); the first second of the trace is 0. Lines need not be sorted.

use super::Millis;
use std::{collections::BTreeMap, io};

/// A week is not enough for some, a decade is a mistake in the unit.
const LONGEST: f64 = 366.0 * 86_400.0;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Request {
    pub at: Millis,
    /// On a standard Pod; milliseconds.
    pub takes: u32,
}

/// Requests by service, each sorted by time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Trace {
    pub services: BTreeMap<String, Vec<Request>>,
    pub length: Millis,
}

#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    #[error("line {line}: {source}")]
    Csv { line: u64, source: csv::Error },
    #[error("the header has no column {0}: expected time,service,duration")]
    Column(&'static str),
    #[error("line {line}: {column} is {value:?}: expected {expected}")]
    Value { line: u64, column: &'static str, value: String, expected: &'static str },
    #[error("the trace has no requests")]
    Empty,
}

pub fn read(input: impl io::Read) -> Result<Trace, TraceError> {
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(input);
    let wrong = |source: csv::Error| TraceError::Csv { line: source.position().map_or(1, csv::Position::line), source };
    let header = reader.headers().map_err(wrong)?.clone();
    let column = |name: &'static str| header.iter().position(|h| h == name).ok_or(TraceError::Column(name));
    let (time, service, duration) = (column("time")?, column("service")?, column("duration")?);
    let mut trace = Trace::default();
    let mut record = csv::StringRecord::new();
    while reader.read_record(&mut record).map_err(wrong)? {
        let line = record.position().map_or(0, csv::Position::line);
        let field = |at: usize| record.get(at).unwrap_or_default();
        let seconds = |at: usize, column: &'static str, most: f64, expected: &'static str| {
            let value = field(at);
            match value.parse::<f64>() {
                Ok(seconds) if (0.0..=most).contains(&seconds) => Ok(seconds * 1000.0),
                _ => Err(TraceError::Value { line, column, value: value.to_owned(), expected }),
            }
        };
        let at = seconds(time, "time", LONGEST, "seconds since the beginning, from 0 to a year")? as Millis;
        let takes = seconds(duration, "duration", 86_400.0, "seconds, from 0 to a day")?.round() as u32;
        let name = field(service);
        if name.is_empty() {
            let expected = "a name";
            return Err(TraceError::Value { line, column: "service", value: String::new(), expected });
        }
        trace.length = trace.length.max(at + 1);
        match trace.services.get_mut(name) {
            Some(requests) => requests.push(Request { at, takes }),
            None => _ = trace.services.insert(name.to_owned(), vec![Request { at, takes }]),
        }
    }
    if trace.services.is_empty() {
        return Err(TraceError::Empty);
    }
    for requests in trace.services.values_mut() {
        requests.sort_unstable();
    }
    Ok(trace)
}

pub fn write(output: impl io::Write, services: impl Iterator<Item = (String, Vec<Request>)>) -> Result<(), csv::Error> {
    let mut writer = csv::Writer::from_writer(output);
    writer.write_record(["time", "service", "duration"])?;
    let seconds = |millis: i64| format!("{}.{:03}", millis / 1000, millis % 1000);
    for (name, requests) in services {
        for request in requests {
            writer.write_record([&seconds(request.at), &name, &seconds(i64::from(request.takes))])?;
        }
    }
    Ok(writer.flush()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let requests = vec![Request { at: 5, takes: 120 }, Request { at: 86_400_000, takes: 0 }];
        let mut text = Vec::new();
        write(&mut text, [("a, b".to_owned(), requests.clone())].into_iter()).unwrap();
        let trace = read(&text[..]).unwrap();
        assert_eq!(trace.services["a, b"], requests);
        assert_eq!(trace.length, 86_400_001);
    }

    #[test]
    fn lines_may_come_in_any_order_and_columns_too() {
        let trace = read(&b"service,duration,time\nb,0.5,2\na,1,1\nb,0.25,1.5\n"[..]).unwrap();
        assert_eq!(trace.services["b"], [Request { at: 1500, takes: 250 }, Request { at: 2000, takes: 500 }]);
    }

    #[test]
    fn a_broken_line_is_named_with_its_column_and_what_was_expected() {
        for (text, message) in [
            ("time,service\n1,a\n", "the header has no column duration"),
            ("time,service,duration\n1,a,0.1\nx,a,1\n", "line 3: time is \"x\": expected seconds"),
            ("time,service,duration\n-1,a,1\n", "line 2: time is \"-1\""),
            ("time,service,duration\n1,a,NaN\n", "line 2: duration is \"NaN\""),
            ("time,service,duration\n1,,1\n", "line 2: service is \"\": expected a name"),
            ("time,service,duration\n1,a\n", "line 2: "),
            ("time,service,duration\n", "no requests"),
        ] {
            let error = read(text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(message), "{text:?}: {error}");
        }
    }
}
