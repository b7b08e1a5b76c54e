//! Line charts as SVG, in the colours of the page.

use maud::{Markup, html};

/// Width and height of a chart, and its margins left, right, top and bottom; user units of the SVG.
const SIZE: (f64, f64) = (460.0, 260.0);
const MARGIN: [f64; 4] = [52.0, 12.0, 12.0, 40.0];
/// More points than this are thinned out.
const POINTS: usize = 240;
/// Colours that the style sheet has; lines beyond use them again.
pub const COLOURS: usize = 8;

/// A named line.
#[derive(Debug, Clone)]
pub struct Line<'a> {
    /// What it is, for the legend.
    pub name: &'a str,
    /// Its points, in the order of x.
    pub points: Vec<(f64, f64)>,
}

/// What the axes show.
#[derive(Debug, Clone, Copy)]
pub struct Axes<'a> {
    /// What x is.
    pub x: &'a str,
    /// What y is.
    pub y: &'a str,
    /// Least and greatest x.
    pub x_range: (f64, f64),
    /// Least and greatest y.
    pub y_range: (f64, f64),
    /// Whether y grows by factors; its range is then above 0.
    pub log_y: bool,
}

/// Draws lines with axes and a legend.
pub fn chart(axes: &Axes<'_>, lines: &[Line<'_>]) -> Markup {
    let [left, right, top, bottom] = MARGIN;
    let (inner_w, inner_h) = (SIZE.0 - left - right, SIZE.1 - top - bottom);
    let part = |v: f64, (low, high): (f64, f64)| {
        if high > low { ((v - low) / (high - low)).clamp(0.0, 1.0) } else { 0.5 }
    };
    let x_at = |x: f64| left + inner_w * part(x, axes.x_range);
    let y_at = |y: f64| {
        let (y, range) = if axes.log_y {
            (y.max(f64::MIN_POSITIVE).ln(), (axes.y_range.0.ln(), axes.y_range.1.ln()))
        } else {
            (y, axes.y_range)
        };
        top + inner_h * (1.0 - part(y, range))
    };
    let path = |line: &Line<'_>| {
        let mut out = String::new();
        for (number, (x, y)) in thinned(&line.points).enumerate() {
            let letter = if number == 0 { 'M' } else { 'L' };
            out.push_str(&format!("{letter}{:.1} {:.1}", x_at(x), y_at(y)));
        }
        out
    };
    let y_ticks = if axes.log_y { log_ticks(axes.y_range) } else { ticks(axes.y_range) };
    html! {
        figure {
            svg viewBox=(format!("0 0 {} {}", SIZE.0, SIZE.1)) role="img" {
                title { (axes.y) " over " (axes.x) }
                @for tick in y_ticks {
                    line class="grid" x1=(left) x2=(SIZE.0 - right) y1=(one(y_at(tick))) y2=(one(y_at(tick))) {}
                    text class="tick" x=(left - 6.0) y=(one(y_at(tick) + 4.0)) text-anchor="end" { (shown(tick)) }
                }
                @for tick in ticks(axes.x_range) {
                    line class="grid" y1=(top) y2=(SIZE.1 - bottom) x1=(one(x_at(tick))) x2=(one(x_at(tick))) {}
                    text class="tick" x=(one(x_at(tick))) y=(SIZE.1 - bottom + 16.0) text-anchor="middle" { (shown(tick)) }
                }
                text class="label" x=(left + inner_w / 2.0) y=(SIZE.1 - 6.0) text-anchor="middle" { (axes.x) }
                text class="label" transform=(format!("translate(12 {}) rotate(-90)", top + inner_h / 2.0)) text-anchor="middle" { (axes.y) }
                @for (number, line) in lines.iter().enumerate() {
                    path class=(format!("line c{}", number % COLOURS)) d=(path(line)) {}
                }
            }
            @if lines.len() > 1 || lines.iter().any(|line| !line.name.is_empty()) {
                figcaption {
                    @for (number, line) in lines.iter().enumerate() {
                        span class=(format!("key c{}", number % COLOURS)) { (line.name) }
                    }
                }
            }
        }
    }
}

