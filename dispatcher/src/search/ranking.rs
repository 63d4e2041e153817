//! The best pictures of all parts. No I/O.

use captionfleet_index::Contents;
use jiff::Timestamp;
use serde::Serialize;
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};

/// One row that can be found.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate {
    /// The picture's URI.
    pub item: String,
    /// Time of the frame in a video.
    pub frame_ms: Option<u64>,
    /// Its caption, or what was answered to questions.
    pub caption: String,
    /// Whether that is an answer: captions stand before it.
    pub is_answer: bool,
    /// Tells the bytes of a picture or film apart; 0 where they are not known.
    pub content: u64,
    /// How well it answers the query.
    pub score: f32,
    /// When the row was made: the latest row of an item counts.
    pub finished_at: Timestamp,
}

/// One picture found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Hit {
    /// Place, from 1.
    pub rank: usize,
    /// How well it answers the query, -1 to 1.
    pub score: f32,
    /// The picture's URI.
    pub item: String,
    /// Time of the frame in a video.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frame_ms: Option<u64>,
    /// Tells the bytes of a picture or film apart; 0 where they are not known.
    #[serde(skip)]
    pub content: u64,
    /// Its caption.
    pub caption: String,
    /// Where the frame is kept as a small picture, if that was asked for and there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub thumbnail: Option<String>,
}

/// The rows of a picture that count.
#[derive(Debug)]
struct Standing {
    /// The latest: its vectors.
    vectors: Candidate,
    /// The latest caption, or without any the latest answer.
    text: Text,
}

/// What was said of a picture.
#[derive(Debug, Clone)]
struct Text {
    /// Whether it is a caption, and when it was said: the greatest is shown.
    order: (bool, Timestamp),
    /// Of which bytes.
    content: u64,
    caption: String,
}

/// Everything seen so far: parts may be added in any order.
#[derive(Debug, Default)]
pub struct Ranking {
    latest: HashMap<(String, Option<u64>), Standing>,
    /// For each film the bytes that were captioned last.
    films: Contents<String, Timestamp>,
    /// Rows of other embedding spaces, by space.
    foreign: BTreeMap<String, u64>,
}

impl Ranking {
    /// Takes a row of the query's embedding space.
    pub fn add(&mut self, candidate: Candidate) {
        let text = Text {
            order: (!candidate.is_answer, candidate.finished_at),
            content: candidate.content,
            caption: candidate.caption.clone(),
        };
        if candidate.frame_ms.is_some() {
            self.films.see(candidate.item.clone(), candidate.finished_at, candidate.content);
        }
        self.put(Standing { vectors: candidate, text });
    }

    /// Whether it is a frame of bytes that others have replaced.
    fn is_replaced(&self, standing: &Standing) -> bool {
        let frame = &standing.vectors;
        frame.frame_ms.is_some() && self.films.are_replaced(&*frame.item, frame.finished_at, frame.content)
    }

    fn put(&mut self, new: Standing) {
        match self.latest.entry((new.vectors.item.clone(), new.vectors.frame_ms)) {
            Entry::Vacant(place) => {
                place.insert(new);
            }
            Entry::Occupied(mut place) => {
                let known = place.get_mut();
                if new.vectors.finished_at > known.vectors.finished_at {
                    known.vectors = new.vectors;
                }
                if new.text.order > known.text.order {
                    known.text = new.text;
                }
            }
        }
    }

    /// Counts rows that cannot be compared with the query.
    pub fn add_foreign(&mut self, space: &str, rows: u64) {
        *self.foreign.entry(space.to_owned()).or_default() += rows;
    }

    /// Takes what another ranking has seen.
    pub fn merge(&mut self, other: Self) {
        for standing in other.latest.into_values() {
            self.put(standing);
        }
        self.films.merge(other.films);
        for (space, rows) in other.foreign {
            self.add_foreign(&space, rows);
        }
    }

    /// How many pictures were compared.
    pub fn pictures(&self) -> usize {
        self.latest.values().filter(|standing| !self.is_replaced(standing)).count()
    }

    /// Rows of other embedding spaces, by space.
    pub fn foreign(&self) -> &BTreeMap<String, u64> {
        &self.foreign
    }

