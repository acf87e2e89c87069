//! The report as an SVG picture: for each mode what a month costs, and what the first request after a pause waits.

use super::report::Report;
use std::fmt::Write as _;

const WIDTH: f64 = 860.0;
const LEFT: f64 = 150.0;
const BAR: f64 = 22.0;
const ROW: f64 = 78.0;
const TOP: f64 = 84.0;
const ROOM: f64 = WIDTH - LEFT - 190.0;

const STANDARD: &str = "#4878a8";
const RESERVE: &str = "#e8913a";
const WAIT: &str = "#b04a5a";

pub fn svg(report: &Report) -> String {
    let height = TOP + ROW * report.modes.len() as f64 + 20.0;
    let most = report.modes.iter().map(|row| row.cost_a_month).fold(f64::MIN_POSITIVE, f64::max);
    let longest = report.modes.iter().map(|row| row.after_pause_p99).fold(f64::MIN_POSITIVE, f64::max);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"sans-serif\" font-size=\"13\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    let title = format!("{} services, {:.0} days, {} requests", report.services, report.days, report.requests);
    text(&mut out, 20.0, 28.0, "16", &title);
    for (place, (colour, name)) in [
        (STANDARD, "standard Pods, $ a month"),
        (RESERVE, "reserves, $ a month"),
        (WAIT, "first request after a pause, p99, s"),
    ]
    .into_iter()
    .enumerate()
    {
        let x = 20.0 + 250.0 * place as f64;
        rect(&mut out, x, 46.0, 12.0, 12.0, colour);
        text(&mut out, x + 18.0, 57.0, "12", name);
    }
    for (place, row) in report.modes.iter().enumerate() {
        let y = TOP + ROW * place as f64;
        text(&mut out, 20.0, y + BAR, "14", row.mode);
        let (standard, reserve) = (ROOM * row.standard_cost / most, ROOM * row.reserve_cost / most);
        rect(&mut out, LEFT, y, standard, BAR, STANDARD);
        rect(&mut out, LEFT + standard, y, reserve, BAR, RESERVE);
        let money = format!("${:.0} ({:.0} % saved)", row.cost_a_month, row.saved_percent);
        text(&mut out, LEFT + standard + reserve + 8.0, y + 16.0, "12", &money);
        let wait = ROOM * row.after_pause_p99 / longest;
        rect(&mut out, LEFT, y + BAR + 6.0, wait, BAR, WAIT);
        let seconds = format!("{:.2} s, {} cold starts", row.after_pause_p99, row.cold_starts);
        text(&mut out, LEFT + wait + 8.0, y + BAR + 22.0, "12", &seconds);
    }
    out += "</svg>\n";
    out
}

fn rect(out: &mut String, x: f64, y: f64, width: f64, height: f64, colour: &str) {
    _ = writeln!(
        out,
        "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" fill=\"{colour}\"/>"
    );
}

/// `what` is text of ours: numbers and names of modes.
fn text(out: &mut String, x: f64, y: f64, size: &str, what: &str) {
    _ = writeln!(out, "<text x=\"{x:.1}\" y=\"{y:.1}\" font-size=\"{size}\">{what}</text>");
}
