//! Standby pools: how many instances at what time.
//!
//! A window opens when its cron pattern says, by the clock on the wall of its time zone, and stays open for its duration
//! in hours that pass, whatever is done to that clock meanwhile.
//!
//! So a day's window of 24 hours overlaps the next one for an hour where the clock is put forward. That is no mistake of
//! who wrote it: windows [`overlap`] where they would if no clock were changed. In such an hour the first that is listed
//! holds.

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

    /// Whether there is no such day, as with 31 February.
    pub fn never_opens(&self, from: Timestamp) -> bool {
        self.openings(from, CALENDAR).next().is_none()
    }

    /// Whether it goes by the date, and so comes upon other weekdays each year.
    fn goes_by_date(&self) -> bool {
        let pattern = &self.cron.pattern;
        !pattern.is_dom_wildcard() || pattern.months.values().len() < 12 || pattern.days_of_week.has_modifiers()
    }

    /// Whether it is still open when `next` opens at `at`, and would be if no clock were changed in between. An opening in
    /// an hour that is left out comes later than its pattern says: that too is a change.
    fn runs_into(&self, opened: Timestamp, next: &Self, at: Timestamp) -> bool {
        let offset = |time| i64::from(next.time_zone.to_offset(time).seconds());
        let put_forward = SignedDuration::from_secs(offset(at) - offset(opened - SignedDuration::from_hours(3)));
        at.max(at + put_forward) < opened + self.duration
    }

    /// Whether it opens at `opened` while the other is open, or the other while this one is; and when. `alone`: they are
    /// the same.
    fn meets(&self, opened: Timestamp, other: &Self, alone: bool) -> Option<Timestamp> {
        let zoned = opened.to_zoned(other.time_zone.clone());
        let found = |found: Result<Zoned, _>| found.ok().map(|at: Zoned| at.timestamp());
        let before = || found(other.cron.find_previous_occurrence(&zoned, true));
        if !alone && before().is_some_and(|before| other.runs_into(before, self, opened)) {
            return Some(opened);
        }
        found(other.cron.find_next_occurrence(&zoned, !alone)).filter(|next| self.runs_into(opened, other, *next))
    }
}

/// In a year, windows that go by the time of day and the weekday come upon each other wherever they do, before and after
/// each change of a clock.
const YEAR: SignedDuration = SignedDuration::from_hours(366 * 24);

/// After 28 years all dates, 29 February too, fall on the same weekdays again (but for 2100, which has none).
const CALENDAR: SignedDuration = SignedDuration::from_hours((28 * 365 + 7) * 24);

/// How many openings are looked at for that in all: the 28 years of a window that opens five times a day. One that opens more
/// often is looked at for fewer years (a quarter-hourly one for two), and the first year is looked at in any case. What it
/// comes upon later is still found where the other one opens seldom.
const MOST_OPENINGS: usize = 60_000;

/// Two windows (or one with itself) that are open at the same time from `from` on, and when: by their indexes.
pub fn overlap(windows: &[Window], from: Timestamp) -> Option<(usize, usize, Timestamp)> {
    overlap_in_a_year(windows, from).or_else(|| {
        openings_by_date(windows, from).find_map(|(index, opened)| {
            windows.iter().enumerate().find_map(|(other, met)| {
                let at = windows[index].meets(opened, met, other == index)?;
                Some((index.min(other), index.max(other), at))
            })
        })
    })
}

/// The openings of the windows that go by the date, one window after the other: those of 28 years, or as many as its share of
/// [`MOST_OPENINGS`]. What one leaves of its share is the next ones'.
fn openings_by_date(windows: &[Window], from: Timestamp) -> impl Iterator<Item = (usize, Timestamp)> + '_ {
    let dated: Vec<usize> = (0..windows.len()).filter(|&index| windows[index].goes_by_date()).collect();
    let (mut left, mut waiting) = (MOST_OPENINGS, dated.len());
    dated.into_iter().flat_map(move |index| {
        let openings: Vec<Timestamp> = windows[index].openings(from, CALENDAR).take(left / waiting).collect();
        left -= openings.len();
        waiting -= 1;
        openings.into_iter().map(move |opened| (index, opened))
    })
}

