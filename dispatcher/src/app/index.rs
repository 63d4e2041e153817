//! `dispatcher index`: bring the search index up to the parts.

use super::stopping;
use crate::config::args::IndexArgs;
use crate::exit::Ended;
use crate::index::{Indexed, Indexer, Shelf};
use crate::output::{self, counted};
use crate::progress::{Display, duration};
use serde::Serialize;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often `--watch` looks for new parts.
const PAUSE: Duration = Duration::from_secs(5);

/// What was done.
#[derive(Debug, Serialize)]
struct Answer {
    archive: String,
    #[serde(flatten)]
    indexed: Indexed,
    segments: usize,
    seconds: f64,
}

/// Runs the command.
pub async fn run(args: IndexArgs) -> anyhow::Result<Ended> {
    let (uri, archive) = super::opened(&args.archive, args.s3_endpoint.clone()).await?;
    let display = Display::choose(args.output.quiet);
    let stop = stopping::on_signal()?;
    let shelf = Arc::new(Shelf::new(archive, &uri));
    let mut indexer = Indexer::new(shelf.clone());
    loop {
        let started = Instant::now();
        let indexed = {
            let busy = display.busy("indexing");
            let progress = move |total, done| busy.tell(format!("indexing, {done} of {total} parts"));
            indexer.catch_up(stop.clone(), true, Arc::new(progress)).await?
        };
        let answer = Answer {
            archive: uri.to_string(),
            segments: shelf.segments().await?.0.len(),
            seconds: started.elapsed().as_secs_f64(),
            indexed,
        };
        if !args.watch || answer.indexed.parts > 0 {
            tell(&answer, args.output.json)?;
        }
        if !args.watch || stop.is_cancelled() {
            let whole = answer.indexed.left == 0 && answer.indexed.damaged == 0;
            return Ok(if whole { Ended::Well } else { Ended::Incomplete });
        }
        tokio::select! {
            () = tokio::time::sleep(PAUSE) => {}
            () = stop.cancelled() => return Ok(Ended::Well),
        }
    }
}

fn tell(answer: &Answer, json: bool) -> anyhow::Result<()> {
    if json {
        return output::json(answer);
    }
    let Indexed { parts, rows, damaged, left } = answer.indexed;
    let done = match parts {
        0 => "nothing new to index".to_owned(),
        _ => format!(
            "indexed {} from {} in {}",
            counted(rows, "row"),
            counted(parts, "part"),
            duration(answer.seconds)
        ),
    };
    output::line(format!("{done}; the index has {}", counted(answer.segments as u64, "segment")));
    if damaged > 0 {
        output::remark(format!(
            "{} could not be read; `dispatcher verify` says which",
            counted(damaged, "part")
        ));
    }
    if left > 0 {
        output::remark(format!("stopped; {} to go: run the same command again", counted(left, "part")));
    }
    Ok(())
}
