//! Training of LoRA adapters and norms on the language model; everything before it stays as it is.
//!
//! A [`Trainer`] keeps a mirror of the language model with gradients (`student`) beside the loaded one: the same packed
//! matrices going forward, transposed copies going back, plain tensor operations between them. Pictures are looked at once;
//! what the trainer gets is their image tokens. Where the data comes from, when to stop and what to show is the caller's
//! business.

mod optimizer;
mod plan;
mod state;
mod student;

use std::path::Path;

use candle_core::backprop::GradStore;
use candle_core::{D, Tensor, Var};

pub use optimizer::{AdamW, Schedule};
pub use plan::TrainingPlan;
use student::Student;

use crate::adapter::{AdapterConfig, AdapterError, save};
use crate::error::DuringStep;
use crate::{CaptionTokenizer, ModelError, PromptError, PromptTokens, TinyGptV, TokenizerError};

/// What is trained, and how.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainOptions {
    /// Width of the low-rank changes.
    pub rank: usize,
    /// They count `alpha / rank`.
    pub alpha: f64,
    /// Which linear layers are changed, of [`crate::adapter::TARGETS`].
    pub targets: Vec<String>,
    /// Whether the weights of the language model's norms are trained, too.
    pub norms: bool,
    /// How fast, and for how long.
    pub schedule: Schedule,
    /// Share of a weight that a step of size 1 takes away; norms keep theirs.
    pub weight_decay: f64,
    /// Longest gradient; longer ones are shortened.
    pub clip: f64,
    /// Draws the first numbers of the changes.
    pub seed: u64,
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

/// One picture with what shall be said about it.
#[derive(Debug, Clone)]
pub struct Sample {
    /// `(queries, hidden)`; samples of one picture share them.
    pub image_tokens: Tensor,
    /// What is asked.
    pub prompt: PromptTokens,
    /// The tokens of the answer, end mark included.
    pub answer: Vec<u32>,
}

impl Sample {
    /// Makes tokens of a whole prompt and an answer.
    ///
    /// # Errors
    /// When they cannot be split into tokens, or the prompt has no place for the picture.
    pub fn new(
        tokenizer: &CaptionTokenizer,
        image_tokens: Tensor,
        prompt: &str,
        answer: &str,
    ) -> Result<Self, TrainError> {
        let prompt = PromptTokens::new(tokenizer, prompt)?;
        Ok(Self { image_tokens, prompt, answer: tokenizer.encode_answer(answer.trim())? })
    }

    /// Tokens in all.
    pub fn len(&self) -> usize {
        self.prompt.len_with(self.image_tokens.dims().first().copied().unwrap_or(0)) + self.answer.len()
    }

