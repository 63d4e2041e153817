//! Segments and views: what they find against exhaustive search, and which rows count.

#![allow(clippy::unwrap_used, missing_docs)]

use captionfleet_index::codes::{Scratch, Shape};
use captionfleet_index::{
    Filter, NewRow, PartStamp, Place, Probe, Segment, SegmentBuilder, Status, View, content_key, doubtful,
    merge,
};
use half::f16;
use std::collections::BTreeSet;
use std::sync::Arc;

struct Dice(u64);

impl Dice {
    fn unit(&mut self, dim: usize) -> Vec<f32> {
        let mut vector: Vec<f32> = (0..dim)
            .map(|_| {
                self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                ((self.0 >> 40) as f32) / 8_388_608.0 - 1.0
            })
            .collect();
        let norm = vector.iter().map(|value| value * value).sum::<f32>().sqrt();
        for value in &mut vector {
            *value /= norm;
        }
        vector
    }

    fn item(&mut self, shape: Shape) -> Vec<f16> {
        (0..shape.vectors).flat_map(|_| self.unit(shape.dim)).map(f16::from_f32).collect()
    }
}

fn row<'a>(item: &'a str, finished: i64, embedding: Option<&'a [f16]>) -> NewRow<'a> {
    NewRow {
        asked: 0,
        content: 0,
        item,
        frame_ms: None,
        finished,
        status: if embedding.is_some() { Status::Ok } else { Status::Failed },
        caption: embedding.is_some().then_some("a red star"),
        size: Some((640, 480)),
        embedding,
    }
}

fn stamp(key: &str) -> PartStamp {
    PartStamp { key: key.to_owned(), size: 1, etag: None }
}

