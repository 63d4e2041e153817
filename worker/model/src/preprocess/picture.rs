//! Pictures in memory.

/// A decoded picture.
#[derive(Clone, PartialEq, Eq)]
pub struct Picture {
    /// pixels per row
    pub width: u32,
    /// rows
    pub height: u32,
    /// `height × width × 3` bytes, top row first
    pub rgb: Vec<u8>,
}

/// A picture squeezed into a square, as the vision tower wants it.
#[derive(Clone, PartialEq, Eq)]
pub struct SquareImage {
    /// side in pixels
    pub size: usize,
    /// `size × size × 3` bytes, top row first
    pub rgb: Vec<u8>,
}

/// All that the engine needs of one picture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreparedPicture {
    /// width before resizing
    pub width: u32,
    /// height before resizing
    pub height: u32,
    /// what the caption path sees
    pub caption: SquareImage,
    /// what the retrieval heads see; `None` if they see the same
    pub retrieval: Option<SquareImage>,
}

// A debug print of a million pixels helps nobody.
impl std::fmt::Debug for Picture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Picture({} x {})", self.width, self.height)
    }
}

impl std::fmt::Debug for SquareImage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SquareImage({0} x {0})", self.size)
    }
}
