//! Examples, and how they lie in a batch.

use candle_core::Tensor;

use super::TrainError;
use crate::{CaptionTokenizer, PromptTokens};

/// One picture with what shall be said about it.
#[derive(Debug, Clone)]
pub struct Sample {
    /// As [`Sight::of`](super::Sight::of) makes it; samples of one picture share it.
    pub picture: Tensor,
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
        picture: Tensor,
        prompt: &str,
        answer: &str,
    ) -> Result<Self, TrainError> {
        let prompt = PromptTokens::new(tokenizer, prompt)?;
        Ok(Self { picture, prompt, answer: tokenizer.encode_answer(answer.trim())? })
    }

    /// Tokens in all, where a picture takes so many.
    pub fn len_with(&self, image_tokens: usize) -> usize {
        self.prompt.len_with(image_tokens) + self.answer.len()
    }
}

/// Where in a batch everything lies: the image tokens of all pictures, a row of zeros and the embeddings of all tokens come
/// one behind the other, and `places` picks from them.
pub(super) struct Layout {
    /// Of prompts and answers.
    pub(super) tokens: Vec<u32>,
    /// For each position of the batch, row by row.
    pub(super) places: Vec<u32>,
    /// Positions of a row.
    pub(super) longest: usize,
    /// Flattened positions that predict a token of an answer.
    pub(super) predicting: Vec<u32>,
    /// Those tokens.
    pub(super) answers: Vec<u32>,
}

impl Layout {
    pub(super) fn of(samples: &[Sample], queries: usize) -> Self {
        let longest = samples.iter().map(|sample| sample.len_with(queries)).max().unwrap_or(0);
        let padding = (samples.len() * queries) as u32;
        let mut layout = Self {
            tokens: Vec::new(),
            places: Vec::with_capacity(samples.len() * longest),
            longest,
            predicting: Vec::new(),
            answers: Vec::new(),
        };
        for (row, sample) in samples.iter().enumerate() {
            layout.say(&sample.prompt.before, padding);
            layout.places.extend((row * queries..(row + 1) * queries).map(|place| place as u32));
            layout.say(&sample.prompt.after, padding);
            // The position before a token predicts it.
            let first = layout.places.len() as u32 - 1;
            layout.predicting.extend((first..).take(sample.answer.len()));
            layout.answers.extend_from_slice(&sample.answer);
            layout.say(&sample.answer, padding);
            layout.places.resize((row + 1) * longest, padding);
        }
        layout
    }

    fn say(&mut self, tokens: &[u32], padding: u32) {
        let first = padding + 1 + self.tokens.len() as u32;
        self.places.extend((first..).take(tokens.len()));
        self.tokens.extend_from_slice(tokens);
    }
}
