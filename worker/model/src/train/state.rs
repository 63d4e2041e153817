//! A training on disk, to go on from later as if it had never stopped.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{Device, Tensor};

use super::learning::Trained;
use super::{TrainError, Trainer};
use crate::error::DuringStep;

/// Key of the settings in the file's metadata.
const SETTINGS: &str = "settings";
/// Key of the counts in the file's metadata.
const COUNTS: &str = "counts";

impl Trainer<'_> {
    /// Writes variables, the optimizer's memory and the step; the file is whole or not there.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save_state(&self, file: &Path) -> Result<(), TrainError> {
        let failed = |reason: String| TrainError::State { file: file.display().to_string(), reason };
        let mut tensors = Vec::with_capacity(3 * self.trained.len());
        let memory = self.optimizer.means.iter().zip(&self.optimizer.squares);
        for (Trained { name, var, .. }, (mean, square)) in self.trained.iter().zip(memory) {
            for (kind, tensor) in [("value", var.as_tensor()), ("mean", mean), ("square", square)] {
                let tensor = tensor.to_device(&Device::Cpu).during("the transfer of the state")?;
                tensors.push((format!("{kind}/{name}"), tensor));
            }
        }
        let counts = format!("{} {} {}", self.step, self.skipped, self.optimizer.updates);
        let notes = HashMap::from([(SETTINGS.to_owned(), self.settings()), (COUNTS.to_owned(), counts)]);
        let bytes =
            safetensors::serialize(tensors, Some(notes)).map_err(|error| failed(error.to_string()))?;
        let folder = file.parent().unwrap_or(Path::new("."));
        let write = || -> std::io::Result<()> {
            std::fs::create_dir_all(folder)?;
            let mut whole = tempfile::NamedTempFile::new_in(folder)?;
            std::io::Write::write_all(&mut whole, &bytes)?;
            whole.persist(file).map_err(|error| error.error)?;
            Ok(())
        };
        write().map_err(|error| failed(error.to_string()))
    }

    /// Goes on from what [`Trainer::save_state`] wrote.
    ///
    /// # Errors
    /// When the file cannot be read, or was written with other settings or for another model.
    pub fn restore(&mut self, file: &Path) -> Result<(), TrainError> {
        let failed = |reason: String| TrainError::State { file: file.display().to_string(), reason };
        let bytes = std::fs::read(file).map_err(|error| failed(error.to_string()))?;
        let (_, head) =
            safetensors::SafeTensors::read_metadata(&bytes).map_err(|error| failed(error.to_string()))?;
        let note = |name: &str| head.metadata().as_ref().and_then(|notes| notes.get(name)).cloned();
        let settings = note(SETTINGS).ok_or_else(|| failed("it is no state of a training".to_owned()))?;
        if settings != self.settings() {
            return Err(failed(format!(
                "it was written with other settings: {settings}; now they are {}",
                self.settings()
            )));
        }
        let counts: Vec<usize> =
            note(COUNTS).unwrap_or_default().split(' ').filter_map(|count| count.parse().ok()).collect();
        let [step, skipped, updates] = counts[..] else { return Err(failed("it is damaged".to_owned())) };
        let mut tensors = candle_core::safetensors::load_buffer(&bytes, self.model.device())
            .map_err(|error| failed(error.to_string()))?;
        let mut take = |name: &str, shape: &[usize]| -> Result<Tensor, TrainError> {
            let found = tensors.remove(name).filter(|tensor| tensor.dims() == shape);
            found.ok_or_else(|| failed(format!("it has no `{name}` of this model's shape")))
        };
        for (index, Trained { name, var, .. }) in self.trained.iter().enumerate() {
            let value = take(&format!("value/{name}"), var.dims())?;
            var.set(&value).during("the transfer of the state")?;
            self.optimizer.means[index] = take(&format!("mean/{name}"), var.dims())?;
            self.optimizer.squares[index] = take(&format!("square/{name}"), var.dims())?;
        }
        (self.step, self.skipped, self.optimizer.updates) = (step, skipped, updates);
        Ok(())
    }

    fn settings(&self) -> String {
        format!("{} {:?}", self.base, self.options)
    }
}
