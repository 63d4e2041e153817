//! What a request asks about pictures, and the answers as the API tells them.

use crate::serve::http::problem::Problem;
use captionfleet_proto::job::{AnswerForm, Prompt, Question, problem_of};
use captionfleet_proto::rows::Answer;
use schemars::JsonSchema;
use serde::Serialize;

/// What is asked: nothing is a caption, one question with a free answer what it always was.
pub(super) fn prompt(
    question: Option<&str>,
    choices: &[String],
    several: &[Question],
) -> Result<Prompt, Problem> {
    let mut questions = Vec::new();
    match question.map(str::trim) {
        None if !choices.is_empty() => return Err(Problem::conflict("choices: they need a question")),
        None => {}
        Some("") => return Err(Problem::bad("question: it is empty")),
        Some(text) if choices.is_empty() => questions.push(Question::free(text)),
        Some(text) => {
            let answer = AnswerForm::Choices { choices: choices.to_vec() };
            questions.push(Question { answer, ..Question::free(text) });
        }
    }
    questions.extend_from_slice(several);
    if let Some((at, problem)) = problem_of(&questions) {
        return Err(Problem::bad(format!("question {} {problem}", at + 1)));
    }
    Ok(match questions.as_slice() {
        [] => Prompt::Caption,
        [Question { question, name: None, answer: AnswerForm::Free }] => {
            Prompt::Ask { question: question.clone() }
        }
        _ => Prompt::Questions { questions, template: None },
    })
}

/// What was said to one question.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(super) struct Told {
    /// The question.
    question: String,
    /// The name of its value.
    name: Option<String>,
    /// What was said, or the answer that fits best.
    answer: String,
    /// The share of that answer among all that were allowed.
    probability: Option<f32>,
}

impl From<Answer> for Told {
    fn from(answer: Answer) -> Self {
        let Answer { question, name, answer, probability } = answer;
        Self { question, name, answer, probability: probability.filter(|value| value.is_finite()) }
    }
}

/// The named values of a row.
pub(super) fn values(fields: Option<&str>) -> Option<serde_json::Map<String, serde_json::Value>> {
    fields.and_then(|fields| serde_json::from_str(fields).ok())
}
