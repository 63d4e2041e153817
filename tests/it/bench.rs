//! What the bench measures of the engine: memory in random company, captions that do not depend on it.

use captionfleet_tests::fleet::worker;

#[tokio::test(flavor = "multi_thread")]
async fn memory_stays_flat_in_random_company() {
    let report =
        worker(["bench", "--soak", "8s", "--json"]).await.unwrap().success().unwrap().json().unwrap();
    let soak = &report["soak"];
    assert!(soak["answered"].as_u64().unwrap() > 40, "{soak}");
    assert!(soak["cancelled"].as_u64().unwrap() > 0, "{soak}");
    let samples: Vec<u64> =
        soak["memory"].as_array().unwrap().iter().map(|sample| sample.as_u64().unwrap()).collect();
    // Least beside most, so that a moment's use is no growth. Some five hundred requests lie between them: of a leak of one picture's
    // embedding for each, 4 KiB, it would be twice as much.
    let middle = samples[samples.len() / 2 - 5..samples.len() / 2].iter().max().unwrap();
    let end = samples[samples.len() - 5..].iter().min().unwrap();
    assert!(*end < middle + (1 << 20), "{samples:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn company_changes_no_caption_and_no_embedding() {
    let arguments = ["bench", "--invariance", "--count", "40", "--json"];
    let report = worker(arguments).await.unwrap().success().unwrap().json().unwrap();
    let count = &report["invariance"];
    assert_eq!(count["same_captions"], 40, "{count}");
    assert_eq!((&count["embeddings"], &count["same_embeddings"]), (&40.into(), &40.into()), "{count}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_budget_that_is_too_small_has_an_exit_code_of_its_own() {
    // Less than the program itself takes, on any machine.
    let ran = worker(["bench", "--items-only", "--memory-budget", "8MiB"]).await.unwrap();
    assert_eq!(ran.code, 12, "{}", ran.stderr);
    assert!(ran.stderr.contains("--memory-budget"), "{}", ran.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn slots_that_do_not_fit_are_named_beside_those_that_do() {
    let few = ["bench", "--items-only", "--count", "4", "--max-tokens", "4"];
    let sizes = ["--slots-list", "1,500", "--memory-budget", "300MiB", "--json"];
    let report = worker(few.iter().chain(&sizes)).await.unwrap().success().unwrap().json().unwrap();
    assert_eq!(report["items"].as_array().unwrap().len(), 1, "{report}");
    assert_eq!((&report["items"][0]["slots"], &report["slots_that_do_not_fit"][0]), (&1.into(), &500.into()));
}
