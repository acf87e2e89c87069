//! The report as an SVG picture: for each mode what a month costs, and what the first request after a pause waits.
//!
//! Money is drawn to scale, from zero. Waits differ by four orders of magnitude: they are points on a logarithmic
//! axis, p50 and p99, with a line between them.

use super::report::{Report, Row};
use std::fmt::Write as _;

const WIDTH: f64 = 1000.0;
const TOP: f64 = 128.0;
const ROW: f64 = 58.0;
const BAR: f64 = 26.0;
const MARGIN: f64 = 28.0;
/// Where the bars of money begin, and how long the longest is: its label stands behind it.
const MONEY: (f64, f64) = (150.0, 260.0);
/// Where the axis of waits begins, and its length.
const WAIT: (f64, f64) = (610.0, 350.0);
/// What the axis of waits shows, in seconds: a decade each.
const DECADES: [(f64, &str); 6] =
    [(0.001, "1 ms"), (0.01, "10 ms"), (0.1, "0.1 s"), (1.0, "1 s"), (10.0, "10 s"), (100.0, "100 s")];

const INK: &str = "#1f2933";
const PALE: &str = "#66727f";
const GRID: &str = "#e3e7eb";
const STANDARD: &str = "#3d6fa3";
const RESERVE: &str = "#f0983a";
const SLOW: &str = "#a63d57";

pub fn svg(report: &Report) -> String {
    let bottom = TOP + ROW * report.modes.len() as f64;
    let height = bottom + 62.0;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"Helvetica, Arial, sans-serif\" font-size=\"13\" fill=\"{INK}\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    let title = format!(
        "{} services, {:.0} days, {} requests",
        grouped(report.services),
        report.days,
        grouped(report.requests)
    );
    text(&mut out, MARGIN, 38.0, "font-size=\"20\" font-weight=\"bold\"", &title);
    let bought = format!(
        "a standard Pod on {} at ${}/h, a reserve on {} at ${}/h",
        report.standard.instance_type, report.standard.hourly, report.reserve.instance_type, report.reserve.hourly
    );
    text(&mut out, MARGIN, 60.0, &format!("fill=\"{PALE}\""), &bought);
    heading(&mut out, MONEY.0, "Dollars a month", &[(STANDARD, "standard Pods"), (RESERVE, "reserves")]);
    heading(&mut out, WAIT.0, "First request after a pause waits", &[(SLOW, "p50 to p99")]);
    axis(&mut out, bottom);
    let most = report.modes.iter().map(|row| row.cost_a_month).fold(f64::MIN_POSITIVE, f64::max);
    for (place, row) in report.modes.iter().enumerate() {
        let middle = TOP + ROW * (place as f64 + 0.5);
        text(&mut out, MARGIN, middle + 5.0, "font-size=\"14\" font-weight=\"bold\"", row.mode);
        money(&mut out, middle, row, most);
        wait(&mut out, middle, row);
    }
    let note = "Saved: against one standard Pod that always runs (min-scale 1). Waits are beyond the work itself on a standard Pod.";
    text(&mut out, MARGIN, height - 14.0, &format!("font-size=\"11\" fill=\"{PALE}\""), note);
    out += "</svg>\n";
    out
}

/// A panel's name, and its colours below it.
fn heading(out: &mut String, x: f64, name: &str, colours: &[(&str, &str)]) {
    text(out, x, 92.0, "font-weight=\"bold\"", name);
    let mut x = x;
    for (colour, name) in colours {
        rect(out, x, 102.0, 11.0, 11.0, colour);
        text(out, x + 16.0, 112.0, &format!("font-size=\"12\" fill=\"{PALE}\""), name);
        x += 34.0 + 7.0 * name.len() as f64;
    }
}

fn axis(out: &mut String, bottom: f64) {
    for (seconds, name) in DECADES {
        let x = place_of(seconds);
        line(out, (x, TOP), (x, bottom), GRID, 1.0);
        text(out, x, bottom + 18.0, &format!("font-size=\"11\" text-anchor=\"middle\" fill=\"{PALE}\""), name);
    }
    line(out, (MONEY.0, TOP), (MONEY.0, bottom), GRID, 1.0);
}

fn money(out: &mut String, middle: f64, row: &Row, most: f64) {
    let (standard, reserve) = (MONEY.1 * row.standard_cost / most, MONEY.1 * row.reserve_cost / most);
    rect(out, MONEY.0, middle - BAR / 2.0, standard, BAR, STANDARD);
    rect(out, MONEY.0 + standard, middle - BAR / 2.0, reserve, BAR, RESERVE);
    let label = MONEY.0 + standard + reserve + 10.0;
    text(out, label, middle - 1.0, "font-weight=\"bold\"", &format!("${}", grouped(row.cost_a_month.round() as u64)));
    let saved = match row.saved_percent {
        none if none.abs() < 0.5 => "nothing saved".to_owned(),
        percent => format!("{percent:.0} % saved"),
    };
    text(out, label, middle + 13.0, &format!("font-size=\"11\" fill=\"{PALE}\""), &saved);
}

