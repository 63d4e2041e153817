//! Turning pages, and asking again.

use crate::made::{Made, row};
use captionfleet_dispatcher::index::{Asked, Hits, Ready};
use captionfleet_proto::rows::Row;
use half::f16;
use std::collections::HashSet;
use std::sync::Arc;

const SPACE: &str = "space/1x8";

async fn page(made: &Made, ready: &Arc<Ready>, asked: Asked) -> Hits {
    ready.clone().search(made.shelf(), asked).await.unwrap().page().await.unwrap()
}

#[tokio::test]
async fn pages_of_several_rankings_have_every_hit_once() {
    let made = Made::new().await;
    // All orders differ: of the vectors, of the words (which half of the rows have), and of the names.
    let rows = (0..1000_u16).map(|number| {
        let angle = f32::from(number * 7 % 1000) / 1000.0;
        let mut embedding = vec![f16::ZERO; 8];
        (embedding[0], embedding[1]) = (f16::from_f32(angle.cos()), f16::from_f32(angle.sin()));
        let more = "and ".repeat(usize::from(number * 13 % 500));
        let caption = if number < 500 { format!("a boat {more}") } else { "a shed".to_owned() };
        Row { embedding: Some(embedding), caption: Some(caption), ..row(&format!("{number}"), SPACE, 1) }
    });
    made.part("many", "job", rows.collect());
    made.index().await;
    let ready = made.ready(Some(SPACE)).await;
    let like = vec![vec![1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]];
    let asked = |offset| Asked {
        vectors: vec![("text", like.clone())],
        words: Some("boat".to_owned()),
        offset,
        limit: 40,
        ..Asked::default()
    };
    let mut seen = HashSet::new();
    let mut best = f32::INFINITY;
    for offset in (0..1000).step_by(40) {
        for (place, hit) in page(&made, &ready, asked(offset)).await.hits.into_iter().enumerate() {
            assert!(seen.insert(hit.item.clone()), "{} again at {}", hit.item, offset + place);
            assert!(hit.score <= best, "{} after {best} at {}", hit.score, offset + place);
            best = hit.score;
        }
    }
    assert_eq!(seen.len(), 1000);
}

#[tokio::test]
async fn frames_that_show_the_same_are_told_apart() {
    let made = Made::new().await;
    let frames = [0, 1000, 2000].map(|at| Row { frame_ms: Some(at), ..row("film.mp4", SPACE, 1) });
    made.part("film", "job", frames.to_vec());
    made.index().await;
    let ready = made.ready(Some(SPACE)).await;
    let like = vec![vec![1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]];
    let asked = Asked { vectors: vec![("text", like)], limit: 10, group: true, ..Asked::default() };
    let found = page(&made, &ready, asked).await.hits;
    let times = found[0].duplicates.iter().map(|like| (like.item.as_str(), like.frame_ms));
    let film = found[0].item.as_str();
    assert_eq!((found.len(), found[0].frame_ms), (1, Some(0)));
    assert_eq!(times.collect::<Vec<_>>(), [(film, Some(1000)), (film, Some(2000))]);
}

#[tokio::test]
async fn a_part_that_was_read_whole_is_not_read_again() {
    let made = Made::new().await;
    // Embeddings of one value cannot be read one by one.
    let rows = ["a", "b"].map(|item| Row { embedding: Some(vec![f16::ONE]), ..row(item, "space/1x1", 1) });
    made.part("short", "job", rows.to_vec());
    made.index().await;
    let ready = made.ready(Some("space/1x1")).await;
    let asked = Asked { vectors: vec![("text", vec![vec![1.0]])], limit: 10, ..Asked::default() };
    let first = page(&made, &ready, asked.clone()).await;
    assert_eq!(first.hits.len(), 2);
    made.remove_part("short", "job");
    assert_eq!(page(&made, &ready, asked).await.hits, first.hits);
}
