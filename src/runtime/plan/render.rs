//! The plan as a table for people.

use super::report::{NotTaken, Replica, Report, Status, monthly, saved_percent};
use crate::kube::node;
use crate::model::HourlyPrice;
use crate::runtime::say::columns;
use std::fmt::Write;

const HEAD: [&str; 9] = ["WORKLOAD", "POD", "CLASS", "PURCHASE", "TYPE", "ZONE", "$/HOUR", "$/MONTH", "SAVED"];

pub fn table(report: &Report) -> String {
    let mut text = columns(HEAD, report.replicas.iter().map(row));
    reasons(report, &mut text);
    let totals = &report.totals;
    line(&mut text, "");
    line(
        &mut text,
        &format!(
            "{} Pods bought, {} wait, {} refused: ${}/hour, ${}/month; plain on-demand ${}/month: {} % saved",
            totals.bought,
            totals.waiting,
            totals.refused,
            totals.hourly,
            cents(totals.monthly),
            cents(totals.on_demand_monthly),
            totals.saved_percent,
        ),
    );
    line(&mut text, &format!("Prices of {}: {}", report.region, report.prices));
    line(
        &mut text,
        &format!(
            "Each Pod is bought for in one zone, its node's, as the scheduler binds it first: here spread evenly over what it \
             allows of {}",
            report.zones.join(", ")
        ),
    );
    if !report.untolerated.is_empty() {
        let kept_off = "Kept off the virtual nodes until they tolerate the taint";
        line(&mut text, &format!("{kept_off} {}: {}", node::TAINT, some(&report.untolerated)));
    }
    if !report.skipped.is_empty() {
        line(&mut text, &format!("No Pods are made by {}", some(&report.skipped)));
    }
    if !report.made_by_others.is_empty() {
        line(&mut text, &format!("Counted with what they are made by: {}", some(&report.made_by_others)));
    }
    text
}

fn row(replica: &Replica) -> [String; 9] {
    let none = || "-".to_owned();
    let class = replica.class.clone().unwrap_or_else(none);
    let (workload, pod) = (replica.workload.clone(), replica.replica.to_string());
    let zone = replica.zone.clone().unwrap_or_else(none);
    match (&replica.bought, replica.status) {
        (Some(bought), _) => [
            workload,
            pod,
            class,
            bought.purchase.to_owned(),
            bought.instance_type.clone(),
            zone,
            bought.hourly.to_string(),
            cents(monthly(bought.hourly)),
            format!("{} %", saved_percent(bought.hourly, bought.on_demand_hourly)),
        ],
        (None, status) => {
            let status = if status == Status::Refused { "refused" } else { "waits" };
            [workload, pod, class, status.to_owned(), none(), zone, none(), none(), none()]
        }
    }
}

/// For each workload: why it waits or is refused, what was not taken and why. What several of its Pods
/// share is said once.
fn reasons(report: &Report, text: &mut String) {
    let mut workloads: Vec<&str> = report.replicas.iter().map(|r| r.workload.as_str()).collect();
    workloads.dedup();
    for workload in workloads {
        let mut said: Vec<(Vec<String>, Vec<u32>)> = Vec::new();
        for replica in report.replicas.iter().filter(|r| r.workload == workload) {
            let lines = explanation(replica);
            match said.iter_mut().find(|(other, _)| *other == lines) {
                Some((_, pods)) => pods.push(replica.replica),
                None => said.push((lines, vec![replica.replica])),
            }
        }
        for (lines, pods) in said.into_iter().filter(|(lines, _)| !lines.is_empty()) {
            line(text, "");
            let noun = if pods.len() == 1 { "Pod" } else { "Pods" };
            line(text, &format!("{workload}, {noun} {}:", ranges(&pods)));
            lines.iter().for_each(|one| line(text, &format!("  {one}")));
        }
    }
}

