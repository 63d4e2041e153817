//! From what a job asks to the texts and the limits that the engine takes.

use std::sync::Arc;

use captionfleet_model::constraint::ValueForm;
use captionfleet_model::{Adapter, SamplingOptions};
use captionfleet_proto::job::{AnswerForm, CaptionJob, JobItem, Prompt, QUESTION_PLACEHOLDER, Question};

use super::answers::Asked;
use super::item_failure::ItemFailure;
use super::{Failure, Pipeline};
use crate::engine::{Ask, EngineError, Manner};

/// Bounds of whole numbers that JSON holds exactly.
const WHOLE: i64 = 1 << 53;

/// What is the same for all items of a job, or for one with questions of its own.
pub(super) struct Plan {
    pub(super) asks: Arc<[Ask]>,
    /// What the answers are to; empty for captions.
    pub(super) asked: Vec<Asked>,
    pub(super) embed: bool,
    pub(super) adapter: Option<Arc<Adapter>>,
}

impl Pipeline {
    /// Resolves the job's prompt with the bundle's templates, and its adapter. What is unusable fails every item alike.
    ///
    /// # Errors
    /// When the adapter cannot be read now.
    pub(super) async fn plan(&self, caption: &CaptionJob) -> Result<Result<Plan, ItemFailure>, Failure> {
        let adapter = match &caption.adapter {
            None => None,
            Some(wanted) => match self.adapters.get(wanted, &self.stores, &self.engine).await {
                Ok(adapter) => Some(adapter),
                Err(ItemFailure::Job(failure)) => return Err(failure),
                Err(refused) => return Ok(Err(refused)),
            },
        };
        Ok(self.plan_with(caption, &[], adapter))
    }

    /// The plan of an item, if it is not that of its job.
    pub(super) fn plan_of(
        &self,
        caption: &CaptionJob,
        plan: &Plan,
        item: &JobItem,
    ) -> Option<Result<Plan, ItemFailure>> {
        let adapter = || plan.adapter.clone();
        (!item.questions.is_empty()).then(|| self.plan_with(caption, &item.questions, adapter()))
    }

    fn plan_with(
        &self,
        caption: &CaptionJob,
        own: &[Question],
        adapter: Option<Arc<Adapter>>,
    ) -> Result<Plan, ItemFailure> {
        let (asks, asked) =
            self.asks(caption, own).map_err(|error| ItemFailure::row(error.code(), error.to_string()))?;
        // A bundle without the heads still captions.
        let embed = caption.embed && self.engine.info().embedding_space.is_some();
        Ok(Plan { asks: asks.into(), asked, embed, adapter })
    }

    fn asks(&self, caption: &CaptionJob, own: &[Question]) -> Result<(Vec<Ask>, Vec<Asked>), EngineError> {
        let prompts = &self.engine.info().prompts;
        let max_new_tokens = caption.max_tokens.unwrap_or(self.options.max_tokens_default) as usize;
        let ask = |prompt: &str, manner: Manner| {
            let sampling = SamplingOptions { max_new_tokens, ..SamplingOptions::default() };
            let ask = Ask { prompt: prompt.into(), sampling, manner };
            self.engine.check_ask(&ask)?;
            Ok::<_, EngineError>(ask)
        };
        let alone = |prompt: &str| Ok((vec![ask(prompt, Manner::Free)?], Vec::new()));
        let (questions, template) = match &caption.prompt {
            Prompt::Caption => return alone(&prompts.caption),
            Prompt::Raw { template } => return alone(template),
            Prompt::Ask { question } => (vec![Question::free(question.clone())], None),
            Prompt::Questions { questions, template } => {
                (questions.iter().chain(own).cloned().collect(), template.as_deref())
            }
        };
        let (mut asks, mut asked) = (Vec::new(), Vec::new());
        for question in questions {
            let prompt = match template {
                Some(template) => template.replacen(QUESTION_PLACEHOLDER, &question.question, 1),
                None => prompts.ask(&question.question)?,
            };
            let before = asks.len();
            for manner in self.manners(&question.answer)? {
                asks.push(ask(&prompt, manner)?);
            }
            asked.push(Asked { question, asks: asks.len() - before });
        }
        Ok((asks, asked))
    }

    /// What is to be said to one question.
    fn manners(&self, form: &AnswerForm) -> Result<Vec<Manner>, EngineError> {
        let form = match form {
            AnswerForm::Free => return Ok(vec![Manner::Free]),
            AnswerForm::Unended => return Ok(vec![Manner::Unended]),
            AnswerForm::Choices { choices } => {
                return Ok(choices.iter().map(|choice| Manner::Exactly(choice.as_str().into())).collect());
            }
            AnswerForm::OneOf { values } => ValueForm::OneOf(values.clone()),
            AnswerForm::Boolean => ValueForm::boolean(),
            AnswerForm::Integer { minimum, maximum } => {
                ValueForm::Integer { minimum: minimum.unwrap_or(-WHOLE), maximum: maximum.unwrap_or(WHOLE) }
            }
            AnswerForm::Number { minimum, maximum } => {
                ValueForm::Number { minimum: minimum.unwrap_or(-1e15), maximum: maximum.unwrap_or(1e15) }
            }
            AnswerForm::Text { max_length } => ValueForm::Text { most: *max_length as usize },
        };
        Ok(vec![Manner::Within(self.engine.constraint(form)?)])
    }
}
