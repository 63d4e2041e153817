//! A job on which a process may have died is run item by item, behind a marker that survives the process.
//!
//! The marker names the item being tried, and is written before the attempt. While a job is in quarantine nothing else
//! runs in the process, so that the marker cannot accuse an item of another's deed. A process that dies by its own fault
//! (an abort, a segmentation fault) condemns the item with its last words: it gets a failed row and is never tried
//! again. A life that ended without a word may have been ended from outside, by `kill -9` or with its machine, and that
//! is no item's fault: the item is tried again, before all others, and is condemned when a third life ends over it. (With
//! two, a storm of random kills has met an innocent picture twice.)
//! A device that breaks is no better a witness: it counts as such a life, and once for each machine.
//! A drain clears the name: ending in good order condemns nobody.
//!
//! Where the queue lives in the process nobody is left who knows that it died: its last words leave a marker for every job in hand,
//! and whoever continues the run finds them.

use bytes::Bytes;
use captionfleet_proto::layout;
use captionfleet_proto::storage::{PutMode, StorageErrorKind};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::drain::Drain;
use super::fetch::Facts;
use super::infer::Mode;
use super::task::{Course, Inferred, Received, Suspicion};
use super::turn::Turn;
use super::{Failure, Pipeline};
use crate::engine::EngineError;
use crate::last_words::LastWords;
use crate::machine;
use crate::telemetry::{events, spans};

/// No marker is larger: it may name every item of a job.
const MAX_MARKER_BYTES: u64 = 64 * 1024 * 1024;

/// So many lives must end over an item without a word to condemn it.
const SILENT_DEATHS: usize = 3;

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
    /// Items over which the device hung.
    #[serde(default)]
    hung: Vec<Suspect>,
    /// Items over which a process ended, nobody knows why: once for each time.
    #[serde(default)]
    suspected: Vec<Suspect>,
    /// Devices that broke over an item.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    broken: Vec<BrokenDevice>,
    /// The item being tried.
    #[serde(default)]
    trying: Option<Suspect>,
}

/// A device that broke while an item was tried on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct BrokenDevice {
    machine: String,
    suspect: Suspect,
}

/// An item, by its place in the job; the name is for people, and guards against a marker of another job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Suspect {
    index: usize,
    item: String,
}

impl Marker {
    /// What a later life makes of it: nobody knows why the one before ended.
    fn inherited_by(mut self, life: &str) -> Self {
        if let Some(suspect) = self.trying.take()
            && self.life != life
            && !self.condemned.contains(&suspect)
        {
            self.suspect(suspect);
        }
        life.clone_into(&mut self.life);
        self
    }

    /// The device of a machine breaks over the item being tried. One that passes its test at the start and breaks again does so
    /// over whatever it is given: only the first time speaks against the item.
    fn device_broke(&mut self, machine: &str) {
        let Some(suspect) = self.trying.take() else { return };
        let found = BrokenDevice { machine: machine.to_owned(), suspect };
        if !self.broken.contains(&found) {
            self.suspect(found.suspect.clone());
            self.broken.push(found);
        }
    }

    fn suspect(&mut self, suspect: Suspect) {
        self.suspected.push(suspect.clone());
        if self.suspected.iter().filter(|other| **other == suspect).count() >= SILENT_DEATHS {
            self.condemn(suspect);
        }
    }

    /// The marker that a process leaves which dies by its own fault.
    fn last_words(&self) -> Self {
        let mut last = self.clone();
        if let Some(suspect) = last.trying.take() {
            last.condemn(suspect);
        }
        last
    }

    fn condemn(&mut self, suspect: Suspect) {
        self.suspected.retain(|other| *other != suspect);
        self.condemned.push(suspect);
    }

    /// Code and message of an item that must not be tried again.
    fn verdict_on(&self, suspect: &Suspect) -> Option<(&'static str, &'static str)> {
        if self.condemned.contains(suspect) {
            return Some(("worker_crash", "a worker process died while it worked on this item alone"));
        }
        self.hung
            .contains(suspect)
            .then_some(("deadline", "the device hung while it worked on this item alone"))
    }

