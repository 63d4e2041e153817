//! The pictures that are measured with, ready for the network.

use std::path::Path;

use anyhow::Context as _;
use captionfleet_model::bundle::Bundle;
use captionfleet_model::preprocess::{DecodeLimits, Picture, PreparedPicture, decode, prepare};
use captionfleet_world::export::choose;
use captionfleet_world::{ExportOptions, FileFormat, Split, render};

/// Sides of the pictures before they are resized for the network.
const PICTURE: (u32, u32) = (320, 240);

/// Scenes of the demo model's world.
pub(super) fn drawn(count: usize, bundle: &Bundle) -> Vec<PreparedPicture> {
    let options = ExportOptions {
        count,
        seed: 1,
        split: Split::HeldOut,
        format: FileFormat::Png,
        distinct: false,
        new_share: 0.0,
    };
    choose(&options)
        .iter()
        .map(|(_, scene)| {
            let drawn = render(scene, PICTURE.0, PICTURE.1);
            let picture = Picture { width: PICTURE.0, height: PICTURE.1, rgb: drawn.into_raw() };
            prepare(&picture, &bundle.manifest().config)
        })
        .collect()
}

/// The pictures of a folder in the order of their names, over and over until there are enough.
pub(super) fn of_folder(
    folder: &Path,
    count: usize,
    bundle: &Bundle,
) -> anyhow::Result<Vec<PreparedPicture>> {
    let named = || folder.display().to_string();
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(named)? {
        let entry = entry.with_context(named)?;
        if entry.file_type().with_context(named)?.is_file() {
            files.push(entry.path());
        }
    }
    files.sort();
    anyhow::ensure!(!files.is_empty(), "{} has no files", folder.display());
    files.truncate(count);
    let mut pictures = Vec::with_capacity(count);
    for file in &files {
        let named = || file.display().to_string();
        let bytes = std::fs::read(file).with_context(named)?;
        let picture = decode(&bytes, &DecodeLimits::default()).with_context(named)?;
        pictures.push(prepare(&picture, &bundle.manifest().config));
    }
    Ok(pictures.iter().cycle().take(count).cloned().collect())
}
