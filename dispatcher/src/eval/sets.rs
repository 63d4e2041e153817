//! The data sets: where their files lie, and what they ask.

use captionfleet_proto::job::AnswerForm;
use captionfleet_world::questions::sort_of;
use clap::ValueEnum;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

/// The data sets that can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Benchmark {
    /// GQA, testdev balanced: `testdev_balanced_questions.json` and `images/`
    Gqa,
    /// VSR zero-shot, test: `test.jsonl` and `train2017/`, `val2017/` or `images/`
    Vsr,
    /// `IconQA`, choose-text: `choose_text_val.json` with `ID/image.png`, or `val/choose_txt/ID/` as published
    Iconvqa,
    /// `VizWiz` VQA: `val.json` and `val/`
    Vizwiz,
    /// Hateful Memes: `dev.jsonl` and `img/`
    Hm,
    /// Captions in COCO's format: `annotations/captions_*.json` and `val2017/` or `images/`
    Coco,
    /// The demo model's world: `pictures.jsonl` and `pictures/`, drawn if they are not there
    Demo,
}

/// What counts as right.
#[derive(Debug, Clone, PartialEq)]
pub enum Gold {
    /// This answer.
    Text(String),
    /// Whether the statement is true.
    Truth(bool),
    /// The place of the right one among the choices.
    Choice(Vec<String>, usize),
    /// What ten people said.
    People(Vec<String>),
    /// 1 is yes, 0 is no.
    Label(i64),
    /// Any of these; the first is the usual one.
    Accepted(Vec<String>),
    /// Captions by people.
    Captions(Vec<String>),
    /// Whether it is yes: what counts is how likely that is beside other cases.
    Ranked(bool),
}

/// What is rated for [`Gold::Ranked`].
pub const YES: &str = "yes";
/// The other choice.
const NO: &str = "no";

/// One question of a set.
#[derive(Debug, Clone, PartialEq)]
pub struct Case {
    /// Its name in the set.
    pub id: String,
    /// The picture.
    pub picture: PathBuf,
    /// What is asked, in the reference's wording; empty: the picture is captioned.
    pub question: String,
    /// What is asked, in the words of the set.
    pub plain: String,
    /// What may be answered.
    pub form: AnswerForm,
    /// The sort of question, where the set has some.
    pub sort: Option<String>,
    /// What counts as right.
    pub gold: Gold,
}

/// A data set that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SetError {
    /// A file is missing or cannot be read.
    #[error("{path}: {problem}; {remedy}", path = path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        problem: String,
        /// What the set must look like.
        remedy: &'static str,
    },
    /// There is nothing in it.
    #[error("{path}: the set has no questions", path = .0.display())]
    Empty(PathBuf),
}

impl Benchmark {
    /// Its name in commands, runs and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gqa => "gqa",
            Self::Vsr => "vsr",
            Self::Iconvqa => "iconvqa",
            Self::Vizwiz => "vizwiz",
            Self::Hm => "hm",
            Self::Coco => "coco",
            Self::Demo => "demo",
        }
    }

    /// The reference's prompt around each question; none: the bundle's own.
    pub fn template(self) -> Option<&'static str> {
        match self {
            Self::Iconvqa => Some("###Human: <Img><ImageHere></Img> {question} ###Assistant: "),
            Self::Coco | Self::Demo => None,
            _ => Some("###Human: <Img><ImageHere></Img> {question}###Assistant: "),
        }
    }

    fn layout(self) -> &'static str {
        match self {
            Self::Gqa => "GQA needs testdev_balanced_questions.json and images/ID.jpg below --data",
            Self::Vsr => {
                "VSR needs test.jsonl and the pictures in train2017/, val2017/ or images/ below --data"
            }
            Self::Iconvqa => {
                "IconQA needs choose_text_val.json and ID/image.png, or val/choose_txt/ID/ below --data"
            }
            Self::Vizwiz => "VizWiz needs val.json and the pictures in val/ below --data",
            Self::Hm => "Hateful Memes needs dev.jsonl and img/ below --data",
            Self::Coco => {
                "COCO captions need annotations/captions_*.json and val2017/ or images/ below --data"
            }
            Self::Demo => "the demo's benchmark needs pictures.jsonl and pictures/ below --data",
        }
    }

    /// Reads the set below `data`.
    ///
    /// # Errors
    /// When a file is missing or not of the published format.
    pub fn read(self, data: &Path) -> Result<Vec<Case>, SetError> {
        let reader = Reader { set: self, data };
        let cases = match self {
            Self::Gqa => reader.gqa(),
            Self::Vsr => reader.vsr(),
            Self::Iconvqa => reader.iconvqa(),
            Self::Vizwiz => reader.vizwiz(),
            Self::Hm => reader.hm(),
            Self::Coco => reader.coco(),
            Self::Demo => reader.demo(),
        }?;
        if cases.is_empty() { Err(SetError::Empty(data.to_owned())) } else { Ok(cases) }
    }
}

struct Reader<'a> {
    set: Benchmark,
    data: &'a Path,
}

