//! TinyGPT-V and the BLIP-2 retrieval heads on candle: no queue, no storage, no runtime.
//!
//! [`TinyGptV`] turns prepared pictures and prompts into logits, one prefill or decode step at a
//! time; what is said with them ([`Sampler`], [`StopCondition`]) and in which order rows run is
//! the caller's business. The same code is the tiny goldens, the demo model and the full
//! 3.9-billion-parameter model: every dimension comes from [`ModelConfig`].
mod activation;
pub mod adapter;
mod attention;
pub mod beam;
pub mod bundle;
pub mod checkpoint;
mod config;
pub mod constraint;
pub mod cost;
mod cpu_values;
mod error;
mod error_chain;
pub mod generate;
pub mod inventory;
mod kv_cache;
mod linear;
mod norm;
mod own_kernels;
pub mod pack;
mod packed;
mod phi;
mod position;
pub mod preprocess;
mod probe;
mod projector;
mod prompt;
mod qformer;
mod retrieval;
mod rotary;
mod sampling;
mod score;
mod stop;
mod tiny_gpt_v;
mod tokenizer;
pub mod trace;
pub mod train;
mod vision;
mod weight_memory;
mod weights;
pub mod yardstick;

pub use adapter::{Adapter, AdapterError};
pub use config::{
    ConfigError, ModelConfig, PhiConfig, ProjectionConfig, QFormerConfig, RetrievalConfig, VisionConfig,
};
pub use error::ModelError;
pub use error_chain::chain;
pub use inventory::{TensorKind, TensorSpec, tensor_inventory};
pub use kv_cache::{FixedRows, KvCache};
pub use linear::Linear;
pub use own_kernels::OwnKernels;
pub use probe::Pause;
pub use prompt::{IMAGE_PLACEHOLDER, PromptError, PromptTemplates, PromptTokens};
pub use retrieval::RetrievalHead;
pub use sampling::{DegenerateLogits, Sampled, Sampler, SamplingOptions, log_probability};
pub use score::score;
pub use stop::{End, StopCondition, StopReason, clean_caption, clean_unended};
pub use tiny_gpt_v::{DecodeRow, PrefillRow, TinyGptV};
pub use tokenizer::{CaptionTokenizer, STOP_TEXT, TextTokenizer, TokenizerError};
pub use weight_memory::WeightMemory;
pub use weights::{WeightError, Weights};
