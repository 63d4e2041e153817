//! From a bundle to a running engine that fits its memory.

use std::sync::Arc;

use captionfleet_model::bundle::{Bundle, LoadedModel};

use super::DeviceChoice;
use crate::engine::memory::{Limit, Measured, MemoryBudget, Meter, Wish, plan};
use crate::engine::{Engine, EngineObserver, EngineOptions, try_steps};

/// What an operator may say about the engine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EngineSettings {
    /// Where the network runs.
    pub device: DeviceChoice,
    /// Sequences that decode together; as many as memory and the model's size suggest otherwise.
    pub slots: Option<usize>,
    /// Tokens of one slot: picture, prompt and caption.
    pub slot_tokens: Option<usize>,
    /// The most memory in bytes that this process may use on the device; what is free otherwise.
    pub memory_budget: Option<u64>,
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
    let device = settings.device.open()?;
    let meter = Meter::new(&device);
    let available = meter.available();
    let loaded = bundle.load(&device)?;
    loaded.self_test()?;
    let config = loaded.model.config();
    let wished = EngineOptions::for_model(config, &device)
        .with_slots(settings.slots)
        .with_slot_tokens(settings.slot_tokens, config)?;
    let (budget, options) = fit(&loaded, &meter, available, settings, wished)?;
    Ok(Engine::start(loaded, options, budget, observer)?)
}

fn fit(
    loaded: &LoadedModel,
    meter: &Meter,
    available: Option<u64>,
    settings: EngineSettings,
    wished: EngineOptions,
) -> anyhow::Result<(MemoryBudget, EngineOptions)> {
    let trial = try_steps(loaded, meter, &wished)?;
    let (limit, limit_from) = match (settings.memory_budget, available) {
        (Some(asked), free) => (Some(free.map_or(asked, |free| asked.min(free))), Limit::Asked),
        (None, Some(free)) => (Some(free), Limit::Free),
        (None, None) => (None, Limit::Unknown),
    };
    let measured = Measured {
        limit,
        limit_from,
        held: trial.held,
        weights: loaded.memory.clone(),
        vision: trial.vision,
        prefill: trial.prefill,
        slot: wished.slot_bytes(loaded.model.config(), loaded.model.device()),
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
    Ok((budget, options))
}
