//! Several questions, choices and schemas from the command line, and what of them can be found.

use crate::desk::Desk;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;

#[test]
fn several_questions_are_one_row_and_runs_stand_side_by_side() {
    let desk = Desk::new();
    Desk::draw(&desk.pictures(), 3, 3);
    let file = desk.root().join("questions.txt");
    fs::write(
        &file,
        "\u{feff}# as editors on Windows save it\r\nIs there a circle? | yes | no\r\n\r\nWhat color is the background?\r\n",
    )
    .unwrap();
    let file = file.to_str().unwrap();
    let asked = desk.caption(&["--ask", "How many objects are there?", "--questions", file]).json();
    assert_eq!((&asked["ok"], &asked["complete"]), (&3.into(), &true.into()), "{asked}");
    assert_eq!(
        desk.caption(&["--ask", "How many objects are there?", "--questions", file]).json()["already_done"],
        3
    );
    let schema = desk.root().join("schema.json");
    let text = r#"{"type": "object", "properties": {
        "backdrop": {"enum": ["white", "gray", "black"], "description": "What color is the background?"},
        "objects": {"type": "integer", "minimum": 1, "maximum": 9}}}"#;
    fs::write(&schema, text).unwrap();
    desk.caption(&["--schema", schema.to_str().unwrap()]).json();
    let rows = desk.rows();
    let with = |count: usize| {
        rows.iter().filter(move |row| row.answers.as_ref().is_some_and(|all| all.len() == count))
    };
    assert_eq!((rows.len(), with(3).count(), with(2).count()), (6, 3, 3));
    for row in with(3) {
        let answers = row.answers.as_ref().unwrap();
        assert!(["yes", "no"].contains(&&*answers[1].answer) && answers[1].probability.unwrap() >= 0.5);
    }
    for row in with(2) {
        let fields: serde_json::Value = serde_json::from_str(row.fields.as_ref().unwrap()).unwrap();
        assert!(
            fields["backdrop"].is_string()
                && fields["objects"].as_u64().is_some_and(|n| (1..=9).contains(&n))
        );
    }
    assert_eq!(desk.verify().json()["whole"], true);
    // The first run's answers are found although a later run said other things of the same pictures.
    let found = desk.run(["search", "circle", "--keywords", "--archive", "archive", "--json"]).json();
    assert_eq!(found["hits"].as_array().map(Vec::len), Some(3), "{found}");
}

#[test]
fn captions_are_found_and_shown_after_a_question_was_asked() {
    let desk = Desk::new();
    let scenes = Desk::draw(&desk.pictures(), 6, 4);
    let captioned = desk.caption(&[]).json();
    let run = captioned["runs"][0].as_str().unwrap();
    let captions: BTreeMap<String, String> =
        desk.rows().into_iter().map(|row| (row.item.to_string(), row.caption.unwrap())).collect();
    let asked = desk.caption(&["--ask", "Is there a circle?", "--yes-no"]).json();
    assert_eq!(asked["ok"], 6, "{asked}");
    let search = |text: &str, more: &[&str]| {
        let fixed = ["search", text, "--archive", "archive", "--json", "-k", "100"];
        desk.run(fixed.iter().chain(more)).json()["hits"].as_array().unwrap().clone()
    };
    let shown = |hits: &[Value]| -> BTreeMap<String, String> {
        let text = |hit: &Value, name: &str| hit[name].as_str().unwrap().to_owned();
        let shown: BTreeMap<_, _> =
            hits.iter().map(|hit| (text(hit, "item"), text(hit, "caption"))).collect();
        assert_eq!(shown.len(), hits.len(), "a picture stands once: {hits:?}");
        shown
    };
    let text = &scenes[2].retrieval;
    for more in [&[][..], &["--hybrid"], &["--exact"], &["--run", run]] {
        assert_eq!(shown(&search(text, more)), captions, "{more:?}");
    }
    let image = format!("pictures/{}", scenes[2].file);
    let both = search(text, &["--hybrid", "--image", &image]);
    assert_eq!(shown(&both), captions);
    assert_eq!(both[0]["matched"].as_object().unwrap().len(), 3, "{}", both[0]);
    let wanted = captions.values().next().unwrap();
    let with: BTreeMap<_, _> =
        captions.clone().into_iter().filter(|(_, caption)| caption.contains(wanted.as_str())).collect();
    assert_eq!(shown(&search(text, &["--caption-contains", wanted])), with);
    let answers = search(text, &["--run", asked["runs"][0].as_str().unwrap()]);
    assert_eq!(answers.len(), 6);
    assert!(answers.iter().all(|hit| hit["caption"] == "yes" || hit["caption"] == "no"), "{answers:?}");
}

#[test]
fn what_cannot_be_asked_is_named() {
    let desk = Desk::new();
    Desk::draw(&desk.pictures(), 1, 3);
    let wide = desk.root().join("wide.txt");
    fs::write(&wide, b"\xff\xfei\0s\0 \0i\0t\0?\0").unwrap();
    let wide = wide.to_str().unwrap();
    for (args, expected) in [
        (vec!["--questions", wide], "save it as such"),
        (vec!["--ask", " "], "is empty"),
        (vec!["--ask", "a?", "--choices", "red,"], "needs 1 to 256 answers"),
        (vec!["--ask", "a?", "--choices", "red,red"], "names an answer twice"),
        (vec!["--questions", "nowhere.txt"], "cannot be read"),
        (vec!["--schema", "pictures"], "--schema"),
    ] {
        let refused = desk.caption(&args);
        assert_eq!(refused.code, 64, "{args:?}: {}", refused.stderr);
        assert!(refused.stderr.contains(expected), "{}", refused.stderr);
    }
}
