//! From what the engine said to what a row says. Pure.

use captionfleet_model::constraint::ValueForm;
use captionfleet_proto::job::{AnswerForm, Question};
use captionfleet_proto::rows::Answer;
use serde_json::{Map, Value};

use crate::engine::{CaptionResult, Said};

/// A question, and how many things were said to it.
pub(super) struct Asked {
    pub(super) question: Question,
    pub(super) asks: usize,
}

/// The texts of a row.
pub(super) struct Told {
    pub(super) caption: String,
    pub(super) answers: Option<Vec<Answer>>,
    pub(super) fields: Option<String>,
}

/// What the row says of a picture about which `asked` was asked.
pub(super) fn told(asked: &[Asked], result: &CaptionResult) -> Told {
    if asked.is_empty() {
        return Told { caption: result.caption.clone(), answers: None, fields: None };
    }
    let (mut answers, mut fields, mut rest) = (Vec::new(), Map::new(), result.said.as_slice());
    for Asked { question, asks } in asked {
        let (said, others) = rest.split_at((*asks).min(rest.len()));
        rest = others;
        let (answer, value, probability) = answer(&question.answer, said);
        if let Some(name) = &question.name {
            fields.insert(name.clone(), value);
        }
        answers.push(Answer {
            question: question.question.clone(),
            name: question.name.clone(),
            answer,
            probability,
        });
    }
    let caption = match answers.as_slice() {
        [alone] => alone.answer.clone(),
        // Searches by words find questions and answers together.
        several => several
            .iter()
            .map(|one| format!("{} {}", one.question, one.answer))
            .collect::<Vec<_>>()
            .join("\n"),
    };
    let fields = (!fields.is_empty()).then(|| Value::Object(fields).to_string());
    Told { caption, answers: Some(answers), fields }
}

/// The answer in words, as a value, and its share among those that were allowed.
fn answer(form: &AnswerForm, said: &[Said]) -> (String, Value, Option<f32>) {
    let first = said.first();
    let text = || first.map(|said| said.text.clone()).unwrap_or_default();
    let share = || first.and_then(|said| said.share).map(|share| share.exp() as f32);
    let in_words = |text: String, probability| (text.clone(), Value::String(text), probability);
    match form {
        AnswerForm::Free | AnswerForm::Unended | AnswerForm::Text { .. } => in_words(text(), None),
        AnswerForm::OneOf { .. } => in_words(text(), share()),
        AnswerForm::Choices { .. } => {
            let (best, probability) = best(said);
            in_words(best.map(|said| said.text.clone()).unwrap_or_default(), probability)
        }
        AnswerForm::Boolean => {
            let yes = matches!(text().as_str(), "yes" | "true");
            ((if yes { "yes" } else { "no" }).to_owned(), Value::Bool(yes), share())
        }
        AnswerForm::Integer { .. } => {
            let value = ValueForm::integer(&text()).unwrap_or_default();
            (value.to_string(), value.into(), share())
        }
        AnswerForm::Number { .. } => {
            // Minus nothing is nothing.
            let value = text().parse::<f64>().unwrap_or_default() + 0.0;
            (value.to_string(), value.into(), share())
        }
    }
}

/// The answer of the least mean loss, as the reference's scoring has it, and its share among all. Losses are weighed by
/// the mean number of tokens: answers of equal length have exactly the shares that the model gives them.
fn best(said: &[Said]) -> (Option<&Said>, Option<f32>) {
    let loss = |said: &Said| -said.logprob / f64::from(said.tokens.max(1));
    let Some(best) = said.iter().min_by(|one, other| loss(one).total_cmp(&loss(other))) else {
        return (None, None);
    };
    let mean_tokens = said.iter().map(|said| f64::from(said.tokens)).sum::<f64>() / said.len() as f64;
    let all: f64 = said.iter().map(|said| (mean_tokens * (loss(best) - loss(said))).exp()).sum();
    (Some(best), Some((1.0 / all) as f32))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use captionfleet_model::StopReason;

    use super::*;
    use crate::engine::DeviceTime;

    fn said(text: &str, tokens: u32, logprob: f64) -> Said {
        let stop_reason = StopReason::StopSequence;
        Said { text: text.to_owned(), tokens, logprob, share: Some(-1.0), stop_reason }
    }

    fn result(said: Vec<Said>) -> CaptionResult {
        CaptionResult {
            caption: said[0].text.clone(),
            tokens: 1,
            mean_logprob: 0.0,
            stop_reason: StopReason::StopSequence,
            said,
            embedding: None,
            device: DeviceTime::default(),
        }
    }

    fn asked(text: &str, name: Option<&str>, answer: AnswerForm, asks: usize) -> Asked {
        let question = Question { question: text.to_owned(), name: name.map(str::to_owned), answer };
        Asked { question, asks }
    }

    #[test]
    fn equal_lengths_have_the_shares_that_the_model_gives() {
        let rated = [said("yes", 2, 0.6_f64.ln()), said("no", 2, 0.2_f64.ln())];
        let (chosen, probability) = best(&rated);
        assert_eq!(chosen.unwrap().text, "yes");
        assert!((probability.unwrap() - 0.75).abs() < 1e-6);
    }

    #[test]
    fn a_long_answer_is_not_punished_for_its_length() {
        let rated = [said("red", 2, -2.0), said("a red star on a blue sea", 8, -4.0)];
        let (chosen, probability) = best(&rated);
        assert_eq!(chosen.unwrap().tokens, 8);
        assert!(probability.unwrap() > 0.5);
    }

    #[test]
    fn named_values_are_json_and_texts_are_searchable() {
        let asks = [
            asked("how many?", Some("count"), AnswerForm::Integer { minimum: None, maximum: None }, 1),
            asked("is it red?", Some("red"), AnswerForm::Boolean, 1),
            asked("which?", None, AnswerForm::yes_or_no(), 2),
        ];
        let all =
            vec![said("three", 1, -0.1), said("true", 1, -0.1), said("yes", 1, -3.0), said("no", 1, -1.0)];
        let told = told(&asks, &result(all));
        assert_eq!(told.fields.unwrap(), r#"{"count":3,"red":true}"#);
        assert_eq!(told.caption, "how many? 3\nis it red? yes\nwhich? no");
        let answers = told.answers.unwrap();
        assert_eq!(answers.len(), 3);
        assert!((answers[0].probability.unwrap() - (-1.0_f32).exp()).abs() < 1e-6);
    }

    #[test]
    fn a_caption_is_no_answer() {
        let told = told(&[], &result(vec![said("a red star", 3, -1.0)]));
        assert_eq!((told.caption.as_str(), told.answers, told.fields), ("a red star", None, None));
    }
}
