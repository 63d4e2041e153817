//! `dispatcher demo`: the whole job on pictures made for it.

use super::caption::{Manner, caption};
use super::search::{Wanted, search};
use super::stopping;
use crate::archive;
use crate::catalog::Source;
use crate::config::args::DemoArgs;
use crate::config::settings::WorkSettings;
use crate::config::shared_args::FleetArgs;
use crate::config::{FleetSettings, UsageError};
use crate::exit::Ended;
use crate::output::{self, clipped, counted, plain};
use crate::progress::{Display, duration};
use crate::report::Report;
use crate::wish::Wish;
use anyhow::Context as _;
use captionfleet_proto::job::{Prompt, Sampling};
use captionfleet_proto::rows::{Projection, Row, read_part};
use captionfleet_proto::storage::Stores;
use captionfleet_proto::uri::{ArchiveUri, Location};
use captionfleet_worker::telemetry::admin::AdminAddr;
use captionfleet_world::export::ExportedScene;
use captionfleet_world::{ExportOptions, FileFormat, Split, export};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Hits that each search shows.
const HITS: usize = 3;
/// How long a query may take.
const PATIENCE: Duration = Duration::from_mins(1);

/// Runs the command.
pub async fn run(args: DemoArgs) -> anyhow::Result<Ended> {
    let started = Instant::now();
    let place = Place::make(args.out)?;
    let scenes = draw(args.seed, args.count, &place)?;
    output::line(format!(
        "drew {} into {}",
        counted(scenes.len() as u64, "picture"),
        place.pictures.display()
    ));
    let demo = Demo { place, manner: manner()?, fleet: FleetSettings::new(&FleetArgs::default()) };
    let report = demo.caption_all().await?;
    for scene in [scenes.first(), scenes.get(scenes.len() / 2)].into_iter().flatten() {
        demo.search(&scene.retrieval).await?;
    }
    demo.ask(&scenes).await?;
    demo.tell_the_rest(started.elapsed().as_secs_f64());
    Ok(if report.complete && report.rows.failed_total() == 0 { Ended::Well } else { Ended::Incomplete })
}

fn manner() -> anyhow::Result<Manner> {
    Ok(Manner {
        detach: false,
        index: true,
        admin: AdminAddr::Off,
        display: Display::Quiet,
        stop: stopping::on_signal()?,
    })
}

/// Where everything lies.
struct Place {
    root: PathBuf,
    pictures: PathBuf,
    archive: ArchiveUri,
}

impl Place {
    fn make(out: Option<PathBuf>) -> anyhow::Result<Self> {
        let root = match out {
            Some(out) => empty_folder(out)?,
            None => tempfile::Builder::new()
                .prefix("captionfleet-demo-")
                .tempdir()
                .context("no folder can be made for the demo; name one with --out")?
                .keep(),
        };
        let archive = ArchiveUri::from_folder(&root.join("archive"))?;
        Ok(Self { pictures: root.join("pictures"), archive, root })
    }
}

/// The user's folder, which may exist but must not hold anything.
fn empty_folder(out: PathBuf) -> anyhow::Result<PathBuf> {
    let cannot = || format!("--out {}: the folder cannot be made", out.display());
    std::fs::create_dir_all(&out).with_context(cannot)?;
    if std::fs::read_dir(&out).with_context(cannot)?.next().is_some() {
        let reason = format!("--out {}: the folder is not empty; name another one", out.display());
        return Err(UsageError::new(reason).into());
    }
    Ok(out.canonicalize()?)
}

/// Draws scenes that the model has not seen in training.
fn draw(seed: u64, count: u32, place: &Place) -> anyhow::Result<Vec<ExportedScene>> {
    let options = ExportOptions {
        count: count as usize,
        seed,
        split: Split::HeldOut,
        format: FileFormat::Mixed,
        distinct: true,
        new_share: 0.0,
    };
    std::fs::create_dir_all(&place.pictures)?;
    export(&options, &place.pictures)
        .with_context(|| format!("{}: the pictures cannot be written", place.pictures.display()))
}

struct Demo {
    place: Place,
    manner: Manner,
    fleet: FleetSettings,
}

impl Demo {
    fn work(&self, source: &Path, prompt: Prompt) -> WorkSettings {
        WorkSettings {
            sources: vec![Source::Local(source.to_owned())],
            archive: self.place.archive.clone(),
            wish: Wish {
                prompt,
                max_tokens: None,
                adapter: None,
                embed: true,
                bundle: None,
                sample: Sampling::default(),
                thumbnails: false,
            },
            job_size: 8,
            pictures_only: false,
            retry_failed: false,
            thumbnails: false,
            adapter: None,
            fleet: self.fleet.clone(),
        }
    }

