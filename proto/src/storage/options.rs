//! How to reach the stores.

use std::path::PathBuf;

/// How to reach S3, and which local files may be read.
///
/// Credentials are not here: they come from `AWS_*` variables, the AWS configuration files, a web identity, the
/// container's or the machine's role.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StorageOptions {
    /// URL of the server; absent: `AWS_ENDPOINT_URL_S3`, `AWS_ENDPOINT_URL`, else Amazon's.
    pub s3_endpoint: Option<String>,
    /// Region; absent: `AWS_REGION`, the profile's, the machine's, else `us-east-1`.
    pub s3_region: Option<String>,
    /// Whether the bucket stands in the path rather than in the host name; absent: exactly with an own endpoint.
    pub s3_path_style: Option<bool>,
    /// When checksums are sent and asked for.
    pub s3_checksums: S3Checksums,
    /// For how long S3 is asked again that fails.
    pub s3_patience: S3Patience,
    /// Which local files [`super::Stores::read_item`] may read, and where [`super::Stores::archive`] may be a folder.
    pub local_roots: LocalRoots,
}

impl StorageOptions {
    /// The same with [`S3Patience::Brief`].
    #[must_use]
    pub fn brief(&self) -> Self {
        Self { s3_patience: S3Patience::Brief, ..self.clone() }
    }
}

/// For how long a request is tried again that S3 fails to answer, or asks to come again with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum S3Patience {
    /// A few times within seconds: somebody waits for the answer, or whoever asks comes again much later.
    #[default]
    Brief,
    /// For a minute or two: nobody comes again, and one request that fails undoes all that was done before it.
    Long,
}

/// When checksums beyond the protocol's own are sent and asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum S3Checksums {
    /// `AWS_REQUEST_CHECKSUM_CALCULATION` and `AWS_RESPONSE_CHECKSUM_VALIDATION` decide; else with every request.
    #[default]
    FromEnvironment,
    /// Only where S3 requires them, for servers that refuse them elsewhere.
    WhenRequired,
}

/// Which local files may be read as items, and in which folders archives may be written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum LocalRoots {
    /// All that the process may read: the user names the files.
    #[default]
    Any,
    /// Those below these folders, symbolic links resolved: others name the files.
    Only(Vec<PathBuf>),
    /// None.
    None,
}
