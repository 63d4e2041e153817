//! Searching an archive through its index; parts that it lacks are read and take part.

mod exact;
mod ranked;
mod spaces;

pub use ranked::{Candidate, Duplicate, Finding, Hits, MATCH, Ranked, Reranked};
pub use spaces::Spaces;

use super::collect::{self, Listing, Part};
use super::shelf::{Shelf, Stored, WORDS_ALONE};
use crate::archive::ArchiveError;
use crate::search::Query;
use captionfleet_index::codes::Shape;
use captionfleet_index::{
    Filter, PartStamp, Place, Probe, Record, Segment, SegmentBuilder, View, doubtful, reciprocal_ranks,
};
use captionfleet_worker::telemetry::spans;
use serde::Serialize;
use spaces::Others;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use tracing::Instrument as _;

/// Most parts that are read because the index lacks them: some hundred thousand pictures, under a gigabyte of codes.
pub const MOST_UNINDEXED: usize = 2048;
/// Parts that become one segment in memory.
const PARTS_OF_A_SEGMENT: usize = 128;
/// Hits of each ranking that are fused, the same on every page; what is further down stands behind.
const FUSED: usize = 200;
/// How far down near-duplicates are put together: each hit is compared with many before it.
pub const MOST_GROUPED: usize = 1000;
/// Pictures that are as alike as this show the same.
const ALIKE: f32 = 0.97;

/// What is asked; without vectors and words the newest rows answer.
#[derive(Debug, Clone, Default)]
pub struct Asked {
    /// Vectors to compare with: of a text, of a picture, or of both.
    pub vectors: Vec<(&'static str, Vec<Vec<f32>>)>,
    /// Words to look for in captions.
    pub words: Option<String>,
    /// What may be found.
    pub filter: Filter,
    /// Hits to leave out.
    pub offset: usize,
    /// Hits to show.
    pub limit: usize,
    /// Near-duplicates follow their best one instead of standing by themselves.
    pub group: bool,
    /// How many of the best the model is to judge; they are the candidates of [`Ranked`].
    pub rerank: usize,
}

impl Asked {
    /// The place of the last hit that is asked for, from 1.
    pub fn last(&self) -> usize {
        self.offset.saturating_add(self.limit)
    }

    /// Whether it reaches deeper than near-duplicates are put together.
    pub fn groups_too_many(&self) -> bool {
        self.group && self.last() > MOST_GROUPED
    }
}

/// How much of an archive its index has.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Freshness {
    /// Segments.
    pub segments: usize,
    /// Parts of the archive.
    pub parts: usize,
    /// Parts that were read for this search, because no segment has them.
    pub unindexed: usize,
    /// Parts that could not be read.
    pub damaged: usize,
    /// Pictures whose embeddings lie in other spaces only, by space: they cannot be compared.
    pub foreign: BTreeMap<String, usize>,
}

/// An archive, ready to be searched in one embedding space.
#[derive(Debug)]
pub struct Ready {
    view: View,
    shape: Option<Shape>,
    space: String,
    freshness: Freshness,
    /// What it was made from: while that is there, looking again is not needed.
    listing: Arc<Listing>,
    segments: Vec<String>,
    /// Whether it has words alone for as long as the segments of its space lack too many parts.
    stands_in: bool,
}

/// What opening found.
#[derive(Debug)]
pub enum Opened {
    /// It can be searched.
    Ready(Arc<Ready>),
    /// The index lacks so many parts that reading them would take too long.
    Behind {
        /// How many.
        unindexed: usize,
    },
    /// No picture lies in the space of the query, and others lie elsewhere.
    Elsewhere(Elsewhere),
}

/// A query of a model that embedded nothing in the archive.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the query was embedded in the space {space}, in which this archive has no picture; it has {}. The model that embedded \
     them must answer: name it with --model, and start workers with it; or caption the pictures again with the new one",
    spaces.iter().map(|(space, pictures)| format!("{pictures} in {space}")).collect::<Vec<_>>().join(", ")
)]
pub struct Elsewhere {
    /// The space of the query.
    pub space: String,
    /// The spaces of the archive, and how many pictures lie in each.
    pub spaces: BTreeMap<String, usize>,
}

impl Ready {
    /// Looks at the archive as it is now. Without a `space`, for words alone, the one with the most pictures is taken.
    pub async fn open(shelf: &Shelf, space: Option<&str>) -> Result<Opened, ArchiveError> {
        Self::open_again(shelf, space, None).await
    }

