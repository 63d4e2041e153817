//! Why an adapter cannot be used.

use crate::checkpoint::CheckpointError;

/// An adapter that is refused; the text names the file or tensor.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdapterError {
    /// A file is missing or cannot be read.
    #[error(
        "cannot read {file}: an adapter is a folder with adapter_config.json and adapter_model.safetensors, or one .pth file"
    )]
    Read {
        /// The file.
        file: String,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// Its weights are not a file of tensors.
    #[error("the adapter's weights cannot be read")]
    Weights(#[from] CheckpointError),
    /// Its settings ask for what is not done here.
    #[error("{file}: {reason}")]
    Config {
        /// The file.
        file: String,
        /// Which setting, and what is possible instead.
        reason: String,
    },
    /// It was trained on other weights.
    #[error(
        "the adapter was trained on the base {wanted}, this model is {served}: serve a bundle of the weights it was \
         trained on"
    )]
    Base {
        /// Id of the base it was trained on.
        wanted: String,
        /// Id of the base that is served.
        served: String,
    },
    /// A tensor that adapters cannot change, or of a layer that the model does not have.
    #[error(
        "the adapter changes `{key}`, which this model does not have or adapters cannot change: they change {changes}"
    )]
    UnknownTarget {
        /// Its name in the file.
        key: String,
        /// What can be changed.
        changes: &'static str,
    },
    /// Half of a low-rank change is missing.
    #[error("the adapter has `{present}` without its other half, `{missing}`")]
    Half {
        /// The half that is there.
        present: String,
        /// The half that is not.
        missing: String,
    },
    /// A tensor of another shape.
    #[error(
        "`{key}` of the adapter has shape {found:?}, this model takes {wanted:?}: it was made for a model of other dimensions"
    )]
    Shape {
        /// Its name in the file.
        key: String,
        /// Its shape.
        found: Vec<usize>,
        /// The shape that fits, 0 for a rank of any size.
        wanted: Vec<usize>,
    },
    /// A tensor with a number that is none.
    #[error("`{key}` of the adapter holds values that are not finite")]
    NotFinite {
        /// Its name in the file.
        key: String,
    },
    /// Nothing in it changes the model.
    #[error("the adapter changes nothing")]
    Empty,
    /// A tensor operation failed.
    #[error("the adapter cannot be put on the device")]
    Backend(#[from] candle_core::Error),
}
