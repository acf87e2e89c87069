//! Outcomes as people and programs read them.

use super::{Millis, Mode, Outcome, prices::Prices};
use crate::decide::purchase::Origins;
use serde::Serialize;
use std::fmt::Write as _;

const MONTH: u128 = 730 * 3_600_000;

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    pub services: u64,
    pub days: f64,
    pub requests: u64,
    pub standard: Bought,
    pub reserve: Bought,
    /// Where the prices are from.
    pub prices: Origins,
    pub modes: Vec<Row>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Bought {
    pub instance_type: String,
    pub hourly: String,
}

/// Waits in seconds, money in dollars a month of 730 hours.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Row {
    pub mode: &'static str,
    pub cost_a_month: f64,
    pub standard_cost: f64,
    pub reserve_cost: f64,
    /// Against min-scale 1, in percent.
    pub saved_percent: f64,
    pub cold_starts: u64,
    pub waited: u64,
    pub after_pause: u64,
    pub after_pause_p50: f64,
    pub after_pause_p99: f64,
    pub slowest: f64,
    pub swaps: u64,
    pub unanswered: u64,
}

impl Report {
    pub fn new(services: u64, length: Millis, prices: &Prices, mut outcomes: Vec<(Mode, Outcome)>) -> Self {
        let dollars = |micros: u128| (micros * MONTH / u128::from(length.max(1).unsigned_abs())) as f64 / 1_000_000.0;
        let always = outcomes.iter().find(|(mode, _)| *mode == Mode::MinScale).map(|(_, o)| dollars(o.cost()));
        let requests = outcomes.first().map_or(0, |(_, o)| o.requests);
        let modes = outcomes.iter_mut().map(|(mode, o)| {
            o.after_pause.sort_unstable();
            let at = |percent: usize| {
                let last = o.after_pause.len().saturating_sub(1);
                let place = (o.after_pause.len() * percent).div_ceil(100).saturating_sub(1).min(last);
                f64::from(o.after_pause.get(place).copied().unwrap_or(0)) / 1000.0
            };
            let cost = dollars(o.cost());
            Row {
                mode: mode.as_str(),
                cost_a_month: cost,
                standard_cost: dollars(o.standard_cost),
                reserve_cost: dollars(o.reserve_cost),
                saved_percent: always.filter(|a| *a > 0.0).map_or(0.0, |a| 100.0 * (a - cost) / a),
                cold_starts: o.cold_starts,
                waited: o.waited,
                after_pause: o.after_pause.len() as u64,
                after_pause_p50: at(50),
                after_pause_p99: at(99),
                slowest: f64::from(o.slowest) / 1000.0,
                swaps: o.swaps,
                unanswered: o.unanswered,
            }
        });
        Self {
            services,
            days: length as f64 / 86_400_000.0,
            requests,
            modes: modes.collect(),
            standard: Bought { instance_type: prices.standard_type.clone(), hourly: prices.standard(0).to_string() },
            reserve: Bought { instance_type: prices.reserve_type.clone(), hourly: prices.reserve.to_string() },
            prices: prices.origins.clone(),
        }
    }

    pub fn table(&self) -> String {
        let mut out = String::new();
        let (standard, reserve) = (&self.standard, &self.reserve);
        _ = writeln!(
            out,
            "{} services, {:.1} days, {} requests; standard {} at ${}/h, reserve {} at ${}/h",
            self.services,
            self.days,
            self.requests,
            standard.instance_type,
            standard.hourly,
            reserve.instance_type,
            reserve.hourly
        );
        _ = writeln!(out, "prices: {}\n", self.prices);
        _ = writeln!(
            out,
            "{:<16} {:>12} {:>12} {:>12} {:>8} {:>12} {:>10} {:>10} {:>10} {:>10} {:>9}",
            "MODE",
            "$/MONTH",
            "STANDARD",
            "RESERVE",
            "SAVED",
            "COLD STARTS",
            "WAITED",
            "P50 s",
            "P99 s",
            "SLOWEST s",
            "SWAPS"
        );
        for row in &self.modes {
            _ = writeln!(
                out,
                "{:<16} {:>12.2} {:>12.2} {:>12.2} {:>7.1}% {:>12} {:>10} {:>10.3} {:>10.3} {:>10.3} {:>9}",
                row.mode,
                row.cost_a_month,
                row.standard_cost,
                row.reserve_cost,
                row.saved_percent,
                row.cold_starts,
                row.waited,
                row.after_pause_p50,
                row.after_pause_p99,
                row.slowest,
                row.swaps
            );
        }
        out += "\nP50 and P99: what the first request after a pause waits, beyond its work on a standard Pod. SAVED: against min-scale 1.\n";
        out
    }
}
