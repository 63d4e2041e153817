//! Opening the files of a checkpoint: one, or many with an index.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use super::CheckpointError;
use super::pth::PthFile;
use super::safetensors::SafetensorsFile;
use super::source::{TensorHeader, TensorSource, label_of};

/// Open one checkpoint file, recognised by its first bytes: a torch zip or safetensors.
pub fn open_file(path: &Path) -> Result<Arc<dyn TensorSource>, CheckpointError> {
    let label = label_of(path);
    let mut magic = [0; 9];
    let mut file = File::open(path).map_err(|source| CheckpointError::Io {
        operation: "open",
        file: path.display().to_string(),
        source,
    })?;
    let length = file.metadata().map_or(0, |meta| meta.len());
    let read = read_up_to(&mut file, &mut magic).map_err(|source| CheckpointError::Io {
        operation: "read",
        file: path.display().to_string(),
        source,
    })?;
    match &magic[..read] {
        [b'P', b'K', ..] => Ok(Arc::new(PthFile::open(path, label)?)),
        [.., b'{'] if read == 9 && u64::from_le_bytes(magic[..8].try_into().unwrap_or_default()) < length => {
            Ok(Arc::new(SafetensorsFile::open(path, label)?))
        }
        [0x80, ..] => Err(CheckpointError::Format {
            file: label,
            reason: "it is a bare pickle (torch before 1.6 wrote those); save it again with a newer torch"
                .into(),
        }),
        _ => Err(CheckpointError::Format {
            file: label,
            reason: "it is neither a torch zip (.pth, .bin) nor safetensors".into(),
        }),
    }
}

/// Open the weights of a model folder: `model.safetensors` or `pytorch_model.bin`, whole or in shards.
pub fn open_directory(directory: &Path) -> Result<Arc<dyn TensorSource>, CheckpointError> {
    const WHOLE: [&str; 2] = ["model.safetensors", "pytorch_model.bin"];
    const SHARDED: [&str; 2] = ["model.safetensors.index.json", "pytorch_model.bin.index.json"];
    for (whole, index) in WHOLE.into_iter().zip(SHARDED) {
        let path = directory.join(whole);
        if path.is_file() {
            return open_file(&path);
        }
        let path = directory.join(index);
        if path.is_file() {
            return Ok(Arc::new(ShardedSource::open(&path)?));
        }
    }
    Err(CheckpointError::MissingFiles(format!(
        "{} holds no weights: one of {}, {}, {} or {} is needed there",
        directory.display(),
        WHOLE[0],
        SHARDED[0],
        WHOLE[1],
        SHARDED[1]
    )))
}

/// Weights spread over several files, with an index that says which tensor lies where.
struct ShardedSource {
    label: String,
    shards: Vec<Arc<dyn TensorSource>>,
    headers: BTreeMap<String, TensorHeader>,
    shard_of: BTreeMap<String, usize>,
}

impl ShardedSource {
    fn open(index: &Path) -> Result<Self, CheckpointError> {
        let label = label_of(index);
        let bad = |reason: String| CheckpointError::Format { file: label_of(index), reason };
        let weight_map = read_weight_map(index)?;
        let mut source =
            Self { label, shards: Vec::new(), headers: BTreeMap::new(), shard_of: BTreeMap::new() };
        let mut shard_numbers = BTreeMap::new();
        for (key, file) in weight_map {
            // a name, never a path: the index must not reach out of its folder
            if Path::new(&file).components().count() != 1 || file.starts_with('.') || file.contains('\\') {
                return Err(bad(format!("`{key}` points to `{file}`, which is not a file beside it")));
            }
            let number = if let Some(&number) = shard_numbers.get(&file) {
                number
            } else {
                source.shards.push(open_file(&index.with_file_name(&file))?);
                shard_numbers.insert(file.clone(), source.shards.len() - 1);
                source.shards.len() - 1
            };
            let header = source.shards[number]
                .headers()
                .get(&key)
                .cloned()
                .ok_or_else(|| bad(format!("`{key}` should be in {file}, but is not")))?;
            source.headers.insert(key.clone(), header);
            source.shard_of.insert(key, number);
        }
        Ok(source)
    }
}

impl TensorSource for ShardedSource {
    fn label(&self) -> &str {
        &self.label
    }

    fn file_of(&self, key: &str) -> &str {
        self.shard_of.get(key).map_or(&self.label, |&number| self.shards[number].label())
    }

    fn headers(&self) -> &BTreeMap<String, TensorHeader> {
        &self.headers
    }

    fn read(&self, key: &str) -> Result<Vec<f32>, CheckpointError> {
        match self.shard_of.get(key) {
            Some(&number) => self.shards[number].read(key),
            None => Err(CheckpointError::NoSuchTensor(key.to_owned())),
        }
    }
}

fn read_weight_map(index: &Path) -> Result<BTreeMap<String, String>, CheckpointError> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let text = std::fs::read(index).map_err(|source| CheckpointError::Io {
        operation: "read",
        file: index.display().to_string(),
        source,
    })?;
    let parsed: Index = serde_json::from_slice(&text).map_err(|error| CheckpointError::Format {
        file: label_of(index),
        reason: format!("not an index of shards ({error})"),
    })?;
    Ok(parsed.weight_map)
}

fn read_up_to(file: &mut File, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..])? {
            0 => break,
            count => filled += count,
        }
    }
    Ok(filled)
}
