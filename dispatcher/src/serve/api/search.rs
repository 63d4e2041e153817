//! Finding pictures by text, by picture, by both, by the captions' words; without any of them the newest.

use super::{item, name};
use crate::config::search_args::{FilterArgs, StatusArg};
use crate::index::search::{Duplicate, MOST_GROUPED};
use crate::index::{Asked, Finding, Freshness, Ranked, Reranked};
use crate::search::query::Embedded;
use crate::search::rerank;
use crate::serve::Service;
use crate::serve::http::extract::Asked as Address;
use crate::serve::http::operation::Operation;
use crate::serve::http::problem::Problem;
use crate::serve::uploads;
use axum::Json;
use axum::extract::State;
use axum::http::Method;
use axum::routing::get;
use captionfleet_proto::job::Query;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The longest text.
const TEXT_BYTES: usize = 4096;
/// Most hits of one page.
const PAGE: u32 = 200;
/// How far one can turn the pages.
const DEPTH: u32 = 10_000;
/// Hits of a page where nobody said how many.
const USUAL: u32 = 40;

/// What decides the order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Mode {
    /// What the text means.
    #[default]
    Meaning,
    /// The captions' words; needs no worker.
    Words,
    /// Both.
    Hybrid,
}

/// A search.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct SearchQuery {
    /// What to look for, at most 4096 bytes.
    #[schemars(length(max = 1024))]
    text: Option<String>,
    /// An uploaded picture to look for: the name that it was given.
    #[schemars(regex(pattern = "^[0-9a-f]{64}$"))]
    upload: Option<String>,
    /// A picture of the archive to look for others like it; either this or an upload.
    #[schemars(length(min = 1, max = 4096))]
    like: Option<String>,
    /// Time of the frame, if what is to be alike is one of a video.
    #[schemars(range(max = 4_294_967_295_u32))]
    like_frame_ms: Option<u32>,
    /// What decides the order; words and hybrid need a text.
    mode: Option<Mode>,
    /// Only items whose name begins so: a folder or s3://bucket/prefix.
    #[schemars(length(max = 4096))]
    source: Option<String>,
    /// Only rows made at this time or later: a date, or a time such as 2025-01-31T12:00:00Z.
    #[schemars(extend("anyOf" = [{"format": "date"}, {"format": "date-time"}, {"maxLength": 0}]))]
    since: Option<String>,
    /// Only rows made before this time.
    #[schemars(extend("anyOf" = [{"format": "date"}, {"format": "date-time"}, {"maxLength": 0}]))]
    until: Option<String>,
    /// Only rows of this run.
    #[schemars(length(max = 80), regex(pattern = "^([A-Za-z0-9_-][A-Za-z0-9._-]*)?$"))]
    run: Option<String>,
    /// Only pictures at least so wide and high: 1024x768.
    #[schemars(regex(pattern = "^([0-9]{1,9}x[0-9]{1,9})?$"))]
    min_size: Option<String>,
    /// Only pictures at most so wide and high.
    #[schemars(regex(pattern = "^([0-9]{1,9}x[0-9]{1,9})?$"))]
    max_size: Option<String>,
    /// Only items that ended so when they were last tried.
    status: Option<StatusName>,
    /// Only items whose caption has this in it, whatever the case.
    #[schemars(length(max = 1024))]
    caption: Option<String>,
    /// How many of the best the model looks at again, to order them by how well the text describes each; at most 200, needs a
    /// text. Each costs a vision pass.
    #[schemars(range(min = 1, max = 200))]
    rerank: Option<u32>,
    /// Near-duplicates follow their best one instead of standing by themselves; offset and limit together are at most 1000 then.
    group: Option<bool>,
    /// Hits to leave out, at most 10000.
    #[schemars(range(max = 10_000))]
    offset: Option<u32>,
    /// Hits to show, 1 to 200.
    #[schemars(range(min = 1, max = 200))]
    limit: Option<u32>,
}

/// What became of an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum StatusName {
    /// Captioned.
    Ok,
    /// Could not be.
    Failed,
    /// Left out.
    Skipped,
}

/// A page of hits.
#[derive(Debug, Serialize, JsonSchema)]
struct Page {
    /// In their order.
    hits: Vec<Hit>,
    /// Pictures and frames whose embeddings could have been found.
    pictures: usize,
    /// The space that was searched in, if any was.
    embedding_space: Option<String>,
    /// How much of the archive the index has.
    index: Index,
    /// What the model has judged, if it was asked to.
    reranked: Option<Reranked>,
}

