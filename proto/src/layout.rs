//! The only speller of object keys inside an archive.
//!
//! ```text
//! runs/RUN.json                  manifest of a run
//! runs/RUN/items-00000.parquet   its items, in plan order, split over numbered files
//! runs/RUN/cancelled             there while the run is cancelled: workers drop its jobs
//! runs/RUN/paused                there while whoever publishes the run holds its jobs back
//! parts/RUN/JOB.parquet          the rows of one job
//! quarantine/RUN/JOB.json        marker of a job that is being run item by item
//! unfinished/RUN/JOB.parquet     rows of a job that was held for as long as a worker holds one, until its part is there
//! staged/ab/abcdef…              a local picture copied for remote workers, by its sha256
//! adapters/abcdef…/NAME          a local adapter copied for remote workers, by its digest
//! queries/ab/abcdef…             a picture given to a search, by its sha256
//! queries/answers/               an archive for answers to questions about one picture, each gone once it was read
//! videos/RUN/NAME.HASH.vtt       captions of one finished video; chapters (.chapters.vtt), SubRip (.srt)
//! videos/RUN/videos.parquet      the videos of a run, once all of them are finished
//! thumbnails/HASH/CONTENT/MS.jpg a frame of a video, small, by its URI and by the bytes that it had
//! forgotten/ITEM/CONTENT         there for good: no run captions this item again as long as it has these bytes
//! evaluations/RUN/               report.md, report.json and plot.svg of a benchmark's run
//! index/SPACE/NAME.segment       one segment of the search index of one embedding space
//! index/lease.json               who writes the search index
//! ```

use sha2::{Digest, Sha256};

use crate::job::{JobId, RunId};
use crate::uri::ItemUri;

/// The first segments of all keys: a listing of sources in the same place leaves them out.
pub const TOP_FOLDERS: [&str; 12] = [
    "runs",
    "parts",
    "quarantine",
    "unfinished",
    "staged",
    "adapters",
    "queries",
    "videos",
    "thumbnails",
    "forgotten",
    "index",
    "evaluations",
];
/// Everything that describes runs.
pub const RUNS_PREFIX: &str = "runs/";
/// Where the search index keeps its segments.
pub const INDEX_PREFIX: &str = "index/";
/// Everything that marks items as forgotten.
pub const FORGOTTEN_PREFIX: &str = "forgotten/";
/// Who writes the search index.
pub const INDEX_LEASE: &str = "index/lease.json";

/// Pictures given to searches, and what is kept for an answer.
pub const QUERIES_PREFIX: &str = "queries/";
/// The archive, inside this one, that answers to single questions go through.
pub const ANSWERS: &str = "queries/answers";

const PARTS: &str = "parts/";
const MANIFEST_SUFFIX: &str = ".json";
const PART_SUFFIX: &str = ".parquet";
const SEGMENT_SUFFIX: &str = ".segment";

/// Key of a file of a benchmark's report.
pub fn evaluation(run: &RunId, file: &str) -> String {
    format!("evaluations/{run}/{file}")
}

/// Manifest of a run.
pub fn run_manifest(run: &RunId) -> String {
    format!("{RUNS_PREFIX}{run}{MANIFEST_SUFFIX}")
}

/// The run whose manifest lies at `key`, if that is what the key names.
pub fn run_of_manifest(key: &str) -> Option<RunId> {
    RunId::new(key.strip_prefix(RUNS_PREFIX)?.strip_suffix(MANIFEST_SUFFIX)?).ok()
}

/// The `number`-th file of a run's items table, counted from zero.
pub fn run_items(run: &RunId, number: u32) -> String {
    format!("{}items-{number:05}.parquet", run_items_prefix(run))
}

/// There while a run is cancelled: workers drop its jobs.
pub fn run_cancelled(run: &RunId) -> String {
    format!("{}cancelled", run_items_prefix(run))
}

/// There while whoever publishes a run holds its jobs back.
pub fn run_paused(run: &RunId) -> String {
    format!("{}paused", run_items_prefix(run))
}

/// What the keys of a run's items files begin with.
pub fn run_items_prefix(run: &RunId) -> String {
    format!("{RUNS_PREFIX}{run}/")
}

/// The rows of one job.
pub fn part(run: &RunId, job: &JobId) -> String {
    format!("{PARTS}{run}/{job}{PART_SUFFIX}")
}

