//! The training stream: pictures at the model's input size with texts and labels, straight from the generator.

use crate::arrangement::{Arrangement, Split};
use crate::claim::{Claim, Mention};
use crate::dice::Dice;
use crate::questions::sample_question;
use crate::render::render;
use crate::resample::resample;
use crate::scene::Scene;
use crate::texts::{sample_caption, sample_search};
use image::RgbImage;
use image::codecs::jpeg::JpegEncoder;
use serde_json::{Value, json};
use std::io::{self, Write};

/// What to stream.
#[derive(Debug, Clone, Copy)]
pub struct StreamOptions {
    /// Side of the square pictures in pixels.
    pub side: u32,
    /// Number of records.
    pub count: u64,
    /// Seed of the first record; the following count on from it.
    pub seed: u64,
    /// Which arrangements.
    pub split: Split,
    /// Share of pictures that take the way of a file: drawn at another size and aspect ratio, most of them JPEG-compressed, resized.
    pub as_files: f32,
}

/// Writes records to `out`: length of the JSON text (u32, little endian), the JSON text, then side x side x 3 bytes of RGB.
///
/// # Errors
///
/// When writing fails or a picture cannot be compressed.
pub fn write_stream(options: &StreamOptions, out: &mut impl Write) -> io::Result<()> {
    for seed in options.seed..options.seed + options.count {
        let scene = Scene::sample(seed, options.split);
        let mut dice = Dice::new(seed ^ 0xD1CE);
        let frame = frame(&scene, options, &mut dice)?;
        let record = serde_json::to_vec(&record(seed, &scene, &mut dice))?;
        let length = u32::try_from(record.len()).map_err(io::Error::other)?;
        out.write_all(&length.to_le_bytes())?;
        out.write_all(&record)?;
        out.write_all(frame.as_raw())?;
    }
    out.flush()
}

/// The picture as the model will see it.
fn frame(scene: &Scene, options: &StreamOptions, dice: &mut Dice) -> io::Result<RgbImage> {
    let side = options.side;
    if !dice.chance(options.as_files) {
        return Ok(render(scene, side, side));
    }
    let height = dice.between(110.0, 330.0);
    let picture = render(scene, pixels(height * scene.aspect), pixels(height));
    let picture = if dice.chance(0.6) { recompress(&picture, dice)? } else { picture };
    Ok(resample(&picture, side, side))
}

/// The picture after JPEG at a quality of 70 to 95.
fn recompress(picture: &RgbImage, dice: &mut Dice) -> io::Result<RgbImage> {
    let quality = u8::try_from(70 + dice.below(26)).unwrap_or(90);
    let mut file = Vec::new();
    picture
        .write_with_encoder(JpegEncoder::new_with_quality(&mut file, quality))
        .map_err(io::Error::other)?;
    let decoded = image::load_from_memory_with_format(&file, image::ImageFormat::Jpeg);
    Ok(decoded.map_err(io::Error::other)?.into_rgb8())
}

/// Texts and labels of one record.
fn record(seed: u64, scene: &Scene, dice: &mut Dice) -> Value {
    let captions: Vec<String> = (0..4).map(|_| sample_caption(scene, dice).text).collect();
    let questions: Vec<Value> = (0..8)
        .map(|_| {
            let question = sample_question(scene, dice);
            json!([question.text, question.answers])
        })
        .collect();
    let searches: Vec<Value> = (0..4)
        .map(|_| {
            let told = sample_search(scene, dice);
            json!([told.text, claim_codes(&told.claim)])
        })
        .collect();
    let size = |index: usize| match scene.arrangement {
        Arrangement::Single { thing, .. } => thing.size.code(),
        Arrangement::Pair { first, second, .. } => [first, second][index].size.code(),
        Arrangement::Group { .. } => 2,
    };
    let objects: Vec<Value> = scene
        .placed
        .iter()
        .enumerate()
        .map(|(index, object)| {
            json!([
                object.x,
                object.y,
                object.radius / scene.aspect.sqrt(),
                object.radius * scene.aspect.sqrt(),
                object.kind.shape.code(),
                object.kind.colour.code(),
                size(index)
            ])
        })
        .collect();
    json!({
        "seed": seed,
        "scene": scene_codes(scene),
        "captions": captions,
        "questions": questions,
        "searches": searches,
        "objects": objects,
    })
}

/// Stated value or -1.
fn code(value: Option<usize>) -> i64 {
    value.and_then(|value| i64::try_from(value).ok()).unwrap_or(-1)
}

fn mention_codes(mention: Option<&Mention>) -> [i64; 4] {
    mention.map_or([-1; 4], |mention| {
        [
            code(mention.count),
            code(mention.size.map(crate::Size::code)),
            code(mention.colour.map(crate::Colour::code)),
            code(mention.shape.map(crate::Shape::code)),
        ]
    })
}

/// Number of mentions, two times (count, size, colour, shape), relation, place, backdrop; -1 where nothing is stated.
fn claim_codes(claim: &Claim) -> Vec<i64> {
    let mut codes = vec![code(Some(claim.mentions.len()))];
    codes.extend(mention_codes(claim.mentions.first()));
    codes.extend(mention_codes(claim.mentions.get(1)));
    codes.push(code(claim.relation.map(crate::Relation::code)));
    codes.push(code(claim.place.map(crate::Place::code)));
    codes.push(code(claim.backdrop.map(crate::Backdrop::code)));
    codes
}

/// The scene in the layout of [`claim_codes`], with everything stated.
fn scene_codes(scene: &Scene) -> Vec<i64> {
    let (mentions, relation, place) = match scene.arrangement {
        Arrangement::Single { thing, place } => {
            (vec![Mention::one(thing.kind, Some(thing.size))], None, Some(place))
        }
        Arrangement::Pair { first, second, relation } => (
            vec![Mention::one(first.kind, Some(first.size)), Mention::one(second.kind, Some(second.size))],
            Some(relation),
            None,
        ),
        Arrangement::Group { kind, count } => {
            (vec![Mention { count: Some(count), size: None, ..Mention::one(kind, None) }], None, None)
        }
    };
    claim_codes(&Claim { mentions, relation, place, backdrop: Some(scene.backdrop) })
}

/// A side in whole pixels.
fn pixels(side: f32) -> u32 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "sides are drawn between 80 and 420"
    )]
    let side = side.round() as u32;
    side.max(1)
}
