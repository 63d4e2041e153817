#![allow(clippy::unwrap_used)]

use super::*;
use crate::history::{Record, Records};
use captionfleet_proto::job::{JobId, Prompt, Question, Sampling};
use captionfleet_proto::uri::ItemUri;

fn uri(name: &str) -> ItemUri {
    ItemUri::parse(&format!("file:///p/{name}.png")).unwrap()
}

fn item(name: &str, sha256: &str) -> Item {
    Item { uri: uri(name), identity: Identity::Sha256(sha256.to_owned()), size: Some(1) }
}

fn catalog(items: Vec<Item>) -> Catalog {
    Catalog { items, ..Catalog::default() }
}

fn wish() -> Wish {
    Wish {
        prompt: Prompt::Caption,
        max_tokens: None,
        adapter: None,
        embed: true,
        bundle: Some("b1".to_owned()),
        sample: Sampling::default(),
        thumbnails: false,
    }
}

fn options() -> PlanOptions {
    PlanOptions {
        run: RunId::new("new").unwrap(),
        job_size: 2,
        retry_failed: false,
        refuse_unreadable: true,
        lengths: HashMap::new(),
    }
}

fn ids(run: &NewRun) -> Vec<JobId> {
    run.all_jobs().map(|job| job.id.clone()).collect()
}

fn unfinished(items: &[Item], wish: &Wish) -> UnfinishedRun {
    unfinished_of(catalog(items.to_vec()), wish)
}

fn unfinished_of(catalog: Catalog, wish: &Wish) -> UnfinishedRun {
    let mut options = options();
    options.run = RunId::new("old").unwrap();
    let run = new_run(catalog, wish, &options).unwrap();
    let manifest = crate::submission::manifest(&run, wish, &crate::submission::About::default());
    UnfinishedRun { manifest, jobs: run.all_jobs().cloned().collect() }
}

#[test]
fn planning_twice_gives_the_same_jobs() {
    let items = || catalog(vec![item("a", "1"), item("b", "2"), item("c", "3")]);
    let one = plan(items(), &History::default(), &wish(), &options());
    let other = plan(items(), &History::default(), &wish(), &options());
    assert_eq!(one.new_run, other.new_run);
    assert_eq!((one.items(), one.jobs()), (3, 2));
}

#[test]
fn only_what_is_open_is_planned() {
    let mut records = Records::default();
    records.add(uri("a"), Record { sha256: Some("1".into()), etag: None, error_code: None });
    records
        .add(uri("b"), Record { sha256: Some("2".into()), etag: None, error_code: Some("corrupt".into()) });
    let history = History { records, ..History::default() };
    let items = || catalog(vec![item("a", "1"), item("b", "2"), item("c", "3")]);
    let first = plan(items(), &history, &wish(), &options());
    assert_eq!((first.already_done, first.already_failed, first.items()), (1, 1, 1));
    let again = plan(items(), &history, &wish(), &PlanOptions { retry_failed: true, ..options() });
    assert_eq!((again.already_done, again.already_failed, again.items()), (1, 0, 2));
    let changed = plan(catalog(vec![item("a", "9")]), &history, &wish(), &options());
    assert_eq!((changed.already_done, changed.items()), (0, 1));
}

#[test]
fn an_unfinished_run_goes_on_with_its_own_ids() {
    let old = unfinished(&[item("a", "1"), item("b", "2"), item("c", "3")], &wish());
    let old_ids: Vec<_> = old.jobs.iter().map(|job| job.id.clone()).collect();
    let history = History { unfinished: vec![old], ..History::default() };
    let plan =
        plan(catalog(vec![item("a", "1"), item("b", "9"), item("d", "4")]), &history, &wish(), &options());
    let continued: Vec<_> = plan.continued[0].jobs.iter().map(|job| job.id.clone()).collect();
    assert_eq!(continued, old_ids);
    let new: Vec<_> =
        plan.new_run.as_ref().unwrap().jobs[0].items.iter().map(|item| item.uri.clone()).collect();
    assert_eq!(new, [uri("b"), uri("d")], "changed and new pictures get a new run");
}