fn segment(shape: Shape, key: &str, rows: &[NewRow<'_>]) -> Arc<Segment> {
    let mut builder = SegmentBuilder::new("space", shape);
    builder.add_part(stamp(key), rows);
    Arc::new(builder.open().unwrap())
}

fn score(query: &[Vec<f32>], item: &[f16]) -> f32 {
    let dim = query[0].len();
    let dot = |one: &[f32], other: &[f16]| one.iter().zip(other).map(|(a, b)| a * b.to_f32()).sum::<f32>();
    let best = |query: &Vec<f32>| {
        item.chunks_exact(dim).map(|vector| dot(query, vector)).fold(f32::NEG_INFINITY, f32::max)
    };
    query.iter().map(best).sum::<f32>() / query.len() as f32
}

fn names(view: &View, places: impl IntoIterator<Item = captionfleet_index::Place>) -> Vec<String> {
    let name = |place| {
        let (segment, record) = view.row(place);
        segment.item(&record).to_owned()
    };
    places.into_iter().map(name).collect()
}

/// Shapes whose vectors do not fill a block, fill one, need two, and are no power of two long.
#[test]
fn what_may_be_among_the_best_holds_the_best() {
    for (vectors, dim, count) in [(8, 64, 3000), (32, 64, 3000), (33, 48, 2500), (1, 300, 3000)] {
        let shape = Shape::new(vectors, dim).unwrap();
        let mut dice = Dice(7);
        let items: Vec<Vec<f16>> = (0..count).map(|_| dice.item(shape)).collect();
        let labels: Vec<String> = (0..count).map(|number| number.to_string()).collect();
        let rows: Vec<NewRow<'_>> =
            items.iter().zip(&labels).map(|(item, name)| row(name, 0, Some(item))).collect();
        let (first, second) = rows.split_at(count / 3);
        let view = View::new(vec![segment(shape, "a", first), segment(shape, "b", second)], |_| true);
        assert_eq!(view.pictures(), count);
        let (mut right, mut rounds) = (0, 0);
        for queries in [1, 1, 1, 1, vectors] {
            let query: Vec<Vec<f32>> = (0..queries).map(|_| dice.unit(dim)).collect();
            let mut truth: Vec<(f32, usize)> =
                items.iter().enumerate().map(|(number, item)| (score(&query, item), number)).collect();
            truth.sort_by(|one, other| other.0.total_cmp(&one.0));
            let probe = Probe::new(shape, &query).unwrap();
            let found = view.nearest(&probe, &Filter::default(), 10);
            let possible: BTreeSet<String> =
                names(&view, found[..doubtful(&found, 10)].iter().map(|found| found.place))
                    .into_iter()
                    .collect();
            right += truth[..10].iter().filter(|(_, number)| possible.contains(&number.to_string())).count();
            rounds += 1;
            for hit in &found[..10] {
                let number: usize = names(&view, [hit.place])[0].parse().unwrap();
                assert!((hit.score - score(&query, &items[number])).abs() < 6.0 * hit.error + 1e-3);
            }
        }
        assert!(right * 100 >= rounds * 10 * 98, "{vectors}x{dim}: {right} of {}", rounds * 10);
    }
}

#[test]
fn the_latest_row_counts_wherever_it_is_and_copies_count_once() {
    let shape = Shape::new(2, 16).unwrap();
    let mut dice = Dice(3);
    let (old, new) = (dice.item(shape), dice.item(shape));
    let early = segment(shape, "early", &[row("x", 1, Some(&old)), row("y", 1, Some(&old))]);
    let late = segment(shape, "late", &[row("x", 2, Some(&new))]);
    let failed = segment(shape, "failed", &[row("y", 3, None)]);
    let query: Vec<Vec<f32>> = vec![new[..16].iter().map(|value| value.to_f32()).collect()];
    let probe = Probe::new(shape, &query).unwrap();
    let all = [early.clone(), late.clone(), failed.clone(), early.clone()];
    for order in [[0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2]] {
        let view = View::new(order.iter().map(|place| all[*place].clone()).collect(), |_| true);
        let found = view.nearest(&probe, &Filter::default(), 10);
        assert_eq!(names(&view, found.iter().map(|found| found.place)), ["x", "y"]);
        assert!(found[0].score > 0.95, "the new vectors of x count");
        // A row that failed later leaves the picture findable, and is told by the filter.
        let only_ok = Filter { status: Some(Status::Ok), ..Filter::default() };
        let found = view.nearest(&probe, &only_ok, 10);
        assert_eq!(names(&view, found.iter().map(|found| found.place)), ["x"]);
    }
    // The part of the new row is removed: the old one counts again, merged or not.
    let gone = |part: &PartStamp| part.key == "late";
    let merged = Arc::new(merge(&[&early, &late, &early], |_| false).unwrap().open().unwrap());
    assert_eq!(merged.rows(), 3, "a part that several have is taken once");
    for segments in [all.to_vec(), vec![merged.clone()]] {
        let view = View::new(segments, |part| !gone(part));
        let found = view.nearest(&probe, &Filter::default(), 10);
        assert_eq!(found.len(), 2);
        assert!(found[0].score < 0.95);
    }
    assert_eq!(merge(&[&merged], gone).unwrap().rows(), 2);
}

#[test]
fn what_failed_last_is_listed_by_its_status() {
    let shape = Shape::new(1, 8).unwrap();
    let item = Dice(7).item(shape);
    let failed = |item, finished| NewRow { status: Status::Failed, ..row(item, finished, None) };
    let skipped = NewRow { status: Status::Skipped, ..row("skipped", 1, None) };
    // One never succeeded, one failed after it had been captioned, one was captioned after it had failed twice.
    let first = [row("later", 1, Some(&item)), failed("never", 2), failed("mended", 1), skipped];
    let second = [failed("later", 3), failed("mended", 2), row("mended", 4, Some(&item))];
    let segments = vec![segment(shape, "a", &first), segment(shape, "b", &second)];
    let list = |segments: Vec<Arc<Segment>>, filter: Filter| {
        let view = View::new(segments, |_| true);
        names(&view, view.newest(&filter, 10).into_iter().map(|found| found.place))
    };
    let of = |status| Filter { status: Some(status), ..Filter::default() };
    for segments in [segments.clone(), segments.iter().rev().cloned().collect()] {
        assert_eq!(list(segments.clone(), of(Status::Failed)), ["later", "never"]);
        assert_eq!(list(segments.clone(), of(Status::Skipped)), ["skipped"]);
        assert_eq!(list(segments.clone(), of(Status::Ok)), ["mended"]);
        let since = Filter { since: Some(3), ..of(Status::Failed) };
        assert_eq!(list(segments, since), ["later"], "other filters apply to the failed row");
    }
}

#[test]
fn rare_words_weigh_more_and_filters_come_first() {
    let shape = Shape::new(1, 8).unwrap();
    let captions = ["a red star", "a red circle", "a red square on a red ground", "a blue star"];
    let rows: Vec<NewRow<'_>> = captions
        .iter()
        .map(|caption| NewRow { caption: Some(caption), status: Status::Ok, ..row(caption, 0, None) })
        .collect();
    let view = View::new(vec![segment(shape, "parts/one/x", &rows)], |_| true);
    let search = |text: &str, filter: &Filter| {
        names(&view, view.keywords(text, filter, 10).into_iter().map(|found| found.place))
    };
    assert_eq!(search("STAR", &Filter::default()).len(), 2);
    assert_eq!(search("red star", &Filter::default())[0], "a red star");
    assert_eq!(search("blue red", &Filter::default())[0], "a blue star");
    let filter = Filter { caption: Some("Circle".to_owned()), ..Filter::default() };
    assert_eq!(search("red", &filter), ["a red circle"]);
    for (parts, count) in [("parts/one/", 3), ("parts/two/", 0)] {
        let filter = Filter { parts: Some(parts.to_owned()), ..Filter::default() };
        assert_eq!(search("red", &filter).len(), count);
    }
}

#[test]
fn answers_of_several_runs_stand_beside_the_caption() {
    let shape = Shape::new(1, 8).unwrap();
    let text = |caption, finished, asked| NewRow {
        caption: Some(caption),
        status: Status::Ok,
        asked,
        ..row("one.png", finished, None)
    };
    let captions = segment(shape, "parts/captions/x", &[text("a boat", 1, 0), text("a red boat", 2, 0)]);
    let colours = segment(shape, "parts/colours/x", &[text("which colour? crimson", 3, 7)]);
    let counts = segment(
        shape,
        "parts/counts/x",
        &[text("how many? two", 4, 0xFF00_0008), text("how many? three", 5, 8)],
    );
    let view = View::new(vec![captions, colours, counts], |_| true);
    let found = |word: &str| view.keywords(word, &Filter::default(), 10).len();
    assert_eq!([found("red"), found("crimson"), found("three")], [1, 1, 1]);
    // The older row of the same question does not count; only 24 bits tell questions apart.
    assert_eq!(found("two"), 0);
    // Found by two of its texts, it is one hit.
    assert_eq!(
        (found("red crimson three"), view.newest(&Filter::default(), 10).len(), view.items()),
        (1, 1, 1)
    );
    let filter = Filter { parts: Some("parts/colours/".to_owned()), ..Filter::default() };
    assert_eq!(view.keywords("which", &filter, 10).len(), 1);
}

/// A run with questions embeds as a run of captions does: the newest vectors of an item come with an answer.
#[test]
fn vectors_that_came_with_an_answer_find_the_item_by_all_of_its_texts() {
    let shape = Shape::new(2, 16).unwrap();
    let mut dice = Dice(9);
    let (boat, house) = (dice.item(shape), dice.item(shape));
    let texts = |caption, asked, finished| {
        [("boat", &boat), ("house", &house)].map(|(name, item)| NewRow {
            caption: Some(if caption == "a" && name == "boat" { "a boat" } else { caption }),
            asked,
            ..row(name, finished, Some(item))
        })
    };
    let captions = segment(shape, "parts/captions/x", &texts("a", 0, 1));
    let answers = segment(shape, "parts/answers/x", &texts("yes", 7, 2));
    let later = segment(shape, "parts/later/x", &texts("no", 7, 3));
    let query: Vec<Vec<f32>> = vec![boat[..16].iter().map(|value| value.to_f32()).collect()];
    let probe = Probe::new(shape, &query).unwrap();
    for segments in [[&captions, &answers, &later], [&later, &answers, &captions]] {
        let view = View::new(segments.into_iter().cloned().collect(), |_| true);
        assert_eq!((view.items(), view.pictures()), (2, 2));
        let find = |filter: &Filter| -> Vec<(String, String)> {
            let shown = |place| {
                let (segment, record) = view.row(view.shown(place, filter));
                (segment.item(&record).to_owned(), segment.caption(&record).unwrap().to_owned())
            };
            view.nearest(&probe, filter, 10).into_iter().map(|found| shown(found.place)).collect()
        };
        let hit = |name: &str, text: &str| (name.to_owned(), text.to_owned());
        assert_eq!(find(&Filter::default()), [hit("boat", "a boat"), hit("house", "a")]);
        let of = |run: &str| Filter { parts: Some(format!("parts/{run}/")), ..Filter::default() };
        assert_eq!(find(&of("captions")), [hit("boat", "a boat"), hit("house", "a")]);
        assert_eq!(find(&of("later")), [hit("boat", "no"), hit("house", "no")]);
        assert!(find(&of("answers")).is_empty(), "that question was answered again");
        let with = |text: &str| Filter { caption: Some(text.to_owned()), ..Filter::default() };
        assert_eq!(find(&with("boat")), [hit("boat", "a boat")]);
        // One text must be all that is wanted.
        assert!(find(&Filter { caption: Some("boat".to_owned()), ..of("later") }).is_empty());
        let newest = view.newest(&Filter::default(), 10);
        assert_eq!(newest.len(), 2);
        for found in newest {
            let (segment, record) = view.row(found.place);
            assert_ne!(segment.caption(&record), Some("no"), "the caption is shown");
            let vectors = view.vectors(found.place).unwrap();
            assert_eq!(view.row(vectors).1.finished, 3);
        }
    }
}

#[test]
fn a_film_that_was_replaced_is_found_as_it_is() {
    let shape = Shape::new(1, 8).unwrap();
    let item = Dice(13).item(shape);
    let [old, new] = ["old", "new"].map(content_key);
    let frame = |second: u64, content, finished| NewRow {
        frame_ms: Some(second * 1000),
        content,
        ..row("film.mp4", finished, Some(&item))
    };
    let of = |content, seconds: &[u64], finished: i64| -> Vec<NewRow<'_>> {
        let done = |place: usize| finished + place as i64;
        seconds.iter().enumerate().map(|(place, second)| frame(*second, content, done(place))).collect()
    };
    let probe = Probe::of_item(shape, segment(shape, "x", &[row("x", 0, Some(&item))]).codes(0));
    let shown = |segments: &[&Arc<Segment>]| -> Vec<u64> {
        let view = View::new(segments.iter().map(|segment| (*segment).clone()).collect(), |_| true);
        let mut by_meaning: Vec<u64> = view
            .nearest(&probe, &Filter::default(), 100)
            .iter()
            .map(|found| view.row(found.place).1.frame_ms.unwrap() / 1000)
            .collect();
        by_meaning.sort_unstable();
        let by_words = view.keywords("star", &Filter::default(), 100).len();
        let newest = view.newest(&Filter::default(), 100).len();
        assert_eq!([by_words, newest, view.items(), view.pictures()], [by_meaning.len(); 4]);
        by_meaning
    };
    let long = segment(shape, "long", &of(old, &[0, 15, 30, 45], 10));
    let denser = segment(shape, "denser", &of(old, &[0, 5, 45, 50], 20));
    // Runs over the same bytes never hide each other.
    assert_eq!(shown(&[&long, &denser]), [0, 5, 15, 30, 45, 50]);
    let half_way = segment(shape, "half", &of(new, &[0], 30));
    let rest = segment(shape, "rest", &of(new, &[8, 16], 31));
    for segments in [[&long, &denser, &half_way], [&half_way, &denser, &long]] {
        assert_eq!(shown(&segments), [0]);
    }
    assert_eq!(shown(&[&long, &half_way, &denser, &rest]), [0, 8, 16]);
    let merged = Arc::new(merge(&[&long, &half_way, &denser, &rest], |_| false).unwrap().open().unwrap());
    assert_eq!(shown(&[&merged]), [0, 8, 16]);
    // Put back again, and captioned again.
    let back = segment(shape, "back", &of(old, &[0, 15], 40));
    assert_eq!(shown(&[&long, &half_way, &rest, &back]), [0, 15, 30, 45]);
    // Bytes that are not known hide nothing, nor does what could not be captioned.
    let unknown = segment(shape, "unknown", &of(0, &[20], 50));
    assert_eq!(shown(&[&long, &unknown]), [0, 15, 20, 30, 45]);
    let broken = NewRow { status: Status::Failed, embedding: None, caption: None, ..frame(45, new, 60) };
    let broken = segment(shape, "broken", &[broken]);
    assert_eq!(shown(&[&long, &broken]), [0, 15, 30, 45]);
    let view = View::new(vec![long, broken], |_| true);
    let failed = Filter { status: Some(Status::Failed), ..Filter::default() };
    assert_eq!(view.newest(&failed, 10).len(), 1, "what failed since is told");
}

