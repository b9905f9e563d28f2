//! SVG line plots: a frame with axes, lines and dots in it. Every text is escaped
//! here. Absent: what is plotted, page layout.

use std::fmt::Write as _;

/// Drawing area and margins, in user units; the page scales it to its width.
const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 14.0;
const BOTTOM: f64 = 46.0;
/// Labels of an axis that fit without touching.
const TICKS_MAX: usize = 8;
/// Points of a line; longer ones are thinned out.
const POINTS_MAX: usize = 2_000;

/// Text for HTML and SVG, in content and in quoted attributes.
pub(super) fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            // Not allowed in XML, and nothing a page needs.
            c if c.is_control() && c != '\n' => safe.push('\u{fffd}'),
            c => safe.push(c),
        }
    }
    safe
}

/// How values become places on an axis.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Scale {
    /// From zero.
    Linear,
    /// Whole numbers from 1, with half a step of room on both sides.
    Counts,
    /// By decades; values are above zero.
    Log,
    /// Shares of 1 by the decades of what is left to 1: 0.9, 0.99, 0.999 ...
    Nines,
}

/// One axis.
#[derive(Debug, Clone)]
pub(super) struct Axis {
    scale: Scale,
    low: f64,
    high: f64,
    title: String,
}

impl Axis {
    /// An axis that shows all of `values`.
    pub(super) fn around(scale: Scale, values: impl Iterator<Item = f64>, title: &str) -> Self {
        let values: Vec<f64> = values.filter(|v| scale.takes(*v)).collect();
        let low = values.iter().copied().fold(f64::INFINITY, f64::min);
        let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let (low, high) = match scale {
            _ if values.is_empty() => (scale.inverse(0.0), scale.inverse(1.0)),
            Scale::Linear => (0.0, if high > 0.0 { high * 1.05 } else { 1.0 }),
            Scale::Counts => (0.5, high.floor() + 0.5),
            Scale::Log => (round_down(low), round_up(high).max(round_down(low) * 2.0)),
            Scale::Nines => (0.0, high.max(0.99)),
        };
        let title = title.to_owned();
        Self {
            scale,
            low,
            high,
            title,
        }
    }

    /// The same axis, long enough for `value`.
    pub(super) fn up_to(mut self, value: f64) -> Self {
        self.high = self.high.max(value * 1.05);
        self
    }

    /// Place of a value, 0 to 1.
    fn place(&self, value: f64) -> f64 {
        let [low, high, at] = [self.low, self.high, value].map(|v| self.scale.forward(v));
        ((at - low) / (high - low)).clamp(0.0, 1.0)
    }

    fn ticks(&self) -> Vec<(f64, String)> {
        let ticks = match self.scale {
            Scale::Linear => linear_ticks(self.high),
            Scale::Counts => counts(self.high),
            Scale::Log => log_ticks(self.low, self.high),
            Scale::Nines => nines(self.high),
        };
        ticks.into_iter().map(|v| (v, self.scale.text(v))).collect()
    }
}

impl Scale {
    fn takes(self, value: f64) -> bool {
        value.is_finite()
            && match self {
                Self::Linear => value >= 0.0,
                Self::Counts => value >= 1.0,
                Self::Log => value > 0.0,
                Self::Nines => (0.0..1.0).contains(&value),
            }
    }

    fn forward(self, value: f64) -> f64 {
        match self {
            Self::Linear | Self::Counts => value,
            Self::Log => value.log10(),
            Self::Nines => -(1.0 - value).log10(),
        }
    }

    fn inverse(self, place: f64) -> f64 {
        match self {
            Self::Linear | Self::Counts => place,
            Self::Log => 10f64.powf(place),
            Self::Nines => 1.0 - 10f64.powf(-place),
        }
    }

    fn text(self, value: f64) -> String {
        match self {
            Self::Nines => format!("{} %", round_off(value * 100.0)),
            _ => trimmed(&super::measures::number(value)),
        }
    }
}

/// `0.2` instead of `0.200`, and no `1,00` of `1,000`.
fn trimmed(number: &str) -> String {
    match number.contains('.') {
        true => number
            .trim_end_matches('0')
            .trim_end_matches('.')
            .to_owned(),
        false => number.to_owned(),
    }
}

/// 99.99 instead of 99.99000000000001.
fn round_off(value: f64) -> f64 {
    (value * 1e7).round() / 1e7
}

