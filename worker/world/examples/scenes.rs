//! Writes pictures and the list: `scenes FOLDER COUNT SEED train|held-out png|jpeg|mixed`.

use captionfleet_world::Split;
use captionfleet_world::export::{ExportOptions, FileFormat, export};
use std::env;
use std::error::Error;
use std::path::Path;

const USAGE: &str = "usage: scenes FOLDER COUNT SEED train|held-out png|jpeg|mixed";

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [folder, count, seed, split, format] = arguments.as_slice() else {
        return Err(USAGE.into());
    };
    let options = ExportOptions {
        count: count.parse()?,
        seed: seed.parse()?,
        split: match split.as_str() {
            "train" => Split::Train,
            "held-out" => Split::HeldOut,
            _ => return Err(USAGE.into()),
        },
        format: match format.as_str() {
            "png" => FileFormat::Png,
            "jpeg" => FileFormat::Jpeg,
            "mixed" => FileFormat::Mixed,
            _ => return Err(USAGE.into()),
        },
        distinct: true,
        new_share: 0.0,
    };
    export(&options, Path::new(folder))?;
    Ok(())
}