/// What the keys of a run's parts begin with, or those of all runs.
pub fn parts_prefix(run: Option<&RunId>) -> String {
    run.map_or_else(|| PARTS.to_owned(), |run| format!("{PARTS}{run}/"))
}

/// The run and job whose part lies at `key`, if that is what the key names.
pub fn job_of_part(key: &str) -> Option<(RunId, JobId)> {
    let (run, file) = key.strip_prefix(PARTS)?.split_once('/')?;
    Some((RunId::new(run).ok()?, JobId::new(file.strip_suffix(PART_SUFFIX)?).ok()?))
}

/// Marker of a job that is being run item by item, because a process died on it.
pub fn quarantine(run: &RunId, job: &JobId) -> String {
    format!("quarantine/{run}/{job}.json")
}

/// What is done of a job that is not done yet: rows of some of its items.
pub fn unfinished(run: &RunId, job: &JobId) -> String {
    format!("unfinished/{run}/{job}{PART_SUFFIX}")
}

/// A local picture copied into the archive for workers on other machines.
///
/// `sha256` is 64 lowercase hexadecimal digits; the first two spread the objects over folders.
pub fn staged(sha256: &str) -> String {
    by_digest("staged", sha256)
}

/// The folder of a local adapter copied into the archive for workers on other machines.
pub fn adapter_folder(sha256: &str) -> String {
    format!("adapters/{sha256}")
}

/// A file of such an adapter.
pub fn adapter_file(sha256: &str, name: &str) -> String {
    format!("{}/{name}", adapter_folder(sha256))
}

/// A picture given to a search, kept while its query job runs.
pub fn query_image(sha256: &str) -> String {
    by_digest("queries", sha256)
}

/// What is kept of a finished video for players.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Track {
    /// WebVTT captions.
    Captions,
    /// WebVTT chapters.
    Chapters,
    /// SubRip captions.
    Srt,
}

/// A file of one finished video, under a name that people recognise and no other video of the run has.
pub fn track(run: &RunId, video: &ItemUri, track: Track) -> String {
    let name = video.as_str().rsplit('/').next().unwrap_or_default();
    let name: String = name
        .chars()
        .map(|letter| if letter.is_ascii_alphanumeric() || ".-_".contains(letter) { letter } else { '_' })
        .take(80)
        .collect();
    let name = name.trim_start_matches('.');
    let digest = hex::encode(Sha256::digest(video.as_str()));
    let suffix = match track {
        Track::Captions => "vtt",
        Track::Chapters => "chapters.vtt",
        Track::Srt => "srt",
    };
    format!("{}{name}.{}.{suffix}", tracks_prefix(run), &digest[..8])
}

/// What the keys of a run's tracks begin with.
pub fn tracks_prefix(run: &RunId) -> String {
    format!("videos/{run}/")
}

/// A frame of a video as a small picture. `content` is what [`content_key`] makes of the frame's row: the frames of a film that
/// was replaced do not stand for those of the new one.
pub fn thumbnail(video: &ItemUri, content: u64, frame_ms: u64) -> String {
    format!("{}{}/{frame_ms}.jpg", thumbnails_prefix(video), hex::encode(content.to_le_bytes()))
}

/// What the keys of a video's frames begin with, whatever bytes it had.
pub fn thumbnails_prefix(video: &ItemUri) -> String {
    format!("thumbnails/{}/", digest_of(video))
}

/// There for good: no run captions this item again as long as it has the bytes that `content`, made by [`content_key`], stands for.
pub fn forgotten(item: &ItemUri, content: u64) -> String {
    format!("{}{}", forgotten_prefix(item), hex::encode(content.to_le_bytes()))
}

/// What [`forgotten`] begins with, whatever bytes the item had.
pub fn forgotten_prefix(item: &ItemUri) -> String {
    format!("{FORGOTTEN_PREFIX}{}/", digest_of(item))
}

/// The first 16 digits of the SHA-256 of an item's URI.
fn digest_of(item: &ItemUri) -> String {
    hex::encode(&Sha256::digest(item.as_str())[..8])
}

