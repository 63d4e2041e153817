//! What a finished video gets beside its rows: captions for players, chapters, a line in the table of videos.
//!
//! All of it follows from the rows alone, so that writing it again changes nothing.

mod cues;
mod text;

pub use cues::{Cue, chapters, cues, typical};
pub use text::{srt, web_vtt};

use crate::archive::{self, ArchiveError, READS_AT_ONCE};
use anyhow::Context as _;
use captionfleet_proto::job::{JobId, RunId};
use captionfleet_proto::layout::{self, Track};
use captionfleet_proto::manifest::RunManifest;
use captionfleet_proto::outcome::FrameCounts;
use captionfleet_proto::rows::{Row, Status};
use captionfleet_proto::storage::{PutMode, Storage, StorageError};
use captionfleet_proto::uri::ItemUri;
use captionfleet_proto::videos::{VideoRow, write_videos};
use futures::{StreamExt as _, TryStreamExt as _};
use std::collections::{BTreeMap, BTreeSet};

/// Films whose tracks are written at once; each of them reads several parts at once.
const FILMS_AT_ONCE: usize = 4;

/// What was written for one run.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// Videos of which every segment has its part.
    pub videos: u64,
    /// Videos that are not finished.
    pub unfinished: u64,
}

/// Those of these runs with videos whose table is not there: whoever followed them has left before they were complete.
///
/// # Errors
/// When the archive cannot be asked.
pub async fn owed<'a>(
    archive: &dyn Storage,
    runs: &'a [RunManifest],
) -> Result<Vec<&'a RunManifest>, StorageError> {
    let heads = runs.iter().map(|manifest| async move {
        let is_told = archive::is_there(archive, &layout::videos(&manifest.run)).await?;
        Ok::<_, StorageError>((!is_told).then_some(manifest))
    });
    let owed: Vec<_> = futures::stream::iter(heads).buffered(READS_AT_ONCE).try_collect().await?;
    Ok(owed.into_iter().flatten().collect())
}

/// Writes the tracks of every finished video of a run, and the table of its videos once all of them are finished: it says that
/// nothing is [`owed`].
///
/// # Errors
/// When the archive cannot be read or written.
pub async fn write(archive: &dyn Storage, manifest: &RunManifest, with_srt: bool) -> anyhow::Result<Written> {
    let mut written = Written::default();
    if manifest.sample.is_none() {
        return Ok(written);
    }
    let run = &manifest.run;
    let parts: BTreeSet<JobId> = archive::parts(archive, Some(run))
        .await?
        .remove(run)
        .into_iter()
        .flatten()
        .map(|(job, _)| job)
        .collect();
    let mut films: BTreeMap<ItemUri, BTreeSet<JobId>> = BTreeMap::new();
    for planned in archive::items(archive, manifest).await? {
        if planned.item.sample.is_some() {
            films.entry(planned.item.uri).or_default().insert(planned.job);
        }
    }
    let (finished, unfinished): (Vec<_>, Vec<_>) =
        films.into_iter().partition(|(_, jobs)| jobs.is_subset(&parts));
    written.unfinished = unfinished.len() as u64;
    let films = finished.into_iter().map(|(uri, jobs)| async move {
        let rows = rows_of(archive, run, &uri, &jobs).await?;
        write_film(archive, run, &uri, &rows, with_srt).await
    });
    let videos: Vec<VideoRow> = futures::stream::iter(films).buffered(FILMS_AT_ONCE).try_collect().await?;
    written.videos = videos.len() as u64;
    if written.unfinished == 0 && !videos.is_empty() {
        let table = write_videos(&videos).context("write the table of videos")?;
        archive.put(&layout::videos(run), table, PutMode::Overwrite).await?;
    }
    Ok(written)
}

async fn rows_of(
    archive: &dyn Storage,
    run: &RunId,
    uri: &ItemUri,
    jobs: &BTreeSet<JobId>,
) -> Result<Vec<Row>, ArchiveError> {
    let reads = jobs.iter().map(|job| archive::rows(archive, layout::part(run, job)));
    let parts: Vec<Vec<Row>> = futures::stream::iter(reads).buffered(READS_AT_ONCE).try_collect().await?;
    let mut rows: Vec<Row> = parts.into_iter().flatten().filter(|row| row.item == *uri).collect();
    rows.sort_by_key(|row| row.frame_ms);
    Ok(rows)
}

async fn write_film(
    archive: &dyn Storage,
    run: &RunId,
    uri: &ItemUri,
    rows: &[Row],
    with_srt: bool,
) -> anyhow::Result<VideoRow> {
    let cues = cues(rows);
    let chapters = chapters(&cues);
    let key = |track| layout::track(run, uri, track);
    let mut files = vec![
        (key(Track::Captions), web_vtt(&cues, "captions")),
        (key(Track::Chapters), web_vtt(&chapters, "chapters")),
    ];
    if with_srt {
        files.push((key(Track::Srt), srt(&cues)));
    }
    for (key, text) in files {
        archive.put(&key, text.into(), PutMode::Overwrite).await?;
    }
    let end = |row: &Row| row.frame_ms.unwrap_or(0) + row.span_ms.unwrap_or(0);
    let counts = FrameCounts::of(rows.iter().map(|row| row.frames)).unwrap_or_default();
    Ok(VideoRow {
        item: uri.clone(),
        duration_ms: rows.iter().map(end).max().unwrap_or(0),
        frames_seen: counts.seen,
        frames_kept: counts.kept,
        failed: rows.iter().filter(|row| row.status == Status::Failed).count() as u64,
        chapters: chapters.len() as u64,
        summary: typical(&cues),
        captions: key(Track::Captions),
    })
}