fn one(v: f64) -> String {
    format!("{v:.1}")
}

/// At most [`POINTS`] points, the first and the last among them.
fn thinned(points: &[(f64, f64)]) -> impl Iterator<Item = (f64, f64)> + '_ {
    let step = points.len().div_ceil(POINTS).max(1);
    let last = points.len().saturating_sub(1);
    let kept = move |(number, point): (usize, &(f64, f64))| {
        ((number % step == 0 || number == last) && point.0.is_finite() && point.1.is_finite())
            .then_some(*point)
    };
    points.iter().enumerate().filter_map(kept)
}

/// Round numbers in a range, some four to seven.
fn ticks((low, high): (f64, f64)) -> Vec<f64> {
    let span = high - low;
    if !span.is_finite() || span <= 0.0 {
        return vec![low];
    }
    let rough = span / 5.0;
    let power = 10f64.powf(rough.log10().floor());
    let step =
        [1.0, 2.0, 5.0, 10.0].map(|m| m * power).into_iter().find(|step| *step >= rough).unwrap_or(span);
    let first = (low / step).ceil();
    (0..12).map(|i| (first + f64::from(i)) * step).take_while(|tick| *tick <= high + 1e-9 * span).collect()
}

/// 1, 2 and 5 times powers of ten in a range.
fn log_ticks((low, high): (f64, f64)) -> Vec<f64> {
    if !(low > 0.0 && high > low && high.is_finite()) {
        return vec![low];
    }
    let powers = low.log10().floor() as i32..=high.log10().ceil() as i32;
    let all: Vec<f64> = powers.flat_map(|p| [1.0, 2.0, 5.0].map(|m| m * 10f64.powi(p))).collect();
    let inside: Vec<f64> = all.into_iter().filter(|tick| (low..=high).contains(tick)).collect();
    let step = inside.len().div_ceil(8).max(1);
    inside.into_iter().step_by(step).collect()
}

fn shown(value: f64) -> String {
    if value != 0.0 && (value.abs() >= 1e5 || value.abs() < 1e-3) {
        return format!("{value:.0e}");
    }
    format!("{value:.3}").trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_few() {
        let shown_of = |range| ticks(range).into_iter().map(shown).collect::<Vec<_>>();
        assert_eq!(shown_of((0.0, 1.0)), ["0", "0.2", "0.4", "0.6", "0.8", "1"]);
        assert_eq!(shown_of((3.0, 61.0)), ["20", "40", "60"]);
        assert_eq!(ticks((2.0, 2.0)), [2.0]);
        assert_eq!(ticks((0.0, f64::NAN)), [0.0]);
        assert_eq!(log_ticks((0.9, 12.0)), [1.0, 2.0, 5.0, 10.0]);
        assert!(log_ticks((1e-9, 1e9)).len() <= 8);
        assert_eq!(log_ticks((0.0, 1.0)), [0.0]);
        assert_eq!(shown(1e-9), "1e-9");
    }

    #[test]
    fn draws_anything_and_escapes_names() {
        let axes = Axes { x: "x", y: "y", x_range: (0.0, 1.0), y_range: (0.0, 1.0), log_y: false };
        let wild = vec![(0.0, f64::NAN), (0.5, f64::INFINITY), (1.0, -7.0)];
        let text = chart(&axes, &[Line { name: "<script>", points: wild }]).into_string();
        assert!(
            text.contains("&lt;script&gt;") && !text.contains("<script>") && !text.contains("NaN"),
            "{text}"
        );
        let long = Line { name: "", points: (0..10_000).map(|i| (f64::from(i), 1.0)).collect() };
        let text = chart(&Axes { x_range: (0.0, 1e4), log_y: true, y_range: (0.5, 2.0), ..axes }, &[long])
            .into_string();
        assert!(text.len() < 10_000, "{}", text.len());
        chart(&Axes { x_range: (1.0, 1.0), y_range: (0.0, 0.0), ..axes }, &[]).into_string();
    }
}
