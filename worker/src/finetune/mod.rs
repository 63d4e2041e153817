//! `worker finetune`: from captioned pictures to an adapter.
//!
//! `data` reads tables and looks at every picture once, the trainer of the model crate makes the steps, this module says in
//! which order, when to look at the held-out pictures and when to stop, and `curve` keeps what happened. Everything that a
//! training needs to go on lies in its folder.

mod curve;
mod data;

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Context;
use captionfleet_model::bundle::LoadedModel;
use captionfleet_model::train::{Sample, StepReport, TrainOptions, Trainer};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

pub use curve::{Curve, Point};
pub use data::{Captioned, Lessons, read_tables, see};

/// The folder of a training inside the adapter's.
const TRAINING: &str = "training";

/// How a training goes.
#[derive(Debug, Clone)]
pub struct FinetuneOptions {
    /// What is trained.
    pub train: TrainOptions,
    /// Examples of a step.
    pub batch: usize,
    /// Examples at a time.
    pub micro_batch: usize,
    /// Steps between two looks at the held-out pictures.
    pub look_every: usize,
    /// Looks without anything better after which it stops.
    pub patience: usize,
    /// The adapter's folder.
    pub out: PathBuf,
    /// Go on with what lies there.
    pub resume: bool,
}

/// What came of a training.
#[derive(Debug, Clone, Serialize)]
pub struct Finetuned {
    /// Examples trained on.
    pub examples: usize,
    /// Examples of held-out pictures.
    pub held_out: usize,
    /// Numbers that learnt.
    pub parameters: usize,
    /// Steps made, those of earlier lives included.
    pub steps: usize,
    /// Held-out loss before the first step, in nats per token.
    pub loss_before: Option<f64>,
    /// The best one, which the adapter has.
    pub loss: Option<f64>,
    /// The step whose adapter was kept: the best one, or the last look where nothing is held out.
    pub best_step: Option<usize>,
    /// Whether it stopped because nothing got better any more.
    pub stopped_early: bool,
    /// Whether it was told to stop; it can be resumed.
    pub interrupted: bool,
    /// Seconds that it took, earlier lives included.
    pub seconds: f64,
}

/// Steps until every example has been seen `epochs` times.
pub fn steps_of(examples: usize, batch: usize, epochs: f64) -> usize {
    ((examples as f64 * epochs / batch.max(1) as f64).ceil() as usize).max(1)
}

/// Refuses a folder with an earlier training that is not to go on, before the pictures are looked at.
///
/// # Errors
/// When it is one.
pub fn ensure_free(out: &Path, resume: bool) -> anyhow::Result<()> {
    Place::new(out).holds_training(resume).map(drop)
}

/// Trains until it is done, nothing gets better, or `stop` is cancelled; `tell` hears of every look.
///
/// # Errors
/// When the folder cannot be used, or the training diverges.
pub fn finetune(
    loaded: &LoadedModel,
    lessons: &Lessons,
    options: &FinetuneOptions,
    stop: &CancellationToken,
    mut tell: impl FnMut(&Point, usize),
) -> anyhow::Result<Finetuned> {
    let since = Instant::now();
    anyhow::ensure!(
        !lessons.train.is_empty(),
        "no example is left to train on: --held-out takes all of them"
    );
    let place = Place::new(&options.out);
    let base = loaded.manifest.base_id();
    let mut trainer = Trainer::new(&loaded.model, &base, &loaded.manifest.name, options.train.clone())?;
    // Another batch size would be another order of the examples.
    let data = format!("{} in batches of {}", lessons.digest, options.batch);
    let mut curve = place.begin(&mut trainer, options.resume, &data)?;
    let earlier = curve.points.last().map_or(0.0, |point| point.seconds);
    let seconds = || earlier + since.elapsed().as_secs_f64();
    let steps = options.train.schedule.steps;
    let mut course = Course { trainer, lessons, options, place, shuffled: None };
    if curve.points.is_empty() {
        let point = course.look(&mut curve, None, seconds())?;
        tell(&point, steps);
    }
    let (mut early, mut interrupted) = (false, false);
    let mut losses = Vec::new();
    while course.trainer.steps() < steps {
        if stop.is_cancelled() {
            interrupted = true;
            break;
        }
        let samples = course.samples(course.trainer.steps());
        let made = course.trainer.step(&samples, options.micro_batch)?;
        if made.skipped {
            tracing::warn!(
                step = course.trainer.steps(),
                "a step was left out: its loss or gradient is not a number"
            );
        } else {
            losses.push(made.loss);
        }
        let step = course.trainer.steps();
        if step.is_multiple_of(options.look_every) || step == steps {
            let mean = losses.iter().sum::<f64>() / losses.len().max(1) as f64;
            let point = course.look(&mut curve, (!losses.is_empty()).then_some((mean, made)), seconds())?;
            losses.clear();
            tell(&point, steps);
            if curve.looks_since_best() >= options.patience {
                early = step < steps;
                break;
            }
        }
    }
    course.trainer.save_state(&course.place.state())?;
    let kept = if lessons.held_out.is_empty() { curve.points.last() } else { curve.best() };
    Ok(Finetuned {
        examples: lessons.train.len(),
        held_out: lessons.held_out.len(),
        parameters: course.trainer.parameters(),
        steps: course.trainer.steps(),
        loss_before: curve.points.first().and_then(|point| point.held_out),
        loss: kept.and_then(|point| point.held_out),
        best_step: kept.map(|point| point.step),
        stopped_early: early,
        interrupted,
        seconds: seconds(),
    })
}

