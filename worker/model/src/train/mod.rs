//! Training of adapters: LoRA and norms of the language model, and if wanted the projections and the Q-Former; the vision
//! tower stays as it is.
//!
//! A [`Trainer`] keeps a mirror of the language model (`student`), and of what learns before it (`sight`), with gradients
//! beside the loaded one: the same packed matrices going forward, transposed copies going back, `differentiable` operations
//! between them. Pictures are looked at once; what the trainer gets is the last thing made of them that does not learn
//! ([`Sight`]). Where the data comes from, when to stop and what to show is the caller's business.

mod differentiable;
mod learning;
mod optimizer;
mod plan;
mod sample;
mod sight;
mod state;
mod student;

use std::path::Path;

use candle_core::backprop::GradStore;
use candle_core::{D, DType, Tensor};
use rayon::prelude::*;

use learning::{Maker, Trained};
pub use optimizer::{AdamW, Schedule};
pub use plan::TrainingPlan;
use sample::Layout;
pub use sample::Sample;
use sight::SightStudent;
use student::Student;

use crate::adapter::{AdapterConfig, AdapterError, TARGETS, save};
use crate::error::DuringStep;
use crate::{ModelError, PromptError, TinyGptV, TokenizerError};

/// What is trained, and how.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainOptions {
    /// Width of the low-rank changes.
    pub rank: usize,
    /// They count `alpha / rank`.
    pub alpha: f64,
    /// Which linear layers of the language model are changed, of [`crate::adapter::TARGETS`].
    pub targets: Vec<String>,
    /// Whether both projections are trained as a whole.
    pub projections: bool,
    /// Whether all linear layers of the Q-Former are changed, too.
    pub qformer: bool,
    /// Size of the steps of projections and Q-Former, as a share of the language model's: they were trained for long before
    /// it, and large steps break what they know.
    pub sight_pace: f64,
    /// Whether the weights of the language model's norms are trained, too.
    pub norms: bool,
    /// How fast, and for how long.
    pub schedule: Schedule,
    /// Share of a change's weight that a step of size 1 takes away; norms and projections keep theirs.
    pub weight_decay: f64,
    /// Longest gradient; longer ones are shortened.
    pub clip: f64,
    /// Draws the first numbers of the changes.
    pub seed: u64,
}

/// What of a picture a training begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sight {
    /// What the language model reads, `(queries, hidden)`: only it learns.
    ImageTokens,
    /// Output of the Q-Former, `(queries, width)`: the projections learn.
    Queries,
    /// Normed output of the vision tower, `(patches, width)`, in f16: the Q-Former learns.
    Features,
}

/// A training that cannot go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// The network.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The adapter cannot be written.
    #[error(transparent)]
    Adapter(#[from] AdapterError),
    /// A layer that cannot be changed.
    #[error("`{target}` is no layer that can be trained: {known}")]
    Target {
        /// As given.
        target: String,
        /// Those that can.
        known: String,
    },
    /// The state of an earlier training does not belong to this one.
    #[error("{file} cannot be gone on from: {reason}")]
    State {
        /// The file.
        file: String,
        /// What is different.
        reason: String,
    },
    /// Step after step without a number.
    #[error(
        "the loss or its gradient was not a number {skipped} times in a row (step {step}): lower the learning rate; \
         what was saved before is still good"
    )]
    NotFinite {
        /// Steps left out.
        skipped: usize,
        /// The last of them.
        step: usize,
    },
    /// A text that is too long or cannot be a prompt.
    #[error(transparent)]
    Prompt(#[from] PromptError),
    /// A text that cannot be split into tokens.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
}

/// What a step did.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepReport {
    /// Mean cross-entropy per token, in nats, before the step.
    pub loss: f64,
    /// Length of the gradient before it was shortened.
    pub gradient: f64,
    /// Size of the step.
    pub rate: f64,
    /// Whether it was left out because a number was none.
    pub skipped: bool,
}

/// Steps without a number in a row after which it is hopeless.
const MOST_SKIPPED: usize = 8;

