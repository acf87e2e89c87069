//! The view as tables for people.

use super::View;
use super::figures::{Figures, Quantiles};
use super::pods::Row;
use crate::model::HourlyPrice;
use crate::runtime::say::columns;
use std::collections::{BTreeMap, BTreeSet};

type Payer<'a> = (&'a str, &'a str);

pub fn table(view: &View) -> String {
    let mut parts = vec![pods(&view.pods)];
    parts.extend(view.provider.as_ref().map(instances));
    parts.push(sums(view));
    parts.extend(view.provider.as_ref().map(lines));
    let why =
        |why| format!("What the provider counts (instances without a Pod, launches, savings) is not shown: {why}\n");
    parts.extend(view.not_shown.as_ref().map(why));
    parts.extend(view.prices.as_ref().map(|prices| format!("Prices: {prices}\n")));
    parts.retain(|part| !part.is_empty());
    parts.join("\n")
}

fn pods(rows: &[Row]) -> String {
    if rows.is_empty() {
        return "No Pods are backed by Pilotlight.\n".to_owned();
    }
    let heads = ["NAMESPACE", "POD", "PHASE", "CLASS", "INSTANCE", "TYPE", "PURCHASE", "ZONE", "$/HOUR", "FOR", "COST"];
    let line = |row: &Row| {
        let instance = row.instance.clone().unwrap_or_else(|| "(released)".to_owned());
        [
            row.namespace.clone(),
            row.pod.clone(),
            row.phase.clone(),
            row.class.clone(),
            instance,
            row.instance_type.clone(),
            row.purchase.clone(),
            row.zone.clone(),
            row.hourly_price.to_string(),
            duration(row.seconds),
            dollars(row.cost_micros),
        ]
    };
    columns(heads, rows.iter().map(line))
}

fn instances(figures: &Figures) -> String {
    if figures.instances.is_empty() {
        return String::new();
    }
    let line = |of: &super::figures::Instances| {
        [
            or_dash(&of.class),
            of.purchase.clone(),
            of.instance_type.clone(),
            of.zone.clone(),
            of.state.clone(),
            of.count.to_string(),
        ]
    };
    columns(["CLASS", "PURCHASE", "TYPE", "ZONE", "STATE", "INSTANCES"], figures.instances.iter().map(line))
}

/// By namespace and class: Pods that have an instance, and what is paid. Of the provider's figures, if they are known:
/// these have also what is gone and what has no Pod.
fn sums(view: &View) -> String {
    let backed = view.pods.iter().filter(|row| row.instance.is_some());
    let mut of_pods: BTreeMap<Payer, (usize, u64, u64)> = BTreeMap::new();
    for row in backed {
        let (count, hourly, cost) = of_pods.entry((&row.namespace, &row.class)).or_default();
        *count += 1;
        *hourly += row.hourly_price.0;
        *cost += row.cost_micros;
    }
    let known: Option<BTreeMap<Payer, (u64, u64, u64)>> = view.provider.as_ref().map(|figures| {
        let costs = figures.costs.iter();
        costs.map(|c| ((c.namespace.as_str(), c.class.as_str()), (c.hourly.0, c.cost_micros, c.saved_micros))).collect()
    });
    let payers: BTreeSet<Payer> = of_pods.keys().chain(known.iter().flat_map(BTreeMap::keys)).copied().collect();
    if payers.is_empty() {
        return String::new();
    }
    let mut all = (0, 0, 0, 0);
    let mut lines = Vec::new();
    for payer in payers {
        let (count, hourly, cost) = of_pods.get(&payer).copied().unwrap_or_default();
        let (hourly, cost, saved) = match &known {
            Some(known) => known.get(&payer).copied().unwrap_or((hourly, 0, 0)),
            None => (hourly, cost, 0),
        };
        all = (all.0 + count, all.1 + hourly, all.2 + cost, all.3 + saved);
        lines.push((or_dash(payer.0), or_dash(payer.1), (count, hourly, cost, saved)));
    }
    lines.push(("(all)".to_owned(), String::new(), all));
    let line = |(namespace, class, (count, hourly, cost, saved)): (String, String, (usize, u64, u64, u64))| {
        let saved = if known.is_some() { dollars(saved) } else { "-".to_owned() };
        [namespace, class, count.to_string(), dollars(hourly), dollars(cost), saved]
    };
    columns(["NAMESPACE", "CLASS", "PODS", "$/HOUR", "COST", "SAVED"], lines.into_iter().map(line))
}

fn lines(figures: &Figures) -> String {
    let launches = &figures.launches;
    let named = launches.failures.iter().map(|(code, count)| format!("{code} {count}"));
    let failures = match launches.failures.is_empty() {
        true => "none".to_owned(),
        false => named.collect::<Vec<_>>().join(", "),
    };
    let mut text = format!(
        "Since the provider's start, as COST and SAVED: launch calls {}, instances asked for {}, failures {failures}\n",
        launches.calls, launches.instances
    );
    let times = [("its instance", &figures.pod_bound_seconds), ("Running", &figures.pod_start_seconds)];
    for (until, Quantiles { count, p50, p99 }) in times.into_iter().filter_map(|(until, q)| Some((until, q.as_ref()?)))
    {
        text += &format!("From a Pod's creation to {until}: P50 {p50:.2} s, P99 {p99:.2} s (of {count})\n");
    }
    text
}

fn dollars(micros: u64) -> String {
    format!("${}", HourlyPrice(micros))
}

