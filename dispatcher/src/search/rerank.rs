//! Asking the model about the best hits: jobs of kind `rerank` on the interactive lane, which the workers share.

use crate::archive::{self, ArchiveError};
use crate::exchange::{Exchange, new_id};
use crate::index::Candidate;
use crate::staging::readable;
use captionfleet_proto::codec;
use captionfleet_proto::job::{Job, JobItem, Match, RerankJob, RerankResult, RunId};
use captionfleet_proto::rows::RowKey;
use captionfleet_proto::storage::Storage;
use captionfleet_proto::uri::{ArchiveUri, ItemUri};
use futures::future::try_join_all;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use tokio_util::sync::CancellationToken;

/// Hits that are re-ranked where nobody says how many.
pub const USUAL_TEXT: &str = "20";
/// The most: each costs a vision pass, and someone waits.
pub const MOST: u32 = 200;
/// Pictures of one job: so many that a job is worth its way, so few that several workers share them.
const SLICE: usize = 8;

/// The candidates as workers can read them, or why one cannot be read. With `remote` workers, pictures of this machine are
/// read from their copies in the archive.
pub async fn items(
    archive: &dyn Storage,
    uri: &ArchiveUri,
    remote: bool,
    candidates: &[Candidate],
) -> Result<Vec<Result<JobItem, Match>>, ArchiveError> {
    let mut keys: HashMap<&str, Vec<RowKey>> = HashMap::new();
    let mut items = Vec::with_capacity(candidates.len());
    for candidate in candidates {
        let name = match ItemUri::parse(&candidate.item) {
            Ok(name) => name,
            Err(error) => {
                items.push(Err(failed("source_refused", error.to_string())));
                continue;
            }
        };
        let mut sha256 = None;
        if remote && name.is_local() && candidate.frame_ms.is_none() {
            // Only its row knows under which name a local picture was copied.
            let part = candidate.part.as_str();
            let rows = match keys.entry(part) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(place) => place.insert(archive::keys(archive, part.to_owned()).await?),
            };
            sha256 = rows.iter().find(|row| row.item == name).and_then(|row| row.sha256.clone());
        }
        let frame = candidate.frame_ms.map(|frame_ms| (frame_ms, candidate.content));
        let item = readable(archive, uri, remote, &name, frame, sha256.as_deref()).await?;
        let not_kept = || {
            failed("not_found", format!("the frames of {name} were not kept; caption it with --thumbnails"))
        };
        items.push(item.ok_or_else(not_kept));
    }
    Ok(items)
}

fn failed(code: &str, message: String) -> Match {
    Match::Failed { code: code.to_owned(), message }
}

/// Asks how well `text` describes each item, in their order, until `gone`.
pub async fn judge(
    workers: &Exchange,
    archive: &ArchiveUri,
    bundle: Option<&str>,
    text: &str,
    items: Vec<Result<JobItem, Match>>,
    gone: &CancellationToken,
) -> anyhow::Result<Vec<Match>> {
    let readable: Vec<JobItem> = items.iter().filter_map(|item| item.as_ref().ok().cloned()).collect();
    let slices = readable.chunks(SLICE).map(|items| async move {
        let rerank = RerankJob { text: text.to_owned(), items: items.to_vec() };
        let mut job = Job::rerank(new_id()?, RunId::new("search")?, archive.clone(), rerank);
        job.bundle = bundle.map(str::to_owned);
        match workers.ask(&job, gone, codec::decode_rerank_reply).await?.result {
            RerankResult::Ok { matches, .. } if matches.len() == items.len() => Ok(matches),
            RerankResult::Ok { matches, .. } => anyhow::bail!(
                "the worker judged {} of {} pictures; this is a fault of the worker that answered",
                matches.len(),
                items.len()
            ),
            RerankResult::Err { code, message } => {
                anyhow::bail!("the hits cannot be re-ranked ({code}): {message}")
            }
        }
    });
    let mut judged = try_join_all(slices).await?.into_iter().flatten();
    let lost = || failed("internal", "not judged".to_owned());
    Ok(items
        .into_iter()
        .map(|item| item.map_or_else(|why| why, |_| judged.next().unwrap_or_else(lost)))
        .collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::items;
    use crate::index::Candidate;
    use captionfleet_proto::job::Match;
    use captionfleet_proto::layout;
    use captionfleet_proto::storage::{PutMode, StorageOptions, Stores};
    use captionfleet_proto::uri::{ArchiveUri, ItemUri};

    #[tokio::test]
    async fn a_frame_is_read_as_it_was_kept_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let uri = ArchiveUri::from_folder(folder.path()).unwrap();
        let archive = Stores::new(StorageOptions::default()).archive(&uri).await.unwrap();
        let film = ItemUri::s3("films", "a.mp4");
        let content = layout::content_key(None, Some("v1"));
        let key = layout::thumbnail(&film, content, 2000);
        archive.put(&key, "jpeg".into(), PutMode::Overwrite).await.unwrap();
        let frame = |frame_ms, content| Candidate {
            item: film.to_string(),
            frame_ms: Some(frame_ms),
            content,
            part: "parts/r/j.parquet".to_owned(),
        };
        let found =
            items(&*archive, &uri, false, &[frame(2000, content), frame(3000, content), frame(2000, 7)])
                .await
                .unwrap();
        let kept = found[0].as_ref().unwrap();
        assert!(kept.uri.as_str().ends_with(&key) && kept.frame_ms.is_none(), "{kept:?}");
        // Not kept, and kept of a film that has been replaced.
        for lacking in &found[1..] {
            assert!(matches!(lacking, Err(Match::Failed { code, .. }) if code == "not_found"), "{found:?}");
        }
    }
}
