//! `dispatcher tracks`: captions and chapters of finished videos, as files for players.

use crate::archive;
use crate::config::args::TracksArgs;
use crate::exit::Ended;
use crate::output::{self, counted};
use crate::tracks::{self, Written};
use captionfleet_proto::job::RunId;
use captionfleet_proto::layout;
use serde::Serialize;

/// One run's answer.
#[derive(Debug, Serialize)]
struct RunTracks {
    run: RunId,
    folder: String,
    videos: u64,
    unfinished: u64,
}

/// Runs the command.
pub async fn run(args: TracksArgs) -> anyhow::Result<Ended> {
    let (uri, archive) = super::opened(&args.archive.archive, args.archive.s3_endpoint.clone()).await?;
    let wanted = args.archive.run.as_deref().map(super::verify::run_id).transpose()?;
    let (manifests, _) = archive::manifests(&*archive).await?;
    let mut answers = Vec::new();
    for manifest in manifests {
        let is_wanted = wanted.as_ref().is_none_or(|run| *run == manifest.run);
        if !is_wanted || manifest.sample.is_none() {
            continue;
        }
        let Written { videos, unfinished } = tracks::write(&*archive, &manifest, args.srt).await?;
        let folder = format!("{uri}/{}", layout::tracks_prefix(&manifest.run));
        answers.push(RunTracks { run: manifest.run, folder, videos, unfinished });
    }
    anyhow::ensure!(!answers.is_empty(), "{uri}: there is no run with videos here");
    if args.archive.output.json {
        output::json(&answers)?;
        return Ok(Ended::Well);
    }
    for RunTracks { run, folder, videos, unfinished } in &answers {
        let open = if *unfinished > 0 { format!(", {unfinished} unfinished") } else { String::new() };
        output::line(format!("{run}  {}{open}  {folder}", counted(*videos, "video")));
    }
    Ok(Ended::Well)
}
