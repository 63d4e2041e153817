//! The best pictures of all parts. No I/O.

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
    /// Its caption.
    pub caption: String,
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
    /// Its caption.
    pub caption: String,
    /// Where the frame is kept as a small picture, if that was asked for and there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub thumbnail: Option<String>,
}

/// Everything seen so far: parts may be added in any order.
#[derive(Debug, Default)]
pub struct Ranking {
    latest: HashMap<(String, Option<u64>), Candidate>,
    /// Rows of other embedding spaces, by space.
    foreign: BTreeMap<String, u64>,
}

impl Ranking {
    /// Takes a row of the query's embedding space.
    pub fn add(&mut self, candidate: Candidate) {
        match self.latest.entry((candidate.item.clone(), candidate.frame_ms)) {
            Entry::Vacant(place) => {
                place.insert(candidate);
            }
            Entry::Occupied(mut place) => {
                if candidate.finished_at > place.get().finished_at {
                    place.insert(candidate);
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
        for candidate in other.latest.into_values() {
            self.add(candidate);
        }
        for (space, rows) in other.foreign {
            self.add_foreign(&space, rows);
        }
    }

    /// How many pictures were compared.
    pub fn pictures(&self) -> usize {
        self.latest.len()
    }

    /// Rows of other embedding spaces, by space.
    pub fn foreign(&self) -> &BTreeMap<String, u64> {
        &self.foreign
    }

    /// The best `count` pictures; equal scores in the order of their names.
    pub fn best(self, count: usize) -> Vec<Hit> {
        let mut candidates: Vec<_> = self.latest.into_values().collect();
        candidates.sort_unstable_by(|one, other| {
            let names = || (&one.item, one.frame_ms).cmp(&(&other.item, other.frame_ms));
            other.score.total_cmp(&one.score).then_with(names)
        });
        candidates.truncate(count);
        let hit = |(place, found): (usize, Candidate)| Hit {
            rank: place + 1,
            score: found.score,
            item: found.item,
            frame_ms: found.frame_ms,
            caption: found.caption,
            thumbnail: None,
        };
        candidates.into_iter().enumerate().map(hit).collect()
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
            caption: String::new(),
            score,
            finished_at: Timestamp::from_second(second).unwrap(),
        }
    }

    #[test]
    fn the_latest_row_of_a_picture_counts_in_any_order() {
        for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0]] {
            let rows = [candidate("a", 0.9, 1), candidate("a", 0.1, 2), candidate("b", 0.5, 1)];
            let mut ranking = Ranking::default();
            for place in order {
                let mut part = Ranking::default();
                part.add(rows[place].clone());
                ranking.merge(part);
            }
            assert_eq!(ranking.pictures(), 2);
            let best = ranking.best(10);
            let names: Vec<_> = best.iter().map(|hit| (hit.rank, hit.item.as_str())).collect();
            assert_eq!(names, [(1, "b"), (2, "a")]);
        }
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
