//! What has to be known about a kind of file to notice that something of it is missing.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::Path;

/// What begins a page of Ogg (RFC 3533).
const PAGE: &[u8] = b"OggS";
/// Bytes of a page before the lengths of its pieces.
const PAGE_HEAD: usize = 27;
/// More than two of the longest pages.
const TAIL: u64 = 128 << 10;

/// What has to be known about a kind of file to notice that something of it is missing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Quirks {
    /// Its decoder shows what is left of a damaged frame as if it were whole, unless it is told not to: Motion JPEG.
    shows_damage: bool,
    container: Container,
    /// The last of its pages is not whole.
    pub(super) is_cut: bool,
}

/// Containers with habits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Container {
    #[default]
    Other,
    /// Its reader mentions lost frames in passing.
    Asf,
    /// It does not keep how long its frames last, and its reader complains wherever something is missing.
    Matroska,
    /// It has pages, and its length is that of those that are there.
    Ogg,
}

impl Quirks {
    /// Of a container and a codec by ffmpeg's names.
    pub(super) fn of(container: &str, codec: Option<&str>) -> Self {
        Self {
            shows_damage: codec == Some("mjpeg"),
            container: match container {
                "asf" => Container::Asf,
                "matroska,webm" => Container::Matroska,
                "ogg" => Container::Ogg,
                _ => Container::Other,
            },
            is_cut: false,
        }
    }

    /// Looks at the end of the file, where that says more than its beginning.
    pub(super) fn look_at_end(&mut self, path: &Path) -> io::Result<()> {
        if self.container == Container::Ogg {
            self.is_cut = ends_within_page(&tail(path)?);
        }
        Ok(())
    }

    /// Whether a reader that says nothing has found everything, however long the last frame is shown.
    pub(super) fn tells_losses(self) -> bool {
        self.container == Container::Matroska
    }

    /// What ffmpeg must be told before it opens the file.
    pub(super) fn options(self) -> Vec<&'static str> {
        let mut options = Vec::new();
        if self.shows_damage {
            options.extend(["-err_detect", "explode"]);
        }
        if self.container == Container::Asf {
            options.extend(["-loglevel", "level+info", "-nostats"]);
        }
        options
    }
}

fn tail(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
    let mut tail = Vec::new();
    file.take(TAIL).read_to_end(&mut tail)?;
    Ok(tail)
}

/// Whether the last page of these is not whole. What is no row of pages says nothing.
fn ends_within_page(tail: &[u8]) -> bool {
    let mut from = 0;
    while let Some(at) = tail[from..].windows(PAGE.len()).position(|four| four == PAGE) {
        // The four letters may also stand within a page: then no page begins where this one would end.
        match row_of_pages(&tail[from + at..]) {
            Some(is_cut) => return is_cut,
            None => from += at + PAGE.len(),
        }
    }
    false
}

/// Follows pages up to the end; `None` if something else comes.
fn row_of_pages(mut pages: &[u8]) -> Option<bool> {
    while !pages.is_empty() {
        if !pages.starts_with(&PAGE[..PAGE.len().min(pages.len())]) {
            return None;
        }
        let Some(lengths) = pages.get(PAGE_HEAD - 1).and_then(|count| {
            let count = usize::from(*count);
            pages.get(PAGE_HEAD..PAGE_HEAD + count)
        }) else {
            return Some(true);
        };
        let length =
            PAGE_HEAD + lengths.len() + lengths.iter().map(|length| usize::from(*length)).sum::<usize>();
        match pages.get(length..) {
            Some(rest) => pages = rest,
            None => return Some(true),
        }
    }
    Some(false)
}

#[cfg(test)]
mod tests {
    use super::{PAGE, PAGE_HEAD, ends_within_page};

    /// A page of two pieces.
    fn page(filling: &[u8]) -> Vec<u8> {
        let mut page = PAGE.to_vec();
        page.resize(PAGE_HEAD - 1, 0);
        page.extend([2, filling.len() as u8, 1]);
        page.extend(filling);
        page.push(9);
        page
    }

    #[test]
    fn a_file_ends_with_a_whole_page_or_is_cut() {
        let pages =
            [&b"the end of another page"[..], &page(b"1234567"), &page(b"a page about OggS"), &page(b"89")];
        let whole = pages.concat();
        assert!(!ends_within_page(&whole));
        for missing in 1..page(b"89").len() {
            assert!(ends_within_page(&whole[..whole.len() - missing]), "{missing} bytes are missing");
        }
        let [first, second, ..] = pages;
        assert!(!ends_within_page(&[first, second].concat()), "between two pages nothing tells it");
        assert!(!ends_within_page(&[&whole[..], b"a tag of somebody's"].concat()));
        assert!(!ends_within_page(b"") && !ends_within_page(b"no pages"));
    }
}
