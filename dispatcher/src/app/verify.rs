//! `dispatcher verify`: one terminal row per item, proved.

use crate::archive;
use crate::config::UsageError;
use crate::config::shared_args::ArchiveArgs;
use crate::exit::Ended;
use crate::output::{self, counted, plain};
use crate::verify::{Audit, Finding, audit};
use captionfleet_proto::job::RunId;
use captionfleet_proto::layout;
use captionfleet_proto::storage::Storage;
use serde::Serialize;
use std::collections::BTreeSet;

/// Findings of one kind that are printed as text; `--json` has them all.
const SHOWN: usize = 20;

/// The answer.
#[derive(Debug, Serialize)]
struct Answer {
    archive: String,
    whole: bool,
    runs: Vec<Audit>,
}

/// Runs the command.
pub async fn run(args: ArchiveArgs) -> anyhow::Result<Ended> {
    let (uri, archive) = super::opened(&args.archive, args.s3_endpoint.clone()).await?;
    let wanted = args.run.as_deref().map(run_id).transpose()?;
    let known = runs(&*archive).await?;
    let chosen: Vec<RunId> = match wanted {
        None if known.is_empty() => anyhow::bail!("{uri}: there is no run here"),
        None => known.into_iter().collect(),
        Some(run) if known.contains(&run) => vec![run],
        Some(run) => anyhow::bail!("{uri}: there is no run {run} here; `dispatcher status` lists them"),
    };
    let mut audits = Vec::with_capacity(chosen.len());
    for run in &chosen {
        audits.push(audit(&*archive, run).await?);
    }
    let answer =
        Answer { archive: uri.to_string(), whole: audits.iter().all(|audit| audit.whole), runs: audits };
    if args.output.json {
        output::json(&answer)?;
    } else {
        answer.runs.iter().for_each(print);
    }
    if !args.output.quiet && answer.runs.iter().any(has_damaged_part) {
        output::remark(
            "to mend a run: remove its unreadable parts, then run the same `caption` command again",
        );
    }
    Ok(if answer.whole { Ended::Well } else { Ended::Incomplete })
}

/// Runs that have a manifest, and runs that only have parts.
async fn runs(archive: &dyn Storage) -> anyhow::Result<BTreeSet<RunId>> {
    let (manifests, damaged) = archive::manifests(archive).await?;
    let mut runs: BTreeSet<_> = manifests.into_iter().map(|manifest| manifest.run).collect();
    runs.extend(damaged.iter().filter_map(archive::ArchiveError::run_of_manifest));
    runs.extend(archive::parts(archive, None).await?.into_keys());
    Ok(runs)
}

/// A run's name from the command line.
pub fn run_id(text: &str) -> Result<RunId, UsageError> {
    RunId::new(text).map_err(|error| UsageError::new(error.to_string()))
}

/// Whether a part of a planned run cannot be read: without it, the run owes its job again.
fn has_damaged_part(audit: &Audit) -> bool {
    let mut keys = audit.unreadable.iter().flat_map(|finding| &finding.parts);
    audit.planned && keys.any(|key| layout::job_of_part(key).is_some())
}

fn print(audit: &Audit) {
    let verdict = if audit.whole { "whole" } else { "NOT WHOLE" };
    let plan = if audit.planned { "" } else { " (another program's jobs, no manifest)" };
    output::line(format!(
        "{}  {verdict}{plan}: {}, {} ok, {} failed, {} skipped",
        audit.run,
        counted(audit.items, "item"),
        audit.rows.ok,
        audit.rows.failed_total(),
        audit.rows.skipped
    ));
    let kinds = [
        ("missing", &audit.missing),
        ("doubled", &audit.doubled),
        ("unexpected", &audit.unexpected),
        ("unreadable", &audit.unreadable),
    ];
    for (kind, findings) in kinds {
        for finding in findings.iter().take(SHOWN) {
            output::line(format!("  {kind:<10} {}", describe(finding)));
        }
        if findings.len() > SHOWN {
            output::line(format!("  {kind:<10} … and {} more (--json lists all)", findings.len() - SHOWN));
        }
    }
}

fn describe(finding: &Finding) -> String {
    let mut parts: Vec<_> = finding.item.iter().cloned().collect();
    parts.extend(finding.frame_ms.map(|frame| format!("at {frame} ms")));
    parts.push(finding.reason.clone());
    let text = parts.join(": ");
    plain(&if finding.parts.is_empty() { text } else { format!("{text} ({})", finding.parts.join(", ")) })
}
