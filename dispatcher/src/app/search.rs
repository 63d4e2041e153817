//! `dispatcher search`: embed the query, look it up in the index or compare it with every picture, show the best.

mod lines;
mod thumbnails;
mod workers;

use super::stopping;
use crate::archive;
use crate::config::UsageError;
use crate::config::search_args::SearchArgs;
use crate::config::settings::{FleetSettings, archive as archive_uri};
use crate::exit::Ended;
use crate::index::search::MOST_GROUPED;
use crate::index::{Asked, Freshness, Hits, Opened, Ready, Shelf, Spaces};
use crate::output::{self, counted};
use crate::progress::Display;
use crate::search::query::Embedded;
use crate::search::{Hit, Query as QueryVectors, Ranking, rank};
use anyhow::Context as _;
use captionfleet_index::Filter;
use captionfleet_proto::storage::{Storage, Stores};
use captionfleet_proto::uri::ArchiveUri;
use captionfleet_worker::telemetry::spans;
use serde::Serialize;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use workers::Workers;

/// The longest query text, in bytes; the model cuts it far below that.
const TEXT_BYTES: usize = 4096;

/// How long an interrupted search takes back what it asked the workers.
const FAREWELL: Duration = Duration::from_secs(1);

/// The answer without an index.
#[derive(Debug, Serialize)]
struct ExactAnswer {
    archive: String,
    embedding_space: String,
    pictures: usize,
    hits: Vec<Hit>,
}

/// The answer through the index.
#[derive(Debug, Serialize)]
struct Answer {
    archive: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    embedding_space: Option<String>,
    #[serde(flatten)]
    found: Hits,
}

/// What is searched for.
#[derive(Debug, Clone, Copy)]
pub enum Wanted<'a> {
    /// Pictures that a text describes.
    Text(&'a str),
    /// Pictures like one in a file.
    Image(&'a Path),
}

impl Wanted<'_> {
    /// What hits call it.
    fn name(self) -> &'static str {
        match self {
            Self::Text(_) => "text",
            Self::Image(_) => "image",
        }
    }
}

/// Runs the command.
pub async fn run(args: SearchArgs) -> anyhow::Result<Ended> {
    let uri = archive_uri(&args.archive)?;
    let settings = FleetSettings::new(&args.fleet);
    if settings.is_remote() && uri.is_local() {
        let reason = "--broker needs an s3:// archive; leave out --broker to search a folder's archive";
        return Err(UsageError::new(format!("--archive {uri}: {reason}")).into());
    }
    let text = args.text.as_deref().map(checked).transpose()?;
    let mut wanted = Vec::new();
    if !args.keywords {
        wanted.extend(text.map(Wanted::Text));
        wanted.extend(args.image.as_deref().map(Wanted::Image));
    }
    let asked = Asked {
        vectors: Vec::new(),
        words: text.filter(|_| args.hybrid || args.keywords).map(str::to_owned),
        filter: args.filter.filter()?,
        offset: args.offset as usize,
        limit: args.top_k as usize,
        group: args.group,
        rerank: args.rerank.unwrap_or(0) as usize,
    };
    if asked.groups_too_many() {
        let reason = format!("near-duplicates are grouped among the best {MOST_GROUPED} alone");
        let remedy = "ask for fewer with -k and --offset, narrow the search, or leave out --group";
        return Err(UsageError::new(format!("--group: {reason}; {remedy}")).into());
    }
    let needs_index = !asked.filter.is_open()
        || asked.words.is_some()
        || asked.offset > 0
        || asked.group
        || asked.rerank > 0
        || wanted.len() > 1;
    if args.exact && needs_index {
        return Err(UsageError::new("--exact takes one text or one picture, without filters").into());
    }
    let stop = stopping::on_signal()?;
    let search = Search {
        stop: &stop,
        settings: &settings,
        uri: &uri,
        wanted: &wanted,
        text,
        asked,
        display: Display::choose(args.output.quiet),
        patience: Duration::from_secs(args.timeout),
        exact: args.exact,
        needs_index,
        thumbnails: args.thumbnails,
    };
    let stopped = async {
        stop.cancelled().await;
        tokio::time::sleep(FAREWELL).await;
    };
    let searching = spans::within(tracing::info_span!(target: spans::TARGET, "search"), search.run());
    let found = tokio::select! {
        found = searching => found?,
        () = stopped => anyhow::bail!("stopped"),
    };
    found.show(&search, args.output.json)?;
    Ok(Ended::Well)
}

fn checked(text: &str) -> Result<&str, UsageError> {
    let text = text.trim();
    if text.is_empty() || text.len() > TEXT_BYTES {
        return Err(UsageError::new(format!("the text must have 1 to {TEXT_BYTES} bytes")));
    }
    Ok(text)
}

