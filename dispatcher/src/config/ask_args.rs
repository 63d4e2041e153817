//! What is asked about every picture, as typed and as the contract has it.

use super::schema;
use super::usage_error::UsageError;
use captionfleet_proto::job::{AnswerForm, IMAGE_PLACEHOLDER, Prompt, Question, problem_of};
use clap::Args;
use std::path::{Path, PathBuf};

/// What is asked about every picture; nothing: it is captioned.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Questions")]
pub struct AskArgs {
    /// Ask this about every picture instead of captioning it; may be given several times
    #[arg(long, value_name = "QUESTION")]
    pub ask: Vec<String>,

    /// Ask the questions of this file: one a line, its answers behind it after bars (is it day? | yes | no), or a .json
    /// file with a list as jobs have it
    #[arg(long, value_name = "FILE")]
    pub questions: Option<PathBuf>,

    /// The answers to choose from, for every --ask: the likeliest is taken, and its probability stands in the row
    #[arg(long, value_name = "A,B,…", value_delimiter = ',', requires = "ask")]
    pub choices: Vec<String>,

    /// The same with yes and no
    #[arg(long, requires = "ask", conflicts_with = "choices")]
    pub yes_no: bool,

    /// Fill in the properties of this JSON schema (enums, booleans, numbers and strings) for every picture
    #[arg(long, value_name = "FILE")]
    pub schema: Option<PathBuf>,

    /// The model's whole prompt, with the placeholder of the picture in it once
    #[arg(
        long,
        value_name = "TEMPLATE",
        conflicts_with_all = ["ask", "questions", "schema"],
        help = "The model's whole prompt, with <ImageHere> once where the picture goes"
    )]
    pub prompt: Option<String>,
}

impl AskArgs {
    /// The prompt of a run.
    ///
    /// # Errors
    /// What cannot be asked, with the option that it came from.
    pub fn prompt(&self) -> Result<Prompt, UsageError> {
        if let Some(template) = &self.prompt {
            return raw(template);
        }
        let mut questions = Vec::new();
        for text in &self.ask {
            let answer = if self.yes_no {
                AnswerForm::yes_or_no()
            } else if self.choices.is_empty() {
                AnswerForm::Free
            } else {
                AnswerForm::Choices { choices: trimmed(&self.choices) }
            };
            questions.push(Question { answer, ..Question::free(text.trim()) });
        }
        check("--ask", &questions)?;
        if let Some(path) = &self.questions {
            questions.extend(from_file(path)?);
        }
        if let Some(path) = &self.schema {
            let fail = |problem: String| UsageError::new(format!("--schema {}: {problem}", path.display()));
            questions.extend(schema::questions(&read("--schema", path)?).map_err(fail)?);
        }
        check("--ask, --questions and --schema together", &questions)?;
        Ok(match questions.as_slice() {
            [] => Prompt::Caption,
            // As it always was: the same question has the same rows.
            [Question { question, name: None, answer: AnswerForm::Free }] => {
                Prompt::Ask { question: question.clone() }
            }
            _ => Prompt::Questions { questions, template: None },
        })
    }
}

fn raw(template: &str) -> Result<Prompt, UsageError> {
    if template.matches(IMAGE_PLACEHOLDER).count() != 1 {
        return Err(UsageError::new(format!(
            "--prompt: the template must hold {IMAGE_PLACEHOLDER} exactly once, where the picture goes; to ask a \
             question about each picture use --ask"
        )));
    }
    if template.len() > 16384 {
        return Err(UsageError::new("--prompt: the template is longer than 16384 bytes"));
    }
    Ok(Prompt::Raw { template: template.to_owned() })
}

fn check(option: &str, questions: &[Question]) -> Result<(), UsageError> {
    let Some((at, problem)) = problem_of(questions) else { return Ok(()) };
    let which = questions.get(at).map_or(String::new(), |question| format!(" {:?}", question.question));
    Err(UsageError::new(format!("{option}: question {}{which} {problem}", at + 1)))
}

