//! What is wanted of every picture.

use captionfleet_proto::job::{JobAdapter, Prompt, Sampling};
use captionfleet_proto::manifest::RunManifest;

/// What is asked about every picture, and by which model.
#[derive(Debug, Clone, PartialEq)]
pub struct Wish {
    /// Caption, question or raw prompt.
    pub prompt: Prompt,
    /// Longest answer in tokens.
    pub max_tokens: Option<u32>,
    /// The adapter that the model shall use.
    pub adapter: Option<JobAdapter>,
    /// Whether rows need an embedding.
    pub embed: bool,
    /// The bundle that must serve; `None` takes whatever the workers have.
    pub bundle: Option<String>,
    /// Which frames of videos become rows.
    pub sample: Sampling,
    /// Whether captioned frames of videos must have been kept as small pictures.
    pub thumbnails: bool,
}

impl Wish {
    /// See [`Prompt::prompt_hash`] and [`JobAdapter::prompt_hash`].
    pub fn prompt_hash(&self) -> String {
        JobAdapter::prompt_hash(self.adapter.as_ref(), self.prompt.prompt_hash(self.max_tokens))
    }

    /// Whether rows made as stated also answer this wish.
    pub fn is_met_by(&self, prompt_hash: &str, bundle: Option<&str>, embedded: bool) -> bool {
        let bundle_fits = self.bundle.is_none() || bundle.is_none() || self.bundle.as_deref() == bundle;
        prompt_hash == self.prompt_hash() && bundle_fits && (embedded || !self.embed)
    }

    /// Whether a run answers this wish, its videos included.
    pub fn is_met_by_run(&self, run: &RunManifest) -> bool {
        let are_kept = !self.thumbnails || run.thumbnails == Some(true);
        let same_frames = run.sample.is_none_or(|sample| sample == self.sample && are_kept);
        self.is_met_by(&run.prompt_hash, run.bundle.as_deref(), run.embed) && same_frames
    }
}
