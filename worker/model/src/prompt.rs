//! From a question to the token pieces around the picture.
use serde::{Deserialize, Serialize};

use crate::{CaptionTokenizer, TokenizerError};

/// Where the picture goes in a prompt.
pub const IMAGE_PLACEHOLDER: &str = "<ImageHere>";

const QUESTION_PLACEHOLDER: &str = "{question}";

/// The full prompt texts of a bundle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromptTemplates {
    /// Asks for a caption; holds [`IMAGE_PLACEHOLDER`] once.
    pub caption: String,
    /// Asks a question; holds [`IMAGE_PLACEHOLDER`] and `{question}` once each.
    pub ask: String,
}

/// A prompt that cannot be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PromptError {
    /// The picture has no place or several.
    #[error("the prompt holds {IMAGE_PLACEHOLDER} {found} times; exactly once is needed")]
    Placeholder {
        /// Occurrences.
        found: usize,
    },
    /// A question or template must not hold the other's placeholder.
    #[error("the prompt's {part} must hold {QUESTION_PLACEHOLDER} exactly once")]
    Question {
        /// Which text.
        part: &'static str,
    },
    /// The text could not be split into tokens.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
}

impl PromptTemplates {
    /// The prompts that suit a TinyGPT-V stage: what stage 3 was trained on for captions of stages 1 to 3, the demo's
    /// dialogue with stage 4's task tags for stage 4, and the evaluation's wording for questions.
    pub fn of_stage(stage: u8) -> Self {
        const ASK: &str =
            "[vqa] Based on the image, respond to this question with a short answer: {question}";
        if stage == 4 {
            Self {
                caption: "<s>[INST] <Img><ImageHere></Img> [caption] please describe this image? [/INST]"
                    .to_owned(),
                ask: format!("<s>[INST] <Img><ImageHere></Img> {ASK} [/INST]"),
            }
        } else {
            Self {
                caption: "###Human: <Img><ImageHere></Img> Describe this image in detail. ###Assistant: "
                    .to_owned(),
                ask: format!("###Human: <Img><ImageHere></Img> {ASK}###Assistant: "),
            }
        }
    }

    /// Checks both templates' placeholders.
    pub fn validate(&self) -> Result<(), PromptError> {
        once(&self.caption)?;
        once(&self.ask)?;
        if self.ask.matches(QUESTION_PLACEHOLDER).count() != 1 {
            return Err(PromptError::Question { part: "question template" });
        }
        Ok(())
    }

    /// The prompt that asks `question`. A question naming the picture's placeholder is refused.
    pub fn ask(&self, question: &str) -> Result<String, PromptError> {
        let prompt = self.ask.replacen(QUESTION_PLACEHOLDER, question, 1);
        once(&prompt)?;
        Ok(prompt)
    }
}

/// The tokens before and after the picture. The two texts are tokenised alone, so that no merge
/// crosses the picture; nothing is added in front.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PromptTokens {
    /// Tokens before the picture.
    pub before: Vec<u32>,
    /// Tokens after the picture.
    pub after: Vec<u32>,
}

impl PromptTokens {
    /// Tokenises a full prompt that holds [`IMAGE_PLACEHOLDER`] once.
    pub fn new(tokenizer: &CaptionTokenizer, prompt: &str) -> Result<Self, PromptError> {
        let (before, after) = once(prompt)?;
        Ok(Self { before: tokenizer.encode(before)?, after: tokenizer.encode(after)? })
    }

    /// Length of the prompt in the language model, for a picture of `image_tokens` tokens.
    pub fn len_with(&self, image_tokens: usize) -> usize {
        self.before.len() + image_tokens + self.after.len()
    }
}

fn once(prompt: &str) -> Result<(&str, &str), PromptError> {
    let found = prompt.matches(IMAGE_PLACEHOLDER).count();
    match prompt.split_once(IMAGE_PLACEHOLDER) {
        Some(parts) if found == 1 => Ok(parts),
        _ => Err(PromptError::Placeholder { found }),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn templates() -> PromptTemplates {
        PromptTemplates {
            caption: "<Img><ImageHere></Img> describe".to_owned(),
            ask: "<Img><ImageHere></Img> [vqa] {question}###".to_owned(),
        }
    }

    #[test]
    fn a_question_takes_its_place() {
        templates().validate().unwrap();
        assert_eq!(templates().ask("what?").unwrap(), "<Img><ImageHere></Img> [vqa] what?###");
    }

    #[test]
    fn a_question_cannot_bring_a_second_picture() {
        let error = templates().ask("see <ImageHere>").unwrap_err();
        assert!(matches!(error, PromptError::Placeholder { found: 2 }));
    }

    #[test]
    fn templates_without_their_places_are_refused() {
        let mut broken = templates();
        broken.ask = "<ImageHere> ask".to_owned();
        assert!(matches!(broken.validate(), Err(PromptError::Question { .. })));
        broken.caption = "no picture".to_owned();
        assert!(matches!(broken.validate(), Err(PromptError::Placeholder { found: 0 })));
    }
}