fn linear_ticks(high: f64) -> Vec<f64> {
    let rough = high / TICKS_MAX as f64;
    let decade = 10f64.powf(rough.log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0].map(|s| s * decade);
    let step = steps.into_iter().find(|s| *s >= rough).unwrap_or(rough);
    let count = (high / step).floor() as usize;
    (0..=count.min(2 * TICKS_MAX))
        .map(|i| i as f64 * step)
        .collect()
}

fn counts(high: f64) -> Vec<f64> {
    let last = high.floor() as usize;
    let step = last.div_ceil(2 * TICKS_MAX).max(1);
    (1..=last).step_by(step).map(|i| i as f64).collect()
}

/// The greatest of 1, 2 and 5 times a power of ten that is not above `value`.
fn round_down(value: f64) -> f64 {
    let decade = 10f64.powf(value.log10().floor());
    let steps = [5.0, 2.0].map(|s| s * decade);
    steps.into_iter().find(|s| *s <= value).unwrap_or(decade)
}

/// The least of them that is not below it.
fn round_up(value: f64) -> f64 {
    let decade = 10f64.powf(value.log10().floor());
    let steps = [1.0, 2.0, 5.0].map(|s| s * decade);
    steps
        .into_iter()
        .find(|s| *s >= value)
        .unwrap_or(decade * 10.0)
}

/// 1, 2, 5, 10 ... while they fit, else some of the powers of ten.
fn log_ticks(low: f64, high: f64) -> Vec<f64> {
    let decades = (low.log10().floor() as i32)..=(high.log10().ceil() as i32);
    let shown = |v: &f64| (low * 0.999..=high * 1.001).contains(v);
    let fine = decades
        .clone()
        .flat_map(|d| [1.0, 2.0, 5.0].map(|s| s * 10f64.powi(d)));
    let fine: Vec<f64> = fine.filter(shown).take(2 * TICKS_MAX).collect();
    if fine.len() <= TICKS_MAX {
        return fine;
    }
    let step = decades.clone().count() / TICKS_MAX + 1;
    decades
        .step_by(step)
        .map(|d| 10f64.powi(d))
        .filter(shown)
        .collect()
}

fn nines(high: f64) -> Vec<f64> {
    let decades = -(1.0 - high).log10();
    let mut ticks = vec![0.0, 0.5];
    ticks.extend((1..=decades.floor() as i32).map(|d| 1.0 - 10f64.powi(-d)));
    ticks
}

/// Points of one endpoint.
#[derive(Debug, Clone)]
pub(super) struct Line {
    /// Its name.
    pub(super) label: String,
    /// Chooses colour and dashes.
    pub(super) style: usize,
    /// In the order they are joined.
    pub(super) points: Vec<(f64, f64)>,
    /// A dot at every point.
    pub(super) dots: bool,
}

/// A plot.
#[derive(Debug, Clone)]
pub(super) struct Plot {
    /// What it shows, for those who cannot see it.
    pub(super) title: String,
    /// From left to right.
    pub(super) x: Axis,
    /// From below.
    pub(super) y: Axis,
    /// A horizontal line to compare with.
    pub(super) mark: Option<f64>,
    /// The endpoints.
    pub(super) lines: Vec<Line>,
}

impl Plot {
    /// As SVG.
    pub(super) fn svg(&self) -> String {
        let mut svg = format!(
            "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">",
            escape(&self.title)
        );
        self.frame(&mut svg);
        if let Some(mark) = self.mark {
            let y = self.down(mark);
            let right = WIDTH - RIGHT;
            svg += &format!(
                "<line class=\"mark\" x1=\"{LEFT}\" x2=\"{right}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>"
            );
        }
        for line in &self.lines {
            self.draw(&mut svg, line);
        }
        svg + "</svg>"
    }

    fn across(&self, value: f64) -> f64 {
        LEFT + self.x.place(value) * (WIDTH - LEFT - RIGHT)
    }

    fn down(&self, value: f64) -> f64 {
        HEIGHT - BOTTOM - self.y.place(value) * (HEIGHT - TOP - BOTTOM)
    }

