//! The model: whether it fits, and says on this device what it must.

use std::sync::Arc;

use bytesize::ByteSize;
use captionfleet_proto::chain;
use captionfleet_proto::storage::Stores;

use super::Finding;
use crate::app::{EngineSettings, start_engine};
use crate::engine::Unobserved;
use crate::model_choice::ModelChoice;

const WHAT: &str = "model";

/// Whether the bundle named `model` is whole, fits the device's memory and reproduces its golden tokens there.
pub async fn model(model: Option<&str>, settings: EngineSettings, stores: &Stores) -> Finding {
    match tried(model, settings, stores).await {
        Ok(text) => Finding::ok(WHAT, text),
        Err(error) => Finding::fail(WHAT, chain(error.as_ref())),
    }
}

async fn tried(model: Option<&str>, settings: EngineSettings, stores: &Stores) -> anyhow::Result<String> {
    let found = ModelChoice::parse(model)?.resolve(stores).await?;
    let started = found.load(stores, move |bundle| {
        let named = format!("{} ({})", bundle.manifest().name, &bundle.id()[..12]);
        let engine = start_engine(bundle, settings, Arc::new(Unobserved))?;
        let handle = engine.handle();
        let info = handle.info();
        let memory = &info.memory;
        let room = memory.limit.map_or_else(String::new, |limit| format!(" of {}", ByteSize(limit)));
        let text = format!(
            "{named} says its golden tokens on {}; {} slots and batches of {} pictures take {}{room}",
            info.device,
            info.slots,
            memory.vision.rows,
            ByteSize(memory.peak())
        );
        drop(handle);
        engine.join()?;
        Ok(text)
    });
    started.await
}
