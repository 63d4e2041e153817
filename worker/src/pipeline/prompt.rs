//! From what a job asks to the text and the limits that the engine takes.

use std::sync::Arc;

use captionfleet_model::SamplingOptions;
use captionfleet_proto::job::{CaptionJob, Prompt};

use super::Pipeline;
use super::item::ItemFailure;
use crate::engine::EngineError;

/// What is the same for all items of a job.
pub(super) struct Plan {
    pub(super) prompt: Arc<str>,
    pub(super) sampling: SamplingOptions,
    pub(super) embed: bool,
}

impl Pipeline {
    /// Resolves the job's prompt with the bundle's templates. An unusable one fails every item alike.
    pub(super) fn plan(&self, caption: &CaptionJob) -> Result<Plan, ItemFailure> {
        let info = self.engine.info();
        let prompt = match &caption.prompt {
            Prompt::Caption => Ok(info.prompts.caption.clone()),
            Prompt::Ask { question } => info.prompts.ask(question),
            Prompt::Raw { template } => Ok(template.clone()),
        };
        let max_new_tokens = caption.max_tokens.unwrap_or(self.options.max_tokens_default) as usize;
        let checked = prompt.map_err(EngineError::from).and_then(|prompt| {
            self.engine.check_prompt(&prompt, max_new_tokens)?;
            Ok(prompt)
        });
        let prompt = checked.map_err(|error| ItemFailure::row(error.code(), error.to_string()))?;
        Ok(Plan {
            prompt: prompt.into(),
            sampling: SamplingOptions { max_new_tokens, ..SamplingOptions::default() },
            // A bundle without the heads still captions.
            embed: caption.embed && info.embedding_space.is_some(),
        })
    }
}
