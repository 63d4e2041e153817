//! How the pixels of a film's frames come out of the decoder.
//!
//! Nearly all films store brightness (Y) and two differences of colour (Cb, Cr), the differences often for every other
//! pixel only. They come through the pipe like that: turning a frame into red, green and blue takes longer than decoding it,
//! and most frames are only compared with another one. What is stored otherwise comes as red, green and blue.

/// The order of a frame's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pixels {
    /// Three bytes a pixel.
    Rgb,
    /// Three planes.
    Planar(Planar),
}

/// Three planes, Y, Cb and Cr, of a byte each sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Planar {
    pub(super) sharing: Sharing,
    /// Whether a difference of colour lies on the left one of its two pixels, rather than between them.
    pub(super) is_left: bool,
    /// Whether black is 0 and white 255, rather than 16 and 235.
    pub(super) is_full: bool,
    pub(super) matrix: Matrix,
}

/// How many pixels have their differences of colour in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sharing {
    /// 4:4:4
    One,
    /// 4:2:2: two of a row.
    Two,
    /// 4:2:0: two of a row and those below.
    Four,
}

/// Which shares of red and blue make brightness.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Matrix {
    Bt601,
    Bt709,
    Bt2020,
    Fcc,
    Smpte240,
}

/// What ffprobe says about a stream's pixels.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Told<'a> {
    pub(super) format: Option<&'a str>,
    pub(super) matrix: Option<&'a str>,
    pub(super) range: Option<&'a str>,
    pub(super) chroma: Option<&'a str>,
    /// Whether the picture is turned when it is shown.
    pub(super) is_turned: bool,
}

impl Pixels {
    /// The order in which a film's frames are wanted, so that little is lost and little to do.
    pub(super) fn of(told: Told<'_>) -> Self {
        let format = told.format.unwrap_or_default();
        let stored = if format == "nv12" { Some("420p") } else { format.strip_prefix("yuv") };
        let (is_full, stored) = match stored.and_then(|stored| stored.strip_prefix('j')) {
            Some(stored) => (true, Some(stored)),
            None => (told.range == Some("pc"), stored),
        };
        // Behind that are the bits of a sample; eight of them are enough.
        let sharing = match stored.and_then(|stored| stored.get(..4)) {
            Some("420p") => Sharing::Four,
            Some("422p") => Sharing::Two,
            Some("444p") => Sharing::One,
            _ => return Self::Rgb,
        };
        let matrix = match told.matrix {
            Some("bt709") => Matrix::Bt709,
            Some("bt2020nc" | "bt2020c") => Matrix::Bt2020,
            Some("fcc") => Matrix::Fcc,
            Some("smpte240m") => Matrix::Smpte240,
            // As ffmpeg does where nothing is said.
            _ => Matrix::Bt601,
        };
        let is_left = !told.is_turned && matches!(told.chroma, Some("left" | "topleft" | "bottomleft"));
        Self::Planar(Planar { sharing, is_left, is_full, matrix })
    }

    /// The filters that give frames these pixels and this size; those that have both already pass untouched.
    pub(super) fn filters(self, width: u32, height: u32) -> String {
        let scale = format!("scale={width}:{height}:flags=bicubic+accurate_rnd+full_chroma_int");
        match self {
            Self::Rgb => format!("{scale},format=rgb24"),
            Self::Planar(planar) => {
                let range = if planar.is_full { "pc" } else { "tv" };
                format!("{scale}:in_range={range}:out_range={range},format={}", planar.name())
            }
        }
    }

    /// Bytes of a frame of `width` x `height` pixels.
    pub(super) fn bytes(self, width: u32, height: u32) -> usize {
        let (width, height) = (width as usize, height as usize);
        match self {
            Self::Rgb => width * height * 3,
            Self::Planar(planar) => {
                let (columns, rows) = planar.colours(width, height);
                width * height + 2 * columns * rows
            }
        }
    }
}

impl Planar {
    fn name(self) -> &'static str {
        match self.sharing {
            Sharing::One => "yuv444p",
            Sharing::Two => "yuv422p",
            Sharing::Four => "yuv420p",
        }
    }

    /// Width and height of the planes of colour.
    pub(super) fn colours(self, width: usize, height: usize) -> (usize, usize) {
        let part = |length: usize, is_half| if is_half { length.div_ceil(2) } else { length };
        (part(width, self.halves_columns()), part(height, self.halves_rows()))
    }

    pub(super) fn halves_columns(self) -> bool {
        self.sharing != Sharing::One
    }

    pub(super) fn halves_rows(self) -> bool {
        self.sharing == Sharing::Four
    }
}

#[cfg(test)]
mod tests {
    use super::{Matrix, Pixels, Planar, Sharing, Told};

    fn planar(format: &str) -> Option<(Sharing, bool)> {
        match Pixels::of(Told { format: Some(format), ..Told::default() }) {
            Pixels::Planar(planar) => Some((planar.sharing, planar.is_full)),
            Pixels::Rgb => None,
        }
    }

    #[test]
    fn what_is_stored_in_planes_stays_so() {
        assert_eq!(planar("yuv420p"), Some((Sharing::Four, false)));
        assert_eq!(planar("yuvj422p"), Some((Sharing::Two, true)));
        assert_eq!(planar("yuv444p12be"), Some((Sharing::One, false)));
        assert_eq!(planar("nv12"), planar("yuv420p"));
        for other in
            ["yuva420p", "yuv411p", "yuyv422", "gbrp", "gray", "rgb24", "pal8", "yuv4", "", "yuvé420p"]
        {
            assert_eq!(planar(other), None, "{other}");
        }
        assert_eq!(Pixels::of(Told::default()), Pixels::Rgb);
    }

    #[test]
    fn odd_frames_have_half_a_colour_more() {
        let Pixels::Planar(planar) = Pixels::of(Told { format: Some("yuv420p"), ..Told::default() }) else {
            panic!("it is planar");
        };
        assert_eq!(planar.colours(37, 23), (19, 12));
        assert_eq!(Pixels::Planar(planar).bytes(1, 1), 3);
    }

    #[test]
    fn the_stream_says_what_its_numbers_mean() {
        let told = Told {
            format: Some("yuv420p10le"),
            matrix: Some("bt2020nc"),
            range: Some("pc"),
            chroma: Some("topleft"),
            is_turned: false,
        };
        let expected =
            Planar { sharing: Sharing::Four, is_left: true, is_full: true, matrix: Matrix::Bt2020 };
        assert_eq!(Pixels::of(told), Pixels::Planar(expected));
        let turned = Planar { is_left: false, ..expected };
        assert_eq!(Pixels::of(Told { is_turned: true, ..told }), Pixels::Planar(turned));
    }
}
