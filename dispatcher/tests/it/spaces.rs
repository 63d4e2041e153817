//! Archives that several models embedded.

use crate::made::{Made, row};
use captionfleet_dispatcher::index::search::MOST_UNINDEXED;
use captionfleet_dispatcher::index::shelf::Stored;
use captionfleet_dispatcher::index::{Asked, Opened, Ready, Spaces};
use captionfleet_dispatcher::serve::lookup::Lookup;
use captionfleet_proto::rows::Row;
use std::collections::BTreeMap;
use std::sync::Arc;

const OLD: &str = "old/1x8";
const NEW: &str = "new/1x8";

fn counts(counts: &[(&str, usize)]) -> BTreeMap<String, usize> {
    counts.iter().map(|(space, count)| ((*space).to_owned(), *count)).collect()
}

#[tokio::test]
async fn the_space_of_most_pictures_is_asked_for_until_another_has_as_many() {
    let made = Made::new().await;
    let fullest = async || Spaces::look(made.shelf(), None).await.unwrap().fullest().map(str::to_owned);
    assert_eq!(fullest().await, None);
    // Done twice by the old model: rows do not count, pictures do.
    for (job, second) in [("first", 1), ("again", 2)] {
        let rows = ["a", "b", "c"].map(|item| row(item, OLD, second)).to_vec();
        made.part("old", job, rows);
    }
    made.part("new", "one", vec![row("a", NEW, 3)]);
    let ready = made.ready(Some(NEW)).await;
    assert_eq!((ready.pictures(), &ready.freshness().foreign), (1, &counts(&[(OLD, 2)])), "unindexed");
    made.index().await;
    assert_eq!(fullest().await.as_deref(), Some(OLD));
    let ready = made.ready(Some(NEW)).await;
    assert_eq!((ready.pictures(), &ready.freshness().foreign), (1, &counts(&[(OLD, 2)])));
    // What both have embedded is left out of neither.
    let ready = made.ready(None).await;
    assert_eq!((ready.space(), ready.pictures(), &ready.freshness().foreign), (OLD, 3, &counts(&[])));
    made.part("new", "others", vec![row("b", NEW, 4), row("c", NEW, 4)]);
    made.index().await;
    assert_eq!(fullest().await.as_deref(), Some(NEW));
    assert_eq!(made.ready(None).await.freshness().foreign, counts(&[]));
}

#[tokio::test]
async fn a_model_that_embedded_nothing_is_told_apart_from_an_index_that_lags() {
    let made = Made::new().await;
    let elsewhere = async || match made.open(Some(NEW)).await {
        Opened::Elsewhere(elsewhere) => elsewhere,
        other => panic!("{other:?}"),
    };
    made.part("old", "first", vec![row("first", OLD, 1)]);
    let told = elsewhere().await;
    assert_eq!(told.spaces, counts(&[(OLD, 1)]));
    let text = told.to_string();
    assert!(text.contains(NEW) && text.contains("1 in old/1x8") && text.contains("--model"), "{text}");

    // So many parts that no search would read them all.
    for part in 0..MOST_UNINDEXED {
        made.part("old", &format!("job-{part}"), vec![row(&format!("{part}"), OLD, 1)]);
    }
    let lacking = async |space| match made.open(space).await {
        Opened::Behind { unindexed } => unindexed,
        other => panic!("{other:?}"),
    };
    let all = MOST_UNINDEXED + 1;
    assert_eq!(lacking(Some(NEW)).await, all, "what no segment has may lie in any space");
    made.index().await;
    assert_eq!(elsewhere().await.spaces, counts(&[(OLD, all)]));
    // Still, when some part is not in the index yet.
    made.part("old", "later", vec![row("later", OLD, 2)]);
    assert_eq!(elsewhere().await.spaces, counts(&[(OLD, all)]));
    // The first picture of the new model: its index is on its way.
    made.part("new", "first", vec![row("first", NEW, 3)]);
    assert_eq!(lacking(Some(NEW)).await, all + 2);
    made.index().await;
    let ready = made.ready(Some(NEW)).await;
    assert_eq!((ready.pictures(), &ready.freshness().foreign), (1, &counts(&[(OLD, all)])));
}

