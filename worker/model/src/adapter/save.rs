//! Writing an adapter as peft does.

use std::path::Path;

use candle_core::Tensor;

use super::{ADAPTER_CONFIG, ADAPTER_WEIGHTS, AdapterConfig, AdapterError, BASE_KEY};

/// What peft puts before the names of the language model's modules.
const PREFIX: &str = "base_model.model.";

/// Writes settings and tensors into `folder`, which is made if it is not there. `tensors` have names below the language
/// model (`model.layers.0.self_attn.dense.lora_A.weight`), or the reference's outside of it (`llama_proj.weight`); `base` is
/// what they were trained on.
///
/// # Errors
/// When the folder cannot be written.
pub fn save(
    folder: &Path,
    config: &AdapterConfig,
    tensors: &[(String, Tensor)],
    base: &str,
) -> Result<(), AdapterError> {
    let wrong = |file: &str, reason: String| AdapterError::Config {
        file: folder.join(file).display().to_string(),
        reason: format!("cannot be written: {reason}"),
    };
    let of_language_model = |name: &str| name.starts_with("model.");
    let named = tensors.iter().map(|(name, tensor)| {
        (if of_language_model(name) { format!("{PREFIX}{name}") } else { name.clone() }, tensor)
    });
    let weights = safetensors::serialize(named, None)
        .map_err(|error| wrong(ADAPTER_WEIGHTS, error.to_string()))
        .map(|weights| with_notes(&weights, &[(BASE_KEY, base), ("format", "pt")]))?;
    let mut settings =
        serde_json::to_vec_pretty(config).map_err(|error| wrong(ADAPTER_CONFIG, error.to_string()))?;
    settings.push(b'\n');
    std::fs::create_dir_all(folder).map_err(|error| wrong("", error.to_string()))?;
    for (file, bytes) in [(ADAPTER_WEIGHTS, weights), (ADAPTER_CONFIG, settings)] {
        let written = tempfile::NamedTempFile::new_in(folder).and_then(|mut whole| {
            std::io::Write::write_all(&mut whole, &bytes)?;
            whole.persist(folder.join(file)).map(drop).map_err(|error| error.error)
        });
        written.map_err(|error| wrong(file, error.to_string()))?;
    }
    Ok(())
}

/// A safetensors file with notes in its header. The crate writes them in any order; an adapter's digest needs one.
fn with_notes(file: &[u8], notes: &[(&str, &str)]) -> Vec<u8> {
    let (length, rest) = file.split_at(8);
    let length = u64::from_le_bytes(length.try_into().expect("eight bytes were split off")) as usize;
    let (header, data) = rest.split_at(length);
    let notes: Vec<String> = notes
        .iter()
        .map(|(name, value)| {
            format!("{}:{}", serde_json::Value::from(*name), serde_json::Value::from(*value))
        })
        .collect();
    let mut noted = format!("{{\"__metadata__\":{{{}}},", notes.join(",")).into_bytes();
    noted.extend_from_slice(&header.trim_ascii()[1..]);
    // Data begin at a multiple of eight.
    noted.resize(noted.len().next_multiple_of(8), b' ');
    [&(noted.len() as u64).to_le_bytes()[..], &noted, data].concat()
}