/// A training.
pub struct Trainer<'a> {
    model: &'a TinyGptV,
    student: Student,
    sight: SightStudent,
    /// Everything that learns, in a fixed order.
    trained: Vec<Trained>,
    /// The biases of norms that learn: peft keeps a module whole.
    kept: Vec<(String, Tensor)>,
    optimizer: AdamW,
    options: TrainOptions,
    base: String,
    name: String,
    step: usize,
    skipped: usize,
}

impl<'a> Trainer<'a> {
    /// Begins one on `model`, whose weights are `base` ([`crate::bundle::BundleManifest::base_id`]) and which people call
    /// `name`.
    ///
    /// # Errors
    /// When a target is unknown or memory runs out.
    pub fn new(
        model: &'a TinyGptV,
        base: &str,
        name: &str,
        options: TrainOptions,
    ) -> Result<Self, TrainError> {
        if let Some(target) = options.targets.iter().find(|target| !TARGETS.contains(&target.as_str())) {
            return Err(TrainError::Target { target: target.clone(), known: TARGETS.join(", ") });
        }
        let mut made = Maker { options: &options, model, pace: 1.0, trained: Vec::new(), kept: Vec::new() };
        let student = Student::new(&mut made).during("the making of what learns")?;
        made.pace = options.sight_pace;
        let sight = SightStudent::new(&mut made).during("the making of what learns")?;
        let (trained, kept) = (made.trained, made.kept);
        let optimizer = AdamW::new(&trained).during("the optimizer's start")?;
        let (base, name) = (base.to_owned(), name.to_owned());
        Ok(Self { model, student, sight, trained, kept, optimizer, options, base, name, step: 0, skipped: 0 })
    }

    /// Steps made so far.
    pub fn steps(&self) -> usize {
        self.step
    }

    /// Numbers that are trained.
    pub fn parameters(&self) -> usize {
        self.trained.iter().map(|trained| trained.var.elem_count()).sum()
    }

    /// One step on these samples, `micro` at a time: their gradients add up to that of all of them. With other threads on a CPU
    /// they are added up in another order.
    ///
    /// # Errors
    /// When the device fails, or when there was no number for too many steps.
    pub fn step(&mut self, samples: &[Sample], micro: usize) -> Result<StepReport, TrainError> {
        let tokens = count_tokens(samples);
        let mut loss = 0.0;
        let mut sums: Vec<Option<Tensor>> = vec![None; self.trained.len()];
        for some in samples.chunks(micro.max(1)) {
            let parts = self.in_parts(some, |part| {
                let share = count_tokens(part) as f64 / tokens.max(1) as f64;
                let (loss, gradients) = self.gradients(part, share)?;
                Ok((share * loss, gradients))
            })?;
            for (part_loss, gradients) in parts {
                loss += part_loss;
                self.add(&mut sums, &gradients).during("the sum of gradients")?;
            }
        }
        let sums = self.complete(sums).during("the sum of gradients")?;
        let gradient = optimizer::length(&sums).during("the gradient's length")?;
        let rate = self.options.schedule.rate(self.step);
        self.step += 1;
        let skipped = !(loss.is_finite() && gradient.is_finite());
        if skipped {
            self.skipped += 1;
            if self.skipped >= MOST_SKIPPED {
                return Err(TrainError::NotFinite { skipped: self.skipped, step: self.step });
            }
        } else {
            self.skipped = 0;
            let shorten = (self.options.clip / gradient).min(1.0);
            self.optimizer
                .step(&self.trained, &sums, shorten, rate, self.options.weight_decay)
                .during("the optimizer's step")?;
        }
        Ok(StepReport { loss, gradient, rate, skipped })
    }

    /// Mean cross-entropy per token of these samples, in nats.
    ///
    /// # Errors
    /// When the device fails.
    pub fn loss(&self, samples: &[Sample], micro: usize) -> Result<f64, TrainError> {
        let mut sum = 0.0;
        for some in samples.chunks(micro.max(1)) {
            let parts = self
                .in_parts(some, |part| Ok(value(&self.cross_entropy(part)?)? * count_tokens(part) as f64))?;
            sum += parts.iter().sum::<f64>();
        }
        Ok(sum / count_tokens(samples).max(1) as f64)
    }

