//! The outlines of the shapes, all of about the same area for the same radius.

use crate::vocabulary::Shape;
use std::f32::consts::{FRAC_PI_2, PI};
use tiny_skia::{Path, PathBuilder};

/// The outline of `shape` around the origin, to be filled with the even-odd rule; `None` when it is too small to draw.
pub(crate) fn outline(shape: Shape, radius: f32) -> Option<Path> {
    let mut path = PathBuilder::new();
    match shape {
        Shape::Circle => path.push_circle(0.0, 0.0, radius),
        Shape::Ring => {
            path.push_circle(0.0, 0.0, radius * 1.05);
            path.push_circle(0.0, 0.0, radius * 0.55);
        }
        Shape::Moon => {
            // An outer arc from tip to tip around the left, and a flatter one back.
            let (tip_x, tip_y, reach) = (radius * 0.62, radius * 1.12, radius * 1.3);
            path.move_to(tip_x, -tip_y);
            path.cubic_to(-reach * 1.35, -tip_y, -reach * 1.35, tip_y, tip_x, tip_y);
            path.cubic_to(-radius * 0.42, tip_y * 0.55, -radius * 0.42, -tip_y * 0.55, tip_x, -tip_y);
            path.close();
        }
        Shape::Square => polygon(&mut path, &regular(4, radius * 1.26, PI / 4.0)),
        Shape::Triangle => {
            let mut points = regular(3, radius * 1.36, -FRAC_PI_2);
            // The centre of mass lies below the middle of the box; draw around the middle.
            for point in &mut points {
                point.1 += radius * 0.3;
            }
            polygon(&mut path, &points);
        }
        Shape::Star => {
            let outer = regular(5, radius * 1.3, -FRAC_PI_2);
            let inner = regular(5, radius * 0.58, -FRAC_PI_2 + PI / 5.0);
            let points: Vec<_> = outer.into_iter().zip(inner).flat_map(|(tip, notch)| [tip, notch]).collect();
            polygon(&mut path, &points);
        }
        Shape::Cross => {
            let (long, half) = (radius * 1.12, radius * 0.36);
            polygon(
                &mut path,
                &[
                    (-half, -long),
                    (half, -long),
                    (half, -half),
                    (long, -half),
                    (long, half),
                    (half, half),
                    (half, long),
                    (-half, long),
                    (-half, half),
                    (-long, half),
                    (-long, -half),
                    (-half, -half),
                ],
            );
        }
    }
    path.finish()
}

/// The corners of a regular polygon, the first at `start` radians.
fn regular(corners: u8, radius: f32, start: f32) -> Vec<(f32, f32)> {
    (0..corners)
        .map(|corner| {
            let angle = start + 2.0 * PI * f32::from(corner) / f32::from(corners);
            (radius * angle.cos(), radius * angle.sin())
        })
        .collect()
}

fn polygon(path: &mut PathBuilder, points: &[(f32, f32)]) {
    for (index, &(x, y)) in points.iter().enumerate() {
        if index == 0 {
            path.move_to(x, y);
        } else {
            path.line_to(x, y);
        }
    }
    path.close();
}
