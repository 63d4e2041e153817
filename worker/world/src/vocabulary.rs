//! What the world is made of: shapes, colours, sizes, places, relations and backdrops, and their words.

/// Declares an enum of words with `ALL`, `word` and `code`. Words after `new` have codes and are read, but are not in `ALL`:
/// no draw finds them, and the demo model has never seen them.
macro_rules! words {
    ($(#[$meta:meta])* $name:ident {
        $($(#[$item:meta])* $variant:ident = $word:literal),+ $(,)?
        $(; new $($(#[$new_item:meta])* $new:ident = $new_word:literal),+ $(,)?)?
    }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name { $($(#[$item])* $variant,)+ $($($(#[$new_item])* $new),+)? }

        impl $name {
            /// Every value that is drawn, in code order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];
            /// Values that only scenes with something new have.
            pub const NEW: &'static [Self] = &[$($(Self::$new),+)?];

            /// The word that captions use.
            #[must_use]
            pub fn word(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ $($(Self::$new => $new_word),+)? }
            }

            /// The position in [`Self::ALL`], new values behind it: the class number of training labels.
            #[must_use]
            pub fn code(self) -> usize {
                self as usize
            }

            /// The value that `word` names, if any.
            #[must_use]
            pub fn from_word(word: &str) -> Option<Self> {
                Self::ALL.iter().chain(Self::NEW).copied().find(|value| value.word() == word)
            }
        }
    };
}

words! {
    /// The outline of an object.
    Shape {
        /// A disc.
        Circle = "circle",
        /// A square, slightly tilted.
        Square = "square",
        /// A triangle pointing up, slightly tilted.
        Triangle = "triangle",
        /// A star of five points.
        Star = "star",
        /// An upright cross of two equal bars.
        Cross = "cross",
        /// A disc with a round hole.
        Ring = "ring";
        new
        /// A crescent, open to the right.
        Moon = "moon",
    }
}

impl Shape {
    /// The word for several of them.
    #[must_use]
    pub fn plural(self) -> &'static str {
        match self {
            Self::Circle => "circles",
            Self::Square => "squares",
            Self::Triangle => "triangles",
            Self::Star => "stars",
            Self::Cross => "crosses",
            Self::Ring => "rings",
            Self::Moon => "moons",
        }
    }
}

words! {
    /// The paint of an object.
    Colour {
        /// Red.
        Red = "red",
        /// Orange.
        Orange = "orange",
        /// Yellow.
        Yellow = "yellow",
        /// Green.
        Green = "green",
        /// Blue.
        Blue = "blue",
        /// Purple.
        Purple = "purple",
        /// Pink.
        Pink = "pink";
        new
        /// Brown.
        Brown = "brown",
    }
}

impl Colour {
    /// The paint before light and jitter, as 8-bit sRGB.
    #[must_use]
    pub fn rgb(self) -> [u8; 3] {
        match self {
            Self::Red => [214, 32, 38],
            Self::Orange => [245, 128, 18],
            Self::Yellow => [248, 214, 34],
            Self::Green => [38, 158, 62],
            Self::Blue => [34, 88, 214],
            Self::Purple => [138, 54, 180],
            Self::Pink => [247, 138, 190],
            Self::Brown => [112, 62, 28],
        }
    }
}

words! {
    /// How large an object is; nothing lies between the two.
    Size {
        /// About a quarter of the picture across.
        Small = "small",
        /// About two fifths of the picture across.
        Large = "large",
    }
}

words! {
    /// The colour behind the objects.
    Backdrop {
        /// Nearly white.
        White = "white",
        /// Middle grey.
        Gray = "gray",
        /// Nearly black.
        Black = "black",
    }
}

words! {
    /// Where a single object lies, in a grid of three by three.
    Place {
        /// Top left.
        TopLeft = "top left",
        /// Top middle.
        Top = "top",
        /// Top right.
        TopRight = "top right",
        /// Middle of the left edge.
        Left = "left",
        /// The middle.
        Center = "center",
        /// Middle of the right edge.
        Right = "right",
        /// Bottom left.
        BottomLeft = "bottom left",
        /// Bottom middle.
        Bottom = "bottom",
        /// Bottom right.
        BottomRight = "bottom right",
    }
}

words! {
    /// How one object lies to another.
    Relation {
        /// The first is left of the second.
        LeftOf = "left of",
        /// The first is right of the second.
        RightOf = "right of",
        /// The first is above the second.
        Above = "above",
        /// The first is below the second.
        Below = "below",
    }
}

impl Relation {
    /// The same fact told from the other object.
    #[must_use]
    pub fn inverse(self) -> Self {
        match self {
            Self::LeftOf => Self::RightOf,
            Self::RightOf => Self::LeftOf,
            Self::Above => Self::Below,
            Self::Below => Self::Above,
        }
    }
}

/// The word for a count below ten.
#[must_use]
pub fn count_word(count: usize) -> &'static str {
    const WORDS: [&str; 10] =
        ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"];
    WORDS.get(count).copied().unwrap_or("many")
}
