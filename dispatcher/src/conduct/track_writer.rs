//! Captions and chapters of the videos of a submission's runs. Rows are what a run is for: where these files cannot be written, or
//! not before the submission is to stop, they stay owed, and the next one that finds the videos done writes them.

use super::Way;
use crate::tracks;
use captionfleet_proto::layout;
use captionfleet_proto::manifest::RunManifest;
use captionfleet_proto::storage::Storage;
use std::sync::Arc;

/// Writes tracks, and says what is in the way.
pub struct TrackWriter<'a> {
    /// The open archive.
    pub archive: Arc<dyn Storage>,
    /// Its URI.
    pub location: String,
    /// How the submission is done.
    pub way: &'a Way,
}

impl TrackWriter<'_> {
    /// Writes the tracks of the finished videos of runs; where they are.
    pub async fn write<'m>(&self, runs: impl IntoIterator<Item = &'m RunManifest>) -> Vec<String> {
        let mut folders = Vec::new();
        for manifest in runs {
            let _busy = self.way.display.busy("writing captions of videos");
            let written = tokio::select! {
                written = tracks::write(&*self.archive, manifest, false) => written,
                () = self.way.stop.cancelled() => break,
            };
            match written {
                Ok(written) if written.videos > 0 => {
                    let prefix = layout::tracks_prefix(&manifest.run);
                    folders.push(format!("{}/{prefix}", self.location.trim_end_matches('/')));
                }
                Ok(_) => {}
                Err(error) => self.remark(&format!(
                    "captions of the videos of run {} cannot be written for now: {error:#}",
                    manifest.run
                )),
            }
        }
        folders
    }

    /// Writes those of runs that others have finished, as far as those have not; where they are.
    pub async fn write_owed(&self, films: &[RunManifest]) -> Vec<String> {
        let owed = tokio::select! {
            owed = tracks::owed(&*self.archive, films) => owed,
            () = self.way.stop.cancelled() => return Vec::new(),
        };
        match owed {
            Ok(owed) => self.write(owed).await,
            Err(error) => {
                self.remark(&format!("captions of earlier runs' videos may be missing: {error}"));
                Vec::new()
            }
        }
    }

    fn remark(&self, text: &str) {
        self.way.display.remark(text);
        self.way.watcher.remark(text);
    }
}