    /// As [`Self::open`]; what was opened `before` is used as it is while nothing has changed, if it is of that `space`.
    pub async fn open_again(
        shelf: &Shelf,
        space: Option<&str>,
        before: Option<Arc<Self>>,
    ) -> Result<Opened, ArchiveError> {
        let listing = Arc::new(collect::list(shelf.archive()).await?);
        let (stored, _) = shelf.segments().await?;
        let keys: Vec<String> = stored.iter().map(|stored| stored.key.clone()).collect();
        let same = |before: &Arc<Self>| {
            let serves = space.is_none_or(|space| before.space == space && !before.stands_in);
            serves && before.listing == listing && before.segments == keys
        };
        if let Some(before) = before.filter(same) {
            return Ok(Opened::Ready(before));
        }
        let stored = Arc::new(stored);
        let (asked, all) = (space.map(str::to_owned), stored.clone());
        let space = match &asked {
            Some(space) => space.clone(),
            None => computed(move || spaces::fullest(&all)).await?.unwrap_or_default(),
        };
        let mut segments = of_space(&stored, &space);
        let mut unindexed = missing(&listing, &segments);
        let mut stands_in = false;
        if unindexed.len() > MOST_UNINDEXED && (asked.is_none() || segments.is_empty()) {
            // Where nothing is embedded, or not all of it is indexed yet, words are found all the same.
            let for_words = of_space(&stored, WORDS_ALONE);
            let without = missing(&listing, &for_words);
            if without.len() < unindexed.len() {
                stands_in = !segments.is_empty();
                (segments, unindexed) = (for_words, without);
            }
        }
        if unindexed.len() > MOST_UNINDEXED {
            if asked.is_some()
                && segments.is_empty()
                && let Some(elsewhere) = elsewhere(shelf, &listing, &stored, space).await?
            {
                return Ok(Opened::Elsewhere(elsewhere));
            }
            return Ok(Opened::Behind { unindexed: unindexed.len() });
        }
        let mut freshness = Freshness {
            segments: segments.len(),
            parts: listing.len(),
            unindexed: unindexed.len(),
            damaged: 0,
            foreign: BTreeMap::new(),
        };
        let (there, name) = (listing.clone(), space.clone());
        let mut others = computed(move || Others::indexed(&stored, &name, &there)).await?;
        let shape = segments.iter().find(|segment| segment.space() == space).map(|segment| segment.shape());
        for stamps in unindexed.chunks(PARTS_OF_A_SEGMENT) {
            let (parts, damaged) = collect::read(shelf.archive(), stamps).await?;
            freshness.damaged += damaged.len();
            if !space.is_empty() {
                others.add(&parts, &space);
            }
            segments.push(in_memory(space.clone(), shape, parts).await?);
        }
        let there = listing.clone();
        let (view, foreign) = computed(move || {
            let view =
                View::new(segments, |part| there.get(&part.key).is_some_and(|there| there.matches(part)));
            let foreign = others.left_out(&view);
            (view, foreign)
        })
        .await?;
        if asked.is_some() && view.pictures() == 0 && !foreign.is_empty() {
            return Ok(Opened::Elsewhere(Elsewhere { space, spaces: foreign }));
        }
        freshness.foreign = foreign;
        let coded = |segment: &&Arc<Segment>| segment.coded() > 0;
        let shape = shape.or_else(|| view.segments().iter().find(coded).map(|segment| segment.shape()));
        Ok(Opened::Ready(Arc::new(Self {
            view,
            shape,
            space,
            freshness,
            listing,
            segments: keys,
            stands_in,
        })))
    }

    /// Pictures whose embeddings can be found.
    pub fn pictures(&self) -> usize {
        self.view.pictures()
    }

    /// Different pictures and frames, failed ones included.
    pub fn items(&self) -> usize {
        self.view.items()
    }

    /// Bytes of all parts.
    pub fn bytes(&self) -> u64 {
        self.listing.values().map(|part| part.size).sum()
    }

    /// The embedding space that can be searched.
    pub fn space(&self) -> &str {
        &self.space
    }

    /// Whether it has words alone because too many parts lack in the segments of its space.
    pub fn stands_in(&self) -> bool {
        self.stands_in
    }

    /// How much of the archive the index has.
    pub fn freshness(&self) -> &Freshness {
        &self.freshness
    }

    /// Answers. Similarities of hits are exact: the vectors of the best are read from their parts.
    pub async fn search(self: Arc<Self>, shelf: &Shelf, asked: Asked) -> Result<Ranked, ArchiveError> {
        let span = tracing::info_span!(target: spans::TARGET, "lookup", index.items = self.items());
        self.find(shelf, asked).instrument(span).await
    }

