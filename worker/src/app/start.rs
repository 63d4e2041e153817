//! From a bundle to a running engine that fits its memory.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytesize::ByteSize;
use captionfleet_model::OwnKernels;
use captionfleet_model::bundle::{Bundle, BundleError, LoadedModel};

use super::DeviceChoice;
use crate::engine::memory::{Limit, Measured, Meter, Trial, Wish, plan};
use crate::engine::{Engine, EngineError, EngineObserver, EngineOptions, shortage, try_steps};

/// What an operator may say about the engine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EngineSettings {
    /// Where the network runs.
    pub device: DeviceChoice,
    /// On a GPU, none of our own kernels.
    pub stock_kernels: bool,
    /// On a GPU, steps that always have all their rows.
    pub batch_invariant: bool,
    /// Sequences that decode together; as many as memory and the model's size suggest otherwise.
    pub slots: Option<usize>,
    /// Tokens of one slot: picture, prompt and caption.
    pub slot_tokens: Option<usize>,
    /// The most memory in bytes that this process may use on the device; what is free otherwise.
    pub memory_budget: Option<u64>,
}

/// A network on its device that has said its golden tokens, and what its steps take.
#[derive(Debug)]
pub(crate) struct ReadyModel {
    loaded: Arc<LoadedModel>,
    options: EngineOptions,
    trial: Trial,
    /// Bytes that this process could use on the device before the weights came.
    available: Option<u64>,
    /// Reading the weights.
    pub(crate) load: Duration,
    /// Saying the golden tokens.
    pub(crate) self_test: Duration,
}

impl ReadyModel {
    /// Loads a bundle, checks that it says what it said when it was packed, and measures its steps' memory.
    ///
    /// # Errors
    /// When any of these fails; [`EngineError::OutOfMemory`] when the device is full before it is done.
    pub(crate) fn load(bundle: &Bundle, settings: &EngineSettings) -> anyhow::Result<Self> {
        let device = settings.device.open()?;
        let config = &bundle.manifest().config;
        let options =
            EngineOptions::for_model(config, &device).with_slot_tokens(settings.slot_tokens, config)?;
        let meter = Meter::new(&device);
        let available = meter.available();
        let kernels = if settings.stock_kernels { OwnKernels::NONE } else { OwnKernels::checked(&device) };
        let since = Instant::now();
        let told = |error| unless_full(error, bundle.weights_size(), available);
        let loaded = Arc::new(bundle.load_with(&device, kernels).map_err(told)?);
        let load = since.elapsed();
        let since = Instant::now();
        let near_ties = loaded.self_test().map_err(told)?;
        let self_test = since.elapsed();
        if near_ties > 0 {
            tracing::info!(
                tokens.near_ties = near_ties,
                "the golden picture's caption was reproduced but for near ties, as another kind of device may round them"
            );
        }
        let trial = try_steps(&loaded, &meter, &options)?;
        Ok(Self { loaded, options, trial, available, load, self_test })
    }

    /// Whether its weights were drawn: then it says the same token for ever unless its tokens are drawn, too.
    pub(crate) fn is_random(&self) -> bool {
        self.loaded.manifest.sources.contains_key("random")
    }

    /// The network.
    pub(crate) fn loaded(&self) -> &LoadedModel {
        &self.loaded
    }

    /// Fits slots and batches into memory, and starts a device thread. Slots are as long as they were said to be when it was loaded:
    /// so long prompts were measured.
    ///
    /// # Errors
    /// [`crate::engine::memory::BudgetError`] when nothing fits.
    pub(crate) fn start(
        &self,
        settings: EngineSettings,
        observer: Arc<dyn EngineObserver>,
    ) -> anyhow::Result<Engine> {
        let model = &self.loaded.model;
        let wished = self.options.with_slots(settings.slots);
        let (limit, limit_from) = Limit::of(settings.memory_budget, self.available);
        let measured = Measured {
            limit,
            limit_from,
            held: self.trial.held,
            weights: self.loaded.memory.clone(),
            vision: self.trial.vision,
            prefill: self.trial.prefill,
            query: self.trial.query,
            slot: wished.slot_bytes(model.config(), model.device()),
        };
        let wish = Wish {
            slots: wished.slots,
            slots_are_asked: settings.slots.is_some(),
            reserved_slots: wished.reserved_slots(),
            max_len: wished.max_len,
            pictures: model.device().is_cpu(),
        };
        let budget = plan(&measured, wish)?;
        let options = EngineOptions {
            slots: budget.slots,
            vision_batch: budget.vision.rows,
            prefill_batch: budget.prefill.rows,
            batch_invariant: settings.batch_invariant && !model.device().is_cpu(),
            ..wished
        };
        Ok(Engine::start(Arc::clone(&self.loaded), options, budget, observer)?)
    }
}

/// A bundle that does not fit the device is whole and sound: what is wrong is told with its size.
fn unless_full(error: BundleError, weights: u64, free: Option<u64>) -> anyhow::Error {
    let Some(said) = shortage(&error) else { return error.into() };
    let free = free.map_or_else(String::new, |free| format!(" and {} were free", ByteSize(free)));
    EngineError::OutOfMemory(format!(
        "{said}; the bundle's weights are {}{free}: free memory of the device, or pack the bundle with smaller weight types",
        ByteSize(weights)
    ))
    .into()
}

/// Loads a bundle, checks that it says what it said when it was packed, fits slots and batches into memory, and starts
/// the device thread.
///
/// # Errors
/// When any of these fails; [`crate::engine::memory::BudgetError`] when nothing fits.
pub fn start_engine(
    bundle: &Bundle,
    settings: EngineSettings,
    observer: Arc<dyn EngineObserver>,
) -> anyhow::Result<Engine> {
    ReadyModel::load(bundle, &settings)?.start(settings, observer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(said: &str) -> anyhow::Error {
        let source = candle_core::Error::Msg(said.to_owned());
        let error = BundleError::Unusable {
            place: "full.q8".to_owned(),
            file: "weights.gguf".to_owned(),
            source: source.into(),
        };
        unless_full(error, 5 << 30, Some(4 << 30))
    }

    #[test]
    fn a_bundle_that_does_not_fit_is_told_from_one_that_cannot_be_used() {
        let full = failed("DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")");
        assert!(matches!(full.downcast_ref(), Some(EngineError::OutOfMemory(_))), "{full:?}");
        let said = full.to_string();
        assert!(said.contains("5.0 GiB") && said.contains("4.0 GiB were free"), "{said}");
        assert!(failed("shape mismatch").is::<BundleError>());
    }
}