/// Goes through all openings in their order; ends at the first overlap.
fn overlap_in_a_year(windows: &[Window], from: Timestamp) -> Option<(usize, usize, Timestamp)> {
    let mut streams: Vec<_> = windows.iter().map(|window| window.openings(from, YEAR).peekable()).collect();
    let mut last: Option<(usize, Timestamp)> = None;
    loop {
        let (next, at) = streams
            .iter_mut()
            .enumerate()
            .filter_map(|(i, s)| s.peek().map(|at| (i, *at)))
            .min_by_key(|(i, at)| (*at, *i))?;
        streams[next].next();
        if let Some((open, opened)) = last
            && windows[open].runs_into(opened, &windows[next], at)
        {
            return Some((open.min(next), open.max(next), at));
        }
        last = Some((next, at));
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

    const FROM: &str = "2026-01-01T00:00:00Z";

    /// When the first two of them are open at once.
    fn met(windows: &[Window]) -> Option<String> {
        overlap(windows, at(FROM)).map(|(_, _, at)| at.to_string())
    }

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
        assert_eq!(overlap(&[day.clone(), evening], at(FROM)), None);
        assert_eq!(overlap(&[early, day], at(FROM)), Some((0, 1, at("2026-01-02T17:00:00Z"))));
        let often = window("*/30 * * * *", 1, "UTC");
        assert_eq!(overlap(&[often], at(FROM)), Some((0, 0, at("2026-01-01T00:30:00Z"))));
    }

    #[test]
    fn a_date_and_a_weekday_overlap_though_it_is_years_until_they_come_together() {
        let saturdays = window("0 8 * * 6", 10, "UTC");
        for (cron, time) in [
            ("0 9 25 12 *", Some("2027-12-25T09:00:00Z")),
            ("0 7 25 12 *", Some("2027-12-25T08:00:00Z")),
            ("0 9 29 2 *", Some("2048-02-29T09:00:00Z")),
            ("0 20 25 12 *", None),
        ] {
            let dated = window(cron, 10, "UTC");
            assert_eq!(met(&[saturdays.clone(), dated.clone()]).as_deref(), time, "{cron}");
            assert_eq!(met(&[dated, saturdays.clone()]).as_deref(), time, "{cron}, listed first");
        }
        // The one of a month's last day is still open on the first, in the longest Februaries too.
        assert!(met(&[window("0 8 29 2 *", 30, "UTC"), window("0 10 1 3 *", 1, "UTC")]).is_some());
        assert!(met(&[window("0 8 1 * *", 29 * 24, "UTC")]).is_some());
        assert_eq!(met(&[window("0 8 1 * *", 28 * 24, "UTC")]), None);
    }

    #[test]
    fn a_window_that_opens_often_is_looked_at_for_some_years_and_one_that_opens_seldom_for_all() {
        let quarters = Window { duration: SignedDuration::from_mins(15), ..window("*/15 * 1-28 * *", 1, "UTC") };
        let daily = window("0 8 1-28 * *", 1, "UTC");
        let seldom = window("0 9 29 2 *", 1, "UTC");
        let count = |windows: &[Window], index: usize| {
            openings_by_date(windows, at(FROM)).filter(|(opened, _)| *opened == index).count()
        };
        let leap_days = 7;
        let after = [seldom.clone(), quarters.clone()];
        assert_eq!((count(&after, 0), count(&after, 1)), (leap_days, MOST_OPENINGS - leap_days));
        let before = [quarters.clone(), seldom.clone()];
        assert_eq!((count(&before, 0), count(&before, 1)), (MOST_OPENINGS / 2, leap_days));
        assert_eq!(count(&[daily, seldom], 0), 28 * 12 * 28);
        assert_eq!(count(&[quarters], 0), MOST_OPENINGS);
        assert_eq!(count(&[window("0 8 * * *", 1, "UTC")], 0), 0, "it goes by no date");
    }

    #[test]
    fn an_overlap_that_a_change_of_the_clock_alone_makes_is_none() {
        // In Europe/Berlin on 2026-03-29 the hour after 2:00 is left out.
        for cron in ["0 8 * * *", "30 2 * * *", "0 3 * * *", "15 0 * * *"] {
            assert_eq!(met(&[window(cron, 24, "Europe/Berlin")]), None, "{cron}");
            assert!(met(&[window(cron, 25, "Europe/Berlin")]).is_some(), "{cron}");
        }
        let (night, morning) = (window("0 22 * * *", 10, "Europe/Berlin"), window("0 8 * * *", 1, "Europe/Berlin"));
        assert_eq!(met(&[night, morning]), None);
        // Where one zone's clock is changed weeks before another's, they do overlap.
        let (berlin, new_york) = (window("0 8 * * *", 6, "Europe/Berlin"), window("0 8 * * *", 6, "America/New_York"));
        assert_eq!(met(&[berlin, new_york]).as_deref(), Some("2026-03-09T12:00:00Z"));
    }

    #[test]
    fn a_day_that_no_month_has_never_comes() {
        for (cron, never) in [("0 8 31 2 *", true), ("0 8 31 4,6 *", true), ("0 8 29 2 *", false), ("0 8 * * 1", false)]
        {
            assert_eq!(window(cron, 1, "UTC").never_opens(at(FROM)), never, "{cron}");
        }
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