    async fn find(self: Arc<Self>, shelf: &Shelf, asked: Asked) -> Result<Ranked, ArchiveError> {
        let fused = asked.vectors.len() + usize::from(asked.words.is_some()) > 1;
        // Followers of a group stand behind their leader: without more hits than wanted there would be too few groups.
        let wanted = if asked.group { 2 * asked.last().min(MOST_GROUPED) + 50 } else { asked.last() };
        let wanted = wanted.max(asked.rerank);
        let depth = if fused { wanted.max(FUSED) } else { wanted };
        let mut rankings: Vec<(&'static str, Vec<(Place, f32)>)> = Vec::new();
        for (name, vectors) in &asked.vectors {
            rankings.push((name, self.nearest(shelf, vectors, &asked.filter, depth).await?));
        }
        if let Some(words) = asked.words.clone() {
            let (ready, filter) = (self.clone(), asked.filter.clone());
            let found = computed(move || ready.view.keywords(&words, &filter, depth)).await?;
            rankings.push(("words", found.into_iter().map(|found| (found.place, found.score)).collect()));
        }
        if rankings.is_empty() {
            let (ready, filter) = (self.clone(), asked.filter.clone());
            let newest = computed(move || ready.view.newest(&filter, depth)).await?;
            rankings.push(("newest", newest.into_iter().map(|found| (found.place, found.score)).collect()));
        }
        if fused {
            self.meet(&mut rankings);
        }
        let mut matched: HashMap<Place, BTreeMap<&'static str, f32>> = HashMap::new();
        for (name, ranking) in rankings.iter().filter(|(name, _)| *name != "newest") {
            for (place, score) in ranking {
                matched.entry(*place).or_default().insert(name, *score);
            }
        }
        let order = if fused {
            let places =
                |(_, ranking): &(_, Vec<(Place, f32)>)| ranking.iter().map(|(place, _)| *place).collect();
            reciprocal_ranks(&rankings.iter().map(places).collect::<Vec<Vec<Place>>>(), FUSED)
        } else {
            rankings.pop().map(|(_, ranking)| ranking).unwrap_or_default()
        };
        Ok(Ranked { ready: self, asked, order, matched, reranked: None })
    }

    /// Several rankings may know an item by different rows. Here it gets one: of those, the row with the words that were looked
    /// for, because it says why it was found.
    fn meet(&self, rankings: &mut [(&'static str, Vec<(Place, f32)>)]) {
        let key = |place: Place| self.view.row(place).1.key;
        let mut rows: HashMap<u128, Place> = HashMap::new();
        // Words come last.
        for (place, _) in rankings.iter().rev().flat_map(|(_, ranking)| ranking) {
            rows.entry(key(*place)).or_insert(*place);
        }
        for (place, _) in rankings.iter_mut().flat_map(|(_, ranking)| ranking) {
            *place = rows.get(&key(*place)).copied().unwrap_or(*place);
        }
    }

    /// The items whose vectors answer best, each by the row that is shown of it.
    async fn nearest(
        self: &Arc<Self>,
        shelf: &Shelf,
        vectors: &[Vec<f32>],
        filter: &Filter,
        count: usize,
    ) -> Result<Vec<(Place, f32)>, ArchiveError> {
        let Some((probe, query)) = self
            .shape
            .and_then(|shape| Some((Probe::new(shape, vectors)?, Query::new(vectors.to_vec()).ok()?)))
        else {
            return Ok(Vec::new());
        };
        let (ready, by) = (self.clone(), filter.clone());
        let found = computed(move || {
            let mut found = ready.view.nearest(&probe, &by, count);
            found.truncate(doubtful(&found, count));
            found
        })
        .await?;
        let mut exact = exact::scored(&self.view, shelf, found, &query).await?;
        exact.sort_by(|(one, score), (other, other_score)| {
            other_score.total_cmp(score).then_with(|| self.name(*one).cmp(&self.name(*other)))
        });
        exact.truncate(count);
        for (place, _) in &mut exact {
            *place = self.view.shown(*place, filter);
        }
        Ok(exact)
    }

    /// A part, if the archive had it.
    pub fn part(&self, key: &str) -> Option<&PartStamp> {
        self.listing.get(key)
    }

    /// Where the rows of an item are, the newest first: the keys of their parts.
    pub async fn parts_of(
        self: &Arc<Self>,
        item: String,
        frame_ms: Option<u64>,
    ) -> Result<Vec<String>, ArchiveError> {
        let ready = self.clone();
        computed(move || {
            let part = |place: Place| {
                let (segment, record) = ready.view.row(place);
                segment.parts()[record.part as usize].key.clone()
            };
            ready.view.rows_of(&item, frame_ms).into_iter().map(part).collect()
        })
        .await
    }

    /// The keys of the parts with a row of an item that is `wanted`.
    pub async fn parts_with(
        self: &Arc<Self>,
        wanted: impl Fn(&str) -> bool + Send + 'static,
    ) -> Result<BTreeSet<String>, ArchiveError> {
        let ready = self.clone();
        computed(move || {
            let found = ready.records().filter(|(segment, record, _)| wanted(segment.item(record)));
            found.map(|(_, _, part)| part.key.clone()).collect()
        })
        .await
    }

    /// Which of some contents items have that are `others`.
    pub async fn contents_of_others(
        self: &Arc<Self>,
        contents: HashSet<u64>,
        is_other: impl Fn(&str) -> bool + Send + 'static,
    ) -> Result<HashSet<u64>, ArchiveError> {
        let ready = self.clone();
        computed(move || {
            let with_them = ready.records().filter(|(_, record, _)| contents.contains(&record.content));
            let found = with_them.filter(|(segment, record, _)| is_other(segment.item(record)));
            found.map(|(_, record, _)| record.content).collect()
        })
        .await
    }

    /// Every row of every part that is there.
    fn records(&self) -> impl Iterator<Item = (&Segment, Record, &PartStamp)> {
        let all = self.view.segments().iter().flat_map(|segment| {
            (0..segment.rows()).map(move |row| {
                let record = segment.record(row);
                let part = &segment.parts()[record.part as usize];
                (&**segment, record, part)
            })
        });
        all.filter(|(_, _, part)| self.listing.get(&part.key).is_some_and(|there| there.matches(part)))
    }

    fn name(&self, place: Place) -> (&str, Option<u64>) {
        let (segment, record) = self.view.row(place);
        (segment.item(&record), record.frame_ms)
    }
}

/// What the archive has instead of `space`, of which no segment is: nothing, if a part that no segment has lies in it after all,
/// or if there are too many of those to look.
async fn elsewhere(
    shelf: &Shelf,
    listing: &Listing,
    stored: &[Stored],
    space: String,
) -> Result<Option<Elsewhere>, ArchiveError> {
    let all: Vec<Arc<Segment>> = stored.iter().map(|stored| stored.segment.clone()).collect();
    let unknown = missing(listing, &all);
    if all.is_empty() || unknown.len() > MOST_UNINDEXED {
        return Ok(None);
    }
    for stamps in unknown.chunks(PARTS_OF_A_SEGMENT) {
        let (parts, _) = collect::read(shelf.archive(), stamps).await?;
        if parts.iter().flat_map(Part::spaces).any(|(found, _)| found == space) {
            return Ok(None);
        }
    }
    let mut spaces: BTreeMap<String, usize> = BTreeMap::new();
    for segment in all.iter().filter(|segment| segment.coded() > 0) {
        *spaces.entry(segment.space().to_owned()).or_default() += segment.coded();
    }
    Ok((!spaces.is_empty()).then_some(Elsewhere { space, spaces }))
}

fn of_space(stored: &[Stored], space: &str) -> Vec<Arc<Segment>> {
    let ours = stored.iter().filter(|stored| stored.segment.space() == space);
    ours.map(|stored| stored.segment.clone()).collect()
}

/// The parts that no segment has, in the order of their keys.
fn missing(listing: &Listing, segments: &[Arc<Segment>]) -> Vec<PartStamp> {
    let indexed: HashSet<&str> = segments
        .iter()
        .flat_map(|segment| segment.parts())
        .filter(|part| listing.get(&part.key).is_some_and(|there| there.matches(part)))
        .map(|part| part.key.as_str())
        .collect();
    listing.values().filter(|stamp| !indexed.contains(stamp.key.as_str())).cloned().collect()
}

/// Parts as a segment that is never written.
async fn in_memory(
    space: String,
    shape: Option<Shape>,
    parts: Vec<Part>,
) -> Result<Arc<Segment>, ArchiveError> {
    computed(move || {
        let found = || parts.iter().flat_map(Part::spaces).find(|(found, _)| *found == space);
        // Without vectors any shape will do: the rows have words.
        let shape = shape.or_else(|| Some(found()?.1)).unwrap_or(Shape::LEAST);
        let mut builder = SegmentBuilder::new(&*space, shape);
        for part in &parts {
            collect::add(&mut builder, &space, part);
        }
        Arc::new(builder.open().expect("what was just written can be read"))
    })
    .await
}

/// Runs `work` away from the threads that wait for the network.
async fn computed<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, ArchiveError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| ArchiveError::Interrupted { key: "index/".to_owned() })
}
