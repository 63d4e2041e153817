//! What can be wrong with checkpoint files.

use std::fmt;

use super::pickle::PickleError;

/// Reading or resolving checkpoint files failed.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The operating system refused.
    #[error("cannot {operation} {file}")]
    Io {
        /// what was tried: `open`, `read`
        operation: &'static str,
        /// the file
        file: String,
        /// the system's answer
        #[source]
        source: std::io::Error,
    },
    /// The file is not what its place asks for.
    #[error("{file} is not a checkpoint that can be read: {reason}")]
    Format {
        /// the file
        file: String,
        /// what is wrong with it
        reason: String,
    },
    /// A pickle that is not only tensors.
    #[error("{file} is refused")]
    Pickle {
        /// the file
        file: String,
        /// the offending instruction or name
        #[source]
        source: PickleError,
    },
    /// A configuration file that cannot be used.
    #[error("{file}: {reason}")]
    Config {
        /// the file
        file: String,
        /// what is missing or contradictory
        reason: String,
    },
    /// Files that should exist do not.
    #[error("{0}")]
    MissingFiles(String),
    /// Tensors are missing or have the wrong shape.
    #[error("{0}")]
    Incomplete(Problems),
    /// A tensor that no file of this checkpoint gives.
    #[error("the checkpoint has no tensor `{0}`")]
    NoSuchTensor(String),
    /// Two parts contradict each other.
    #[error("{file}: `{key}` {reason}")]
    Tensor {
        /// the file
        file: String,
        /// name of the tensor in that file
        key: String,
        /// what is wrong with it
        reason: String,
    },
    /// A tensor operation failed.
    #[error("cannot assemble `{name}`")]
    Compute {
        /// canonical name of the tensor
        name: String,
        /// the tensor library's answer
        #[source]
        source: candle_core::Error,
    },
}

/// One tensor that keeps a checkpoint from being complete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Problem {
    /// No file has it.
    Missing {
        /// canonical name
        name: String,
        /// where it was looked for, and under which name
        expected: String,
        /// the file in which it should be
        file: String,
    },
    /// Its shape contradicts the configuration.
    Misshaped {
        /// its name in the file
        key: String,
        /// the file
        file: String,
        /// shape in the file
        found: Vec<usize>,
        /// shape that the configuration asks for
        wanted: Vec<usize>,
    },
    /// It should change a weight, but there is no way to apply it.
    Unusable {
        /// its name in the file
        key: String,
        /// the file
        file: String,
        /// why
        reason: String,
    },
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { name, expected, file } if name == expected => {
                write!(f, "`{name}` is missing from {file}")
            }
            Self::Missing { name, expected, file } => {
                write!(f, "`{name}` is missing: {file} has no `{expected}`")
            }
            Self::Misshaped { key, file, found, wanted } => {
                write!(f, "`{key}` in {file} has shape {found:?}, the configuration asks for {wanted:?}")
            }
            Self::Unusable { key, file, reason } => write!(f, "`{key}` in {file} {reason}"),
        }
    }
}

/// Everything that is wrong with a set of files; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 8;
        for (index, problem) in self.0.iter().take(SHOWN).enumerate() {
            if index > 0 {
                f.write_str("; ")?;
            }
            problem.fmt(f)?;
        }
        if self.0.len() > SHOWN {
            write!(f, "; and {} more", self.0.len() - SHOWN)?;
        }
        Ok(())
    }
}
