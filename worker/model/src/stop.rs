//! When a sequence is finished, and what of it is the answer.
use crate::{CaptionTokenizer, TokenizerError, tokenizer::STOP_TEXT};

/// Why a sequence ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StopReason {
    /// The model said `<|endoftext|>`.
    EndOfText,
    /// The model said `###`, as one token or in pieces.
    StopSequence,
    /// The limit of new tokens was reached.
    MaxTokens,
    /// The sequence fills its slot of the key-value cache.
    ContextFull,
    /// The caller gave up on it.
    Cancelled,
}

impl StopReason {
    /// The name in rows, logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::EndOfText => "end_of_text",
            Self::StopSequence => "stop_sequence",
            Self::MaxTokens => "max_tokens",
            Self::ContextFull => "context_full",
            Self::Cancelled => "cancelled",
        }
    }
}

/// Where an answer may end before its limit of tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum End {
    /// At the end-of-text token and at `###`.
    #[default]
    Answer,
    /// Only at the token of id 2, whatever it stands for: the reference's configuration names no other.
    Reference,
}

const REFERENCE_END: u32 = 2;

/// Watches the tokens of one sequence for its end.
#[derive(Clone, Debug)]
pub struct StopCondition {
    tokenizer: CaptionTokenizer,
    max_new_tokens: usize,
    end: End,
    tokens: Vec<u32>,
}

/// Tokens that are looked at together for a stop text said in pieces.
const TAIL: usize = STOP_TEXT.len();

impl StopCondition {
    /// A sequence that may say `max_new_tokens` tokens.
    pub fn new(tokenizer: &CaptionTokenizer, max_new_tokens: usize) -> Self {
        Self { tokenizer: tokenizer.clone(), max_new_tokens, end: End::Answer, tokens: Vec::new() }
    }

    /// Ends elsewhere.
    #[must_use]
    pub fn ending(mut self, end: End) -> Self {
        self.end = end;
        self
    }

    /// Takes the next token; tells if it was the last one.
    pub fn push(&mut self, token: u32) -> Result<Option<StopReason>, TokenizerError> {
        self.tokens.push(token);
        if self.end == End::Reference {
            let ended = (token == REFERENCE_END).then_some(StopReason::EndOfText);
            let full = (self.tokens.len() >= self.max_new_tokens).then_some(StopReason::MaxTokens);
            return Ok(ended.or(full));
        }
        if token == self.tokenizer.end_of_text() {
            return Ok(Some(StopReason::EndOfText));
        }
        // Every piece of a split "###" holds at least one of its characters, so the last three
        // tokens show it.
        let tail = &self.tokens[self.tokens.len().saturating_sub(TAIL)..];
        if self.tokenizer.decode(tail)?.contains(STOP_TEXT) {
            return Ok(Some(StopReason::StopSequence));
        }
        if self.tokens.len() >= self.max_new_tokens {
            return Ok(Some(StopReason::MaxTokens));
        }
        Ok(None)
    }

    /// Tokens taken so far.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }
}

/// The answer in a decoded text: what stands before `###` and after the last `Assistant:` or
/// `[/INST]`, trimmed.
pub fn clean_caption(text: &str) -> String {
    let text = text.split(STOP_TEXT).next().unwrap_or_default();
    let text = text.rsplit("[/INST]").next().unwrap_or_default();
    let text = text.rsplit("Assistant:").next().unwrap_or_default();
    text.trim().to_owned()
}

/// What the reference's evaluation makes of a decoded text that nothing ended: what stands before `</s>`, without
/// `<s>` and after the last `[/INST]`, trimmed.
pub fn clean_unended(text: &str) -> String {
    let text = text.split("</s>").next().unwrap_or_default().replace("<s>", "");
    text.rsplit("[/INST]").next().unwrap_or_default().trim().to_owned()
}