    /// Captions and embeds every picture and prints the table.
    async fn caption_all(&self) -> anyhow::Result<Report> {
        let settings = self.work(&self.place.pictures, Prompt::Caption);
        let report = caption(&settings, &self.manner).await?;
        let mut rows = self.rows(&report).await?;
        rows.sort_by(|one, other| one.item.cmp(&other.item));
        let names: Vec<_> = rows.iter().map(|row| file_name(&row.item)).collect();
        let width = names.iter().map(|name| name.chars().count()).max().unwrap_or_default();
        output::line(format!("\n{:<width$}  caption\n{:-<width$}  {:-<60}", "picture", "", ""));
        for (row, name) in rows.iter().zip(&names) {
            let caption = row.caption.clone().or_else(|| row.error_message.clone()).unwrap_or_default();
            output::line(format!("{name:<width$}  {}", clipped(&plain(&caption), 90)));
        }
        let (time, rate) = (duration(report.seconds), report.items_per_second);
        output::line(format!(
            "\n{} ok, {} failed in {time} with loading the model ({rate:.1} pictures/s)",
            report.rows.ok,
            report.rows.failed_total()
        ));
        Ok(report)
    }

    /// The rows of a report's runs.
    async fn rows(&self, report: &Report) -> anyhow::Result<Vec<Row>> {
        let archive = Stores::new(self.fleet.storage.clone()).archive(&self.place.archive).await?;
        let mut rows = Vec::new();
        for run in &report.runs {
            for (_, key) in archive::parts(&*archive, Some(run)).await?.into_values().flatten() {
                let object = archive.get(&key, archive::TABLE_BYTES).await?;
                rows.extend(read_part(object.bytes, Projection::WithoutEmbedding)?);
            }
        }
        Ok(rows)
    }

    /// Searches and prints the hits.
    async fn search(&self, text: &str) -> anyhow::Result<()> {
        output::line(format!("\nsearch \"{text}\""));
        let wanted = Wanted::Text(text);
        let (ranking, _) =
            search(&self.fleet, &self.place.archive, &wanted, Display::Quiet, PATIENCE).await?;
        for hit in ranking.best(HITS) {
            let name = hit.item.rsplit('/').next().unwrap_or_default();
            output::line(format!(
                "{:>3}  {:.3}  {name}  {}",
                hit.rank,
                hit.score,
                clipped(&plain(&hit.caption), 80)
            ));
        }
        Ok(())
    }

    /// Asks a question about one picture.
    async fn ask(&self, scenes: &[ExportedScene]) -> anyhow::Result<()> {
        // Any question would do; one about the things in the picture shows more than one about what is behind them.
        let questions = scenes
            .iter()
            .rev()
            .flat_map(|scene| scene.questions.iter().map(move |question| (scene, question)));
        let asked = questions.min_by_key(|(_, question)| question.question.contains("background"));
        let Some((scene, question)) = asked else {
            return Ok(());
        };
        let prompt = Prompt::Ask { question: question.question.clone() };
        let report =
            caption(&self.work(&self.place.pictures.join(&scene.file), prompt), &self.manner).await?;
        for row in self.rows(&report).await? {
            let answer = plain(&row.caption.unwrap_or_default());
            output::line(format!("\nask \"{}\" about {}\n     {answer}", question.question, scene.file));
        }
        Ok(())
    }

    fn tell_the_rest(&self, seconds: f64) {
        let Place { root, pictures, archive } = &self.place;
        let program = program();
        let folder = root.join("archive");
        output::line(format!(
            "\nAll of this took {}. It lies in {}:\n  pictures/   what was drawn\n  archive/    one Parquet part per job: \
             captions and embeddings for DuckDB, Polars, pandas\n\nThe demo model knows only its small world of \
             coloured shapes; name a real one with --model tinygpt-v or your own bundle.\n\nTry next:\n  {program} search \
             \"a red star\" --archive {folder}\n  {program} caption {} --archive {folder}     (nothing is done twice)\n  \
             {program} verify --archive {folder}\n  {program} caption ~/Pictures --archive ./archive --model tinygpt-v",
            duration(seconds),
            root.display(),
            pictures.display(),
            folder = folder.display(),
        ));
        debug_assert!(archive.is_local(), "the demo's archive is a folder");
    }
}

/// How this program can be called from here.
fn program() -> String {
    let here = std::env::current_dir().ok();
    let path = std::env::current_exe().ok();
    let relative = path.as_deref().zip(here.as_deref()).and_then(|(path, here)| path.strip_prefix(here).ok());
    relative.map_or_else(|| "dispatcher".to_owned(), |path| path.display().to_string())
}

fn file_name(item: &captionfleet_proto::uri::ItemUri) -> String {
    match item.location() {
        Location::File(path) => plain(&path.file_name().unwrap_or_default().to_string_lossy()),
        Location::S3 { key, .. } => plain(&key),
    }
}
