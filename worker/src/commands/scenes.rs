//! `worker scenes`.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use captionfleet_proto::examples::{Example, Picture, write_examples};
use captionfleet_proto::uri::ItemUri;
use captionfleet_world::export::ExportedScene;
use captionfleet_world::{ExportOptions, FileFormat, Split, export};

use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;

use super::say;
use crate::config::{FileFormatArg, ScenesArgs, SplitArg};

pub(super) fn run(args: &ScenesArgs) -> anyhow::Result<ExitCode> {
    let options = ExportOptions {
        count: args.count,
        seed: args.seed,
        split: match args.split {
            SplitArg::Train => Split::Train,
            SplitArg::HeldOut => Split::HeldOut,
        },
        format: match args.format {
            FileFormatArg::Png => FileFormat::Png,
            FileFormatArg::Jpeg => FileFormat::Jpeg,
            FileFormatArg::Mixed => FileFormat::Mixed,
        },
        distinct: true,
        new_share: args.new_share,
    };
    let exported = export(&options, &args.out)?;
    say(format_args!("{} pictures in {}", exported.len(), args.out.display()));
    if let Some(table) = &args.captions {
        let examples = examples(&exported, &args.out, args.questions)?;
        let bytes = write_examples(&examples)?;
        std::fs::write(table, bytes).with_context(|| format!("--captions {}", table.display()))?;
        say(format_args!("{} captions and answers in {}", examples.len(), table.display()));
    }
    Ok(ExitCode::SUCCESS)
}

/// The plainest caption of each scene, and some of its questions with their first answers.
fn examples(scenes: &[ExportedScene], folder: &Path, questions: usize) -> anyhow::Result<Vec<Example>> {
    let folder = folder.canonicalize()?;
    let mut examples = Vec::new();
    for scene in scenes {
        let picture = Picture::At(ItemUri::from_path(&folder.join(&scene.file))?.to_string());
        let example = |text: Option<&String>, question: Option<&String>| {
            Some(Example { picture: picture.clone(), caption: text?.clone(), question: question.cloned() })
        };
        examples.extend(example(scene.captions.first(), None));
        let mut asked: Vec<_> = scene.questions.iter().collect();
        asked.shuffle(&mut StdRng::seed_from_u64(scene.seed));
        asked.truncate(questions);
        examples
            .extend(asked.iter().filter_map(|asked| example(asked.answers.first(), Some(&asked.question))));
    }
    Ok(examples)
}
