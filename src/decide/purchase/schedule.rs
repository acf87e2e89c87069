//! Standby pools: how many instances at what time.
//!
//! A window opens when its cron pattern says and stays open for its duration, both by the clock on the
//! wall of its time zone.

use super::policy::StandbyPool;
use crate::decide::placement::Pool;
use croner::{Cron, Direction};
use jiff::{SignedDuration, Timestamp, Zoned, tz::TimeZone};
use std::collections::BTreeMap;

#[derive(Clone, Debug)]
pub struct Window {
    pub cron: Cron,
    pub time_zone: TimeZone,
    pub duration: SignedDuration,
    pub count: u32,
}

impl Window {
    pub fn is_open(&self, now: Timestamp) -> bool {
        let zoned = now.to_zoned(self.time_zone.clone());
        self.cron.find_previous_occurrence(&zoned, true).is_ok_and(|opened| {
            let open_for = now.duration_since(opened.timestamp());
            !open_for.is_negative() && open_for < self.duration
        })
    }

    /// When it opens from `from` on, within `span`.
    fn openings(&self, from: Timestamp, span: SignedDuration) -> impl Iterator<Item = Timestamp> + '_ {
        let start: Zoned = from.to_zoned(self.time_zone.clone());
        self.cron
            .iter_from(start, Direction::Forward)
            .map(|at| at.timestamp())
            .take_while(move |at| at.duration_since(from) < span)
    }
}

/// Two windows (or one with itself) that are open at the same time, and when: by their indexes. Looks at
/// `span` from `from` on. Ends at the first.
pub fn overlap(windows: &[Window], from: Timestamp, span: SignedDuration) -> Option<(usize, usize, Timestamp)> {
    let mut streams: Vec<_> = windows.iter().map(|window| window.openings(from, span).peekable()).collect();
    let mut last: Option<(usize, Timestamp)> = None;
    loop {
        let (next, at) = streams
            .iter_mut()
            .enumerate()
            .filter_map(|(i, s)| s.peek().map(|at| (i, *at)))
            .min_by_key(|(i, at)| (*at, *i))?;
        streams[next].next();
        if let Some((open, closes)) = last
            && at < closes
        {
            return Some((open.min(next), open.max(next), at));
        }
        last = Some((next, at + windows[next].duration));
    }
}

/// How many instances each pool keeps at `now`.
pub fn standby(pools: &[StandbyPool], now: Timestamp) -> BTreeMap<Pool, u32> {
    let count = |pool: &StandbyPool| {
        pool.windows.iter().find(|window| window.is_open(now)).map_or(pool.count, |window| window.count)
    };
    pools
        .iter()
        .map(|pool| (Pool { zone: pool.zone.clone(), instance_type: pool.instance_type.clone() }, count(pool)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(cron: &str, hours: i64, zone: &str) -> Window {
        Window {
            cron: cron.parse().unwrap(),
            time_zone: TimeZone::get(zone).unwrap(),
            duration: SignedDuration::from_hours(hours),
            count: 3,
        }
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    const YEAR: SignedDuration = SignedDuration::from_hours(366 * 24);

    #[test]
    fn a_window_is_open_by_the_clock_of_its_time_zone_in_summer_and_winter() {
        let window = window("0 8 * * 1-5", 10, "Europe/Berlin");
        for (time, open) in [
            ("2026-07-01T05:59:59Z", false),
            ("2026-07-01T06:00:00Z", true),
            ("2026-07-01T15:59:59Z", true),
            ("2026-07-01T16:00:00Z", false),
            ("2026-12-01T06:30:00Z", false),
            ("2026-12-01T07:00:00Z", true),
            ("2026-12-05T09:00:00Z", false),
        ] {
            assert_eq!(window.is_open(at(time)), open, "{time}");
        }
    }

    #[test]
    fn windows_that_meet_do_not_overlap_and_those_that_cross_do() {
        let day = window("0 8 * * *", 10, "UTC");
        let evening = window("0 18 * * *", 4, "UTC");
        let early = window("0 17 * * 5", 1, "UTC");
        let from = at("2026-01-01T00:00:00Z");
        assert_eq!(overlap(&[day.clone(), evening], from, YEAR), None);
        assert_eq!(overlap(&[early, day], from, YEAR), Some((0, 1, at("2026-01-02T17:00:00Z"))));
        let often = window("*/30 * * * *", 1, "UTC");
        assert_eq!(overlap(&[often], from, YEAR), Some((0, 0, at("2026-01-01T00:30:00Z"))));
    }

    #[test]
    fn a_pool_keeps_its_count_outside_of_its_windows() {
        let pool = StandbyPool {
            instance_type: "t3.small".into(),
            zone: "a".into(),
            count: 1,
            windows: vec![window("0 8 * * *", 1, "UTC")],
        };
        let counts = |time| standby(std::slice::from_ref(&pool), at(time)).into_values().collect::<Vec<_>>();
        assert_eq!(counts("2026-01-01T08:30:00Z"), [3]);
        assert_eq!(counts("2026-01-01T09:00:00Z"), [1]);
    }
}