#[derive(Deserialize)]
struct GqaQuestion {
    #[serde(rename = "imageId")]
    image_id: Option<String>,
    image: Option<String>,
    question: String,
    answer: String,
    types: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
struct VsrLine {
    image: String,
    caption: String,
    label: i64,
    relation: Option<String>,
}

#[derive(Deserialize)]
struct IconQuestion {
    image_id: Option<String>,
    question: String,
    choices: Vec<String>,
    answer: usize,
    ques_type: Option<String>,
}

#[derive(Deserialize)]
struct VizWizQuestion {
    image: String,
    question: String,
    answers: Vec<VizWizAnswer>,
    answer_type: Option<String>,
}

#[derive(Deserialize)]
struct VizWizAnswer {
    answer: String,
}

#[derive(Deserialize)]
struct Meme {
    id: serde_json::Value,
    img: String,
    text: String,
    label: i64,
}

#[derive(Deserialize)]
struct Coco {
    images: Vec<CocoImage>,
    annotations: Vec<CocoCaption>,
}

#[derive(Deserialize)]
struct CocoImage {
    id: i64,
    file_name: String,
}

#[derive(Deserialize)]
struct CocoCaption {
    image_id: i64,
    caption: String,
}

#[derive(Deserialize)]
struct DemoScene {
    file: String,
    questions: Vec<DemoQuestion>,
}

#[derive(Deserialize)]
struct DemoQuestion {
    question: String,
    answers: Vec<String>,
}

fn short_answer(question: &str) -> String {
    format!("[vqa] Based on the image, respond to this question with a short answer: {question}")
}

impl Reader<'_> {
    fn fail(&self, path: &Path, problem: impl ToString) -> SetError {
        SetError::File { path: path.to_owned(), problem: problem.to_string(), remedy: self.set.layout() }
    }

    fn text(&self, path: &Path) -> Result<String, SetError> {
        std::fs::read_to_string(path).map_err(|error| self.fail(path, error))
    }

    fn json<T: DeserializeOwned>(&self, path: &Path) -> Result<T, SetError> {
        serde_json::from_str(&self.text(path)?).map_err(|error| self.fail(path, error))
    }

    fn lines<T: DeserializeOwned>(&self, path: &Path) -> Result<Vec<T>, SetError> {
        let text = self.text(path)?;
        let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
        lines
            .map(|(number, line)| {
                serde_json::from_str(line)
                    .map_err(|error| self.fail(path, format!("line {}: {error}", number + 1)))
            })
            .collect()
    }

    /// The first of the folders that has the picture; the first one if none has: its row will say so.
    fn picture(&self, folders: &[&str], name: &str) -> PathBuf {
        let path = |folder: &&str| self.data.join(folder).join(name);
        let there = folders.iter().map(path).find(|path| path.exists());
        there.or_else(|| folders.first().map(path)).unwrap_or_else(|| self.data.join(name))
    }

    fn gqa(&self) -> Result<Vec<Case>, SetError> {
        let path = self.data.join("testdev_balanced_questions.json");
        let value: serde_json::Value = self.json(&path)?;
        // As published: an object by question id. As the reference's script has it: a list.
        let questions: Vec<(String, GqaQuestion)> = if value.is_array() {
            let list: Vec<GqaQuestion> =
                serde_json::from_value(value).map_err(|error| self.fail(&path, error))?;
            list.into_iter().enumerate().map(|(at, question)| (at.to_string(), question)).collect()
        } else {
            let by_id: BTreeMap<String, GqaQuestion> =
                serde_json::from_value(value).map_err(|error| self.fail(&path, error))?;
            by_id.into_iter().collect()
        };
        questions
            .into_iter()
            .map(|(id, question)| {
                let name = question.image_id.map(|id| format!("{id}.jpg")).or(question.image);
                let name = name.ok_or_else(|| self.fail(&path, format!("question {id} names no picture")))?;
                Ok(Case {
                    picture: self.picture(&["images", "."], &name),
                    question: short_answer(&question.question),
                    plain: question.question,
                    form: AnswerForm::Unended,
                    sort: question.types.and_then(|types| types.get("structural").cloned()),
                    gold: Gold::Text(question.answer),
                    id,
                })
            })
            .collect()
    }

    fn vsr(&self) -> Result<Vec<Case>, SetError> {
        let lines: Vec<VsrLine> = self.lines(&self.data.join("test.jsonl"))?;
        let case = |(at, line): (usize, VsrLine)| Case {
            id: at.to_string(),
            picture: self.picture(&["train2017", "val2017", "images"], &line.image),
            question: format!("[vqa] Based on the image, is this statement true or false? {}", line.caption),
            plain: format!("Is this statement true or false? {}", line.caption),
            form: AnswerForm::Unended,
            sort: line.relation,
            gold: Gold::Truth(line.label == 1),
        };
        Ok(lines.into_iter().enumerate().map(case).collect())
    }

