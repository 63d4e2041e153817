//! Well-formed UTF-8, byte by byte.

/// What is missing of a character.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Utf8 {
    missing: u8,
    /// Bounds of the next byte: they keep overlong forms and surrogates out.
    low: u8,
    high: u8,
}

impl Default for Utf8 {
    fn default() -> Self {
        Self { missing: 0, low: 0x80, high: 0xBF }
    }
}

impl Utf8 {
    /// Whether no character is unfinished.
    pub(super) fn is_whole(self) -> bool {
        self.missing == 0
    }

    /// After one more byte; `None` if no text has it here.
    pub(super) fn step(self, byte: u8) -> Option<Self> {
        let begun = |missing, low, high| Some(Self { missing, low, high });
        if self.missing > 0 {
            let fits = (self.low..=self.high).contains(&byte);
            return fits.then(|| Self { missing: self.missing - 1, ..Self::default() });
        }
        match byte {
            0..=0x7F => Some(self),
            0xC2..=0xDF => begun(1, 0x80, 0xBF),
            0xE0 => begun(2, 0xA0, 0xBF),
            0xED => begun(2, 0x80, 0x9F),
            0xE1..=0xEF => begun(2, 0x80, 0xBF),
            0xF0 => begun(3, 0x90, 0xBF),
            0xF1..=0xF3 => begun(3, 0x80, 0xBF),
            0xF4 => begun(3, 0x80, 0x8F),
            _ => None,
        }
    }
}
