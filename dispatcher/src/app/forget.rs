//! `dispatcher forget`: remove what the archive says of pictures and films.

use crate::catalog;
use crate::config::UsageError;
use crate::config::args::ForgetArgs;
use crate::exit::Ended;
use crate::forget::{Forgotten, Wanted, forget};
use crate::index::{Indexer, Shelf};
use crate::output::{self, counted};
use captionfleet_proto::uri::{ArchiveUri, ItemUri};
use serde::Serialize;
use std::path::Path;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// What was done.
#[derive(Debug, Serialize)]
struct Answer {
    archive: String,
    dry_run: bool,
    #[serde(flatten)]
    forgotten: Forgotten,
}

/// Runs the command.
pub async fn run(args: ForgetArgs) -> anyhow::Result<Ended> {
    let wanted: Vec<Wanted> = args.items.iter().map(|item| wanted(item)).collect::<Result<_, _>>()?;
    let (uri, archive) = super::opened(&args.archive, args.s3_endpoint.clone()).await?;
    let shelf = Arc::new(Shelf::new(archive, &uri));
    let forgotten = forget(&shelf, wanted.into(), args.dry_run).await?;
    anyhow::ensure!(
        forgotten.rows > 0,
        "{uri}: there is no row of any of these; name them as `dispatcher search --json` does"
    );
    if !args.dry_run {
        let mut indexer = Indexer::new(shelf);
        indexer.catch_up(CancellationToken::new(), false, Arc::new(|_, _| {})).await?;
    }
    let answer = Answer { archive: uri.to_string(), dry_run: args.dry_run, forgotten };
    if args.output.json {
        output::json(&answer)?;
        return Ok(Ended::Well);
    }
    let Forgotten { items, rows, parts } = answer.forgotten;
    let (items, rows, parts) = (counted(items, "item"), counted(rows, "row"), counted(parts, "part"));
    let verb = if args.dry_run { "would forget" } else { "forgot" };
    output::line(format!("{verb} {items}: {rows} in {parts}"));
    Ok(Ended::Well)
}

/// An item as people write it: a URI or a path, with a slash at its end for all that lies below.
fn wanted(text: &str) -> Result<Wanted, UsageError> {
    let wrong = |error: &dyn std::fmt::Display| UsageError::new(format!("{text}: {error}"));
    if text.ends_with('/') {
        let uri = ArchiveUri::parse(text).map_err(|error| wrong(&error))?;
        return Ok(Wanted::Below(format!("{}/", uri.as_str().trim_end_matches('/'))));
    }
    if text.contains("://") {
        return ItemUri::parse(text).map(Wanted::Item).map_err(|error| wrong(&error));
    }
    let path = catalog::absolute(Path::new(text)).map_err(|error| wrong(&error))?;
    ItemUri::from_path(&path).map(Wanted::Item).map_err(|error| wrong(&error))
}