/// One search.
struct Search<'a> {
    stop: &'a CancellationToken,
    settings: &'a FleetSettings,
    uri: &'a ArchiveUri,
    wanted: &'a [Wanted<'a>],
    /// The text, whatever it is used for.
    text: Option<&'a str>,
    asked: Asked,
    display: Display,
    patience: Duration,
    exact: bool,
    needs_index: bool,
    thumbnails: bool,
}

/// What it found.
enum Outcome {
    Exact { hits: Vec<Hit>, pictures: usize, space: String },
    Indexed { found: Hits, space: Option<String> },
}

impl Search<'_> {
    async fn run(&self) -> anyhow::Result<Outcome> {
        let stores = Arc::new(Stores::new(self.settings.storage.clone()));
        let archive = open(&stores, self.uri).await?;
        if self.wanted.is_empty() && self.asked.rerank == 0 {
            return self.search(&archive, None).await;
        }
        let opening = Workers::open(self.settings, self.uri, stores, self.display, self.patience, self.stop);
        let mut workers = opening.await?;
        let outcome = self.search(&archive, Some(&mut workers)).await;
        let closed = workers.close().await;
        let outcome = outcome?;
        closed?;
        Ok(outcome)
    }

    async fn search(
        &self,
        archive: &Arc<dyn Storage>,
        mut workers: Option<&mut Workers<'_>>,
    ) -> anyhow::Result<Outcome> {
        let shelf = Shelf::new(archive.clone(), self.uri);
        let embedded = match &mut workers {
            Some(workers) if !self.wanted.is_empty() => {
                let _busy = self.display.busy("embedding the query");
                let spaces =
                    if workers.may_differ() { Spaces::look(&shelf, None).await? } else { Spaces::default() };
                workers.embed(&**archive, self.wanted, spaces.fullest().map(str::to_owned)).await?
            }
            _ => Vec::new(),
        };
        let space = embedded.first().map(|embedded| embedded.space.clone());
        anyhow::ensure!(
            embedded.iter().all(|embedded| Some(&embedded.space) == space.as_ref()),
            "text and picture were embedded by workers with different models; name one with --model"
        );
        if let Some(ready) = self.ready(&shelf, space.as_deref()).await? {
            let vectors = self.wanted.iter().map(|wanted| wanted.name());
            let vectors = vectors.zip(embedded.iter().map(|embedded| embedded.vectors.clone())).collect();
            let asked = Asked { vectors, ..self.asked.clone() };
            let mut ranked = {
                let _busy = self.display.busy("searching");
                ready.search(&shelf, asked).await?
            };
            if let (Some(workers), Some(text), true) = (workers, self.text, self.asked.rerank > 0) {
                let _busy = self.display.busy("letting the model judge the best");
                workers.rerank(&**archive, &mut ranked, text).await?;
            }
            let mut found = ranked.page().await?;
            if self.thumbnails {
                let frames = found
                    .hits
                    .iter_mut()
                    .map(|hit| (&*hit.item, hit.frame_ms, hit.content, &mut hit.thumbnail));
                thumbnails::find(&**archive, self.uri, frames.collect()).await?;
            }
            return Ok(Outcome::Indexed { found, space });
        }
        match embedded.into_iter().next() {
            Some(embedded) => {
                let (ranking, space) = compare(&**archive, self.uri, embedded, self.display).await?;
                let pictures = ranking.pictures();
                let mut hits = ranking.best(self.asked.limit);
                if self.thumbnails {
                    let frames = hits
                        .iter_mut()
                        .map(|hit| (&*hit.item, hit.frame_ms, hit.content, &mut hit.thumbnail));
                    thumbnails::find(&**archive, self.uri, frames.collect()).await?;
                }
                Ok(Outcome::Exact { hits, pictures, space })
            }
            None => anyhow::bail!("{}: no row here can be read", self.uri),
        }
    }

    /// The index, if it is to be used.
    async fn ready(&self, shelf: &Shelf, space: Option<&str>) -> anyhow::Result<Option<Arc<Ready>>> {
        if self.exact {
            return Ok(None);
        }
        if shelf.segments().await?.0.is_empty() && !self.needs_index {
            return Ok(None);
        }
        let _busy = self.display.busy("opening the index");
        match Ready::open(shelf, space).await? {
            // The exact search says why there is nothing to compare with.
            Opened::Ready(ready) if ready.pictures() == 0 && !self.wanted.is_empty() => Ok(None),
            Opened::Ready(ready) => Ok(Some(ready)),
            Opened::Elsewhere(elsewhere) => Err(elsewhere).with_context(|| self.uri.to_string()),
            Opened::Behind { unindexed } => {
                let uri = self.uri;
                let lacking = format!(
                    "the index of {uri} lacks {} (`dispatcher index --archive {uri}` takes them in)",
                    counted(unindexed as u64, "part")
                );
                anyhow::ensure!(!self.needs_index, "{lacking}; this search needs it");
                self.display.remark(format!("{lacking}; comparing with every part instead"));
                Ok(None)
            }
        }
    }
}