fn wait(out: &mut String, middle: f64, row: &Row) {
    let (from, to) = (place_of(row.after_pause_p50), place_of(row.after_pause_p99));
    line(out, (from, middle), (to, middle), SLOW, 3.0);
    for x in [from, to] {
        _ = writeln!(out, "<circle cx=\"{x:.1}\" cy=\"{middle:.1}\" r=\"5\" fill=\"{SLOW}\"/>");
    }
    let starts = match row.cold_starts {
        0 => "no cold start".to_owned(),
        many => format!("{} cold starts", grouped(many)),
    };
    let words = format!("{} to {}, {starts}", seconds(row.after_pause_p50), seconds(row.after_pause_p99));
    // Towards the middle of the panel, whichever side the points are on.
    let (x, anchor) = match (from + to) / 2.0 - WAIT.0 {
        left if left < WAIT.1 / 2.0 => (from - 5.0, "start"),
        _ => (to + 5.0, "end"),
    };
    text(out, x, middle - 11.0, &format!("font-size=\"11\" text-anchor=\"{anchor}\""), &words);
}

/// On the axis of waits; what lies outside is at its end.
fn place_of(seconds: f64) -> f64 {
    let (first, last) = (DECADES[0].0, DECADES[DECADES.len() - 1].0);
    WAIT.0 + WAIT.1 * (seconds.clamp(first, last) / first).log10() / (last / first).log10()
}

fn seconds(seconds: f64) -> String {
    match seconds {
        none if none < 0.0005 => "0".to_owned(),
        short if short < 1.0 => format!("{:.0} ms", short * 1000.0),
        long => format!("{long:.1} s"),
    }
}

/// 1234567 as 1,234,567.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

fn line(out: &mut String, from: (f64, f64), to: (f64, f64), colour: &str, width: f64) {
    _ = writeln!(
        out,
        "<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" stroke=\"{colour}\" stroke-width=\"{width}\"/>",
        from.0, from.1, to.0, to.1
    );
}

fn rect(out: &mut String, x: f64, y: f64, width: f64, height: f64, colour: &str) {
    _ = writeln!(
        out,
        "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" fill=\"{colour}\"/>"
    );
}

fn text(out: &mut String, x: f64, y: f64, how: &str, what: &str) {
    // Types' names come from a file of the user's.
    let what = what.replace('&', "&amp;").replace('<', "&lt;");
    _ = writeln!(out, "<text x=\"{x:.1}\" y=\"{y:.1}\" {how}>{what}</text>");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulate::report::Bought;

    fn row(mode: &'static str, standard_cost: f64, reserve_cost: f64, waits: (f64, f64)) -> Row {
        Row {
            mode,
            cost_a_month: standard_cost + reserve_cost,
            standard_cost,
            reserve_cost,
            saved_percent: 0.0,
            cold_starts: 12_345,
            waited: 0,
            after_pause: 0,
            after_pause_p50: waits.0,
            after_pause_p99: waits.1,
            slowest: waits.1,
            swaps: 0,
            unanswered: 0,
        }
    }

    fn report(modes: Vec<Row>) -> Report {
        let bought = |name: &str| Bought { instance_type: name.to_owned(), hourly: "0.0850".to_owned() };
        Report {
            services: 1_000,
            days: 30.0,
            requests: 12_345_678,
            standard: bought("c6i.large"),
            reserve: bought("<&>"),
            prices: Default::default(),
            modes,
        }
    }

    fn shapes(element: &xmltree::Element, name: &str) -> Vec<xmltree::Element> {
        element.children.iter().filter_map(|c| c.as_element()).filter(|e| e.name == name).cloned().collect()
    }

    /// Not the background, nor the colours of the headings.
    fn bars(picture: &xmltree::Element) -> Vec<xmltree::Element> {
        let all = shapes(picture, "rect").into_iter();
        all.filter(|rect| rect.attributes["height"] == format!("{BAR:.1}")).collect()
    }

    #[test]
    fn the_picture_is_xml_in_which_everything_lies_within_its_borders() {
        let waits = [(0.0, 0.0), (0.07, 12.0), (17.0, 21.0), (0.004, 1e9)];
        let rows = waits.into_iter().map(|waits| row("reserve-on-spot", 61_000.0, 9_000.0, waits)).collect();
        let picture = xmltree::Element::parse(svg(&report(rows)).as_bytes()).unwrap();
        let number = |e: &xmltree::Element, name: &str| e.attributes[name].parse::<f64>().unwrap();
        let height = number(&picture, "height");
        let circles = shapes(&picture, "circle");
        assert_eq!(circles.len(), 8);
        for circle in circles {
            let x = number(&circle, "cx");
            assert!((WAIT.0..=WAIT.0 + WAIT.1).contains(&x) && number(&circle, "cy") < height, "{circle:?}");
        }
        let bars = bars(&picture);
        assert_eq!(bars.len(), 8);
        for bar in &bars {
            let end = number(bar, "x") + number(bar, "width");
            assert!(end <= MONEY.0 + MONEY.1 + 0.1, "{bar:?}");
        }
    }

    #[test]
    fn bars_are_as_long_as_their_money() {
        let rows = vec![row("a", 100.0, 0.0, (0.0, 0.0)), row("b", 10.0, 15.0, (0.0, 0.0))];
        let picture = xmltree::Element::parse(svg(&report(rows)).as_bytes()).unwrap();
        let widths = |colour: &str| -> Vec<f64> {
            let of = bars(&picture).into_iter().filter(|bar| bar.attributes["fill"] == colour);
            of.map(|bar| bar.attributes["width"].parse().unwrap()).collect()
        };
        assert_eq!(widths(STANDARD), [MONEY.1, MONEY.1 / 10.0]);
        assert_eq!(widths(RESERVE), [0.0, MONEY.1 * 0.15]);
    }

    #[test]
    fn numbers_are_grouped_by_thousands() {
        for (number, expected) in [(0, "0"), (999, "999"), (1_000, "1,000"), (12_345_678, "12,345,678")] {
            assert_eq!(grouped(number), expected);
        }
    }
}
