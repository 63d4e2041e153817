//! Films made by ffmpeg, for tests.

use std::fmt::Write as _;
use std::io;
use std::path::Path;
use std::process::Command;

use crate::{Scene, render};

/// Pixels of a frame of [`of_scenes`].
const SIZE: (u32, u32) = (160, 120);

/// Makes the film `out`, whatever it takes.
///
/// # Errors
/// When ffmpeg cannot be started, or fails: with its words.
pub fn ffmpeg(arguments: &[&str], out: &Path) -> io::Result<()> {
    let made =
        Command::new("ffmpeg").args(["-v", "error", "-nostdin", "-y"]).args(arguments).arg(out).output()?;
    if made.status.success() {
        return Ok(());
    }
    Err(io::Error::other(format!("{arguments:?}: {}", String::from_utf8_lossy(&made.stderr))))
}

/// Shows one scene after another, each for so many seconds at five frames a second. Its pictures are left in `folder`, which is
/// made.
///
/// # Errors
/// When a file cannot be written, or as [`ffmpeg`].
pub fn of_scenes(
    scenes: impl IntoIterator<Item = Scene>,
    seconds: u64,
    folder: &Path,
    out: &Path,
) -> io::Result<()> {
    std::fs::create_dir(folder)?;
    let (mut list, mut count, mut first) = (String::new(), 0, None);
    for scene in scenes {
        let path = folder.join(format!("{count}.png"));
        // All of one size: ffmpeg begins anew where it changes.
        render(&scene, SIZE.0, SIZE.1).save(&path).map_err(io::Error::other)?;
        let line = format!("file '{}'\n", path.display());
        let _ = writeln!(list, "{line}duration {seconds}");
        first.get_or_insert(line);
        count += 1;
    }
    // The last duration counts only if something follows.
    list.extend(first);
    let names = folder.join("list.txt");
    std::fs::write(&names, list)?;
    let (names, length) = (names.display().to_string(), (seconds * count).to_string());
    let input = ["-f", "concat", "-safe", "0", "-i", &names, "-t", &length, "-vf", "fps=5"];
    let encoder = ["-c:v", "libx264", "-crf", "6", "-pix_fmt", "yuv444p", "-g", "20"];
    ffmpeg(&[&input[..], &encoder].concat(), out)
}