/// One hit.
#[derive(Debug, Serialize, JsonSchema)]
struct Hit {
    /// Place, from 1.
    rank: usize,
    /// What the order follows.
    score: f32,
    /// What each ranking says: `text` and `image` are similarities from -1 to 1, `words` is BM25, `match` is the probability
    /// that the text describes the picture, as the model judges it.
    matched: BTreeMap<&'static str, f32>,
    /// The picture's URI.
    item: String,
    /// The end of its name, for people.
    name: String,
    /// Time of the frame in a video.
    frame_ms: Option<u64>,
    /// Its caption.
    caption: String,
    /// When its row was made.
    finished_at: String,
    /// Pictures and frames that show the same, each with a lower score.
    duplicates: Vec<Like>,
}

/// A picture or frame that shows the same as a hit.
#[derive(Debug, Serialize, JsonSchema)]
struct Like {
    /// The picture's URI.
    item: String,
    /// The end of its name, for people.
    name: String,
    /// Time of the frame in a video.
    frame_ms: Option<u64>,
}

/// How much of the archive the index has.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Index {
    /// Segments.
    segments: usize,
    /// Parts of the archive.
    parts: usize,
    /// Parts that no segment has yet; they were read.
    unindexed: usize,
    /// Parts that could not be read.
    damaged: usize,
    /// Pictures that only other models have embedded, by their space: they cannot be compared and are left out.
    foreign: BTreeMap<String, usize>,
}

pub(super) fn operations() -> Vec<Operation> {
    let search = Operation::new(Method::GET, "/search", "search", "Find pictures and frames", get(search));
    vec![search.query::<SearchQuery>().answers::<Page>(200, "A page of hits.")]
}

async fn search(
    State(service): State<Arc<Service>>,
    Address(query): Address<SearchQuery>,
) -> Result<Json<Page>, Problem> {
    let asked = asked(&query)?;
    let embedded = embedded(&service, &query).await?;
    let space = embedded.first().map(|(_, embedded)| embedded.space.clone());
    let mut ranked = service.lookup.search(&service.ground, embedded, asked).await?;
    if query.rerank.is_some()
        && let Some(text) = text(&query)?
    {
        rerank_by(&service, &mut ranked, text).await?;
    }
    let found = service.lookup.page(ranked).await?;
    let hits = found.hits.into_iter().map(Hit::from).collect();
    Ok(Json(Page {
        hits,
        pictures: found.pictures,
        embedding_space: space,
        index: Index::from(&found.index),
        reranked: found.reranked,
    }))
}

/// Lets the model judge the best.
async fn rerank_by(service: &Service, ranked: &mut Ranked, text: &str) -> Result<(), Problem> {
    let ground = &service.ground;
    let remote = ground.settings.is_remote();
    let items = rerank::items(&*ground.archive, &ground.uri, remote, &ranked.candidates()).await?;
    ranked.rerank(&service.questions.judge(ground, text.to_owned(), items).await?);
    Ok(())
}

/// The text, if there is one.
fn text(query: &SearchQuery) -> Result<Option<&str>, Problem> {
    let text = query.text.as_deref().map(str::trim).filter(|text| !text.is_empty());
    if text.is_some_and(|text| text.len() > TEXT_BYTES) {
        return Err(Problem::bad(format!("text: longer than {TEXT_BYTES} bytes")));
    }
    Ok(text)
}

/// No field may be longer than the document says, in characters.
fn within_lengths(query: &SearchQuery) -> Result<(), Problem> {
    let fields = [
        ("text", &query.text, 1024),
        ("like", &query.like, 4096),
        ("source", &query.source, 4096),
        ("caption", &query.caption, 1024),
    ];
    for (name, value, most) in fields {
        if value.as_ref().is_some_and(|value| value.chars().count() > most) {
            return Err(Problem::bad(format!("{name}: longer than {most} characters")));
        }
    }
    Ok(())
}

/// There is one picture to look for at the most, and a frame is one of it.
fn one_picture(query: &SearchQuery) -> Result<(), Problem> {
    if query.upload.is_some() && query.like.is_some() {
        return Err(Problem::conflict("like: there is an upload to look for, too; name either of them"));
    }
    if query.like_frame_ms.is_some() && query.like.is_none() {
        return Err(Problem::conflict("like_frame_ms: needs the video of that frame (like)"));
    }
    Ok(())
}