    fn frame(&self, svg: &mut String) {
        let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
        for (value, text) in self.y.ticks() {
            let y = self.down(value);
            *svg += &format!(
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{right}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                LEFT - 6.0,
                y + 4.0,
                escape(&text)
            );
        }
        for (value, text) in self.x.ticks() {
            let x = self.across(value);
            *svg += &format!(
                "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{TOP}\" y2=\"{bottom}\"/>\
                 <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
                bottom + 16.0,
                escape(&text)
            );
        }
        let (middle_x, middle_y) = ((LEFT + right) / 2.0, (TOP + bottom) / 2.0);
        *svg += &format!(
            "<text x=\"{middle_x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>\
             <text x=\"12\" y=\"{middle_y:.1}\" text-anchor=\"middle\" \
             transform=\"rotate(-90 12 {middle_y:.1})\">{}</text>",
            HEIGHT - 8.0,
            escape(&self.x.title),
            escape(&self.y.title)
        );
    }

    fn draw(&self, svg: &mut String, line: &Line) {
        let step = line.points.len().div_ceil(POINTS_MAX).max(1);
        let kept = line.points.iter().step_by(step);
        let kept = kept.filter(|(x, y)| self.x.scale.takes(*x) && self.y.scale.takes(*y));
        let places: Vec<(f64, f64)> = kept
            .map(|(x, y)| (self.across(*x), self.down(*y)))
            .collect();
        let mut path = String::new();
        for (at, (x, y)) in places.iter().enumerate() {
            let verb = if at == 0 { 'M' } else { 'L' };
            // Writing to a String cannot fail.
            let _ = write!(path, "{verb}{x:.1} {y:.1}");
        }
        let (style, label) = (line.style % super::page::STYLES, escape(&line.label));
        *svg +=
            &format!("<path class=\"line s{style}\" d=\"{path}\"><title>{label}</title></path>");
        for (x, y) in places.iter().filter(|_| line.dots) {
            *svg +=
                &format!("<circle class=\"dot s{style}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.5\"/>");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_a_text_is_markup() {
        assert_eq!(
            escape("<a href='x'>&\"\u{7}"),
            "&lt;a href=&#39;x&#39;&gt;&amp;&quot;\u{fffd}"
        );
    }

    #[test]
    fn axes_show_all_values_at_round_numbers() {
        let linear = Axis::around(Scale::Linear, [3.0, 420.0].into_iter(), "");
        let ticks: Vec<f64> = linear.ticks().iter().map(|t| t.0).collect();
        assert_eq!(ticks, [0.0, 100.0, 200.0, 300.0, 400.0]);
        let texts = |axis: Axis| axis.ticks().into_iter().map(|t| t.1).collect::<Vec<_>>();
        let log = |low: f64, high: f64| Axis::around(Scale::Log, [low, high].into_iter(), "");
        assert_eq!(texts(log(0.3, 4.2)), ["0.2", "0.5", "1", "2", "5"]);
        assert_eq!(texts(log(0.03, 4200.0)), ["0.1", "1", "10", "100", "1,000"]);
        let rounds = Axis::around(Scale::Counts, [1.0, 3.0].into_iter(), "");
        assert_eq!(texts(rounds), ["1", "2", "3"]);
        let nines = Axis::around(Scale::Nines, [0.0, 0.9995].into_iter(), "");
        assert_eq!(
            texts(nines.clone()),
            ["0 %", "50 %", "90 %", "99 %", "99.9 %"]
        );
        assert!(nines.place(0.9) > 0.3 && nines.place(0.9) < 0.31);
    }

    #[test]
    fn odd_values_draw_nothing_odd() {
        for values in [
            vec![],
            vec![0.0],
            vec![f64::NAN, f64::INFINITY],
            vec![1e-9, 1e12],
        ] {
            for scale in [Scale::Linear, Scale::Counts, Scale::Log, Scale::Nines] {
                let points: Vec<(f64, f64)> = values.iter().map(|v| (*v, *v)).collect();
                let axis = || Axis::around(scale, values.iter().copied(), "t");
                let line = Line {
                    label: "a".into(),
                    style: 0,
                    points,
                    dots: true,
                };
                let plot = Plot {
                    title: "t".into(),
                    x: axis(),
                    y: axis(),
                    mark: Some(1.0),
                    lines: vec![line],
                };
                let svg = plot.svg();
                assert!(
                    !svg.contains("NaN") && !svg.contains("inf"),
                    "{values:?} {scale:?}: {svg}"
                );
                assert!(svg.matches("<line").count() < 64, "{values:?} {scale:?}");
            }
        }
    }
}