    /// Whether there is nothing to say.
    pub fn is_empty(&self) -> bool {
        self.answer.is_empty()
    }
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
        let student = Student::new(model, &options)?;
        let optimizer = AdamW::new(&student.trained).during("the optimizer's start")?;
        let (base, name) = (base.to_owned(), name.to_owned());
        Ok(Self { model, student, optimizer, options, base, name, step: 0, skipped: 0 })
    }

    /// Steps made so far.
    pub fn steps(&self) -> usize {
        self.step
    }

    /// Numbers that are trained.
    pub fn parameters(&self) -> usize {
        self.student.trained.iter().map(|(_, var)| var.elem_count()).sum()
    }

    /// One step on these samples, `micro` at a time: their gradients add up to that of all of them.
    ///
    /// # Errors
    /// When the device fails, or when there was no number for too many steps.
    pub fn step(&mut self, samples: &[Sample], micro: usize) -> Result<StepReport, TrainError> {
        let tokens: usize = samples.iter().map(|sample| sample.answer.len()).sum();
        let mut loss = 0.0;
        let mut sums: Vec<Option<Tensor>> = vec![None; self.student.trained.len()];
        for part in samples.chunks(micro.max(1)) {
            let share =
                part.iter().map(|sample| sample.answer.len()).sum::<usize>() as f64 / tokens.max(1) as f64;
            let (part_loss, gradients) = self.gradients(part, share)?;
            loss += share * part_loss;
            self.add(&mut sums, &gradients).during("the sum of gradients")?;
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
            let trained = &self.student.trained;
            self.optimizer
                .step(trained, &sums, shorten, rate, self.options.weight_decay)
                .during("the optimizer's step")?;
        }
        Ok(StepReport { loss, gradient, rate, skipped })
    }

    /// Mean cross-entropy per token of these samples, in nats.
    ///
    /// # Errors
    /// When the device fails.
    pub fn loss(&self, samples: &[Sample], micro: usize) -> Result<f64, TrainError> {
        let (mut sum, mut tokens) = (0.0, 0);
        for part in samples.chunks(micro.max(1)) {
            let count: usize = part.iter().map(|sample| sample.answer.len()).sum();
            sum += value(&self.cross_entropy(part)?)? * count as f64;
            tokens += count;
        }
        Ok(sum / tokens.max(1) as f64)
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
            .student
            .trained
            .iter()
            .map(|(name, var)| (name, var.as_tensor()))
            .chain(self.student.kept.iter().map(|(name, bias)| (name, bias)))
            .map(|(name, tensor)| Ok((name.clone(), tensor.to_device(&candle_core::Device::Cpu)?)))
            .collect::<candle_core::Result<_>>()
            .during("the transfer of the adapter")?;
        Ok(save(folder, &config, &tensors, &self.base)?)
    }

    fn gradients(&self, samples: &[Sample], share: f64) -> Result<(f64, GradStore), TrainError> {
        let loss = self.cross_entropy(samples)?;
        let gradients = (&loss * share).and_then(|loss| loss.backward()).during("the way back")?;
        Ok((value(&loss)?, gradients))
    }

    fn add(&self, sums: &mut [Option<Tensor>], gradients: &GradStore) -> candle_core::Result<()> {
        for (sum, (_, var)) in sums.iter_mut().zip(&self.student.trained) {
            if let Some(gradient) = gradients.get(var) {
                *sum = Some(match sum.take() {
                    Some(sum) => (sum + gradient)?,
                    None => gradient.clone(),
                });
            }
        }
        Ok(())
    }

    fn complete(&self, sums: Vec<Option<Tensor>>) -> candle_core::Result<Vec<Tensor>> {
        let vars = self.student.trained.iter().map(|(_, var)| var);
        sums.into_iter().zip(vars).map(|(sum, var)| sum.map_or_else(|| var.zeros_like(), Ok)).collect()
    }

    /// Mean over all tokens of the answers.
    fn cross_entropy(&self, samples: &[Sample]) -> Result<Tensor, ModelError> {
        let embedded: Vec<Tensor> = samples
            .iter()
            .map(|sample| {
                let prompt = self.model.embed_prompt(&sample.prompt, &sample.image_tokens)?;
                let answer = self.model.embed_tokens(&sample.answer)?;
                Tensor::cat(&[prompt, answer], 0).during("joining of an example")
            })
            .collect::<Result<_, _>>()?;
        let run = || {
            let longest = embedded.iter().map(|tokens| tokens.dims()[0]).max().unwrap_or(0);
            let mut rows = Vec::with_capacity(embedded.len());
            let (mut predicting, mut said) = (Vec::new(), Vec::new());
            for (row, (tokens, sample)) in embedded.iter().zip(samples).enumerate() {
                let length = tokens.dim(0)?;
                rows.push(tokens.pad_with_zeros(0, 0, longest - length)?);
                // The position before a token predicts it.
                let first = row * longest + length - sample.answer.len() - 1;
                predicting.extend((first..).take(sample.answer.len()).map(|place| place as u32));
                said.extend_from_slice(&sample.answer);
            }
            let device = self.model.device();
            let predicting = Tensor::new(predicting, device)?;
            let logits = self.student.logits(&Tensor::stack(&rows, 0)?, &predicting)?;
            let said = Tensor::new(said, device)?.unsqueeze(1)?;
            candle_nn::ops::log_softmax(&logits, D::Minus1)?.gather(&said, 1)?.mean_all()?.neg()
        };
        run().during("the way forward")
    }
}

fn value(loss: &Tensor) -> Result<f64, ModelError> {
    loss.to_scalar::<f32>().map(f64::from).during("reading of the loss")
}

/// Something that learns, under peft's name for it.
type Trained = (String, Var);
