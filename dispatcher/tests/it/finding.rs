//! Search finds, and the demo runs.

use crate::desk::Desk;

#[test]
fn a_picture_finds_itself_and_a_text_its_picture() {
    let desk = Desk::new();
    let scenes = Desk::draw(&desk.pictures(), 12, 9);
    desk.caption(&[]).json();
    let image = format!("pictures/{}", scenes[3].file);
    let found = desk.run(["search", "--image", &image, "--archive", "archive", "--json", "-k", "2"]).json();
    assert_eq!(found["pictures"], 12);
    assert!(found["hits"][0]["item"].as_str().unwrap().ends_with(&scenes[3].file), "{found}");
    assert!(found["hits"][0]["score"].as_f64().unwrap() > 0.99, "{found}");
    assert_eq!(found["hits"].as_array().unwrap().len(), 2);

    let places: Vec<_> = scenes
        .iter()
        .map(|scene| {
            let found = desk.run(["search", &scene.retrieval, "--archive", "archive", "--json"]).json();
            let hits = found["hits"].as_array().unwrap().clone();
            hits.iter().position(|hit| hit["item"].as_str().unwrap().ends_with(&scene.file))
        })
        .collect();
    let first = places.iter().filter(|place| **place == Some(0)).count();
    assert!(first >= 10, "texts found their picture at {places:?}");
}

#[test]
fn the_model_judges_the_best_again() {
    let desk = Desk::new();
    let scenes = Desk::draw(&desk.pictures(), 12, 9);
    desk.caption(&[]).json();
    let search = |text: &str, more: &[&str]| {
        let fixed = ["search", text, "--archive", "archive", "--json", "-k", "12"];
        desk.run(fixed.iter().chain(more)).json()
    };
    let names = |found: &serde_json::Value| -> Vec<String> {
        let name = |hit: &serde_json::Value| hit["item"].as_str().unwrap().to_owned();
        found["hits"].as_array().unwrap().iter().map(name).collect()
    };
    let firsts = scenes.iter().filter(|scene| {
        let found = search(&scene.retrieval, &["--rerank"]);
        assert_eq!(found["reranked"], serde_json::json!({"judged": 12, "failed": {}}), "{found}");
        let odds: Vec<f64> = found["hits"]
            .as_array()
            .unwrap()
            .iter()
            .map(|hit| hit["matched"]["match"].as_f64().unwrap())
            .collect();
        assert!(odds.is_sorted_by(|one, other| one >= other), "{odds:?}");
        assert!(odds.iter().all(|odds| (0.0..=1.0).contains(odds)), "{odds:?}");
        names(&found)[0].ends_with(&scene.file)
    });
    assert!(firsts.count() >= 11, "the model knows its own scenes");

    // The rest stays in its order, behind; what cannot be looked at stands between, and is counted.
    let text = &scenes[5].retrieval;
    let plain = names(&search(text, &[]));
    std::fs::remove_file(plain[1].trim_start_matches("file://")).unwrap();
    let found = search(text, &["--rerank=4"]);
    assert_eq!(found["reranked"], serde_json::json!({"judged": 3, "failed": {"not_found": 1}}), "{found}");
    let names = names(&found);
    assert_eq!((&names[3], &names[4..]), (&plain[1], &plain[4..]));
    assert!(found["hits"][3]["matched"]["match"].is_null(), "{found}");
    let ran = desk.run(["search", text, "--archive", "archive", "--rerank=4", "-k", "1"]);
    assert!(ran.stderr.contains("1 picture could not be read (not_found)"), "{}", ran.stderr);
    for wrong in [&["--rerank=0"][..], &["--rerank=201"], &["--rerank", "--exact"]] {
        let ran = desk.run(["search", text, "--archive", "archive"].iter().chain(wrong));
        assert_eq!(ran.code, 64, "{wrong:?}: {}", ran.stderr);
    }
}

#[test]
fn an_archive_without_embeddings_says_so() {
    let desk = Desk::new();
    Desk::draw(&desk.pictures(), 1, 1);
    desk.caption(&["--no-embed"]).json();
    let ran = desk.run(["search", "a red circle", "--archive", "archive"]);
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("--no-embed"), "{}", ran.stderr);
}

#[test]
fn the_demo_shows_the_whole_job() {
    let desk = Desk::new();
    let ran = desk.run(["demo", "--out", "demo", "--count", "8"]);
    assert_eq!(ran.code, 0, "{}\n{}", ran.stdout, ran.stderr);
    assert_eq!(
        ran.stdout.matches("search \"").count(),
        2 + usize::from(ran.stdout.contains("search \"a red star\""))
    );
    assert!(ran.stdout.contains("8 ok, 0 failed") && ran.stdout.contains("ask \""), "{}", ran.stdout);
    let verified = desk.run(["verify", "--archive", "demo/archive", "--json"]).json();
    assert_eq!(verified["whole"], true);
    assert_eq!(desk.run(["demo", "--out", "demo"]).code, 64);
}
