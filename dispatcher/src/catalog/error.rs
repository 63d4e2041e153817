//! Why a source cannot be listed.

use captionfleet_proto::storage::StorageError;
use std::path::PathBuf;

/// A source that cannot be listed; nothing is done then.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// No such file or folder, and no pattern either.
    #[error("{}: no such file or folder; check the path (a pattern with * works too)", path.display())]
    Missing {
        /// As given.
        path: PathBuf,
    },
    /// A pattern that matches nothing.
    #[error("{pattern}: no file matches this pattern")]
    NoMatch {
        /// As given.
        pattern: String,
    },
    /// A pattern that is not one.
    #[error("{pattern}: not a pattern")]
    Pattern {
        /// As given.
        pattern: String,
        /// What is wrong with it.
        source: glob::PatternError,
    },
    /// The source itself cannot be read.
    #[error("{}: cannot be read", path.display())]
    Unreadable {
        /// As given.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A device, a socket or a pipe.
    #[error("{}: neither a file nor a folder", path.display())]
    Special {
        /// As given.
        path: PathBuf,
    },
    /// Not a kind of source that is read.
    #[error("{location}: sources are files, folders, patterns and s3://bucket/prefix")]
    Scheme {
        /// As given.
        location: String,
    },
    /// Nothing in it.
    #[error("{location}: there is nothing to caption in it{}", if *.pictures_only { " with a picture's extension" } else { "" })]
    Empty {
        /// As given.
        location: String,
        /// Whether only picture extensions counted.
        pictures_only: bool,
    },
    /// The bucket cannot be listed.
    #[error("{location}: the bucket cannot be listed")]
    Bucket {
        /// The bucket and prefix.
        location: String,
        /// The store's reason.
        source: StorageError,
    },
    /// A name that no URI can carry.
    #[error("{location}: this name cannot be written as a URI: {reason}")]
    Name {
        /// The name.
        location: String,
        /// Why.
        reason: String,
    },
    /// Listing stopped by a fault of the program.
    #[error("{location}: listing was interrupted; please report this with its input")]
    Interrupted {
        /// As given.
        location: String,
    },
}