/// As kubectl's ages: k8s.io/apimachinery/pkg/util/duration, HumanDuration.
fn duration(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    let pair = |large: u64, unit: char, small: u64, of: char| match small {
        0 => format!("{large}{unit}"),
        small => format!("{large}{unit}{small}{of}"),
    };
    match seconds {
        0..120 => format!("{seconds}s"),
        120..600 => pair(minutes, 'm', seconds % 60, 's'),
        600..10_800 => format!("{minutes}m"),
        10_800..28_800 => pair(hours, 'h', minutes % 60, 'm'),
        28_800..172_800 => format!("{hours}h"),
        172_800..691_200 => pair(days, 'd', hours % 24, 'h'),
        _ => format!("{days}d"),
    }
}

fn or_dash(text: &str) -> String {
    if text.is_empty() { "-".to_owned() } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::super::figures::{Cost, Instances, Launches};
    use super::*;

    fn row(namespace: &str, pod: &str, instance: Option<&str>, hourly: u64, cost_micros: u64) -> Row {
        Row {
            namespace: namespace.to_owned(),
            pod: pod.to_owned(),
            phase: "Running".to_owned(),
            instance: instance.map(str::to_owned),
            instance_type: "c6i.large".to_owned(),
            purchase: "spot".to_owned(),
            class: "web".to_owned(),
            zone: "a".to_owned(),
            hourly_price: HourlyPrice(hourly),
            seconds: 60,
            cost_micros,
        }
    }

    fn view() -> View {
        let pods = vec![
            row("jobs", "a", Some("i-1"), 30_000, 500),
            row("shop", "b", Some("i-2"), 20_000, 400),
            row("shop", "c", Some("i-3"), 20_000, 300),
            row("shop", "gone", None, 20_000, 0),
        ];
        View { pods, ..View::default() }
    }

    /// The words of each line that begins so.
    fn words<'a>(text: &'a str, start: &str) -> Vec<Vec<&'a str>> {
        text.lines().filter(|line| line.starts_with(start)).map(|line| line.split_whitespace().collect()).collect()
    }

    #[test]
    fn without_the_providers_figures_the_sums_are_of_the_pods_that_are_backed() {
        let view = View { not_shown: Some("nodes is forbidden".to_owned()), ..view() };
        let text = table(&view);
        assert_eq!(words(&text, "jobs").last().unwrap()[2..], ["1", "$0.03", "$0.0005", "-"]);
        assert_eq!(words(&text, "shop").last().unwrap()[2..], ["2", "$0.04", "$0.0007", "-"]);
        assert_eq!(words(&text, "(all)")[0][1..], ["3", "$0.07", "$0.0012", "-"]);
        assert!(text.contains("(released)") && text.ends_with("is not shown: nodes is forbidden\n"), "{text}");
    }

    #[test]
    fn with_them_what_is_gone_and_what_has_no_pod_is_in_the_sums() {
        let cost = |namespace: &str, class: &str, hourly, cost_micros, saved_micros| Cost {
            namespace: namespace.to_owned(),
            class: class.to_owned(),
            hourly: HourlyPrice(hourly),
            cost_micros,
            saved_micros,
        };
        let standby = Instances {
            class: String::new(),
            purchase: "on-demand".to_owned(),
            instance_type: "t3.small".to_owned(),
            zone: "b".to_owned(),
            state: "ready".to_owned(),
            count: 2,
        };
        let figures = Figures {
            instances: vec![standby],
            costs: vec![
                cost("", "", 40_000, 9_000, 0),
                cost("jobs", "web", 30_000, 1_000, 2_000),
                cost("past", "web", 0, 70_000, 100_000),
            ],
            launches: Launches { calls: 4, instances: 9, failures: [("SpotMax".to_owned(), 2)].into() },
            pod_bound_seconds: None,
            pod_start_seconds: Some(Quantiles { count: 8, p50: 0.4, p99: 1.25 }),
        };
        let text = table(&View { provider: Some(figures), prices: Some("of today".to_owned()), ..view() });
        assert_eq!(
            words(&text, "-  "),
            [vec!["-", "on-demand", "t3.small", "b", "ready", "2"], vec!["-", "-", "0", "$0.04", "$0.009", "$0"]]
        );
        assert_eq!(words(&text, "past"), [["past", "web", "0", "$0", "$0.07", "$0.1"]]);
        // Two Pods that the provider has not reckoned yet: at what they cost, and nothing so far.
        assert_eq!(words(&text, "shop").last().unwrap()[2..], ["2", "$0.04", "$0", "$0"]);
        assert_eq!(words(&text, "(all)")[0][1..], ["3", "$0.11", "$0.08", "$0.102"]);
        assert!(text.contains("launch calls 4, instances asked for 9, failures SpotMax 2\n"), "{text}");
        assert!(text.contains("to Running: P50 0.40 s, P99 1.25 s (of 8)\n"), "{text}");
        assert!(!text.contains("to its instance") && text.ends_with("\nPrices: of today\n"), "{text}");
    }

    #[test]
    fn a_time_is_as_long_as_kubectl_says_it() {
        let said = [0, 119, 120, 125, 601, 10_799, 10_860, 28_799, 28_800, 172_799, 176_400, 691_200].map(duration);
        let expected = ["0s", "119s", "2m", "2m5s", "10m", "179m", "3h1m", "7h59m", "8h", "47h", "2d1h", "8d"];
        assert_eq!(said, expected);
    }

    #[test]
    fn nothing_at_all_is_said_in_words() {
        assert_eq!(table(&View::default()), "No Pods are backed by Pilotlight.\n");
    }
}
