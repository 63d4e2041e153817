//! Writing an adapter as peft does.

use std::collections::HashMap;
use std::path::Path;

use candle_core::Tensor;

use super::{ADAPTER_CONFIG, ADAPTER_WEIGHTS, AdapterConfig, AdapterError, BASE_KEY};

/// What peft puts before the names of the language model's modules.
const PREFIX: &str = "base_model.model.";

/// Writes settings and tensors into `folder`, which is made if it is not there. `tensors` have names below the language
/// model (`model.layers.0.self_attn.dense.lora_A.weight`), `base` is what they were trained on.
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
    let named = tensors.iter().map(|(name, tensor)| (format!("{PREFIX}{name}"), tensor));
    let notes =
        HashMap::from([("format".to_owned(), "pt".to_owned()), (BASE_KEY.to_owned(), base.to_owned())]);
    let weights = safetensors::serialize(named, Some(notes))
        .map_err(|error| wrong(ADAPTER_WEIGHTS, error.to_string()))?;
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
