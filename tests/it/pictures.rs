//! Folders of pictures, good and awkward.

use std::path::Path;

use captionfleet_world::export::ExportedScene;
use captionfleet_world::{ExportOptions, FileFormat, Split, export};
use image::{DynamicImage, ImageFormat, RgbImage};

/// Fills `folder` with `count` scenes.
pub(crate) fn scenes(folder: &Path, count: usize, seed: u64) -> Vec<ExportedScene> {
    let options = ExportOptions {
        count,
        seed,
        split: Split::HeldOut,
        format: FileFormat::Mixed,
        distinct: true,
        new_share: 0.0,
    };
    export(&options, folder).unwrap()
}

/// Fills `folder` with files that a real archive holds sooner or later; returns how many will be `ok`, and the codes
/// that the others fail with.
pub(crate) fn awkward(folder: &Path) -> (u64, Vec<(&'static str, u64)>) {
    std::fs::create_dir_all(folder.join("sub folder")).unwrap();
    let gradient = RgbImage::from_fn(120, 90, |x, y| image::Rgb([(2 * x) as u8, (2 * y) as u8, 99]));
    let write = |name: &str, format: ImageFormat, picture: &DynamicImage| {
        let path = folder.join(name);
        picture.save_with_format(path, format).unwrap();
    };
    let rgb = DynamicImage::from(gradient.clone());
    write("plain.png", ImageFormat::Png, &rgb);
    write("png named.jpg", ImageFormat::Png, &rgb);
    write("sub folder/überraschung ☃ #1?.gif", ImageFormat::Gif, &rgb);
    write("sixteen.png", ImageFormat::Png, &DynamicImage::from(rgb.to_rgb16()));
    write("palette.bmp", ImageFormat::Bmp, &DynamicImage::from(rgb.to_luma8()));
    write("modern.webp", ImageFormat::WebP, &rgb);
    write("scan.tiff", ImageFormat::Tiff, &rgb);
    write("wide.png", ImageFormat::Png, &DynamicImage::from(RgbImage::new(20_000, 1)));
    write("dot.png", ImageFormat::Png, &DynamicImage::from(RgbImage::new(1, 1)));
    write("whole.jpg", ImageFormat::Jpeg, &rgb);
    std::os::unix::fs::symlink(folder.join("plain.png"), folder.join("link.png")).unwrap();

    std::fs::write(folder.join("empty.jpg"), b"").unwrap();
    let jpeg = std::fs::read(folder.join("whole.jpg")).unwrap();
    std::fs::write(folder.join("cut.jpg"), &jpeg[..jpeg.len() / 2]).unwrap();
    std::fs::write(folder.join("notes.txt"), b"not a picture at all").unwrap();
    (11, vec![("empty", 1), ("truncated", 1), ("unsupported_format", 1)])
}
