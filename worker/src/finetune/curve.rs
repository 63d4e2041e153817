//! What happened in a training: a log for programs, and a picture of the losses.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;

use anyhow::Context;
use serde::{Deserialize, Serialize};

/// A loss that is smaller by less than this share is no better.
const BETTER: f64 = 1e-3;
const LOG: &str = "log.json";
const PICTURE: &str = "loss.svg";
/// Sides of the picture, and its margins.
const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 360.0;
const LEFT: f64 = 60.0;
const BOTTOM: f64 = 50.0;
const TOP: f64 = 30.0;

/// One look at the held-out pictures.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// Steps made.
    pub step: usize,
    /// Mean loss of the steps since the last look, in nats per token.
    pub loss: Option<f64>,
    /// Loss on the held-out pictures.
    pub held_out: Option<f64>,
    /// Size of the last step.
    pub rate: Option<f64>,
    /// Length of the last gradient.
    pub gradient: Option<f64>,
    /// Seconds that the training has taken, earlier lives included.
    pub seconds: f64,
}

/// All looks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Curve {
    /// Names the examples and their order.
    pub data: String,
    /// In the order of their steps.
    pub points: Vec<Point>,
    /// Place of the best one; follows from the points.
    #[serde(skip)]
    best: Option<usize>,
}

impl Curve {
    pub(super) fn new(data: &str) -> Self {
        Self { data: data.to_owned(), points: Vec::new(), best: None }
    }

    /// What was written, up to a step.
    pub(super) fn read(folder: &Path, step: usize) -> anyhow::Result<Self> {
        let file = folder.join(LOG);
        let text = std::fs::read(&file).with_context(|| format!("read {}", file.display()))?;
        let written: Self =
            serde_json::from_slice(&text).with_context(|| format!("{} is no log", file.display()))?;
        let mut curve = Self::new(&written.data);
        for point in written.points.into_iter().filter(|point| point.step <= step) {
            curve.push(point);
        }
        Ok(curve)
    }

    /// Adds a look; says whether it is better than the best.
    pub(super) fn push(&mut self, point: Point) -> bool {
        let best = self.best().and_then(|best| best.held_out);
        let is_better = match (point.held_out, best) {
            (Some(loss), Some(best)) => loss < best * (1.0 - BETTER),
            (Some(loss), None) => loss.is_finite(),
            (None, _) => false,
        };
        self.points.push(point);
        if is_better {
            self.best = Some(self.points.len() - 1);
        }
        is_better
    }

    /// The best look.
    pub fn best(&self) -> Option<&Point> {
        self.points.get(self.best?)
    }

    pub(super) fn looks_since_best(&self) -> usize {
        self.best.map_or(0, |best| self.points.len() - 1 - best)
    }

    pub(super) fn write(&self, folder: &Path) -> anyhow::Result<()> {
        let mut log = serde_json::to_vec_pretty(self)?;
        log.push(b'\n');
        for (name, bytes) in [(LOG, log), (PICTURE, self.picture().into_bytes())] {
            let file = folder.join(name);
            // Whole or not there: a training that is killed meanwhile must be able to go on.
            let written = tempfile::NamedTempFile::new_in(folder).and_then(|mut whole| {
                whole.write_all(&bytes)?;
                whole.persist(&file).map(drop).map_err(|error| error.error)
            });
            written.with_context(|| format!("write {}", file.display()))?;
        }
        Ok(())
    }

    /// Both losses over the steps, as SVG.
    fn picture(&self) -> String {
        let steps = self.points.last().map_or(1, |point| point.step.max(1)) as f64;
        let all = self.points.iter().flat_map(|point| [point.loss, point.held_out]).flatten();
        let most = all.filter(|loss| loss.is_finite()).fold(1e-9, f64::max);
        let x = |step: f64| LEFT + (WIDTH - LEFT - 20.0) * step / steps;
        let y = |loss: f64| TOP + (HEIGHT - TOP - BOTTOM) * (1.0 - loss / most);
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
             font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
        );
        for part in 0..=4 {
            let (loss, step) = (most * f64::from(part) / 4.0, steps * f64::from(part) / 4.0);
            let _ = writeln!(
                svg,
                "<line x1=\"{LEFT}\" x2=\"{0}\" y1=\"{1:.1}\" y2=\"{1:.1}\" stroke=\"#ddd\"/>\n\
                 <text x=\"{2}\" y=\"{3:.1}\" text-anchor=\"end\">{loss:.3}</text>\n\
                 <text x=\"{4:.1}\" y=\"{5}\" text-anchor=\"middle\">{step:.0}</text>",
                WIDTH - 20.0,
                y(loss),
                LEFT - 8.0,
                y(loss) + 4.0,
                x(step),
                HEIGHT - BOTTOM + 18.0
            );
        }
        let mut line = |name: &str, colour: &str, place: f64, losses: &dyn Fn(&Point) -> Option<f64>| {
            let places: Vec<String> = self
                .points
                .iter()
                .filter_map(|point| Some((point.step as f64, losses(point).filter(|loss| loss.is_finite())?)))
                .map(|(step, loss)| format!("{:.1},{:.1}", x(step), y(loss)))
                .collect();
            let _ = writeln!(
                svg,
                "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\" points=\"{}\"/>\n\
                 <text x=\"{place}\" y=\"18\" fill=\"{colour}\">{name}</text>",
                places.join(" ")
            );
        };
        line("trained on", "#888", LEFT + 20.0, &|point| point.loss);
        line("held out", "#0057b7", LEFT + 120.0, &|point| point.held_out);
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">step (loss in nats per token)</text>\n</svg>",
            WIDTH / 2.0,
            HEIGHT - 12.0
        );
        svg
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn point(step: usize, held_out: f64) -> Point {
        Point {
            step,
            loss: Some(2.0 * held_out),
            held_out: Some(held_out),
            rate: None,
            gradient: None,
            seconds: 0.0,
        }
    }

    #[test]
    fn the_best_look_is_known_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let mut curve = Curve::new("d");
        let better: Vec<bool> = [(0, 3.0), (1, 1.0), (2, 0.9999), (3, 2.0)]
            .map(|(step, loss)| curve.push(point(step, loss)))
            .to_vec();
        assert_eq!(better, [true, true, false, false]);
        assert_eq!((curve.best().unwrap().step, curve.looks_since_best()), (1, 2));
        curve.write(folder.path()).unwrap();
        assert_eq!(Curve::read(folder.path(), 3).unwrap(), curve);
        let earlier = Curve::read(folder.path(), 0).unwrap();
        assert_eq!((earlier.points.len(), earlier.best().unwrap().step), (1, 0));
        let svg = std::fs::read_to_string(folder.path().join(PICTURE)).unwrap();
        assert_eq!(svg.matches("<polyline").count(), 2);
        assert!(!svg.contains("NaN"));
    }
}
