//! Drawing a scene: backdrop, soft shadows, shaded shapes, light and noise.

use crate::dice::mix;
use crate::layout::Placed;
use crate::outline::outline;
use crate::scene::{Look, Scene};
use crate::vocabulary::Backdrop;
use image::RgbImage;
use tiny_skia::{
    Color, FillRule, GradientStop, LinearGradient, Paint, Path, Pixmap, Point, Shader, SpreadMode, Stroke,
    Transform,
};

/// Draws `scene` at `width` x `height` pixels; the same scene may be drawn at any size and aspect ratio.
///
/// # Panics
///
/// When `width` or `height` is 0 or above 16384.
#[must_use]
pub fn render(scene: &Scene, width: u32, height: u32) -> RgbImage {
    assert!(
        (1..=16_384).contains(&width) && (1..=16_384).contains(&height),
        "a picture has 1 to 16384 pixels each way, not {width} x {height}"
    );
    let mut canvas = Pixmap::new(width, height).expect("the sizes were checked");
    paint_backdrop(&mut canvas, &scene.look);
    for object in &scene.placed {
        paint_object(&mut canvas, object, &scene.look, scene.backdrop);
    }
    develop(&canvas, &scene.look)
}

/// Fills the canvas with the backdrop's level, gradient and texture.
fn paint_backdrop(canvas: &mut Pixmap, look: &Look) {
    let (width, height) = (canvas.width(), canvas.height());
    let (wide, high) = (as_f32(width), as_f32(height));
    let (dx, dy) = (look.direction.cos(), look.direction.sin());
    let pixels = canvas.data_mut().chunks_exact_mut(4);
    for (index, pixel) in (0_u32..).zip(pixels) {
        let (x, y) = (as_f32(index % width) / wide, as_f32(index / width) / high);
        let slope = ((x - 0.5) * dx + (y - 0.5) * dy) * look.gradient;
        let level = look.level + slope + texture(look, x, y) * look.texture;
        let level = to_level(level);
        pixel.copy_from_slice(&[level, level, level, 255]);
    }
}

/// The texture's height in -1..1 at a place given as shares of width and height.
fn texture(look: &Look, x: f32, y: f32) -> f32 {
    match look.pattern {
        0 => 0.0,
        1 => 0.5 * ((x * 88.0).sin() + (y * 88.0).sin()),
        2 => ((x * look.direction.cos() + y * look.direction.sin()) * 60.0).sin(),
        _ => blotches(look.seed, x * 7.0, y * 7.0),
    }
}

/// Smooth value noise in -1..1 with one lattice point per unit.
fn blotches(seed: u64, x: f32, y: f32) -> f32 {
    let (left, top) = (x.floor(), y.floor());
    let ease = |t: f32| t * t * (3.0 - 2.0 * t);
    let (fx, fy) = (ease(x - left), ease(y - top));
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "lattice points lie between 0 and 8"
    )]
    let corner = |dx: u64, dy: u64| {
        let bits = mix(seed ^ ((left as u64 + dx) << 32) ^ (top as u64 + dy));
        as_f32((bits >> 48) as u32) / 32_768.0 - 1.0
    };
    let upper = corner(0, 0) + (corner(1, 0) - corner(0, 0)) * fx;
    let lower = corner(0, 1) + (corner(1, 1) - corner(0, 1)) * fx;
    upper + (lower - upper) * fy
}

