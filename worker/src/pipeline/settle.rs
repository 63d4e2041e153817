//! Rows become a part, durable before anything else is said about the job. No tensors.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use captionfleet_proto::layout;
use captionfleet_proto::rows::write_part;
use captionfleet_proto::storage::{PutMode, Storage};

use super::outcome::outcome_of;
use super::patience::Patience;
use super::task::{Inferred, Settled};
use super::turn::{Turn, clear_away};
use super::{Failure, Pipeline};
use crate::telemetry::events::{self, HostStage};

impl Pipeline {
    /// Writes the part and removes what earlier hand-overs left of the job. The delivery is acked by the caller, last of all.
    pub(super) async fn settle(&self, inferred: Inferred, turn: Turn) -> Result<Settled, Failure> {
        let Inferred { task, rows } = inferred;
        let part = layout::part(&task.run, &task.id);
        let started = Instant::now();
        let outcome = outcome_of(&task, &rows, part.clone(), &self.options.worker_name, false);
        let shape = self.embedding_shape();
        let bytes = tokio::task::spawn_blocking(move || write_part(&rows, shape))
            .await
            .map_err(|error| Failure::Panicked(error.to_string()))?
            .map_err(|source| Failure::Part { part: part.clone(), source })?;
        self.put_patiently(&task.archive, &part, bytes, turn).await?;
        events::stage(&self.metrics, HostStage::Write, started.elapsed());
        clear_away(&task).await;
        Ok(Settled { outcome })
    }

    /// Stores a finished part; what it took to make it is worth waiting for the archive as long as a job is held. Meanwhile
    /// the worker takes no more jobs than it has in hand.
    async fn put_patiently(
        &self,
        archive: &Arc<dyn Storage>,
        key: &str,
        bytes: Bytes,
        turn: Turn,
    ) -> Result<(), Failure> {
        let mut patience = Patience::new(self.options.room_patience.max(turn.left()));
        loop {
            // An existing part is as good: it was made from the same message.
            let Err(error) = archive.put(key, bytes.clone(), PutMode::IfAbsent).await else {
                self.archive_takes_parts(&**archive);
                return Ok(());
            };
            if !error.is_outage() {
                return Err(Failure::Archive(error));
            }
            self.archive_is_away(archive, &error);
            let Some(pause) = patience.pause() else { return Err(Failure::Archive(error)) };
            events::storage_retry(key, &error);
            tokio::time::sleep(pause).await;
        }
    }
}