#[test]
fn a_run_of_other_pictures_or_wishes_is_left_alone() {
    let other_question = Wish { prompt: Prompt::Ask { question: "what?".to_owned() }, ..wish() };
    let other_bundle = Wish { bundle: Some("b2".to_owned()), ..wish() };
    let without_vectors = Wish { embed: false, ..wish() };
    for made in [&other_question, &other_bundle, &without_vectors] {
        let history = History { unfinished: vec![unfinished(&[item("a", "1")], made)], ..History::default() };
        let plan = plan(catalog(vec![item("a", "1")]), &history, &wish(), &options());
        assert!(plan.continued.is_empty() && plan.new_run.is_some());
    }
    let history = History { unfinished: vec![unfinished(&[item("z", "1")], &wish())], ..History::default() };
    let plan = plan(catalog(vec![item("a", "1")]), &history, &wish(), &options());
    assert!(plan.continued.is_empty());
    assert_eq!(plan.left_alone, [RunId::new("old").unwrap()]);
}

/// `a` and `b`, with something asked about `a` alone.
fn asking(question: &str) -> Catalog {
    let questions = HashMap::from([(uri("a"), vec![Question::free(question)])]);
    Catalog { questions, ..catalog(vec![item("a", "1"), item("b", "2")]) }
}

#[test]
fn what_is_asked_about_an_item_alone_is_asked_and_goes_on_only_as_it_was() {
    let wish = Wish { prompt: Prompt::Questions { questions: Vec::new(), template: None }, ..wish() };
    let with =
        |made: &str| History { unfinished: vec![unfinished_of(asking(made), &wish)], ..History::default() };
    let fresh = plan(asking("why?"), &with("what?"), &wish, &options());
    let items = &fresh.new_run.as_ref().unwrap().jobs[0].items;
    assert_eq!(
        (items.len(), &items[0].questions),
        (1, &vec![Question::free("why?")]),
        "b goes on: {fresh:?}"
    );
    let same = plan(asking("what?"), &with("what?"), &wish, &options());
    assert!(same.new_run.is_none() && same.continued.len() == 1, "{same:?}");
    let mut of_one = asking("what?");
    of_one.items.truncate(1);
    let apart = plan(of_one, &with("why?"), &wish, &options());
    assert!(apart.continued.is_empty() && apart.new_run.is_some(), "{apart:?}");
}

#[test]
fn two_unfinished_runs_do_not_take_the_same_picture() {
    let history = History {
        unfinished: vec![unfinished(&[item("a", "1")], &wish()), unfinished(&[item("a", "1")], &wish())],
        ..History::default()
    };
    let plan = plan(catalog(vec![item("a", "1")]), &history, &wish(), &options());
    assert_eq!((plan.continued.len(), plan.left_alone.len(), plan.items()), (1, 1, 1));
}

#[test]
fn what_cannot_be_read_needs_no_worker() {
    let reason = Unreadable { code: "permission_denied", message: "closed".to_owned() };
    let closed = Item { uri: uri("x"), identity: Identity::Unreadable(reason.clone()), size: None };
    let plan = plan(catalog(vec![item("a", "1"), closed.clone()]), &History::default(), &wish(), &options());
    let run = plan.new_run.unwrap();
    assert_eq!((run.jobs.len(), run.refused.len()), (1, 1));
    assert_eq!(run.refused[0].reasons, [reason]);
    assert_eq!(ids(&run).len(), 2);
    assert_ne!(ids(&run)[0], ids(&run)[1]);
    let options = PlanOptions { refuse_unreadable: false, ..options() };
    let run =
        super::plan(self::catalog(vec![item("a", "1"), closed]), &History::default(), &wish(), &options);
    assert_eq!(run.new_run.unwrap().jobs[0].items.len(), 2);
}
