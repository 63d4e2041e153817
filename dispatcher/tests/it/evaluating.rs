//! Benchmarks: small sets in the published formats, whose scores are known.

use crate::desk::Desk;
use captionfleet_proto::rows::{Projection, read_part};
use captionfleet_world::export::ExportedScene;
use serde_json::{Value, json};
use std::fs;

/// Draws `count` held-in scenes and says how the backdrop question of each must be answered.
fn drawn(desk: &Desk, folder: &str, count: usize) -> Vec<(ExportedScene, String)> {
    let scenes = Desk::draw(&desk.root().join(folder), count, 11);
    let backdrop = |scene: &ExportedScene| {
        let asked = scene.questions.iter().find(|asked| asked.question.contains("background")).unwrap();
        asked.answers[0].clone()
    };
    scenes
        .into_iter()
        .map(|scene| {
            let backdrop = backdrop(&scene);
            (scene, backdrop)
        })
        .collect()
}

fn evaluate(desk: &Desk, set: &str, data: &str, more: &[&str]) -> Value {
    let fixed = ["eval", set, "--data", data, "--archive", "archive", "--json", "--own-prompt"];
    desk.run(fixed.iter().chain(more)).json()
}

fn mean(report: &Value, rule: &str) -> f64 {
    report["all"][rule]["mean"].as_f64().unwrap()
}

#[test]
fn the_demo_world_is_a_benchmark_that_goes_on_and_is_judged_again() {
    let desk = Desk::new();
    let more = ["--scenes", "12", "--seed", "5"];
    let report = evaluate(&desk, "demo", "bench", &more);
    assert_eq!((&report["pictures"], &report["unanswered"]), (&12.into(), &0.into()), "{report}");
    assert!(mean(&report, "own") >= 0.85 && mean(&report, "reference") >= 0.85, "{report}");
    let sorts = report["sorts"].as_object().unwrap();
    assert!(sorts.contains_key("count") && sorts.contains_key("backdrop"), "{report}");
    let counted: u64 = sorts.values().map(|one| one["questions"].as_u64().unwrap()).sum();
    assert_eq!(report["all"]["questions"], counted);
    // A part that is lost is made again under the same run; nothing else is.
    let parts = desk.parts();
    fs::remove_file(&parts[0]).unwrap();
    let again = evaluate(&desk, "demo", "bench", &more);
    assert_eq!(again, report);
    assert_eq!(desk.parts(), parts);
    assert_eq!(desk.verify().json()["whole"], true);
    let folder = desk.archive().join("evaluations").join(report["run"].as_str().unwrap());
    for file in ["report.md", "report.json", "plot.svg"] {
        assert!(fs::metadata(folder.join(file)).unwrap().len() > 100, "{file}");
    }
}

#[test]
fn gqa_in_both_formats_has_the_scores_that_its_gold_answers_make() {
    let desk = Desk::new();
    let scenes = drawn(&desk, "gqa/images", 6);
    let mut by_id = serde_json::Map::new();
    for (at, (scene, backdrop)) in scenes.iter().enumerate() {
        let image = scene.file.trim_end_matches(".png");
        let question = |answer: &str, kind: &str| {
            json!({"imageId": image, "question": "What color is the background?", "answer": answer,
                   "types": {"structural": kind, "semantic": "attr"}})
        };
        by_id.insert(format!("{at}0"), question(backdrop, "query"));
        // In every answer, as a substring: right for the reference, wrong for GQA.
        by_id.insert(format!("{at}1"), question("", "verify"));
        by_id.insert(format!("{at}2"), question("zebra", "choose"));
    }
    // The published set has .jpg; what is there counts.
    for (scene, _) in &scenes {
        let png = desk.root().join("gqa/images").join(&scene.file);
        fs::rename(&png, png.with_extension("jpg")).unwrap();
    }
    let file = desk.root().join("gqa/testdev_balanced_questions.json");
    fs::write(&file, Value::Object(by_id).to_string()).unwrap();
    let report = evaluate(&desk, "gqa", "gqa", &[]);
    assert_eq!(report["all"]["questions"], 18);
    let kind = |name: &str, rule: &str| report["sorts"][name][rule]["mean"].as_f64().unwrap();
    assert_eq!((kind("verify", "reference"), kind("choose", "reference")), (1.0, 0.0), "{report}");
    assert_eq!((kind("verify", "own"), kind("choose", "own")), (0.0, 0.0), "{report}");
    assert!(kind("query", "reference") >= 5.0 / 6.0, "{report}");
    assert!(report["published_by_others"].as_array().unwrap().len() >= 5);
    let list: Vec<Value> = scenes
        .iter()
        .map(|(scene, backdrop)| {
            json!({"image": scene.file.replace(".png", ".jpg"), "question": "What color is the background?", "answer": backdrop})
        })
        .collect();
    fs::write(&file, json!(list).to_string()).unwrap();
    assert_eq!(evaluate(&desk, "gqa", "gqa", &[])["all"]["questions"], 6);
    assert_eq!(evaluate(&desk, "gqa", "gqa", &["--limit", "2"])["all"]["questions"], 2);
}