    /// The items' indices in the order in which they are tried: those first that may end this life, too, so that a
    /// life that ends soon for another reason does not meet them by chance.
    fn order(&self, items: usize) -> Vec<usize> {
        let suspected = |index: &usize| self.suspected.iter().any(|suspect| suspect.index == *index);
        let (first, rest): (Vec<usize>, Vec<usize>) = (0..items).partition(suspected);
        [first, rest].concat()
    }

    fn bytes(&self) -> Bytes {
        serde_json::to_vec_pretty(self).expect("a marker is plain data with text keys").into()
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
                StorageErrorKind::Damaged => Some(Marker::default()),
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

    /// Does the items one after another, each behind the marker, those that no earlier turn has done.
    pub(super) async fn run_in_quarantine(
        &self,
        task: Received,
        mut marker: Marker,
        turn: Turn,
        drain: &Drain,
    ) -> Result<Course, Failure> {
        let _alone = tokio::select! {
            biased;
            () = drain.soft.cancelled() => return Ok(Course::Drained),
            alone = self.isolation.write() => alone,
            () = turn.over() => return Ok(Course::TurnOver),
        };
        events::quarantine_started(&self.metrics, &task.run, &task.id, marker.condemned.len());
        let mut done = self.pick_up(&task).await?;
        let plan = self.plan(&task.caption).await?;
        let items = task.caption.items.len();
        let is_done = done.which(items);
        for index in marker.order(items).into_iter().filter(|index| !is_done[*index]) {
            if turn.is_over() && done.has_new() {
                // Nobody shall be accused of what happens between two turns.
                marker.trying = None;
                self.write_marker(&task, &mut marker).await?;
                self.put_down(&task, done).await?;
                return Ok(Course::TurnOver);
            }
            let item = &task.caption.items[index];
            let suspect = Suspect { index, item: item.uri.to_string() };
            if let Some((code, message)) = marker.verdict_on(&suspect) {
                let span = tracing::info_span!(target: spans::TARGET, "item", item.uri = %item.uri);
                span.in_scope(|| events::item_failed(&task.id, item.uri.as_str(), code, message));
                let row = self.failed_row(&task, item, Facts::planned(item), code, message.to_owned());
                done.add(index, vec![row]);
                continue;
            }
            marker.trying = Some(suspect);
            self.write_marker(&task, &mut marker).await?;
            let last_words = last_words(&task, &marker);
            let rows = tokio::select! {
                // What the item came to goes before the drain that may follow from it.
                biased;
                rows = self.run_item(&task, plan.as_ref(), item, Mode::Alone) => Some(rows),
                () = drain.hard.cancelled() => None,
            };
            drop(last_words);
            if let Some(Ok(rows)) = rows {
                done.add(index, rows);
                continue;
            }
            // A device may break by itself, as a process may end without a word: then the item is only suspected.
            if self.engine.is_broken() {
                marker.device_broke(&machine::host_name());
            } else {
                let tried = marker.trying.take();
                if let Some(Err(Failure::Engine(EngineError::Hung { .. }))) = &rows {
                    marker.hung.extend(tried);
                }
            }
            if let Err(error) = self.write_marker(&task, &mut marker).await {
                events::marker_left(&task.id, &error);
            }
            self.keep(&task, done).await;
            return match rows {
                Some(Err(failure)) => Err(failure),
                _ => Ok(Course::Drained),
            };
        }
        // From here on a death is no item's fault.
        marker.trying = None;
        self.write_marker(&task, &mut marker).await?;
        Ok(Course::Whole(Box::new(Inferred { task, rows: done.into_rows() })))
    }

    /// What this process says of a job that it does in company, should it die by its own fault: a marker that names nobody. A
    /// broker flags what a dead process had in hand, but one that lives in the process dies with it.
    pub(super) fn words_of_company(&self, task: &Received) -> Option<LastWords> {
        let marker = Marker { life: self.life.clone(), ..Marker::default() };
        self.broker.is_local().then(|| last_words(task, &marker))
    }

    async fn write_marker(&self, task: &Received, marker: &mut Marker) -> Result<(), Failure> {
        marker.written_at = Some(Timestamp::now());
        let written = task.archive.put(&marker_key(task), marker.bytes(), PutMode::Overwrite).await;
        written.map(|_| ()).map_err(Failure::Archive)
    }
}

/// Leaves the marker if this process dies by its own fault, and condemns the item being tried.
fn last_words(task: &Received, marker: &Marker) -> LastWords {
    let (archive, key) = (std::sync::Arc::clone(&task.archive), marker_key(task));
    let bytes = marker.last_words().bytes();
    LastWords::prepare(move || {
        let (archive, key, bytes) = (std::sync::Arc::clone(&archive), key.clone(), bytes.clone());
        async move {
            if let Err(error) = archive.put(&key, bytes, PutMode::Overwrite).await {
                events::last_words_lost(&key, &error);
            }
        }
    })
}

fn marker_key(task: &Received) -> String {
    layout::quarantine(&task.run, &task.id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marker(life: &str, trying: Option<usize>) -> Marker {
        Marker { life: life.to_owned(), trying: trying.map(suspect), ..Marker::default() }
    }

    fn suspect(index: usize) -> Suspect {
        Suspect { index, item: format!("s3://b/{index}") }
    }

    #[test]
    fn a_third_life_that_ends_without_a_word_condemns() {
        let once = marker("one", Some(3)).inherited_by("two");
        assert_eq!((once.condemned.len(), &once.suspected, &once.trying), (0, &vec![suspect(3)], &None));
        assert_eq!(once.order(5), [3, 0, 1, 2, 4]);
        let again = |mut earlier: Marker, index, life| {
            earlier.trying = Some(suspect(index));
            earlier.inherited_by(life)
        };
        let twice = again(once.clone(), 3, "three");
        assert!(twice.verdict_on(&suspect(3)).is_none() && twice.order(5)[0] == 3);
        let thrice = again(twice, 3, "four");
        assert!(thrice.verdict_on(&suspect(3)).is_some() && thrice.suspected.is_empty());
        let other = again(again(once, 4, "three"), 5, "four");
        assert_eq!((other.condemned.len(), other.suspected.len()), (0, 3));
    }

    #[test]
    fn a_device_that_breaks_again_and_again_is_one_witness() {
        let break_on = |marker: &mut Marker, machine, index| {
            marker.trying = Some(suspect(index));
            marker.device_broke(machine);
        };
        let mut innocent = marker("one", None);
        for _ in 0..5 {
            break_on(&mut innocent, "a", 3);
            innocent = innocent.inherited_by("two");
        }
        assert_eq!((innocent.verdict_on(&suspect(3)), &innocent.suspected), (None, &vec![suspect(3)]));
        break_on(&mut innocent, "a", 4);
        break_on(&mut innocent, "b", 3);
        assert!(innocent.condemned.is_empty() && innocent.order(5) == [3, 4, 0, 1, 2]);
        break_on(&mut innocent, "c", 3);
        assert_eq!(innocent.condemned, [suspect(3)], "three machines say the same");
    }

    #[test]
    fn last_words_condemn_at_once() {
        let last = marker("one", Some(3)).last_words().inherited_by("two");
        assert!(last.verdict_on(&suspect(3)).is_some() && last.suspected.is_empty());
    }

    #[test]
    fn neither_a_drain_nor_the_same_life_condemns() {
        for marker in [marker("one", None).inherited_by("two"), marker("one", Some(3)).inherited_by("one")] {
            assert!(marker.condemned.is_empty() && marker.suspected.is_empty());
        }
    }
}