/// Draws one object: three widening shadows, the shaded body and a darker edge.
fn paint_object(canvas: &mut Pixmap, object: &Placed, look: &Look, backdrop: Backdrop) {
    let (wide, high) = (as_f32(canvas.width()), as_f32(canvas.height()));
    let radius = object.radius * (wide * high).sqrt();
    let (x, y) = (object.x * wide, object.y * high);
    let Some(path) = outline(object.kind.shape, radius) else {
        return;
    };
    let stand = |dx: f32, dy: f32, scale: f32| {
        Transform::from_scale(scale, scale)
            .post_concat(Transform::from_rotate(object.tilt.to_degrees()))
            .post_translate(x + dx, y + dy)
    };
    let (light_x, light_y) = (look.direction.cos(), look.direction.sin());
    if backdrop != Backdrop::Black {
        for step in [1.0_f32, 2.0, 3.0] {
            let mut paint = Paint::default();
            paint.set_color(Color::from_rgba8(0, 0, 0, 20));
            let reach = radius * 0.035 * step;
            let place = stand(-light_x * reach, -light_y * reach, 1.0 + 0.015 * step);
            canvas.fill_path(&path, &paint, FillRule::EvenOdd, place, None);
        }
    }
    fill_body(canvas, &path, object, radius, (light_x, light_y), stand(0.0, 0.0, 1.0));
}

fn fill_body(
    canvas: &mut Pixmap,
    path: &Path,
    object: &Placed,
    radius: f32,
    (light_x, light_y): (f32, f32),
    place: Transform,
) {
    let base = object.kind.colour.rgb();
    let bright = 1.0 + 0.06 * object.shade;
    let tone = |factor: f32| {
        let [red, green, blue] = base.map(|level| to_level(f32::from(level) * factor * bright));
        Color::from_rgba8(red, green, blue, 255)
    };
    let shader = LinearGradient::new(
        Point::from_xy(light_x * radius, light_y * radius),
        Point::from_xy(-light_x * radius, -light_y * radius),
        vec![GradientStop::new(0.0, tone(1.07)), GradientStop::new(1.0, tone(0.9))],
        SpreadMode::Pad,
        Transform::identity(),
    );
    let mut paint = Paint { shader: shader.unwrap_or(Shader::SolidColor(tone(1.0))), ..Paint::default() };
    canvas.fill_path(path, &paint, FillRule::EvenOdd, place, None);
    paint.shader = Shader::SolidColor(tone(0.78));
    let edge = Stroke { width: radius * 0.05, ..Stroke::default() };
    canvas.stroke_path(path, &paint, &edge, place, None);
}

/// Applies light, warmth and pixel noise, and drops the alpha channel.
fn develop(canvas: &Pixmap, look: &Look) -> RgbImage {
    let tint = [look.light * (1.0 + look.warmth), look.light, look.light * (1.0 - look.warmth)];
    let mut levels = Vec::with_capacity(canvas.data().len() / 4 * 3);
    for (index, pixel) in (0_u64..).zip(canvas.data().chunks_exact(4)) {
        let bits = mix(look.seed.wrapping_add(index.wrapping_mul(0x9E37_79B9_7F4A_7C15)));
        // A sum of two uniform bytes: close enough to a bell, standard deviation 104.5.
        let grain = |shift: u32| {
            let pair = (bits >> shift) & 0xFFFF;
            (as_f32(((pair & 0xFF) + (pair >> 8)) as u32) - 255.0) / 104.5
        };
        // Mostly grey grain, as a sensor's, with a little of its own in each channel.
        let common = grain(0);
        for (channel, own) in [grain(16), grain(32), grain(48)].into_iter().enumerate() {
            let level = f32::from(pixel[channel]) * tint[channel];
            levels.push(to_level(level + look.noise * (0.8 * common + 0.6 * own)));
        }
    }
    RgbImage::from_raw(canvas.width(), canvas.height(), levels)
        .expect("three levels were pushed for every pixel")
}

/// A number of pixels as a coordinate.
fn as_f32(value: u32) -> f32 {
    #[expect(clippy::cast_precision_loss, reason = "callers pass values below 2^24, which are exact")]
    let value = value as f32;
    value
}

/// Rounds and clamps to a pixel level.
fn to_level(value: f32) -> u8 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "clamped to 0..=255 before the cast"
    )]
    let level = (value + 0.5).clamp(0.0, 255.0) as u8;
    level
}