/// A training under way.
struct Course<'a> {
    trainer: Trainer<'a>,
    lessons: &'a Lessons,
    options: &'a FinetuneOptions,
    place: Place,
    /// An epoch and the order of its examples.
    shuffled: Option<(usize, Vec<usize>)>,
}

impl Course<'_> {
    /// The examples of a step. They follow from the seed alone, so that a resumed training goes on in the same order.
    fn samples(&mut self, step: usize) -> Vec<Sample> {
        let count = self.lessons.train.len();
        let first = step * self.options.batch;
        (first..first + self.options.batch)
            .map(|at| {
                let (epoch, at) = (at / count, at % count);
                let example = self.order(epoch)[at];
                self.lessons.train[example].clone()
            })
            .collect()
    }

    fn order(&mut self, epoch: usize) -> &[usize] {
        if self.shuffled.as_ref().is_none_or(|(shuffled, _)| *shuffled != epoch) {
            let mut order: Vec<usize> = (0..self.lessons.train.len()).collect();
            order.shuffle(&mut StdRng::seed_from_u64(self.options.train.seed.wrapping_add(epoch as u64)));
            self.shuffled = Some((epoch, order));
        }
        self.shuffled.as_ref().map_or(&[], |(_, order)| order)
    }

    /// Looks at the held-out pictures and writes everything down; the adapter only if it is the best so far, or if there is
    /// nothing to judge it by.
    fn look(
        &mut self,
        curve: &mut Curve,
        trained: Option<(f64, StepReport)>,
        seconds: f64,
    ) -> anyhow::Result<Point> {
        let held_out = match self.lessons.held_out.as_slice() {
            [] => None,
            held_out => Some(self.trainer.loss(held_out, self.options.micro_batch)?),
        };
        let point = Point {
            step: self.trainer.steps(),
            loss: trained.map(|(loss, _)| loss),
            held_out,
            rate: trained.map(|(_, made)| made.rate),
            gradient: trained.map(|(_, made)| made.gradient),
            seconds,
        };
        let is_best = curve.push(point.clone()) || self.lessons.held_out.is_empty();
        // The state comes last: who is killed before it goes on from the state before, and does the same again.
        if is_best {
            self.trainer.save_adapter(&self.place.adapter)?;
        }
        curve.write(&self.place.training)?;
        self.trainer.save_state(&self.place.state())?;
        Ok(point)
    }
}

/// Where a training lies.
struct Place {
    adapter: PathBuf,
    training: PathBuf,
}

impl Place {
    fn new(adapter: &Path) -> Self {
        Self { adapter: adapter.to_owned(), training: adapter.join(TRAINING) }
    }

    fn state(&self) -> PathBuf {
        self.training.join("state.safetensors")
    }

    /// Whether a training is there to go on with.
    fn holds_training(&self, resume: bool) -> anyhow::Result<bool> {
        let exists = self.state().exists();
        anyhow::ensure!(
            resume || !exists,
            "{} has a training in it: go on with it (--resume), or name another folder",
            self.adapter.display()
        );
        Ok(exists)
    }

    /// A new training, or what an earlier one left.
    fn begin(&self, trainer: &mut Trainer<'_>, resume: bool, data: &str) -> anyhow::Result<Curve> {
        let exists = self.holds_training(resume)?;
        std::fs::create_dir_all(&self.training)
            .with_context(|| format!("--out {}", self.adapter.display()))?;
        if !exists {
            return Ok(Curve::new(data));
        }
        trainer.restore(&self.state())?;
        let curve = Curve::read(&self.training, trainer.steps())?;
        anyhow::ensure!(
            curve.data == data,
            "{} was begun with other data: give the same --data, --held-out and --batch, or name another folder",
            self.adapter.display()
        );
        Ok(curve)
    }
}
