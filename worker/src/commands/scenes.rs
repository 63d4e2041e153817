//! `worker scenes`.

use std::process::ExitCode;

use captionfleet_world::{ExportOptions, FileFormat, Split, export};

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
    };
    let exported = export(&options, &args.out)?;
    say(format_args!("{} pictures in {}", exported.len(), args.out.display()));
    Ok(ExitCode::SUCCESS)
}