fn explanation(replica: &Replica) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(bought) = &replica.bought {
        let mut taken = format!("taken: {} {} at ${}/h", bought.purchase, bought.instance_type, bought.hourly);
        if bought.surplus_hourly > HourlyPrice(0) {
            let _ = write!(taken, ", CPU credits of ${}/h in it", bought.surplus_hourly);
        }
        if bought.covered {
            taken.push_str(", after commitments");
        }
        if bought.for_mix {
            taken.push_str(", since the class's mix lacks one on demand");
        }
        let _ = write!(taken, "; plain on-demand: {} at ${}/h", bought.on_demand_type, bought.on_demand_hourly);
        lines.push(taken);
        if !bought.not_asked.is_empty() {
            lines.push(format!("not asked, as that had something: {}", bought.not_asked.join(", ")));
        }
        if !bought.next.is_empty() {
            lines.push(format!("next if it has no capacity: {}", some(&bought.next)));
        }
    } else {
        let word = if replica.status == Status::Refused { "refused" } else { "waits" };
        let reason = replica.reason.as_deref().unwrap_or_default();
        lines.extend(replica.messages.iter().map(|message| format!("{word}: {reason}: {message}")));
    }
    lines.extend(not_taken(&replica.not_taken));
    if replica.types_not_allowed > 0 {
        lines.push(format!("not taken: {} other types: not among the class's instances", replica.types_not_allowed));
    }
    lines
}

/// A line for each message, of one reason only the first few: each type has a price cap's message of its own.
fn not_taken(all: &[NotTaken]) -> Vec<String> {
    let mut reasons: Vec<Reason> = Vec::new();
    for one in all {
        let at = reasons.iter().position(|r| (r.purchase, r.reason) == (one.purchase, one.reason));
        let at = at.unwrap_or_else(|| {
            reasons.push(Reason { purchase: one.purchase, reason: one.reason, messages: Vec::new() });
            reasons.len() - 1
        });
        let messages = &mut reasons[at].messages;
        match messages.iter_mut().find(|(message, _)| *message == one.message) {
            Some((_, subjects)) => subjects.push(subject(one)),
            None => messages.push((&one.message, vec![subject(one)])),
        }
    }
    reasons.iter().flat_map(Reason::lines).collect()
}

struct Reason<'a> {
    purchase: Option<&'static str>,
    reason: &'static str,
    /// Each with all it is said of.
    messages: Vec<(&'a str, Vec<String>)>,
}

impl Reason<'_> {
    const MOST: usize = 2;

    fn lines(&self) -> Vec<String> {
        let purchase = self.purchase.map(|p| format!("{p} ")).unwrap_or_default();
        let line = |(message, subjects): &(&str, Vec<String>)| {
            let named: Vec<String> = subjects.iter().filter(|s| !s.is_empty()).cloned().collect();
            let colon = if named.is_empty() { "" } else { ": " };
            format!("not taken: {purchase}{}{colon}{message}", some(&named))
        };
        let mut lines: Vec<String> = self.messages.iter().take(Self::MOST).map(line).collect();
        let left: usize = self.messages.iter().skip(Self::MOST).map(|(_, subjects)| subjects.len()).sum();
        if left > 0 {
            lines.push(format!("not taken: {purchase}{left} more for {} (-o json has all)", self.reason));
        }
        lines
    }
}

/// The first few of a list, and how many more there are.
fn some(names: &[String]) -> String {
    const MOST: usize = 6;
    match names.len().checked_sub(MOST) {
        None | Some(0) => names.join(", "),
        Some(left) => format!("{} and {left} more", names[..MOST].join(", ")),
    }
}

/// The zone is the Pod's own, which its row says.
fn subject(not_taken: &NotTaken) -> String {
    not_taken.instance_type.as_ref().or(not_taken.zone.as_ref()).cloned().unwrap_or_default()
}

/// `0-3, 5`
fn ranges(numbers: &[u32]) -> String {
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for &number in numbers {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == number => *last = number,
            _ => ranges.push((number, number)),
        }
    }
    let show = |(first, last): &(u32, u32)| if first == last { first.to_string() } else { format!("{first}-{last}") };
    ranges.iter().map(show).collect::<Vec<_>>().join(", ")
}

/// To the cent, half a cent upwards.
fn cents(price: HourlyPrice) -> String {
    let cents = price.0.saturating_add(5000) / 10_000;
    format!("{}.{:02}", cents / 100, cents % 100)
}

fn line(text: &mut String, line: &str) {
    text.push_str(line);
    text.push('\n');
}