/// What the codes of the best layer say of every pair decides, although the first layer leaves out most pairs.
#[test]
fn what_shows_the_same_follows_its_best_one() {
    const ALIKE: f32 = 0.97;
    let shape = Shape::new(8, 64).unwrap();
    let mut dice = Dice(11);
    let originals: Vec<Vec<f16>> = (0..120).map(|_| dice.item(shape)).collect();
    let mut items = originals.clone();
    // From exact copies to such as are not alike enough.
    for (place, original) in originals.iter().enumerate().take(96) {
        let noise = 0.6 * (place % 12) as f32 / 12.0;
        let vectors = original.chunks_exact(64).flat_map(|vector| {
            let mut moved: Vec<f32> = vector
                .iter()
                .zip(dice.unit(64))
                .map(|(value, other)| value.to_f32() + noise * other)
                .collect();
            let norm = moved.iter().map(|value| value * value).sum::<f32>().sqrt();
            for value in &mut moved {
                *value /= norm;
            }
            moved.into_iter().map(f16::from_f32).collect::<Vec<_>>()
        });
        items.push(vectors.collect());
    }
    let names: Vec<String> = (0..items.len()).map(|number| number.to_string()).collect();
    let rows: Vec<NewRow<'_>> =
        items.iter().zip(&names).map(|(item, name)| row(name, 0, Some(item))).collect();
    let view = View::new(vec![segment(shape, "a", &rows)], |_| true);
    let hits: Vec<Place> = (0..rows.len()).map(|row| Place { segment: 0, row: row as u32 }).collect();
    let said = |leader: usize, hit: usize| {
        let codes = |hit: usize| view.segments()[0].codes(hit);
        Probe::of_item(shape, codes(hit)).all(codes(leader), &mut Scratch::default()).0
    };
    let groups = view.groups(&hits, ALIKE, usize::MAX);
    let mut of = vec![usize::MAX; hits.len()];
    for group in &groups {
        for hit in group {
            of[*hit] = group[0];
        }
    }
    let followers = (120..hits.len()).filter(|hit| of[*hit] != *hit).count();
    assert!((30..70).contains(&followers), "{followers} of 96 copies are alike");
    for (hit, leader) in of.iter().enumerate() {
        if *leader != hit {
            assert!(said(*leader, hit) >= ALIKE, "{hit} is not alike {leader}");
        } else if hit >= 120 {
            assert!(said(hit - 120, hit) < ALIKE, "{hit} is alike its original");
        }
    }
    // No more groups than are shown, and those are the first; all that belong to them are there.
    let few = view.groups(&hits[..160], ALIKE, 50);
    assert_eq!(few.len(), 50);
    for (group, whole) in few.iter().zip(&groups) {
        assert_eq!(group[0], whole[0]);
    }
    assert!(few[0].contains(&120), "an exact copy follows although there are enough groups");
}

#[test]
fn damaged_bytes_are_refused_and_never_read_out_of_range() {
    let shape = Shape::new(2, 16).unwrap();
    let mut dice = Dice(5);
    let item = dice.item(shape);
    let mut builder = SegmentBuilder::new("space", shape);
    builder.add_part(stamp("a"), &[row("x", 1, Some(&item)), row("y", 1, None)]);
    let whole = builder.finish();
    for cut in 0..whole.len() {
        assert!(Segment::open(whole.slice(..cut)).is_err(), "{cut} of {} bytes", whole.len());
    }
    let probe = Probe::new(shape, &[dice.unit(16)]).unwrap();
    for place in 0..whole.len() {
        let mut bytes = whole.to_vec();
        bytes[place] ^= 0xff;
        // It may be refused or be searched with other results.
        if let Ok(segment) = Segment::open(bytes.into()) {
            let view = View::new(vec![Arc::new(segment)], |_| true);
            drop(view.nearest(&probe, &Filter::default(), 10));
            drop(view.keywords("red star", &Filter::default(), 10));
        }
    }
}
