//! Why a bundle cannot be served.

/// A bundle that is not one, is damaged, or does not say what it should.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BundleError {
    /// There is no bundle here at all.
    #[error("{place} is not a bundle: {reason}; `worker pack` makes bundles from published checkpoints")]
    NotABundle {
        /// Folder or file.
        place: String,
        /// What is missing or wrong.
        reason: String,
    },
    /// A file of the bundle could not be read.
    #[error("cannot read {file} of the bundle {place}")]
    Read {
        /// Folder or file.
        place: String,
        /// Name within the bundle.
        file: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A file's content is not what was packed.
    #[error(
        "{file} of the bundle {place} is damaged: its hash is not the recorded one; copy, upload or pack the bundle again"
    )]
    Damaged {
        /// Folder or file.
        place: String,
        /// Name within the bundle.
        file: String,
    },
    /// A bundle of a format this program does not read.
    #[error("the bundle {place} has format `{format}`, this program reads `{expected}`: pack it again", expected = super::BUNDLE_FORMAT)]
    Format {
        /// Folder or file.
        place: String,
        /// What it says.
        format: String,
    },
    /// The bundle is whole, but cannot be used.
    #[error("{file} of the bundle {place} cannot be used")]
    Unusable {
        /// Folder or file.
        place: String,
        /// Name within the bundle.
        file: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The golden picture's answer is not the recorded one.
    #[error(
        "the model does not say what it said when it was packed (expected tokens {expected:?}, got {found:?}): \
         this machine computes something else"
    )]
    Golden {
        /// Recorded tokens.
        expected: Vec<u32>,
        /// Tokens now.
        found: Vec<u32>,
    },
    /// The golden picture could not be captioned.
    #[error("the bundle's golden picture cannot be captioned")]
    GoldenRun(#[source] Box<dyn std::error::Error + Send + Sync>),
}
