//! What a search found, in its order: candidates for the model to judge, then the page that was asked for.

use super::{ALIKE, Asked, Freshness, MOST_GROUPED, Ready, computed};
use crate::archive::ArchiveError;
use captionfleet_index::Place;
use captionfleet_proto::job::Match;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// What the model's judgement is called among what was matched.
pub const MATCH: &str = "match";

/// One hit.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Finding {
    /// Place, from 1.
    pub rank: usize,
    /// What the order follows: the similarity, BM25, where several rankings are fused the sum of reciprocal ranks, and
    /// for what the model has judged the probability that the text describes it.
    pub score: f32,
    /// What each ranking says: `text` and `image` are similarities from -1 to 1, `words` is BM25, `match` is the model's
    /// judgement, a probability.
    pub matched: BTreeMap<&'static str, f32>,
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
    /// Where its row is.
    pub part: String,
    /// Which bytes its row was made from, see [`captionfleet_index::content_key`].
    #[serde(skip)]
    pub content: u64,
    /// When the row was made.
    pub finished_at: Timestamp,
    /// Pictures and frames that show the same, each with a lower score.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub duplicates: Vec<Duplicate>,
}

/// A picture or frame that shows the same as a hit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Duplicate {
    /// The picture's URI.
    pub item: String,
    /// Time of the frame in a video.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frame_ms: Option<u64>,
}

/// All hits that were asked for.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Hits {
    /// In their order.
    pub hits: Vec<Finding>,
    /// Pictures whose embeddings could have been found.
    pub pictures: usize,
    /// How much of the archive the index has.
    pub index: Freshness,
    /// What the model has judged, if it was asked to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reranked: Option<Reranked>,
}

/// What came of asking the model about the best hits.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Reranked {
    /// Pictures that the model judged; they stand first.
    pub judged: usize,
    /// Those that it could not, by error code; they stand behind.
    pub failed: BTreeMap<String, usize>,
}

/// A hit that the model may judge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The picture's URI.
    pub item: String,
    /// Time of the frame in a video.
    pub frame_ms: Option<u64>,
    /// Which bytes its row was made from, see [`captionfleet_index::content_key`].
    pub content: u64,
    /// Key of the part with its row.
    pub part: String,
}

/// Everything that was found, before any of it is left out.
#[derive(Debug)]
pub struct Ranked {
    pub(super) ready: Arc<Ready>,
    pub(super) asked: Asked,
    pub(super) order: Vec<(Place, f32)>,
    pub(super) matched: HashMap<Place, BTreeMap<&'static str, f32>>,
    pub(super) reranked: Option<Reranked>,
}

impl Ranked {
    /// The best, as many as were to be re-ranked.
    pub fn candidates(&self) -> Vec<Candidate> {
        let candidate = |(place, _): &(Place, f32)| {
            let (segment, record) = self.ready.view.row(*place);
            Candidate {
                item: segment.item(&record).to_owned(),
                frame_ms: record.frame_ms,
                content: record.content,
                part: segment.parts()[record.part as usize].key.clone(),
            }
        };
        self.order.iter().take(self.asked.rerank).map(candidate).collect()
    }

    /// Puts the candidates in the order of the model's judgements, given in the order of [`Self::candidates`]; those
    /// without one keep their order behind them.
    pub fn rerank(&mut self, judgements: &[Match]) {
        let mut reranked = Reranked::default();
        let count = judgements.len().min(self.order.len());
        let rest = self.order.split_off(count);
        let (mut judged, mut unclear) = (Vec::with_capacity(count), Vec::new());
        for ((place, score), judgement) in std::mem::take(&mut self.order).into_iter().zip(judgements) {
            match judgement {
                Match::Judged { log_odds } => judged.push((*log_odds, place)),
                Match::Failed { code, .. } => {
                    *reranked.failed.entry(code.clone()).or_default() += 1;
                    unclear.push((place, score));
                }
            }
        }
        judged.sort_by(|one, other| other.0.total_cmp(&one.0));
        reranked.judged = judged.len();
        for (log_odds, place) in judged {
            let probability = 1.0 / (1.0 + (-log_odds).exp());
            self.matched.entry(place).or_default().insert(MATCH, probability);
            self.order.push((place, probability));
        }
        self.order.extend(unclear);
        self.order.extend(rest);
        self.reranked = Some(reranked);
    }

    /// The page that was asked for.
    pub async fn page(self) -> Result<Hits, ArchiveError> {
        let Self { ready, asked, order, mut matched, reranked } = self;
        let (grouping, last) = (ready.clone(), asked.last().min(MOST_GROUPED));
        let groups =
            computed(move || if asked.group { grouping.grouped(&order, last) } else { alone(&order) })
                .await?;
        let page = groups.into_iter().enumerate().skip(asked.offset).take(asked.limit);
        let hits = page.map(|(rank, group)| ready.finding(rank + 1, &group, &mut matched)).collect();
        Ok(Hits { hits, pictures: ready.pictures(), index: ready.freshness.clone(), reranked })
    }
}

impl Ready {
    /// The groups of pictures that show the same, best first, as many as reach the end of the page.
    fn grouped(&self, order: &[(Place, f32)], most: usize) -> Vec<Vec<(Place, f32)>> {
        let places: Vec<Place> = order.iter().map(|(place, _)| *place).collect();
        let groups = self.view.groups(&places, ALIKE, most);
        groups.into_iter().map(|group| group.into_iter().map(|hit| order[hit]).collect()).collect()
    }

    fn finding(
        &self,
        rank: usize,
        group: &[(Place, f32)],
        matched: &mut HashMap<Place, BTreeMap<&'static str, f32>>,
    ) -> Finding {
        let (place, score) = group[0];
        let (segment, record) = self.view.row(place);
        let others = group[1..].iter().map(|(place, _)| {
            let (item, frame_ms) = self.name(*place);
            Duplicate { item: item.to_owned(), frame_ms }
        });
        Finding {
            rank,
            score,
            matched: matched.remove(&place).unwrap_or_default(),
            item: segment.item(&record).to_owned(),
            frame_ms: record.frame_ms,
            caption: segment.caption(&record).unwrap_or_default().to_owned(),
            thumbnail: None,
            content: record.content,
            part: segment.parts()[record.part as usize].key.clone(),
            finished_at: Timestamp::from_microsecond(record.finished).unwrap_or_default(),
            duplicates: others.collect(),
        }
    }
}

fn alone(order: &[(Place, f32)]) -> Vec<Vec<(Place, f32)>> {
    order.iter().map(|found| vec![*found]).collect()
}
