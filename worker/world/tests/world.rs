//! The world as its users see it: seeds, splits, texts that are true, files that can be read.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use captionfleet_world::dice::Dice;
use captionfleet_world::export::{ExportOptions, FileFormat, choose, export, list_of};
use captionfleet_world::questions::{questions, sample_question};
use captionfleet_world::stream::{StreamOptions, write_stream};
use captionfleet_world::texts::{captions, retrieval_text, sample_caption, sample_search};
use captionfleet_world::{Arrangement, Scene, Size, Split, Verdict, check_caption, render};
use std::collections::HashSet;

fn scenes(count: u64, split: Split) -> Vec<Scene> {
    (0..count).map(|seed| Scene::sample(seed, split)).collect()
}

#[test]
fn a_seed_always_gives_the_same_scene_and_picture() {
    for seed in 0..20 {
        let (one, other) = (Scene::sample(seed, Split::Train), Scene::sample(seed, Split::Train));
        assert_eq!(one, other);
        assert_eq!(render(&one, 97, 61), render(&other, 97, 61));
    }
    let different: HashSet<Vec<u8>> =
        scenes(20, Split::Train).iter().map(|scene| render(scene, 32, 32).into_raw()).collect();
    assert_eq!(different.len(), 20);
}

#[test]
fn no_arrangement_is_in_both_splits() {
    let seen: HashSet<Arrangement> =
        scenes(3000, Split::Train).into_iter().map(|scene| scene.arrangement).collect();
    let held_out = scenes(1000, Split::HeldOut);
    assert!(held_out.iter().all(|scene| !seen.contains(&scene.arrangement)));
    // Sizes do not matter for the split, so another size is no way round it.
    for scene in &held_out {
        if let Arrangement::Pair { mut first, second, relation } = scene.arrangement {
            first.size = match first.size {
                Size::Small => Size::Large,
                Size::Large => Size::Small,
            };
            let resized = Arrangement::Pair { first, second, relation };
            assert_eq!(resized.split(), Split::HeldOut);
        }
    }
}

#[test]
fn objects_lie_inside_and_show_their_colour() {
    for scene in scenes(300, Split::Train) {
        let picture = render(&scene, 200, 160);
        for object in &scene.placed {
            assert!((0.1..=0.9).contains(&object.x) && (0.1..=0.9).contains(&object.y));
        }
        // The picture differs from its backdrop somewhere near every object: count pixels that are not grey.
        let coloured = picture
            .pixels()
            .filter(|pixel| pixel.0.iter().max().unwrap() - pixel.0.iter().min().unwrap() > 60)
            .count();
        assert!(coloured > 400 * scene.placed.len(), "{coloured} coloured pixels in {:?}", scene.arrangement);
    }
}

#[test]
fn every_caption_reads_back_as_correct() {
    for scene in scenes(400, Split::HeldOut) {
        for told in captions(&scene) {
            assert_eq!(check_caption(&told.text, &scene), Verdict::Correct, "{}", told.text);
        }
    }
}

#[test]
fn a_caption_of_another_scene_is_not_correct() {
    let all = scenes(150, Split::Train);
    let mut wrong = 0;
    for scene in &all {
        for other in &all {
            if retrieval_text(scene) == retrieval_text(other) {
                continue;
            }
            let verdict = check_caption(&retrieval_text(other), scene);
            assert_eq!(verdict, Verdict::Wrong, "{} for {}", retrieval_text(other), retrieval_text(scene));
            wrong += 1;
        }
    }
    assert!(wrong > 20_000);
}

#[test]
fn sampled_texts_are_true_of_their_scene() {
    let mut dice = Dice::new(3);
    for scene in scenes(500, Split::Train) {
        let caption = sample_caption(&scene, &mut dice);
        assert!(caption.claim.holds(&scene) && caption.claim.is_complete(&scene), "{}", caption.text);
        let search = sample_search(&scene, &mut dice);
        assert!(search.claim.holds(&scene), "{}", search.text);
    }
}

