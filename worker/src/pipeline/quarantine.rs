//! A job on which a process may have died is run item by item, behind a marker that survives the process.
//!
//! The marker names the item being tried, and is written before the attempt. Whoever finds a marker of another
//! life knows which item ended that life: it gets a failed row and is never tried again. While a job is in
//! quarantine nothing else runs in the process, so that the marker cannot accuse an item of another's deed. A drain
//! clears the name: ending in good order condemns nobody.

use bytes::Bytes;
use captionfleet_proto::layout;
use captionfleet_proto::storage::{PutMode, StorageErrorKind};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::drain::Drain;
use super::fetch::Facts;
use super::item::Mode;
use super::task::{Inferred, Received, Suspicion};
use super::{Failure, Pipeline};
use crate::telemetry::events;

/// No marker is larger: it may name every item of a job.
const MAX_MARKER_BYTES: u64 = 64 * 1024 * 1024;

/// What survives the process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Marker {
    /// The process that wrote it.
    life: String,
    /// When.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    written_at: Option<Timestamp>,
    /// Items that ended a process.
    #[serde(default)]
    condemned: Vec<Suspect>,
    /// The item being tried.
    #[serde(default)]
    trying: Option<Suspect>,
}

/// An item, by its place in the job; the name is for people, and guards against a marker of another job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Suspect {
    index: usize,
    item: String,
}

impl Marker {
    /// What a later life makes of it: the item being tried is to blame, unless it is this very process.
    fn inherited_by(mut self, life: &str) -> Self {
        if let Some(suspect) = self.trying.take()
            && self.life != life
            && !self.condemned.contains(&suspect)
        {
            self.condemned.push(suspect);
        }
        life.clone_into(&mut self.life);
        self
    }

    fn condemns(&self, suspect: &Suspect) -> bool {
        self.condemned.contains(suspect)
    }
}

impl Pipeline {
    /// The marker to go on with if the job belongs in quarantine.
    pub(super) async fn quarantine_of(&self, task: &Received) -> Result<Option<Marker>, Failure> {
        if task.suspicion == Suspicion::None {
            return Ok(None);
        }
        let found = match task.archive.get(&marker_key(task), MAX_MARKER_BYTES).await {
            // A marker that cannot be read is one that was torn: it condemns nobody.
            Ok(object) => Some(serde_json::from_slice::<Marker>(&object.bytes).unwrap_or_default()),
            Err(error) => match error.kind() {
                StorageErrorKind::NotFound | StorageErrorKind::PermissionDenied => None,
                _ => return Err(Failure::Archive(error)),
            },
        };
        let marker = match (found, task.suspicion) {
            (Some(marker), _) => marker,
            (None, Suspicion::Crash) => Marker::default(),
            (None, _) => return Ok(None),
        };
        Ok(Some(marker.inherited_by(&self.life)))
    }

    /// Does the items one after another, each behind the marker; `None` if the worker drains.
    pub(super) async fn run_in_quarantine(
        &self,
        task: Received,
        mut marker: Marker,
        drain: &Drain,
    ) -> Result<Option<Inferred>, Failure> {
        let _alone = tokio::select! {
            biased;
            () = drain.soft.cancelled() => return Ok(None),
            alone = self.isolation.write() => alone,
        };
        events::quarantine_started(&self.metrics, &task.run, &task.id, marker.condemned.len());
        let plan = self.plan(&task.caption);
        let mut rows = Vec::with_capacity(task.caption.items.len());
        for (index, item) in task.caption.items.iter().enumerate() {
            let suspect = Suspect { index, item: item.uri.to_string() };
            if marker.condemns(&suspect) {
                let message = "a worker process died while it worked on this item alone".to_owned();
                events::item_failed(&task.id, item.uri.as_str(), "worker_crash", &message);
                rows.push(self.failed_row(&task, item, Facts::planned(item), "worker_crash", message));
                continue;
            }
            marker.trying = Some(suspect);
            self.write_marker(&task, &mut marker).await?;
            let done = tokio::select! {
                done = self.run_item(&task, plan.as_ref(), item, Mode::Alone) => Some(done),
                () = drain.hard.cancelled() => None,
            };
            if let Some(Ok(done)) = done {
                rows.extend(done);
                continue;
            }
            marker.trying = None;
            if let Err(error) = self.write_marker(&task, &mut marker).await {
                events::marker_left(&task.id, &error);
            }
            return match done {
                Some(Err(failure)) => Err(failure),
                _ => Ok(None),
            };
        }
        // From here on a death is no item's fault.
        marker.trying = None;
        self.write_marker(&task, &mut marker).await?;
        Ok(Some(Inferred { task, rows, quarantined: true }))
    }

    async fn write_marker(&self, task: &Received, marker: &mut Marker) -> Result<(), Failure> {
        marker.written_at = Some(Timestamp::now());
        let text = serde_json::to_vec_pretty(marker).expect("a marker is plain data with text keys");
        let written = task.archive.put(&marker_key(task), Bytes::from(text), PutMode::Overwrite).await;
        written.map(|_| ()).map_err(Failure::Archive)
    }

    /// Removes the marker of a job whose part is durable. One that stays behind is harmless: the part is found first.
    pub(super) async fn remove_marker(&self, task: &Received) {
        if let Err(error) = task.archive.delete(&marker_key(task)).await {
            events::marker_left(&task.id, &error);
        }
    }
}

fn marker_key(task: &Received) -> String {
    layout::quarantine(&task.run, &task.id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marker(life: &str, trying: Option<usize>) -> Marker {
        let suspect = |index| Suspect { index, item: format!("s3://b/{index}") };
        Marker { life: life.to_owned(), trying: trying.map(suspect), ..Marker::default() }
    }

    #[test]
    fn another_life_condemns_what_was_being_tried() {
        let inherited = marker("one", Some(3)).inherited_by("two");
        assert_eq!(inherited.condemned.len(), 1);
        assert!(inherited.condemns(&Suspect { index: 3, item: "s3://b/3".to_owned() }));
        assert_eq!(inherited.trying, None);
        let mut again = inherited;
        again.trying = Some(Suspect { index: 5, item: "s3://b/5".to_owned() });
        assert_eq!(again.inherited_by("three").condemned.len(), 2);
    }

    #[test]
    fn neither_a_drain_nor_the_same_life_condemns() {
        assert!(marker("one", None).inherited_by("two").condemned.is_empty());
        assert!(marker("one", Some(3)).inherited_by("one").condemned.is_empty());
    }
}
