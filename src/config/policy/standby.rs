//! Standby pools and their schedules.

use super::{Checker, PolicyError, raw};
use crate::decide::purchase::policy::StandbyPool;
use crate::decide::purchase::{Catalog, Window, overlap};
use croner::parser::{CronParser, Seconds, Year};
use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use std::collections::BTreeSet;

/// Shorter windows would be over before an instance has paid for its boot; and it bounds the search for
/// overlaps.
const SHORTEST: SignedDuration = SignedDuration::from_mins(15);

/// Schedules are judged from here on, whenever that is done: the answer is always the same.
const JUDGED_FROM: i64 = 1_767_225_600; // 2026-01-01T00:00:00Z

pub fn pools(check: &Checker, raw: Vec<raw::Standby>, catalog: &Catalog) -> Result<Vec<StandbyPool>, PolicyError> {
    let mut seen = BTreeSet::new();
    let mut pools = Vec::new();
    let from = Timestamp::from_second(JUDGED_FROM).expect("a time that fits");
    for (index, raw) in raw.into_iter().enumerate() {
        let key = |field: &str| format!("standby[{index}].{field}");
        let raw::Standby { instance_type, zone, count, schedules } = raw;
        check.instance_type(&key("type"), &instance_type, catalog)?;
        check.zone_of_node(&key("zone"), &zone, catalog)?;
        if !seen.insert((instance_type.clone(), zone.clone())) {
            return Err(check.error(format!("standby[{index}]"), "this type and zone is given twice"));
        }
        let windows = schedules
            .iter()
            .enumerate()
            .map(|(number, schedule)| window(check, &key(&format!("schedules[{number}]")), schedule, from))
            .collect::<Result<Vec<_>, _>>()?;
        if let Some((first, second, at)) = overlap(&windows, from) {
            let problem = if first == second {
                format!("begins again at {at} before it has ended: expected windows that do not overlap")
            } else {
                format!("overlaps schedules[{first}] at {at}: expected windows that do not overlap")
            };
            return Err(check.error(key(&format!("schedules[{second}]")), problem));
        }
        pools.push(StandbyPool { instance_type, zone, count, windows });
    }
    Ok(pools)
}

fn window(check: &Checker, key: &str, raw: &raw::Schedule, from: Timestamp) -> Result<Window, PolicyError> {
    let raw::Schedule { cron, duration, time_zone, count } = raw;
    let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
    let pattern = parser.parse(cron).map_err(|error| {
        let expected = "expected five fields: minute, hour, day of month, month, day of week";
        check.error(format!("{key}.cron"), format!("{cron:?}: {error}: {expected}"))
    })?;
    let length = check.duration(&format!("{key}.duration"), duration)?;
    if length < SHORTEST {
        let problem = format!("{:?}: expected at least 15m", duration.0);
        return Err(check.error(format!("{key}.duration"), problem));
    }
    let zone = TimeZone::get(time_zone).map_err(|_| {
        let expected = "expected an IANA time zone such as Europe/Berlin";
        check.error(format!("{key}.timeZone"), format!("{time_zone:?}: {expected}"))
    })?;
    let window = Window { cron: pattern, time_zone: zone, duration: length, count: *count };
    if window.never_opens(from) {
        let expected = "expected a day of month that one of the months has";
        return Err(check.error(format!("{key}.cron"), format!("{cron:?} never begins: {expected}")));
    }
    Ok(window)
}
