//! The demo model, part of the program: a very small TinyGPT-V that knows only a world of coloured shapes.

use captionfleet_model::bundle::{Bundle, BundleError};

macro_rules! file {
    ($name:literal) => {
        ($name, include_bytes!(concat!("../demo-model/", $name)) as &[u8])
    };
}

const FILES: &[(&str, &[u8])] = &[
    file!("bundle.json"),
    file!("weights.gguf"),
    file!("tokenizer.json"),
    file!("text_tokenizer.json"),
    file!("golden.png"),
];

/// What every program says once when the demo model serves.
pub const NOTICE: &str = "the built-in demo model serves: it knows only its small world of coloured shapes; \
                          name a real one with --model";

/// The bundle.
///
/// # Errors
/// Only if the program itself was damaged.
pub fn bundle() -> Result<Bundle, BundleError> {
    Bundle::embedded(FILES)
}

/// Its tokenizers, of the language model and of the retrieval heads: small ones, for models that have none of their own.
pub fn tokenizers() -> (&'static [u8], &'static [u8]) {
    (file!("tokenizer.json").1, file!("text_tokenizer.json").1)
}
