//! peft's `adapter_config.json`.

use serde::{Deserialize, Serialize};

use super::AdapterError;
use crate::checkpoint::{LoraConfig, TensorSource};

/// Linear layers of the language model that adapters change, by the ends of their names.
pub const TARGETS: [&str; 7] = ["query_key_value", "q_proj", "k_proj", "v_proj", "dense", "fc1", "fc2"];

/// Settings of peft that make something else of an adapter than a change of linear layers.
const NOT_SERVED: [&str; 13] = [
    "use_dora",
    "use_qalora",
    "use_bdlora",
    "lora_bias",
    "fan_in_fan_out",
    "alpha_pattern",
    "alora_invocation_tokens",
    "layer_replication",
    "trainable_token_indices",
    "target_parameters",
    "kasa_config",
    "monteclora_config",
    "velora_config",
];

/// The settings of an adapter, as peft spells them. Fields that only matter in training are kept out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AdapterConfig {
    /// `LORA`.
    pub peft_type: String,
    /// `CAUSAL_LM`.
    #[serde(default)]
    pub task_type: Option<String>,
    /// What people call the base.
    #[serde(default)]
    pub base_model_name_or_path: Option<String>,
    /// Width of the changes.
    pub r: usize,
    /// The changes count `lora_alpha / r`.
    pub lora_alpha: f64,
    /// Dropout in training.
    #[serde(default)]
    pub lora_dropout: f64,
    /// Ends of the names of the changed layers, or a pattern.
    #[serde(default)]
    pub target_modules: serde_json::Value,
    /// Ends of the names of modules that were trained whole: norms.
    #[serde(default)]
    pub modules_to_save: Option<Vec<String>>,
    /// Which biases were trained: `none`.
    #[serde(default = "none")]
    pub bias: String,
    /// Whether the change counts `lora_alpha / sqrt(r)`.
    #[serde(default)]
    pub use_rslora: bool,
    /// Whether it is loaded for use.
    #[serde(default)]
    pub inference_mode: bool,
}

fn none() -> String {
    "none".to_owned()
}

/// Whether a setting is as if it were not there.
fn is_nothing(value: &serde_json::Value) -> bool {
    use serde_json::Value;
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

impl AdapterConfig {
    /// Settings of a new adapter.
    pub fn new(r: usize, lora_alpha: f64, targets: &[&str], norms: bool, base: &str) -> Self {
        Self {
            peft_type: "LORA".to_owned(),
            task_type: Some("CAUSAL_LM".to_owned()),
            base_model_name_or_path: Some(base.to_owned()),
            r,
            lora_alpha,
            lora_dropout: 0.0,
            target_modules: serde_json::json!(targets),
            modules_to_save: norms
                .then(|| super::assemble::NORMS.iter().map(|norm| (*norm).to_owned()).collect()),
            bias: none(),
            use_rslora: false,
            inference_mode: true,
        }
    }

    /// Settings for a file of the reference: its own training configuration, or what was published.
    pub(super) fn of_stage(source: &dyn TensorSource) -> Self {
        let lora = LoraConfig::of_stage(source).unwrap_or_default();
        Self::new(lora.rank, lora.alpha, &["query_key_value", "dense"], true, "")
    }

    pub(super) fn parse(bytes: &[u8], file: &str) -> Result<Self, AdapterError> {
        let refused = |reason: String| AdapterError::Config { file: file.to_owned(), reason };
        let unreadable =
            |error: serde_json::Error| refused(format!("not the settings of a LoRA adapter ({error})"));
        let all: serde_json::Value = serde_json::from_slice(bytes).map_err(unreadable)?;
        let is_set = |name: &&&str| all.get(**name).is_some_and(|value| !is_nothing(value));
        if let Some(name) = NOT_SERVED.iter().find(is_set) {
            return Err(refused(format!("`{name}` is set, which is not served; train without it")));
        }
        let config = Self::deserialize(all).map_err(unreadable)?;
        let wrong = if config.peft_type != "LORA" {
            Some(format!("`peft_type` is {}; only LORA is served", config.peft_type))
        } else if config.bias != "none" {
            Some(format!(
                "`bias` is {}; biases of linear layers are not changed: train with none",
                config.bias
            ))
        } else if config.r == 0 || !config.lora_alpha.is_finite() {
            Some("`r` must be at least 1 and `lora_alpha` a number".to_owned())
        } else {
            None
        };
        wrong.map_or(Ok(config), |reason| Err(refused(reason)))
    }

    /// What a change of this rank is multiplied by.
    pub(super) fn scaling(&self, rank: usize) -> f64 {
        let rank = rank.max(1) as f64;
        self.lora_alpha / if self.use_rslora { rank.sqrt() } else { rank }
    }
}