#[tokio::test]
async fn captions_without_embeddings_are_indexed_for_words() {
    let made = Made::new().await;
    let plain = |item: &str| Row { embedding: None, embedding_space: None, ..row(item, "nobody", 1) };
    for part in 0..=MOST_UNINDEXED {
        made.part("plain", &format!("job-{part}"), vec![plain(&format!("{part}"))]);
    }
    let all = MOST_UNINDEXED + 1;
    let words = async |ready: Arc<Ready>| {
        let asked = Asked { words: Some("nobody".to_owned()), limit: all + 10, ..Asked::default() };
        ready.search(made.shelf(), asked).await.unwrap().page().await.unwrap().hits.len()
    };
    made.index().await;
    let ready = made.ready(None).await;
    assert_eq!((ready.freshness().unindexed, ready.pictures()), (0, 0));
    assert_eq!(words(ready).await, all);
    assert_eq!(Spaces::look(made.shelf(), None).await.unwrap().fullest(), None, "no model is asked for");
    let ready = made.ready(Some(NEW)).await;
    assert_eq!((ready.pictures(), ready.freshness().unindexed), (0, 0), "nothing is embedded, nothing lags");

    // A model embeds the first pictures: found at once, and words as before. Then its index takes over.
    made.part("new", "first", vec![row("first", NEW, 2)]);
    let ready = made.ready(Some(NEW)).await;
    assert_eq!((ready.pictures(), ready.freshness().unindexed), (1, 1));
    let for_words = made.shelf().segments().await.unwrap().0;
    assert!(for_words.iter().all(Stored::is_for_words));
    made.index().await;
    let segments = made.shelf().segments().await.unwrap().0;
    assert!(segments.iter().all(|stored| stored.segment.space() == NEW), "the others are of no more use");
    let ready = made.ready(None).await;
    assert_eq!((ready.space(), ready.pictures(), ready.freshness().unindexed), (NEW, 1, 0));
    assert_eq!(words(ready).await, all);
}

#[tokio::test]
async fn words_that_stand_in_for_a_space_are_not_taken_for_it() {
    let made = Made::new().await;
    let plain = |item: &str| Row { embedding: None, embedding_space: None, ..row(item, "nobody", 1) };
    for part in 0..=MOST_UNINDEXED {
        made.part("plain", &format!("job-{part}"), vec![plain(&format!("{part}"))]);
    }
    made.index().await;
    // The first segment of a model's own, and the indexer is stopped.
    made.part("new", "first", vec![row("first", NEW, 2)]);
    made.index_a_little().await;
    let ground = made.ground().await;
    let words = async |lookup: &Lookup| lookup.ready(&ground, None).await.unwrap().stands_in();
    let meaning = async |lookup: &Lookup| lookup.ready(&ground, Some(NEW)).await.unwrap_err().status();
    for words_first in [true, false] {
        let lookup = Lookup::default();
        if words_first {
            assert!(words(&lookup).await);
        }
        assert_eq!(meaning(&lookup).await, 503);
        assert!(words(&lookup).await, "words are found while the space's index lags");
    }
    // Where nothing stands in for anything, one opening serves both.
    made.index().await;
    let lookup = Lookup::default();
    let by_name = lookup.ready(&ground, Some(NEW)).await.unwrap();
    assert!(Arc::ptr_eq(&by_name, &lookup.ready(&ground, None).await.unwrap()));
}

#[tokio::test]
async fn an_archive_that_was_opened_in_one_space_is_not_searched_in_another() {
    let made = Made::new().await;
    made.part("old", "first", vec![row("a", OLD, 1)]);
    made.index().await;
    let (ground, lookup) = (made.ground().await, Lookup::default());
    assert_eq!(lookup.fullest(&ground).await.unwrap().as_deref(), Some(OLD));
    // Another model's space becomes the fullest, and for a second that is not known.
    made.part("new", "first", vec![row("b", NEW, 2), row("c", NEW, 2)]);
    made.index().await;
    assert_eq!(lookup.ready(&ground, None).await.unwrap().space(), NEW);
    assert_eq!(lookup.ready(&ground, Some(OLD)).await.unwrap().space(), OLD);

    let before = made.ready(Some(NEW)).await;
    match Ready::open_again(made.shelf(), Some(OLD), Some(before)).await.unwrap() {
        Opened::Ready(ready) => assert_eq!(ready.space(), OLD),
        other => panic!("{other:?}"),
    }
}
