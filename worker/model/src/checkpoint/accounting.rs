//! What became of every tensor in every file.

use serde::{Deserialize, Serialize};

use super::Role;

/// All files of a checkpoint.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accounting {
    /// one entry per file (or sharded set of files)
    pub files: Vec<FileAccount>,
}

/// One file. `used`, `replaced`, `ignored` and `unknown` together are all of its tensors.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileAccount {
    /// its part in the checkpoint
    pub role: Role,
    /// its name
    pub file: String,
    /// tensors that the model was built from
    pub used: usize,
    /// tensors over which the stage file has a trained version
    pub replaced: Vec<String>,
    /// tensors known not to be needed (surplus blocks, `t5_proj`, buffers)
    pub ignored: Vec<String>,
    /// tensors nobody knows: worth a look, because they may show that a file is not what it seems
    pub unknown: Vec<String>,
}

impl FileAccount {
    pub(super) fn new(role: Role, file: &str) -> Self {
        Self {
            role,
            file: file.to_owned(),
            used: 0,
            replaced: Vec::new(),
            ignored: Vec::new(),
            unknown: Vec::new(),
        }
    }
}

impl Accounting {
    /// (file, tensor) pairs that nobody knows.
    pub fn unknown(&self) -> impl Iterator<Item = (&str, &str)> {
        self.files.iter().flat_map(|file| file.unknown.iter().map(|key| (file.file.as_str(), key.as_str())))
    }
}
