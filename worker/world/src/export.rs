//! Writing scenes as picture files with a list of what is in them.

use crate::arrangement::Split;
use crate::dice::Dice;
use crate::questions::questions;
use crate::render::render;
use crate::scene::Scene;
use crate::texts::{captions, retrieval_text};
use image::codecs::jpeg::JpegEncoder;
use image::codecs::png::PngEncoder;
use serde::Serialize;
use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

/// The format of the picture files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileFormat {
    /// All PNG.
    Png,
    /// All JPEG, quality 80 to 95.
    Jpeg,
    /// Either, by the scene's seed.
    Mixed,
}

/// What to write.
#[derive(Debug, Clone, Copy)]
pub struct ExportOptions {
    /// How many scenes.
    pub count: usize,
    /// Seed of the choice of scenes.
    pub seed: u64,
    /// Which arrangements.
    pub split: Split,
    /// Format of the files.
    pub format: FileFormat,
    /// Whether every scene must have a retrieval text of its own; with more scenes than texts, texts repeat again.
    pub distinct: bool,
    /// Share of scenes with a colour or shape that the demo model has never seen, 0 to 1.
    pub new_share: f32,
}

/// One line of the list.
#[derive(Debug, Clone, Serialize)]
pub struct ExportedScene {
    /// File name, relative to the folder.
    pub file: String,
    /// Seed of the scene.
    pub seed: u64,
    /// Which split it belongs to.
    pub split: &'static str,
    /// Width of the picture in pixels.
    pub width: u32,
    /// Height of the picture in pixels.
    pub height: u32,
    /// Every acceptable caption in the generator's own wordings.
    pub captions: Vec<String>,
    /// Questions with their accepted answers.
    pub questions: Vec<ExportedQuestion>,
    /// A text that this scene, and no scene of another retrieval text, fits.
    pub retrieval: String,
}

/// A question of the list.
#[derive(Debug, Clone, Serialize)]
pub struct ExportedQuestion {
    /// The question.
    pub question: String,
    /// The accepted answers.
    pub answers: Vec<String>,
}

/// How many scenes are tried to find one with a new retrieval text.
const TRIES: usize = 200;

/// The seeds and scenes that `options` choose, in order.
#[must_use]
pub fn choose(options: &ExportOptions) -> Vec<(u64, Scene)> {
    let mut dice = Dice::new(options.seed);
    let mut seen = HashSet::new();
    (0..options.count)
        .map(|_| {
            let mut tries = 0;
            loop {
                let seed = dice.bits();
                let scene = if options.new_share > 0.0 && Dice::new(!seed).chance(options.new_share) {
                    Scene::with_something_new(seed, options.split)
                } else {
                    Scene::sample(seed, options.split)
                };
                tries += 1;
                if seen.insert(retrieval_text(&scene)) || !options.distinct || tries >= TRIES {
                    return (seed, scene);
                }
            }
        })
        .collect()
}

/// Writes pictures into `folder`, which is created, and the list of what is in them beside it
/// (`pictures.jsonl` for a folder `pictures`), and returns the lines.
///
/// The list stays outside, so that every file of the folder is a picture.
///
/// # Errors
///
/// When the folder or a file cannot be written; the error names it.
pub fn export(options: &ExportOptions, folder: &Path) -> io::Result<Vec<ExportedScene>> {
    let named = |path: &Path, error: io::Error| {
        io::Error::new(error.kind(), format!("cannot write {}: {error}", path.display()))
    };
    fs::create_dir_all(folder).map_err(|error| named(folder, error))?;
    let list_path = list_of(folder);
    let mut list = BufWriter::new(File::create(&list_path).map_err(|error| named(&list_path, error))?);
    let mut lines = Vec::with_capacity(options.count);
    for (index, (seed, scene)) in choose(options).into_iter().enumerate() {
        let mut dice = Dice::new(seed ^ 0xF11E);
        let line = describe(index, seed, &scene, options, &mut dice);
        let path = folder.join(&line.file);
        write_picture(&scene, &line, &path, &mut dice).map_err(|error| named(&path, error))?;
        serde_json::to_writer(&mut list, &line)
            .map_err(io::Error::from)
            .and_then(|()| list.write_all(b"\n"))
            .map_err(|error| named(&list_path, error))?;
        lines.push(line);
    }
    list.flush().map_err(|error| named(&list_path, error))?;
    Ok(lines)
}

/// Where [`export`] puts the list of a folder's pictures.
#[must_use]
pub fn list_of(folder: &Path) -> PathBuf {
    // A folder that ends in `..` or `/` has no name of its own to borrow.
    let name = folder.file_name().map_or_else(|| "scenes".into(), std::ffi::OsStr::to_owned);
    let mut list = name;
    list.push(".jsonl");
    folder.parent().unwrap_or(Path::new("")).join(list)
}

fn describe(
    index: usize,
    seed: u64,
    scene: &Scene,
    options: &ExportOptions,
    dice: &mut Dice,
) -> ExportedScene {
    let height = dice.between(180.0, 420.0);
    let extension = match options.format {
        FileFormat::Png => "png",
        FileFormat::Jpeg => "jpg",
        FileFormat::Mixed => dice.pick(&["png", "jpg"]),
    };
    let questions = questions(scene, dice)
        .into_iter()
        .map(|question| ExportedQuestion { question: question.text, answers: question.answers })
        .collect();
    ExportedScene {
        file: format!("scene-{index:05}.{extension}"),
        seed,
        split: match options.split {
            Split::Train => "train",
            Split::HeldOut => "held-out",
        },
        width: whole(height * scene.aspect),
        height: whole(height),
        captions: captions(scene).into_iter().map(|told| told.text).collect(),
        questions,
        retrieval: retrieval_text(scene),
    }
}

fn write_picture(scene: &Scene, line: &ExportedScene, path: &Path, dice: &mut Dice) -> io::Result<()> {
    let picture = render(scene, line.width, line.height);
    let mut file = BufWriter::new(File::create(path)?);
    let written = if path.extension().is_some_and(|extension| extension == "jpg") {
        let quality = u8::try_from(80 + dice.below(16)).unwrap_or(90);
        picture.write_with_encoder(JpegEncoder::new_with_quality(&mut file, quality))
    } else {
        picture.write_with_encoder(PngEncoder::new(&mut file))
    };
    written.map_err(io::Error::other)?;
    file.flush()
}

/// A side in whole pixels.
fn whole(side: f32) -> u32 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "sides are drawn between 144 and 525"
    )]
    let side = side.round() as u32;
    side
}