fn asked(query: &SearchQuery) -> Result<Asked, Problem> {
    within_lengths(query)?;
    one_picture(query)?;
    let text = text(query)?;
    let mode = query.mode.unwrap_or_default();
    if text.is_none() && mode != Mode::Meaning {
        return Err(Problem::conflict("mode: words and hybrid need a text"));
    }
    if query.rerank.is_some_and(|count| !(1..=rerank::MOST).contains(&count)) {
        return Err(Problem::bad(format!("rerank: must be 1 to {}", rerank::MOST)));
    }
    if text.is_none() && query.rerank.is_some() {
        return Err(Problem::conflict("rerank: needs a text"));
    }
    let (offset, limit) = (query.offset.unwrap_or(0), query.limit.unwrap_or(USUAL));
    if offset > DEPTH || !(1..=PAGE).contains(&limit) {
        return Err(Problem::bad(format!(
            "offset must be at most {DEPTH} and limit 1 to {PAGE}; narrow the search instead"
        )));
    }
    let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let filter = FilterArgs {
        source: given(&query.source),
        since: given(&query.since),
        until: given(&query.until),
        run: given(&query.run),
        min_size: given(&query.min_size),
        max_size: given(&query.max_size),
        status: query.status.map(|status| match status {
            StatusName::Ok => StatusArg::Ok,
            StatusName::Failed => StatusArg::Failed,
            StatusName::Skipped => StatusArg::Skipped,
        }),
        caption_contains: given(&query.caption),
    };
    // Its messages name the flags of the command line.
    let filter = filter.filter().map_err(|error| {
        let error = error.to_string();
        let Some((flag, rest)) = error.split_once(':') else {
            return Problem::conflict(error.replace("--", ""));
        };
        let field = flag.trim_start_matches("--").replace('-', "_");
        let detail = format!("{field}:{rest}");
        // Nothing lies below what cannot be the name of a place.
        if field == "source" { Problem::missing(detail) } else { Problem::bad(detail) }
    })?;
    let asked = Asked {
        vectors: Vec::new(),
        words: text.filter(|_| mode != Mode::Meaning).map(str::to_owned),
        filter,
        offset: offset as usize,
        limit: limit as usize,
        group: query.group.unwrap_or(false),
        rerank: query.rerank.unwrap_or(0) as usize,
    };
    if asked.groups_too_many() {
        return Err(Problem::conflict(format!(
            "offset and limit: near-duplicates are grouped among the best {MOST_GROUPED} alone; narrow the search, or leave \
             out group"
        )));
    }
    Ok(asked)
}

/// What the query's parts look like to the model: in the space where most pictures can be found, if a worker has it.
async fn embedded(service: &Service, query: &SearchQuery) -> Result<Vec<(&'static str, Embedded)>, Problem> {
    let (ground, questions) = (&service.ground, &service.questions);
    let text = text(query)?.filter(|_| query.mode != Some(Mode::Words));
    if text.is_none() && query.upload.is_none() && query.like.is_none() {
        return Ok(Vec::new());
    }
    let fullest = service.lookup.fullest(ground).await?;
    let mut embedded = Vec::new();
    if let Some(text) = text {
        let query = Query::Text { text: text.to_owned() };
        embedded.push(("text", questions.embed(ground, query, fullest.as_deref()).await?));
    }
    // Both parts must lie in one space.
    let space = embedded.first().map(|(_, text)| text.space.clone()).or(fullest);
    if let Some(sha256) = &query.upload {
        let query = Query::Image { item: uploads::kept(&*ground.archive, &ground.uri, sha256).await? };
        embedded.push(("image", questions.embed(ground, query, space.as_deref()).await?));
    } else if let Some(like) = &query.like {
        let frame_ms = query.like_frame_ms.map(u64::from);
        let found = service.lookup.embedding(ground, &item(like)?, frame_ms, space.as_deref()).await?;
        embedded.push(("image", found));
    }
    Ok(embedded)
}

impl From<Finding> for Hit {
    fn from(found: Finding) -> Self {
        Self {
            rank: found.rank,
            score: found.score,
            matched: found.matched,
            name: name(&found.item),
            item: found.item,
            frame_ms: found.frame_ms,
            caption: found.caption,
            finished_at: found.finished_at.to_string(),
            duplicates: found.duplicates.into_iter().map(Like::from).collect(),
        }
    }
}

impl From<Duplicate> for Like {
    fn from(Duplicate { item, frame_ms }: Duplicate) -> Self {
        Self { name: name(&item), item, frame_ms }
    }
}

impl From<&Freshness> for Index {
    fn from(index: &Freshness) -> Self {
        Self {
            segments: index.segments,
            parts: index.parts,
            unindexed: index.unindexed,
            damaged: index.damaged,
            foreign: index.foreign.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::StatusCode;

    #[test]
    fn fields_that_contradict_each_other_are_refused() {
        let (some, none) = (Some("s3://bucket/film.mp4".to_owned()), None);
        for (upload, like, like_frame_ms, refused) in [
            (&some, &none, None, false),
            (&none, &some, None, false),
            (&none, &some, Some(0), false),
            (&some, &some, None, true),
            (&some, &none, Some(0), true),
            (&none, &none, Some(0), true),
        ] {
            let (upload, like) = (upload.clone(), like.clone());
            let query = SearchQuery { upload, like, like_frame_ms, ..SearchQuery::default() };
            let problem = asked(&query).err();
            let status = problem.map(|problem| problem.status());
            assert_eq!(status, refused.then_some(StatusCode::CONFLICT), "{query:?}");
        }
    }
}
