//! A job before it is a message.

use crate::scale::price::Kind;
use captionfleet_proto::job::{JobId, JobItem};

/// A slice of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct PlannedJob {
    /// Its id, which depends on nothing but its content.
    pub id: JobId,
    /// Its items.
    pub items: Vec<JobItem>,
    /// Whether a worker may have begun it: it is of an earlier run, whose archive may hold something of it.
    pub begun: bool,
}

impl PlannedJob {
    /// About how many pictures and frames it will look at.
    pub fn weight(&self) -> u64 {
        self.items.iter().map(weight).sum()
    }

    /// What kind of work it is.
    pub fn kind(&self) -> Kind {
        let is_film = self.items.iter().any(|item| item.sample.is_some());
        if is_film { Kind::Films } else { Kind::Pictures }
    }
}

/// About how many pictures and frames an item has to look at.
pub(crate) fn weight(item: &JobItem) -> u64 {
    let Some(sample) = &item.sample else { return 1 };
    let rest = || item.film_ms.map(|end| end.saturating_sub(item.frame_ms.unwrap_or(0)));
    sample.frames_in(item.span_ms.or_else(rest).unwrap_or(0))
}