    /// Writes what has been learnt as a peft folder.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn save_adapter(&self, folder: &Path) -> Result<(), TrainError> {
        let targets: Vec<&str> = self.options.targets.iter().map(String::as_str).collect();
        let options = &self.options;
        let config = AdapterConfig::new(options.rank, options.alpha, &targets, options.norms, &self.name);
        let tensors: Vec<(String, Tensor)> = self
            .trained
            .iter()
            .map(|trained| (&trained.name, trained.var.as_tensor()))
            .chain(self.kept.iter().map(|(name, bias)| (name, bias)))
            .map(|(name, tensor)| Ok((name.clone(), tensor.to_device(&candle_core::Device::Cpu)?)))
            .collect::<candle_core::Result<_>>()
            .during("the transfer of the adapter")?;
        Ok(save(folder, &config, &tensors, &self.base)?)
    }

    /// Does the same to a part of the samples on every thread of a CPU, whose operations are too small to share one; in the
    /// samples' order. Together the parts need the memory of all samples at once.
    fn in_parts<T: Send>(
        &self,
        samples: &[Sample],
        work: impl Fn(&[Sample]) -> Result<T, TrainError> + Send + Sync,
    ) -> Result<Vec<T>, TrainError> {
        if !self.model.device().is_cpu() {
            return Ok(vec![work(samples)?]);
        }
        let each = samples.len().div_ceil(rayon::current_num_threads()).max(1);
        samples.par_chunks(each).map(work).collect()
    }

    fn gradients(&self, samples: &[Sample], share: f64) -> Result<(f64, GradStore), TrainError> {
        let loss = self.cross_entropy(samples)?;
        let gradients = (&loss * share).and_then(|loss| loss.backward()).during("the way back")?;
        Ok((value(&loss)?, gradients))
    }

    fn add(&self, sums: &mut [Option<Tensor>], gradients: &GradStore) -> candle_core::Result<()> {
        for (sum, trained) in sums.iter_mut().zip(&self.trained) {
            if let Some(gradient) = gradients.get(&trained.var) {
                *sum = Some(match sum.take() {
                    Some(sum) => (sum + gradient)?,
                    None => gradient.clone(),
                });
            }
        }
        Ok(())
    }

    fn complete(&self, sums: Vec<Option<Tensor>>) -> candle_core::Result<Vec<Tensor>> {
        let vars = self.trained.iter().map(|trained| &trained.var);
        sums.into_iter().zip(vars).map(|(sum, var)| sum.map_or_else(|| var.zeros_like(), Ok)).collect()
    }

    /// Mean over all tokens of the answers.
    fn cross_entropy(&self, samples: &[Sample]) -> Result<Tensor, ModelError> {
        let pictures: Vec<&Tensor> = samples.iter().map(|sample| &sample.picture).collect();
        let seen = Tensor::stack(&pictures, 0).and_then(|pictures| self.sight.image_tokens(&pictures));
        let seen = seen.during("the way from pictures to their tokens")?;
        let (_, queries, _) = seen.dims3().during("reading of the image tokens' shape")?;
        let layout = Layout::of(samples, queries);
        let said = self.model.embed_tokens(&layout.tokens)?;
        let run = || {
            let (device, width) = (self.model.device(), said.dim(1)?);
            let nothing = Tensor::zeros((1, width), DType::F32, device)?;
            let parts = Tensor::cat(&[&seen.flatten_to(1)?, &nothing, &said], 0)?;
            let stream = parts.index_select(&Tensor::new(layout.places, device)?, 0)?;
            let stream = stream.reshape((samples.len(), layout.longest, width))?;
            let logits = self.student.logits(&stream, &Tensor::new(layout.predicting, device)?)?;
            let answers = Tensor::new(layout.answers, device)?.unsqueeze(1)?;
            candle_nn::ops::log_softmax(&logits, D::Minus1)?.gather(&answers, 1)?.mean_all()?.neg()
        };
        run().during("the way forward")
    }
}

/// Tokens that are to be said.
fn count_tokens(samples: &[Sample]) -> usize {
    samples.iter().map(|sample| sample.answer.len()).sum()
}

fn value(loss: &Tensor) -> Result<f64, ModelError> {
    loss.to_scalar::<f32>().map(f64::from).during("reading of the loss")
}