#[test]
fn the_other_sets_are_read_as_they_are_published() {
    let desk = Desk::new();
    let scenes = drawn(&desk, "vizwiz/val", 4);
    let people =
        |answers: &[&str]| -> Vec<Value> { answers.iter().map(|one| json!({"answer": one})).collect() };
    let questions: Vec<Value> = scenes
        .iter()
        .map(|(scene, backdrop)| {
            let ten = [backdrop.as_str(); 10];
            json!({"image": scene.file, "question": "what color is the background?", "answers": people(&ten), "answer_type": "other", "answerable": 1})
        })
        .collect();
    fs::write(desk.root().join("vizwiz/val.json"), json!(questions).to_string()).unwrap();
    assert_eq!(evaluate(&desk, "vizwiz", "vizwiz", &[])["sorts"]["other"]["questions"], 4);

    // Choices are rated: the one right colour among others, joined with `_` in one of them.
    for (at, (scene, _)) in scenes.iter().enumerate() {
        let folder = desk.root().join(format!("icon/{at}"));
        fs::create_dir_all(&folder).unwrap();
        fs::copy(desk.root().join("vizwiz/val").join(&scene.file), folder.join("image.png")).unwrap();
    }
    let questions: Vec<Value> = scenes
        .iter()
        .enumerate()
        .map(|(at, (_, backdrop))| {
            let choices = ["purple_orange".to_owned(), backdrop.clone(), "a zebra".to_owned()];
            json!({"image_id": at.to_string(), "question": "What color is the background?", "choices": choices, "answer": 1})
        })
        .collect();
    fs::write(desk.root().join("icon/choose_text_val.json"), json!(questions).to_string()).unwrap();
    let report = evaluate(&desk, "iconvqa", "icon", &[]);
    assert_eq!((mean(&report, "reference"), report["all"]["questions"].as_u64()), (0.0, Some(4)), "{report}");
    assert!(mean(&report, "own") >= 0.75, "{report}");

    let lines = |lines: Vec<Value>| lines.iter().map(Value::to_string).collect::<Vec<_>>().join("\n");
    fs::create_dir_all(desk.root().join("vsr/val2017")).unwrap();
    fs::create_dir_all(desk.root().join("hm/img")).unwrap();
    for (scene, _) in &scenes {
        let from = desk.root().join("vizwiz/val").join(&scene.file);
        fs::copy(&from, desk.root().join("vsr/val2017").join(&scene.file)).unwrap();
        fs::copy(&from, desk.root().join("hm/img").join(&scene.file)).unwrap();
    }
    let vsr = scenes.iter().map(|(scene, _)| {
        json!({"image": scene.file, "image_link": "", "caption": "The circle is left of the square.", "label": 1, "relation": "left of"})
    });
    fs::write(desk.root().join("vsr/test.jsonl"), lines(vsr.collect())).unwrap();
    assert_eq!(evaluate(&desk, "vsr", "vsr", &[])["sorts"]["left of"]["questions"], 4);
    let hm = scenes.iter().enumerate().map(|(at, (scene, _))| {
        json!({"id": at, "img": format!("img/{}", scene.file), "label": at % 2, "text": "it's a 'test'"})
    });
    fs::write(desk.root().join("hm/dev.jsonl"), lines(hm.collect())).unwrap();
    let report = evaluate(&desk, "hm", "hm", &[]);
    assert_eq!((report["all"]["questions"].as_u64(), report["unanswered"].as_u64()), (Some(4), Some(0)));
    let ranking = &report["ranking"];
    assert_eq!((&ranking["positives"], &ranking["negatives"]), (&2.into(), &2.into()), "{report}");
    let auroc = |bound: &str| ranking["auroc"][bound].as_f64().unwrap();
    assert!((auroc("mean") - pairs_in_order(&desk, &report)).abs() < 1e-9, "{report}");
    assert!(auroc("low") <= auroc("mean") && auroc("mean") <= auroc("high"), "{report}");
}