fn from_file(path: &Path) -> Result<Vec<Question>, UsageError> {
    let fail = |problem: String| UsageError::new(format!("--questions {}: {problem}", path.display()));
    let text = read("--questions", path)?;
    let questions = if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json")) {
        serde_json::from_str(&text).map_err(|error| fail(error.to_string()))?
    } else {
        text.lines().filter_map(line).collect::<Vec<_>>()
    };
    if questions.is_empty() {
        return Err(fail("there is no question in it".to_owned()));
    }
    check(&format!("--questions {}", path.display()), &questions)?;
    Ok(questions)
}

/// `question | answer | answer`; nothing for empty lines and those that begin with `#`.
fn line(line: &str) -> Option<Question> {
    let mut parts = line.split('|').map(str::trim);
    let question = parts.next().filter(|text| !text.is_empty() && !text.starts_with('#'))?;
    let choices: Vec<String> = parts.map(str::to_owned).collect();
    let answer = if choices.is_empty() { AnswerForm::Free } else { AnswerForm::Choices { choices } };
    Some(Question { answer, ..Question::free(question) })
}

fn read(option: &str, path: &Path) -> Result<String, UsageError> {
    let fail = |problem: String| UsageError::new(format!("{option} {}: {problem}", path.display()));
    let bytes = std::fs::read(path).map_err(|error| fail(format!("it cannot be read: {error}")))?;
    let text = String::from_utf8(bytes).map_err(|_| fail("it is not UTF-8; save it as such".to_owned()))?;
    // Some editors put the mark of Unicode before everything else.
    Ok(match text.strip_prefix('\u{feff}') {
        Some(text) => text.to_owned(),
        None => text,
    })
}

fn trimmed(texts: &[String]) -> Vec<String> {
    texts.iter().map(|text| text.trim().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asking(ask: &[&str]) -> AskArgs {
        AskArgs { ask: ask.iter().map(|text| (*text).to_owned()).collect(), ..AskArgs::default() }
    }

    #[test]
    fn a_template_shows_where_the_picture_goes() {
        let prompt =
            |template: &str| AskArgs { prompt: Some(template.to_owned()), ..AskArgs::default() }.prompt();
        assert!(prompt("describe <ImageHere> now").is_ok());
        assert!(prompt("describe it").is_err());
        assert!(prompt("<ImageHere><ImageHere>").is_err());
    }

    #[test]
    fn one_free_question_is_asked_as_it_always_was() {
        assert!(asking(&["  "]).prompt().is_err());
        assert_eq!(asking(&[" what? "]).prompt(), Ok(Prompt::Ask { question: "what?".to_owned() }));
        assert_eq!(asking(&[]).prompt(), Ok(Prompt::Caption));
    }

    #[test]
    fn choices_count_for_every_question() {
        let args = AskArgs { choices: vec!["red".to_owned(), " blue ".to_owned()], ..asking(&["a?", "b?"]) };
        let Ok(Prompt::Questions { questions, .. }) = args.prompt() else { panic!("not several questions") };
        let choices = vec!["red".to_owned(), "blue".to_owned()];
        assert!(questions.iter().all(|one| one.answer == AnswerForm::Choices { choices: choices.clone() }));
        let twice = AskArgs { choices: vec!["red".to_owned(), "red".to_owned()], ..asking(&["a?"]) };
        assert!(twice.prompt().is_err_and(|error| error.to_string().contains("names an answer twice")));
    }

    #[test]
    fn a_line_holds_its_answers() {
        assert_eq!(line(" # remark"), None);
        assert_eq!(line("  "), None);
        let choices = vec!["yes".to_owned(), "no".to_owned()];
        let asked = Question { answer: AnswerForm::Choices { choices }, ..Question::free("is it day?") };
        assert_eq!(line("is it day? | yes | no"), Some(asked));
    }
}
