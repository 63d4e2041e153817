//! The small world of the demo model: seeded scenes, their pictures, captions and questions.
//!
//! A [`Scene`] is sampled from a seed and a [`Split`]; [`render()`] draws it at any size,
//! [`captions`](texts::captions), [`questions`](questions::questions) and [`retrieval_text`](texts::retrieval_text)
//! say what is in it, and [`check_caption`] judges what a model says. Everything is pure and
//! depends on the seed alone. [`stream`] feeds training, [`export()`] writes files for tests, benches and people.

pub mod arrangement;
pub mod checker;
pub mod claim;
pub mod dice;
pub mod export;
pub mod film;
pub mod layout;
mod outline;
pub mod questions;
pub mod render;
pub mod resample;
pub mod scene;
pub mod stream;
pub mod texts;
pub mod vocabulary;

pub use arrangement::{Arrangement, Kind, Split, Thing};
pub use checker::{Verdict, check_caption};
pub use export::{ExportOptions, FileFormat, export};
pub use render::render;
pub use scene::Scene;
pub use vocabulary::{Backdrop, Colour, Place, Relation, Shape, Size};