#[test]
fn questions_accept_their_answers_in_any_dress_and_no_others() {
    let mut dice = Dice::new(4);
    for scene in scenes(300, Split::Train) {
        for question in questions(&scene, &mut dice) {
            assert!(question.text.ends_with('?'));
            assert!(question.accepts(&question.answers[0]));
            assert!(question.accepts(&format!("It is {}.", question.answers[0].to_uppercase())));
            assert!(!question.accepts("a dog") && !question.accepts(""));
        }
        let question = sample_question(&scene, &mut dice);
        assert!(question.accepts(&question.answers[0]));
    }
}

#[test]
fn exported_files_open_with_the_stated_size_and_distinct_texts() {
    let folder = tempfile_folder("export");
    let options = ExportOptions {
        count: 30,
        seed: 9,
        split: Split::HeldOut,
        format: FileFormat::Mixed,
        distinct: true,
        new_share: 0.0,
    };
    let lines = export(&options, &folder).unwrap();
    assert_eq!(lines.len(), 30);
    let texts: HashSet<&str> = lines.iter().map(|line| line.retrieval.as_str()).collect();
    assert_eq!(texts.len(), 30);
    for (line, (seed, scene)) in lines.iter().zip(choose(&options)) {
        let picture = image::open(folder.join(&line.file)).unwrap();
        assert_eq!((picture.width(), picture.height()), (line.width, line.height));
        assert_eq!((line.seed, &line.retrieval), (seed, &retrieval_text(&scene)));
    }
    let listed = std::fs::read_to_string(captionfleet_world::export::list_of(&folder)).unwrap();
    assert_eq!(listed.lines().count(), 30);
    let formats: HashSet<_> = lines.iter().map(|line| line.file.rsplit('.').next().unwrap()).collect();
    assert_eq!(formats, HashSet::from(["png", "jpg"]));
    std::fs::remove_dir_all(&folder).unwrap();
    std::fs::remove_file(list_of(&folder)).unwrap();
}

#[test]
fn an_export_into_a_file_names_it() {
    let folder = tempfile_folder("blocked");
    std::fs::write(&folder, b"in the way").unwrap();
    let options = ExportOptions {
        count: 1,
        seed: 1,
        split: Split::Train,
        format: FileFormat::Png,
        distinct: false,
        new_share: 0.0,
    };
    let error = export(&options, &folder).unwrap_err();
    assert!(error.to_string().contains(folder.to_str().unwrap()));
    std::fs::remove_file(&folder).unwrap();
}

#[test]
fn the_stream_holds_whole_records_of_the_asked_size() {
    let options = StreamOptions { side: 56, count: 12, seed: 100, split: Split::Train, as_files: 0.5 };
    let mut bytes = Vec::new();
    write_stream(&options, &mut bytes).unwrap();
    let mut again = Vec::new();
    write_stream(&options, &mut again).unwrap();
    assert_eq!(bytes, again);
    let mut rest = bytes.as_slice();
    let mut seeds = Vec::new();
    while let Some((head, after)) = rest.split_first_chunk::<4>() {
        let length = u32::from_le_bytes(*head) as usize;
        let record: serde_json::Value = serde_json::from_slice(&after[..length]).unwrap();
        seeds.push(record["seed"].as_u64().unwrap());
        assert_eq!(record["scene"].as_array().unwrap().len(), 12);
        assert_eq!(record["captions"].as_array().unwrap().len(), 4);
        rest = &after[length + 56 * 56 * 3..];
    }
    assert_eq!(seeds, (100..112).collect::<Vec<_>>());
}

/// A fresh path for one test; removed by the test.
fn tempfile_folder(name: &str) -> std::path::PathBuf {
    let path = std::env::temp_dir().join(format!("captionfleet-world-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&path);
    path
}