    fn iconvqa(&self) -> Result<Vec<Case>, SetError> {
        let path = self.data.join("choose_text_val.json");
        if path.exists() {
            let list: Vec<IconQuestion> = self.json(&path)?;
            let case = |(at, question): (usize, IconQuestion)| {
                let id = question.image_id.clone().unwrap_or_else(|| at.to_string());
                self.icon_case(&path, at.to_string(), self.data.join(id).join("image.png"), question)
            };
            return list.into_iter().enumerate().map(case).collect();
        }
        let folder = self.data.join("val/choose_txt");
        let entries = std::fs::read_dir(&folder).map_err(|error| self.fail(&folder, error))?;
        let mut names: Vec<String> =
            entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort_unstable();
        let case = |name: String| {
            let path = folder.join(&name).join("data.json");
            let question = self.json(&path)?;
            self.icon_case(&path, name.clone(), folder.join(&name).join("image.png"), question)
        };
        names.into_iter().map(case).collect()
    }

    fn icon_case(
        &self,
        path: &Path,
        id: String,
        picture: PathBuf,
        question: IconQuestion,
    ) -> Result<Case, SetError> {
        let IconQuestion { question, choices, answer, ques_type, .. } = question;
        if answer >= choices.len() {
            return Err(self.fail(path, format!("question {id} has no choice {answer}")));
        }
        // Two equal choices would be rated alike; the earlier one stands for both.
        let mut rated: Vec<String> = Vec::new();
        for choice in &choices {
            let choice = choice.trim().to_owned();
            if !rated.contains(&choice) {
                rated.push(choice);
            }
        }
        let form = AnswerForm::Choices { choices: rated };
        let gold = Gold::Choice(choices, answer);
        let sort = ques_type;
        Ok(Case { id, picture, question: short_answer(&question), plain: question, form, sort, gold })
    }

    fn vizwiz(&self) -> Result<Vec<Case>, SetError> {
        let list: Vec<VizWizQuestion> = self.json(&self.data.join("val.json"))?;
        let case = |(at, question): (usize, VizWizQuestion)| Case {
            id: at.to_string(),
            picture: self.picture(&["val", "."], &question.image),
            question: format!(
                "[vqa] The question is '{}' Based on the image, answer the question with a single word or phrase. and \
                 reply 'unanswerable' when the provided information is insufficient",
                question.question
            ),
            plain: question.question,
            form: AnswerForm::Unended,
            sort: question.answer_type,
            gold: Gold::People(question.answers.into_iter().map(|one| one.answer).collect()),
        };
        Ok(list.into_iter().enumerate().map(case).collect())
    }

    fn hm(&self) -> Result<Vec<Case>, SetError> {
        let lines: Vec<Meme> = self.lines(&self.data.join("dev.jsonl"))?;
        let cases = |meme: Meme| {
            let said = Case {
                id: meme.id.to_string(),
                picture: self.data.join(&meme.img),
                question: format!(
                    "This is an image writting '{}'. Is this image hateful? Answer yes or no. Answer:",
                    meme.text
                ),
                plain: format!("It says '{}'. Is it hateful?", meme.text),
                form: AnswerForm::Unended,
                sort: None,
                gold: Gold::Label(meme.label),
            };
            // A generated answer has no probability; the same question with both answers rated has one.
            let rated = Case {
                form: AnswerForm::Choices { choices: [YES, NO].map(str::to_owned).into() },
                gold: Gold::Ranked(meme.label == 1),
                ..said.clone()
            };
            [said, rated]
        };
        Ok(lines.into_iter().flat_map(cases).collect())
    }

    fn coco(&self) -> Result<Vec<Case>, SetError> {
        let folder = self.data.join("annotations");
        let entries = std::fs::read_dir(&folder).map_err(|error| self.fail(&folder, error))?;
        let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        files.retain(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with("captions_") && name.ends_with(".json")
        });
        files.sort_unstable();
        // The split without labels has no captions; of several the last one (val after train) is meant.
        let path = files.pop().ok_or_else(|| self.fail(&folder, "there is no captions_*.json"))?;
        let coco: Coco = self.json(&path)?;
        let mut captions: HashMap<i64, Vec<String>> = HashMap::new();
        for CocoCaption { image_id, caption } in coco.annotations {
            captions.entry(image_id).or_default().push(caption);
        }
        let case = |CocoImage { id, file_name }: CocoImage| {
            Some(Case {
                id: id.to_string(),
                picture: self.picture(&["val2017", "train2017", "images"], &file_name),
                question: String::new(),
                plain: String::new(),
                form: AnswerForm::Free,
                sort: None,
                gold: Gold::Captions(captions.remove(&id)?),
            })
        };
        Ok(coco.images.into_iter().filter_map(case).collect())
    }

    fn demo(&self) -> Result<Vec<Case>, SetError> {
        let scenes: Vec<DemoScene> = self.lines(&self.data.join("pictures.jsonl"))?;
        let mut cases = Vec::new();
        for scene in scenes {
            for (at, DemoQuestion { question, answers }) in scene.questions.into_iter().enumerate() {
                cases.push(Case {
                    id: format!("{}#{at}", scene.file),
                    picture: self.data.join("pictures").join(&scene.file),
                    sort: Some(sort_of(&question).to_owned()),
                    plain: question.clone(),
                    question,
                    form: AnswerForm::Unended,
                    gold: Gold::Accepted(answers),
                });
            }
        }
        Ok(cases)
    }
}
