//! A timeline as SVG: requests a second above, latency on a logarithmic axis below, spans of faults shaded.

use super::svg::{COLOURS, escape, span};
use std::fmt::Write as _;

const WIDTH: f64 = 1000.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 56.0;
const PANEL: f64 = 170.0;
const BETWEEN: f64 = 34.0;
const HEIGHT: f64 = TOP + 2.0 * PANEL + BETWEEN + 44.0;
/// Powers of ten of the latency axis, in microseconds: 10 us to 100 s.
const POWERS: (i32, i32) = (1, 8);

/// One step of a line.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Point {
    /// Requests a second.
    pub rate: f64,
    /// Median latency, in microseconds; zero without requests.
    pub median_us: f64,
    /// 99 %.
    pub p99_us: f64,
}

/// What a timeline shows.
#[derive(Clone, Debug, Default)]
pub struct Picture {
    /// Above all.
    pub title: String,
    /// Seconds of one step.
    pub step: f64,
    /// A name and its steps, for each line.
    pub lines: Vec<(String, Vec<Point>)>,
    /// Begin and end of each fault, in seconds.
    pub faults: Vec<(f64, f64)>,
}

impl Picture {
    fn seconds(&self) -> f64 {
        let longest = self.lines.iter().map(|(_, points)| points.len()).max().unwrap_or(0);
        (longest as f64 * self.step).max(self.step.max(0.001))
    }

    fn x(&self, seconds: f64) -> f64 {
        LEFT + (seconds / self.seconds()).clamp(0.0, 1.0) * (WIDTH - LEFT - RIGHT)
    }

    /// The whole image.
    pub fn svg(&self) -> String {
        let mut out = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
             font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
             <text x=\"{LEFT}\" y=\"20\" font-size=\"15\">{}</text>\n",
            escape(&self.title)
        );
        for (from, to) in &self.faults {
            let (x, width) = (self.x(*from), (self.x(*to) - self.x(*from)).max(1.0));
            let height = 2.0 * PANEL + BETWEEN;
            let _ = writeln!(
                out,
                "<rect class=\"fault\" x=\"{x:.1}\" y=\"{TOP}\" width=\"{width:.1}\" height=\"{height}\" fill=\"#f6d5d5\"/>"
            );
        }
        self.rates(&mut out);
        self.latencies(&mut out);
        self.time_axis(&mut out);
        out.push_str("</svg>\n");
        out
    }

    fn rates(&self, out: &mut String) {
        let rates = self.lines.iter().flat_map(|(_, points)| points.iter().map(|point| point.rate));
        let most = rates.fold(1.0, f64::max);
        let y = |rate: f64| TOP + PANEL - rate / most * PANEL;
        for share in [0.0, 0.5, 1.0] {
            mark(out, y(most * share), &format!("{:.0}", most * share));
        }
        text(out, LEFT, TOP - 8.0, "#333", "requests a second");
        for (i, (name, points)) in self.lines.iter().enumerate() {
            let line = points.iter().enumerate().map(|(at, point)| (at, y(point.rate)));
            self.line(out, colour(i), "", line);
            text(out, LEFT + 160.0 + 90.0 * i as f64, TOP - 8.0, colour(i), name);
        }
    }

    fn latencies(&self, out: &mut String) {
        let top = TOP + PANEL + BETWEEN;
        let y = |micros: f64| {
            let power = micros.max(1.0).log10().clamp(f64::from(POWERS.0), f64::from(POWERS.1));
            top + PANEL - (power - f64::from(POWERS.0)) / f64::from(POWERS.1 - POWERS.0) * PANEL
        };
        for power in POWERS.0..=POWERS.1 {
            mark(out, y(10f64.powi(power)), &span(10f64.powi(power + 3)));
        }
        text(
            out,
            LEFT,
            top - 8.0,
            "#333",
            "latency: median (line) and 99 % (dashed), of what ended in each step",
        );
        for (i, (_, points)) in self.lines.iter().enumerate() {
            for (dash, of) in [("", 0), (" stroke-dasharray=\"3 2\"", 1)] {
                let ended = points.iter().enumerate().filter(|(_, point)| point.rate > 0.0);
                let line = ended.map(|(at, point)| (at, y([point.median_us, point.p99_us][of])));
                self.line(out, colour(i), dash, line);
            }
        }
    }

    fn time_axis(&self, out: &mut String) {
        let all = self.seconds();
        let each = [0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0];
        let each = each.into_iter().find(|each| all / each <= 14.0).unwrap_or(all / 10.0);
        let mut at = 0.0;
        while at <= all {
            let y = TOP + 2.0 * PANEL + BETWEEN + 18.0;
            let _ =
                writeln!(out, "<text x=\"{:.1}\" y=\"{y}\" text-anchor=\"middle\">{at} s</text>", self.x(at));
            at += each;
        }
    }

    fn line(&self, out: &mut String, colour: &str, dash: &str, points: impl Iterator<Item = (usize, f64)>) {
        let place = |(at, y): (usize, f64)| format!("{:.1},{y:.1}", self.x((at as f64 + 0.5) * self.step));
        let points: Vec<String> = points.map(place).collect();
        let _ = writeln!(
            out,
            "<polyline fill=\"none\" stroke=\"{colour}\"{dash} stroke-width=\"1.5\" points=\"{}\"/>",
            points.join(" ")
        );
    }
}

fn colour(line: usize) -> &'static str {
    COLOURS[line % COLOURS.len()]
}

fn text(out: &mut String, x: f64, y: f64, colour: &str, what: &str) {
    let _ = writeln!(out, "<text x=\"{x:.1}\" y=\"{y:.1}\" fill=\"{colour}\">{}</text>", escape(what));
}

/// A mark of a y axis, with its line.
fn mark(out: &mut String, y: f64, what: &str) {
    let right = WIDTH - RIGHT;
    let _ = writeln!(
        out,
        "<line x1=\"{LEFT}\" y1=\"{y:.1}\" x2=\"{right}\" y2=\"{y:.1}\" stroke=\"#ddd\"/>\n\
         <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{what}</text>",
        LEFT - 6.0,
        y + 4.0
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeline_has_three_lines_a_client_and_one_shade_a_fault() {
        let point = Point { rate: 100.0, median_us: 50.0, p99_us: 900.0 };
        let lines =
            vec![("read".to_owned(), vec![point; 50]), ("write".to_owned(), vec![Point::default(); 30])];
        let picture =
            Picture { title: "a < b".into(), step: 0.1, lines, faults: vec![(1.0, 1.2), (3.0, 9.0)] };
        let svg = picture.svg();
        assert_eq!(svg.matches("<polyline").count(), 6);
        assert_eq!(svg.matches("class=\"fault\"").count(), 2);
        assert!(svg.contains("a &lt; b") && svg.trim_end().ends_with("</svg>"));
        assert!(!svg.contains("NaN") && !svg.contains("inf"));
        // A fault that is not over ends at the right edge.
        assert_eq!(picture.x(9.0), WIDTH - RIGHT);
    }

    #[test]
    fn a_timeline_of_nothing_is_still_an_image() {
        let svg = Picture::default().svg();
        assert!(svg.starts_with("<svg") && !svg.contains("NaN") && !svg.contains("inf"));
    }
}
