//! Jobs with several questions.

use captionfleet_proto::job::{AnswerForm, Job, JobKind, Lane, Prompt, Question};
use captionfleet_world::dice::Dice;
use captionfleet_world::questions::questions;
use captionfleet_world::{Scene, Split};

use crate::bench::{Bench, verdicts};

fn asking(job: &mut Job, prompt: Prompt) {
    let JobKind::Caption(caption) = &mut job.kind else { unreachable!() };
    caption.prompt = prompt;
}

fn of(text: &str, name: Option<&str>, answer: AnswerForm) -> Question {
    Question { question: text.to_owned(), name: name.map(str::to_owned), answer }
}

fn backdrops() -> Vec<String> {
    ["white", "gray", "black"].map(str::to_owned).to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_holds_every_question_with_its_answer_and_the_named_values() {
    let bench = Bench::new().await;
    let mut job = bench.job("job-1", bench.scenes(12));
    let background = "What color is the background?";
    let questions = vec![
        of(background, None, AnswerForm::Free),
        of(background, None, AnswerForm::Choices { choices: backdrops() }),
        of(background, Some("backdrop"), AnswerForm::OneOf { values: backdrops() }),
        of("Is there a circle?", None, AnswerForm::yes_or_no()),
        of("Is there a circle?", Some("circle"), AnswerForm::Boolean),
        of(
            "How many objects are there?",
            Some("objects"),
            AnswerForm::Integer { minimum: Some(1), maximum: Some(9) },
        ),
        of("What do you see?", Some("seen"), AnswerForm::Text { max_length: 30 }),
    ];
    asking(&mut job, Prompt::Questions { questions: questions.clone(), template: None });
    bench.publish(Lane::Bulk, &job).await;
    let worker = bench.start();
    assert_eq!(bench.outcome().await.ok, 12);
    let (mut agreed, mut counted) = (0, 0);
    for (seed, row) in (0u64..).zip(bench.rows("job-1")) {
        let scene = Scene::sample(seed, Split::HeldOut);
        let answers = row.answers.unwrap();
        let asked: Vec<&str> = answers.iter().map(|answer| answer.question.as_str()).collect();
        assert_eq!(asked, questions.iter().map(|question| question.question.as_str()).collect::<Vec<_>>());
        let fields: serde_json::Value = serde_json::from_str(&row.fields.unwrap()).unwrap();
        assert_eq!(fields["backdrop"], answers[2].answer);
        assert_eq!(fields["circle"], answers[4].answer == "yes");
        assert!(fields["seen"].as_str().unwrap().chars().count() <= 30);
        assert_eq!(answers[0].probability, None);
        for at in [1, 2, 3, 4, 5] {
            let probability = answers[at].probability.unwrap();
            assert!((0.0..=1.0).contains(&probability), "{probability}");
        }
        assert!(answers[3].probability.unwrap() >= 0.5, "the likelier of two");
        // The right answers, whichever way they are asked for.
        agreed += u32::from(answers[1].answer == answers[0].answer);
        agreed += u32::from(answers[2].answer == answers[0].answer);
        agreed += u32::from(answers[3].answer == answers[4].answer);
        counted += u32::from(fields["objects"] == scene.placed.len());
        assert!(row.caption.unwrap().starts_with(&format!("{background} {}", answers[0].answer)));
    }
    assert!(agreed >= 33 && counted >= 10, "{agreed} of 36 and {counted} of 12");
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn items_have_questions_of_their_own_and_hashes_that_say_so() {
    let bench = Bench::new().await;
    let mut items = bench.scenes(4);
    let mut expected = Vec::new();
    for (seed, item) in (0u64..).zip(&mut items).skip(1) {
        let asked = questions(&Scene::sample(seed, Split::HeldOut), &mut Dice::new(seed));
        item.questions = asked.iter().map(|question| Question::free(question.text.clone())).collect();
        expected.push(asked);
    }
    let mut job = bench.job("job-1", items.clone());
    let all = of("What color is the background?", None, AnswerForm::Free);
    asking(&mut job, Prompt::Questions { questions: vec![all], template: None });
    bench.publish(Lane::Bulk, &job).await;
    let worker = bench.start();
    assert_eq!(bench.outcome().await.ok, 4);
    let rows = bench.rows("job-1");
    let JobKind::Caption(caption) = &job.kind else { unreachable!() };
    for (row, item) in rows.iter().zip(&items) {
        assert_eq!(row.answers.as_ref().unwrap().len(), 1 + item.questions.len());
        assert_eq!(row.prompt_hash, caption.prompt_hash_of(item));
    }
    assert_eq!(rows[0].prompt_hash, caption.prompt_hash());
    let (mut right, mut asked) = (0, 0);
    for (row, expected) in rows[1..].iter().zip(&expected) {
        for (answer, question) in row.answers.as_ref().unwrap()[1..].iter().zip(expected) {
            asked += 1;
            right += u32::from(question.accepts(&answer.answer));
        }
    }
    assert!(f64::from(right) >= 0.85 * f64::from(asked), "{right} of {asked}");
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_that_cannot_be_completed_is_a_failed_row_with_a_code() {
    let bench = Bench::new().await;
    let mut job = bench.job("job-1", bench.scenes(2));
    let values = vec!["a value of more tokens than the answer may have".to_owned()];
    let questions = vec![of("what?", Some("long"), AnswerForm::OneOf { values })];
    asking(&mut job, Prompt::Questions { questions, template: None });
    let JobKind::Caption(caption) = &mut job.kind else { unreachable!() };
    caption.max_tokens = Some(3);
    bench.publish(Lane::Bulk, &job).await;
    let worker = bench.start();
    assert_eq!(bench.outcome().await.failed["constraint_unmet"], 2);
    assert_eq!(verdicts(&bench.rows("job-1")), ["constraint_unmet"; 2]);
    worker.stop().await;
}
