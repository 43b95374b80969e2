//! A percentile plot as SVG: nines on the x axis, latency on a logarithmic y axis, one line per lane.

use hdrhistogram::Histogram;
use std::fmt::Write as _;

const WIDTH: f64 = 800.0;
const HEIGHT: f64 = 420.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 50.0;
/// Line colours that stay apart on paper and for most eyes.
pub(super) const COLOURS: [&str; 8] =
    ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#7f7f7f"];
/// Marks on the x axis: distance to 100 % as a power of ten, and its name.
const NINES: [(f64, &str); 6] =
    [(0.0, "0 %"), (1.0, "90 %"), (2.0, "99 %"), (3.0, "99.9 %"), (4.0, "99.99 %"), (5.0, "99.999 %")];

/// Where values go on the paper.
struct Scale {
    /// Powers of ten at the ends of the y axis.
    low: f64,
    high: f64,
}

impl Scale {
    fn of(used: &[&(String, &Histogram<u64>)]) -> Self {
        let low = used.iter().map(|(_, h)| h.min().max(1)).min().unwrap_or(1_000) as f64;
        let high = used.iter().map(|(_, h)| h.max()).max().unwrap_or(1_000_000) as f64;
        let low = low.log10().floor();
        Self { low, high: high.log10().ceil().max(low + 1.0) }
    }

    fn x(nines: f64) -> f64 {
        LEFT + nines / 5.0 * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, nanos: f64) -> f64 {
        let share = (nanos.max(1.0).log10() - self.low) / (self.high - self.low);
        HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)
    }
}

/// The plot of histograms of nanoseconds.
pub fn percentiles(title: &str, series: &[(String, &Histogram<u64>)]) -> String {
    let used: Vec<_> = series.iter().filter(|(_, h)| !h.is_empty()).collect();
    let scale = Scale::of(&used);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"22\" font-size=\"15\">{}</text>\n",
        escape(title)
    );
    axes(&mut out, &scale);
    for (i, (name, histogram)) in used.iter().enumerate() {
        let colour = COLOURS[i % COLOURS.len()];
        let point = |(nines, nanos)| format!("{:.1},{:.1}", Scale::x(nines), scale.y(nanos));
        let points: Vec<String> = line(histogram).map(point).collect();
        let _ = writeln!(
            out,
            "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\" points=\"{}\"/>",
            points.join(" ")
        );
        let _ = writeln!(
            out,
            "<text x=\"{:.1}\" y=\"{:.1}\" fill=\"{colour}\">{}</text>",
            LEFT + 10.0,
            TOP + 18.0 + 16.0 * i as f64,
            escape(name)
        );
    }
    out.push_str("</svg>\n");
    out
}

/// The marks of both axes, with their lines.
fn axes(out: &mut String, scale: &Scale) {
    for (nines, name) in NINES {
        let x = Scale::x(nines);
        grid(out, (x, TOP), (x, HEIGHT - BOTTOM));
        let below = HEIGHT - BOTTOM + 18.0;
        let _ = writeln!(out, "<text x=\"{x:.1}\" y=\"{below:.1}\" text-anchor=\"middle\">{name}</text>");
    }
    for power in scale.low as i32..=scale.high as i32 {
        let level = scale.y(10f64.powi(power));
        grid(out, (LEFT, level), (WIDTH - RIGHT, level));
        let _ = writeln!(
            out,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            LEFT - 6.0,
            level + 4.0,
            span(10f64.powi(power))
        );
    }
}

fn grid(out: &mut String, from: (f64, f64), to: (f64, f64)) {
    let _ = writeln!(
        out,
        "<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" stroke=\"#ddd\"/>",
        from.0, from.1, to.0, to.1
    );
}

/// Points (nines, nanoseconds) up to 99.999 %.
fn line(histogram: &Histogram<u64>) -> impl Iterator<Item = (f64, f64)> + '_ {
    (0..=100).map(|i| {
        let nines = f64::from(i) / 20.0;
        let quantile = 1.0 - 10f64.powf(-nines);
        (nines, histogram.value_at_quantile(quantile) as f64)
    })
}

/// A time in words.
pub(super) fn span(nanos: f64) -> String {
    match nanos {
        n if n < 1e3 => format!("{n:.0} ns"),
        n if n < 1e6 => format!("{:.0} us", n / 1e3),
        n if n < 1e9 => format!("{:.0} ms", n / 1e6),
        n => format!("{:.0} s", n / 1e9),
    }
}

pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::engine::histogram;

    #[test]
    fn a_plot_has_a_line_per_lane_that_holds_something_and_balanced_tags() {
        let mut reads = histogram();
        (1..1000u64).for_each(|i| reads.record(i * 977).expect("inside"));
        let empty = histogram();
        let svg = percentiles("a < b", &[("read".into(), &reads), ("write".into(), &empty)]);
        assert_eq!(svg.matches("<polyline").count(), 1);
        assert!(svg.contains("a &lt; b") && svg.trim_end().ends_with("</svg>"));
        assert_eq!(svg.matches("<text").count(), svg.matches("</text>").count());
        assert!(!svg.contains("NaN") && !svg.contains("inf"));
    }

    #[test]
    fn a_plot_of_nothing_is_still_a_plot() {
        let svg = percentiles("nothing", &[]);
        assert!(svg.starts_with("<svg") && !svg.contains("NaN"));
    }
}