/// The share of pairs of a picture with an even number in `vizwiz/val` and one with an odd number of which the odd one is
/// said to be likelier, read from the run's rows.
fn pairs_in_order(desk: &Desk, report: &Value) -> f64 {
    let run = desk.archive().join("parts").join(report["run"].as_str().unwrap());
    let parts = fs::read_dir(run).unwrap().map(|part| fs::read(part.unwrap().path()).unwrap());
    let mut rows: Vec<_> = parts.flat_map(|part| read_part(part.into(), Projection::All).unwrap()).collect();
    rows.sort_by_key(|row| row.item.to_string());
    let likely: Vec<f64> = rows
        .iter()
        .map(|row| {
            let [generated, rated] = &row.answers.as_ref().unwrap()[..] else { panic!("{row:?}") };
            assert!(generated.probability.is_none() && generated.question == rated.question);
            let best = f64::from(rated.probability.unwrap());
            if rated.answer == "yes" { best } else { 1.0 - best }
        })
        .collect();
    let worth = |even: f64, odd: f64| if odd > even { 1.0 } else { f64::from(u8::from(odd == even)) / 2.0 };
    let (even, odd): (Vec<_>, Vec<_>) = likely.iter().enumerate().partition(|(at, _)| at % 2 == 0);
    let won: f64 = odd.iter().flat_map(|(_, odd)| even.iter().map(|(_, even)| worth(**even, **odd))).sum();
    won / (odd.len() * even.len()) as f64
}

#[test]
fn captions_in_cocos_format_have_bleu_and_cider() {
    let desk = Desk::new();
    let scenes = drawn(&desk, "coco/val2017", 5);
    let images: Vec<Value> = scenes
        .iter()
        .enumerate()
        .map(|(at, (scene, _))| json!({"id": at, "file_name": scene.file}))
        .collect();
    let annotations: Vec<Value> = scenes
        .iter()
        .enumerate()
        .flat_map(|(at, (scene, _))| {
            scene.captions.iter().map(move |text| json!({"image_id": at, "caption": text}))
        })
        .collect();
    fs::create_dir_all(desk.root().join("coco/annotations")).unwrap();
    let set = json!({"images": images, "annotations": annotations});
    fs::write(desk.root().join("coco/annotations/captions_val2017.json"), set.to_string()).unwrap();
    let report = evaluate(&desk, "coco", "coco", &[]);
    assert!(report.get("all").is_none(), "{report}");
    // The generator's own wordings are among what the model was taught.
    assert!(report["captions"]["bleu"][0].as_f64().unwrap() > 0.8, "{report}");
    assert!(report["captions"]["cider"].as_f64().unwrap() > 0.5, "{report}");
}

#[test]
fn a_set_that_is_not_there_is_named_with_what_it_needs() {
    let desk = Desk::new();
    fs::create_dir(desk.root().join("empty")).unwrap();
    for (set, file) in
        [("gqa", "testdev_balanced_questions.json"), ("hm", "dev.jsonl"), ("coco", "annotations")]
    {
        let ran = desk.run(["eval", set, "--data", "empty", "--archive", "archive"]);
        assert_eq!(ran.code, 1, "{}", ran.stderr);
        assert!(ran.stderr.contains(file) && ran.stderr.contains("below --data"), "{}", ran.stderr);
    }
}