/// What rows of the same bytes have in common, from their digest or, where there is none, their version; 0 without either.
pub fn content_key(sha256: Option<&str>, etag: Option<&str>) -> u64 {
    let Some(content) = sha256.or(etag) else { return 0 };
    let mut key = [0; 8];
    key.copy_from_slice(&Sha256::digest(content)[..8]);
    u64::from_le_bytes(key).max(1)
}

/// The table of a run's videos, there once all of them are finished.
pub fn videos(run: &RunId) -> String {
    format!("{}videos.parquet", tracks_prefix(run))
}

/// A segment of the search index. `space` and `name` are hexadecimal digits.
pub fn index_segment(space: &str, name: &str) -> String {
    format!("{INDEX_PREFIX}{space}/{name}{SEGMENT_SUFFIX}")
}

/// Whether a segment of the search index lies at `key`.
pub fn is_index_segment(key: &str) -> bool {
    key.strip_prefix(INDEX_PREFIX).is_some_and(|rest| {
        rest.strip_suffix(SEGMENT_SUFFIX)
            .and_then(|rest| rest.split_once('/'))
            .is_some_and(|(space, name)| [space, name].iter().all(|part| is_hexadecimal(part)))
    })
}

fn is_hexadecimal(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn by_digest(folder: &str, sha256: &str) -> String {
    format!("{folder}/{}/{sha256}", sha256.get(..2).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn spells_what_the_design_says() {
        let (run, job) = (RunId::new("r1").unwrap(), JobId::new("00000007-abc").unwrap());
        assert_eq!(run_manifest(&run), "runs/r1.json");
        assert_eq!(run_items(&run, 12), "runs/r1/items-00012.parquet");
        assert_eq!(
            (run_cancelled(&run), run_paused(&run)),
            ("runs/r1/cancelled".into(), "runs/r1/paused".into())
        );
        assert_eq!(part(&run, &job), "parts/r1/00000007-abc.parquet");
        assert_eq!(quarantine(&run, &job), "quarantine/r1/00000007-abc.json");
        assert_eq!(parts_prefix(None), "parts/");
        assert_eq!(parts_prefix(Some(&run)), "parts/r1/");
        assert_eq!(staged("abcdef"), "staged/ab/abcdef");
        assert_eq!(query_image("abcdef"), "queries/ab/abcdef");
        let film = ItemUri::s3("b", "films/über den Dächern.mp4");
        assert_eq!(
            track(&run, &film, Track::Captions),
            "videos/r1/_C3_BCber_20den_20D_C3_A4chern.mp4.21628bc0.vtt"
        );
        assert_eq!(videos(&run), "videos/r1/videos.parquet");
        // The first digits of the SHA-256 of "aa", of "bb", and none.
        let frame = |sha256, etag| thumbnail(&film, content_key(sha256, etag), 40);
        assert_eq!(frame(Some("aa"), Some("bb")), "thumbnails/21628bc0d91ef39c/961b6dd3ede3cb8e/40.jpg");
        assert_eq!(frame(None, Some("bb")), "thumbnails/21628bc0d91ef39c/3b64db95cb55c763/40.jpg");
        assert_eq!(
            forgotten(&film, content_key(Some("aa"), None)),
            "forgotten/21628bc0d91ef39c/961b6dd3ede3cb8e"
        );
        assert_eq!(thumbnails_prefix(&film), "thumbnails/21628bc0d91ef39c/");
        assert_eq!(frame(None, None), "thumbnails/21628bc0d91ef39c/0000000000000000/40.jpg");
        assert_eq!(index_segment("0a", "1b"), "index/0a/1b.segment");
    }

    #[test]
    fn reads_back_its_own_keys_and_no_others() {
        let (run, job) = (RunId::new("r.1").unwrap(), JobId::new("7.parquet").unwrap());
        assert_eq!(job_of_part(&part(&run, &job)), Some((run.clone(), job)));
        assert_eq!(run_of_manifest(&run_manifest(&run)), Some(run.clone()));
        assert_eq!(run_of_manifest(&run_items(&run, 0)), None);
        assert!(is_index_segment(&index_segment("0a", "1b")));
        assert!(!is_index_segment(INDEX_LEASE) && !is_index_segment("index/../1b.segment"));
        for stranger in
            ["parts/r/x.csv", "parts/x.parquet", "parts/r/a/b.parquet", "runs/r.json", "parts/../x.parquet"]
        {
            assert_eq!(job_of_part(stranger), None, "{stranger}");
        }
    }
}