    /// The best `count` pictures; equal scores in the order of their names.
    pub fn best(mut self, count: usize) -> Vec<Hit> {
        let latest = std::mem::take(&mut self.latest);
        let mut standing: Vec<_> =
            latest.into_values().filter(|standing| !self.is_replaced(standing)).collect();
        standing.sort_unstable_by(|one, other| {
            let (one, other) = (&one.vectors, &other.vectors);
            let names = || (&one.item, one.frame_ms).cmp(&(&other.item, other.frame_ms));
            other.score.total_cmp(&one.score).then_with(names)
        });
        standing.truncate(count);
        let hit = |(place, Standing { vectors: found, text }): (usize, Standing)| Hit {
            rank: place + 1,
            score: found.score,
            item: found.item,
            frame_ms: found.frame_ms,
            content: found.content,
            caption: if text.content == found.content { text.caption } else { found.caption },
            thumbnail: None,
        };
        standing.into_iter().enumerate().map(hit).collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::{Candidate, Ranking};
    use jiff::Timestamp;

    fn candidate(item: &str, score: f32, second: i64) -> Candidate {
        Candidate {
            item: item.to_owned(),
            frame_ms: None,
            caption: format!("of {second}"),
            is_answer: false,
            content: 1,
            score,
            finished_at: Timestamp::from_second(second).unwrap(),
        }
    }

    /// The rows as they come from parts of one row each, in this order.
    fn merged(rows: &[Candidate], order: &[usize]) -> Ranking {
        let mut ranking = Ranking::default();
        for place in order {
            let mut part = Ranking::default();
            part.add(rows[*place].clone());
            ranking.merge(part);
        }
        ranking
    }

    #[test]
    fn the_latest_row_of_a_picture_counts_in_any_order() {
        for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0]] {
            let rows = [candidate("a", 0.9, 1), candidate("a", 0.1, 2), candidate("b", 0.5, 1)];
            let ranking = merged(&rows, &order);
            assert_eq!(ranking.pictures(), 2);
            let best = ranking.best(10);
            let names: Vec<_> = best.iter().map(|hit| (hit.rank, hit.item.as_str())).collect();
            assert_eq!(names, [(1, "b"), (2, "a")]);
        }
    }

    #[test]
    fn a_caption_is_shown_although_a_later_answer_has_the_vectors() {
        let answer = |second| Candidate { is_answer: true, ..candidate("a", 0.1, second) };
        for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0]] {
            let rows = [candidate("a", 0.9, 1), candidate("a", 0.5, 2), answer(3)];
            let ranking = merged(&rows, &order);
            let best = ranking.best(10);
            assert_eq!((best[0].score, best[0].caption.as_str()), (0.1, "of 2"));
        }
        let mut ranking = Ranking::default();
        ranking.add(answer(4));
        ranking.add(answer(3));
        assert_eq!(ranking.best(1)[0].caption, "of 4", "without a caption the latest answer is shown");
    }

    #[test]
    fn what_was_replaced_is_not_found() {
        let frame = |ms, content, second| Candidate {
            frame_ms: Some(ms),
            content,
            ..candidate("film.mp4", 0.5, second)
        };
        let rows = [frame(0, 1, 1), frame(45_000, 1, 2), frame(0, 2, 3), frame(8000, 2, 4)];
        for order in [[0, 1, 2, 3], [3, 2, 1, 0]] {
            let ranking = merged(&rows, &order);
            assert_eq!(ranking.pictures(), 2);
            let frames: Vec<_> = ranking.best(10).into_iter().map(|hit| hit.frame_ms).collect();
            assert_eq!(frames, [Some(0), Some(8000)]);
        }
        // The caption of a picture that was replaced is not that of the one there.
        let mut ranking = Ranking::default();
        ranking.add(candidate("a", 0.9, 1));
        ranking.add(Candidate { is_answer: true, content: 2, ..candidate("a", 0.1, 2) });
        assert_eq!(ranking.best(1)[0].caption, "of 2");
    }

    #[test]
    fn equal_scores_stand_in_the_order_of_names() {
        let mut ranking = Ranking::default();
        for item in ["c", "a", "b"] {
            ranking.add(candidate(item, 0.5, 1));
        }
        let names: Vec<_> = ranking.best(2).into_iter().map(|hit| hit.item).collect();
        assert_eq!(names, ["a", "b"]);
    }
}
