//! From a bundle to a running engine that fits its memory.

use std::sync::Arc;
use std::time::{Duration, Instant};

use captionfleet_model::OwnKernels;
use captionfleet_model::bundle::{Bundle, LoadedModel};

use super::DeviceChoice;
use crate::engine::memory::{Limit, Measured, Meter, Trial, Wish, plan};
use crate::engine::{Engine, EngineObserver, EngineOptions, try_steps};

/// What an operator may say about the engine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EngineSettings {
    /// Where the network runs.
    pub device: DeviceChoice,
    /// On a GPU, none of our own kernels.
    pub stock_kernels: bool,
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
    /// When any of these fails.
    pub(crate) fn load(bundle: &Bundle, settings: &EngineSettings) -> anyhow::Result<Self> {
        let device = settings.device.open()?;
        let meter = Meter::new(&device);
        let available = meter.available();
        let kernels = if settings.stock_kernels { OwnKernels::NONE } else { OwnKernels::checked(&device) };
        let since = Instant::now();
        let loaded = Arc::new(bundle.load_with(&device, kernels)?);
        let load = since.elapsed();
        let since = Instant::now();
        let near_ties = loaded.self_test()?;
        let self_test = since.elapsed();
        if near_ties > 0 {
            tracing::info!(
                tokens.near_ties = near_ties,
                "the golden picture's caption was reproduced but for near ties, as another kind of device may round them"
            );
        }
        let options = EngineOptions::for_model(loaded.model.config(), &device);
        let trial = try_steps(&loaded, &meter, &options)?;
        Ok(Self { loaded, options, trial, available, load, self_test })
    }

    /// The network.
    pub(crate) fn loaded(&self) -> &LoadedModel {
        &self.loaded
    }

    /// Fits slots and batches into memory, and starts a device thread.
    ///
    /// # Errors
    /// [`crate::engine::memory::BudgetError`] when nothing fits.
    pub(crate) fn start(
        &self,
        settings: EngineSettings,
        observer: Arc<dyn EngineObserver>,
    ) -> anyhow::Result<Engine> {
        let model = &self.loaded.model;
        let wished =
            self.options.with_slots(settings.slots).with_slot_tokens(settings.slot_tokens, model.config())?;
        let (limit, limit_from) = match (settings.memory_budget, self.available) {
            (Some(asked), free) => (Some(free.map_or(asked, |free| asked.min(free))), Limit::Asked),
            (None, Some(free)) => (Some(free), Limit::Free),
            (None, None) => (None, Limit::Unknown),
        };
        let measured = Measured {
            limit,
            limit_from,
            held: self.trial.held,
            weights: self.loaded.memory.clone(),
            vision: self.trial.vision,
            prefill: self.trial.prefill,
            slot: wished.slot_bytes(model.config(), model.device()),
        };
        let wish = Wish {
            slots: wished.slots,
            slots_are_asked: settings.slots.is_some(),
            reserved_slots: wished.reserved_slots(),
            max_len: wished.max_len,
        };
        let budget = plan(&measured, wish)?;
        let options = EngineOptions {
            slots: budget.slots,
            vision_batch: budget.vision.rows,
            prefill_batch: budget.prefill.rows,
            ..wished
        };
        Ok(Engine::start(Arc::clone(&self.loaded), options, budget, observer)?)
    }
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
