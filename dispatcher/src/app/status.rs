//! `dispatcher status`: the runs of an archive.

use crate::archive;
use crate::bill::Bill;
use crate::config::args::StatusArgs;
use crate::exit::Ended;
use crate::ledger::Tally;
use crate::output::{self, counted, plain};
use captionfleet_proto::job::{JobId, Prompt, RunId};
use captionfleet_proto::manifest::RunManifest;
use captionfleet_proto::storage::Storage;
use futures::StreamExt as _;
use serde::Serialize;

/// One run.
#[derive(Debug, Serialize)]
struct RunStatus {
    run: RunId,
    created_at: String,
    source: Vec<String>,
    prompt: Prompt,
    bundle: Option<String>,
    items: u64,
    jobs: u64,
    jobs_done: u64,
    finished: bool,
    /// What became of its items so far; of a run that was asked for by its name.
    #[serde(flatten)]
    rows: Option<Tally>,
    /// What it took and cost; of such a run, too.
    #[serde(skip_serializing_if = "Option::is_none")]
    bill: Option<Bill>,
}

/// Runs the command.
pub async fn run(args: StatusArgs) -> anyhow::Result<Ended> {
    let StatusArgs { archive: args, price } = args;
    let (uri, archive) = super::opened(&args.archive, args.s3_endpoint.clone()).await?;
    let wanted = args.run.as_deref().map(super::verify::run_id).transpose()?;
    let (manifests, damaged) = archive::manifests(&*archive).await?;
    let parts = archive::parts(&*archive, wanted.as_ref()).await?;
    let mut runs = Vec::new();
    for manifest in manifests {
        if wanted.as_ref().is_none_or(|run| *run == manifest.run) {
            let done = parts.get(&manifest.run).map_or(0, |parts| parts.len() as u64);
            runs.push(status(manifest, done));
        }
    }
    if runs.is_empty() && damaged.is_empty() {
        anyhow::bail!(
            "{uri}: there is no {} here",
            wanted.map_or("run".to_owned(), |run| format!("run {run}"))
        );
    }
    for error in &damaged {
        output::remark(crate::exit::line(&anyhow::anyhow!("{error}")));
    }
    if let (Some(run), [only]) = (&wanted, &mut runs[..]) {
        let tally = tally(&*archive, parts.get(run).into_iter().flatten()).await?;
        only.bill = tally.effort.bill(tally.ok, price.price_per_hour);
        only.rows = Some(tally);
    }
    if args.output.json {
        output::json(&runs)?;
        return Ok(Ended::Well);
    }
    for run in &runs {
        let state = if run.finished { "finished".to_owned() } else { format!("{} of", run.jobs_done) };
        let (items, jobs) = (counted(run.items, "item"), counted(run.jobs, "job"));
        let asked = match &run.prompt {
            Prompt::Raw { .. } => "own prompt".to_owned(),
            other => other.in_words().map_or("captions".to_owned(), |asked| format!("\"{}\"", plain(&asked))),
        };
        output::line(format!(
            "{}  {state} {jobs}, {items}, {asked}  {}",
            run.run,
            plain(&run.source.join(" "))
        ));
        if let Some(rows) = &run.rows {
            let failed = format!("{}   {}", rows.failed_total(), rows.codes());
            output::line(format!("ok       {}", rows.ok));
            output::line(format!("failed   {}", failed.trim_end()));
            output::line(format!("skipped  {}", rows.skipped));
            if let Some(frames) = rows.frames_told() {
                output::line(format!("frames   {frames}"));
            }
        }
        if let Some(bill) = &run.bill {
            output::line(format!("bill     {}", bill.text()));
        }
    }
    Ok(Ended::Well)
}

/// The rows of a run's parts. One that cannot be read is `verify`'s business.
async fn tally(
    archive: &dyn Storage,
    parts: impl Iterator<Item = &(JobId, String)>,
) -> anyhow::Result<Tally> {
    let reads = parts.map(|(_, key)| archive::keys(archive, key.clone()));
    let mut reads = futures::stream::iter(reads).buffer_unordered(archive::READS_AT_ONCE);
    let mut tally = Tally::default();
    while let Some(rows) = reads.next().await {
        match rows {
            Ok(rows) => tally.add(&Tally::of(&rows)),
            Err(error) if error.is_damage() => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(tally)
}

fn status(manifest: RunManifest, jobs_done: u64) -> RunStatus {
    RunStatus {
        finished: jobs_done >= manifest.jobs,
        run: manifest.run,
        created_at: manifest.created_at.to_string(),
        source: manifest.source,
        prompt: manifest.prompt,
        bundle: manifest.bundle,
        items: manifest.items,
        jobs: manifest.jobs,
        jobs_done,
        rows: None,
        bill: None,
    }
}