impl Outcome {
    fn show(self, search: &Search<'_>, json: bool) -> anyhow::Result<()> {
        let archive = search.uri.to_string();
        match self {
            Self::Exact { hits, pictures, space } => {
                if json {
                    return output::json(&ExactAnswer { archive, embedding_space: space, pictures, hits });
                }
                for hit in &hits {
                    output::line(lines::hit(hit));
                }
                search.display.remark(format!("compared with {}", counted(pictures as u64, "picture")));
            }
            Self::Indexed { found, space } => {
                if json {
                    return output::json(&Answer { archive, embedding_space: space, found });
                }
                for finding in &found.hits {
                    output::line(lines::finding(finding));
                }
                if found.hits.is_empty() && search.asked.filter != Filter::default() {
                    search.display.remark("nothing passes the filters");
                }
                if let Some(reranked) = &found.reranked {
                    search.display.remark(lines::reranked(reranked));
                }
                tell_freshness(&found.index, found.pictures, search);
            }
        }
        Ok(())
    }
}

fn tell_freshness(index: &Freshness, pictures: usize, search: &Search<'_>) {
    let display = search.display;
    let (pictures, parts) = (counted(pictures as u64, "picture"), counted(index.parts as u64, "part"));
    display.remark(match index.unindexed {
        0 => format!("searched {pictures}; the index has all {parts}"),
        behind => format!("searched {pictures}; {behind} of {parts} are not in the index yet and were read"),
    });
    if !index.foreign.is_empty() && !search.wanted.is_empty() {
        let foreign = index.foreign.iter().map(|(space, pictures)| (space, *pictures as u64));
        display.remark(lines::foreign(foreign, "picture"));
    }
    if index.damaged > 0 {
        display.remark(lines::damaged(index.damaged as u64));
    }
}

/// Opens an archive that has something in it.
async fn open(stores: &Stores, uri: &ArchiveUri) -> anyhow::Result<Arc<dyn Storage>> {
    let archive = archive::open(stores, uri).await?;
    anyhow::ensure!(
        !archive::parts(&*archive, None).await?.is_empty(),
        "{uri}: there is nothing to search here yet; `dispatcher caption … --archive {uri}` fills it"
    );
    Ok(archive)
}

/// Compares the query with every picture of the archive; also the name of the embedding space.
pub async fn search(
    settings: &FleetSettings,
    uri: &ArchiveUri,
    wanted: &Wanted<'_>,
    display: Display,
    patience: Duration,
) -> anyhow::Result<(Ranking, String)> {
    let stores = Arc::new(Stores::new(settings.storage.clone()));
    let archive = open(&stores, uri).await?;
    let never = CancellationToken::new();
    let mut workers = Workers::open(settings, uri, stores, display, patience, &never).await?;
    let embedded = workers.embed(&*archive, &[*wanted], None).await;
    let closed = workers.close().await;
    let embedded = embedded?.into_iter().next().expect("one query has one embedding");
    closed?;
    compare(&*archive, uri, embedded, display).await
}

async fn compare(
    archive: &dyn Storage,
    uri: &ArchiveUri,
    embedded: Embedded,
    display: Display,
) -> anyhow::Result<(Ranking, String)> {
    let query = QueryVectors::new(embedded.vectors)?;
    let (ranking, damaged) = {
        let _busy = display.busy("comparing");
        rank(archive, query, &embedded.space).await?
    };
    tell(&ranking, damaged, &embedded.space, uri, display)?;
    Ok((ranking, embedded.space))
}

/// Says what the search could not see.
fn tell(
    ranking: &Ranking,
    damaged: u64,
    space: &str,
    uri: &ArchiveUri,
    display: Display,
) -> anyhow::Result<()> {
    let foreign = || ranking.foreign().iter().map(|(space, rows)| (space, *rows));
    if ranking.pictures() == 0 {
        anyhow::ensure!(
            ranking.foreign().is_empty(),
            "{uri}: the query was embedded in the space {space}, but this archive has {}; name the model that made \
             it with --model",
            lines::spaces(foreign(), "row")
        );
        anyhow::bail!("{uri}: no picture here has an embedding; was it made with --no-embed?");
    }
    if !ranking.foreign().is_empty() {
        display.remark(lines::foreign(foreign(), "row"));
    }
    if damaged > 0 {
        display.remark(lines::damaged(damaged));
    }
    Ok(())
}
