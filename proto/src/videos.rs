//! The table of a run's videos: one row each, with what it comes to and where its captions are.

use std::sync::Arc;

use arrow_array::builder::{ListBuilder, StringBuilder};
use arrow_array::{Array, ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow_schema::{Field, FieldRef};
use bytes::Bytes;

use crate::table::{self, Format, TableError};
use crate::uri::ItemUri;

/// One finished video.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VideoRow {
    /// Its name.
    pub item: ItemUri,
    /// Where its last row ends, in milliseconds.
    pub duration_ms: u64,
    /// Frames that were looked at.
    pub frames_seen: u64,
    /// Those that have a row.
    pub frames_kept: u64,
    /// Its failed rows.
    pub failed: u64,
    /// Its chapters.
    pub chapters: u64,
    /// Its most typical captions, in the order of the video.
    pub summary: Vec<String>,
    /// Key of its captions in the archive.
    pub captions: String,
}

const COLUMNS: [&str; 8] =
    ["item", "duration_ms", "frames_seen", "frames_kept", "failed", "chapters", "summary", "captions"];
const FORMAT: Format = Format { kind: "videos", repetitive: &[], dense: None };

/// Writes the table, columns in the order of [`VideoRow`]'s fields. Equal videos yield equal bytes.
pub fn write_videos(videos: &[VideoRow]) -> Result<Bytes, TableError> {
    let mut summaries = ListBuilder::new(StringBuilder::new());
    for video in videos {
        video.summary.iter().for_each(|caption| summaries.values().append_value(caption));
        summaries.append(true);
    }
    let number = |value: fn(&VideoRow) -> u64| -> ArrayRef {
        Arc::new(
            videos
                .iter()
                .map(|video| i64::try_from(value(video)).unwrap_or(i64::MAX))
                .collect::<Int64Array>(),
        )
    };
    let columns: Vec<ArrayRef> = vec![
        Arc::new(videos.iter().map(|video| Some(video.item.as_str())).collect::<StringArray>()),
        number(|video| video.duration_ms),
        number(|video| video.frames_seen),
        number(|video| video.frames_kept),
        number(|video| video.failed),
        number(|video| video.chapters),
        Arc::new(summaries.finish()),
        Arc::new(videos.iter().map(|video| Some(video.captions.as_str())).collect::<StringArray>()),
    ];
    let fields = COLUMNS
        .into_iter()
        .zip(&columns)
        .map(|(name, column)| Arc::new(Field::new(name, column.data_type().clone(), false)) as FieldRef);
    let schema = table::schema_of(fields);
    table::write(&RecordBatch::try_new(schema, columns).map_err(TableError::parquet)?, &FORMAT)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use arrow_array::cast::AsArray;

    use super::*;
    use crate::table::Cells;

    fn read_videos(bytes: Bytes) -> Result<Vec<VideoRow>, TableError> {
        table::read(bytes, &COLUMNS, append, Vec::new())
    }

    fn append(videos: &mut Vec<VideoRow>, batch: &RecordBatch, before: usize) -> Result<(), TableError> {
        let cells = Cells { batch, before };
        let (item, captions) = (cells.text("item")?, cells.text("captions")?);
        let (duration, failed) = (cells.number("duration_ms")?, cells.number("failed")?);
        let (seen, kept) = (cells.number("frames_seen")?, cells.number("frames_kept")?);
        let chapters = cells.number("chapters")?;
        let wrong = || TableError::Column { column: "summary", problem: "is no list of strings".to_owned() };
        let summaries = batch
            .column_by_name("summary")
            .and_then(|column| column.as_list_opt::<i32>())
            .ok_or_else(wrong)?;
        for row in 0..batch.num_rows() {
            let summary = summaries.value(row);
            let summary = summary.as_string_opt::<i32>().ok_or_else(wrong)?;
            videos.push(VideoRow {
                item: item.parsed(row)?,
                duration_ms: duration.required(row)?,
                frames_seen: seen.required(row)?,
                frames_kept: kept.required(row)?,
                failed: failed.required(row)?,
                chapters: chapters.required(row)?,
                summary: summary.iter().flatten().map(str::to_owned).collect(),
                captions: captions.required(row)?.to_owned(),
            });
        }
        Ok(())
    }

    #[test]
    fn reads_back_what_it_wrote() {
        let video = |name: &str, summary: &[&str]| VideoRow {
            item: ItemUri::s3("b", name),
            duration_ms: 7_200_040,
            frames_seen: 7200,
            frames_kept: 130,
            failed: 1,
            chapters: 12,
            summary: summary.iter().map(|text| (*text).to_owned()).collect(),
            captions: "videos/r/a.vtt".to_owned(),
        };
        let videos = vec![video("a.mp4", &["a boat", "a möwe"]), video("b.mp4", &[])];
        assert_eq!(read_videos(write_videos(&videos).unwrap()).unwrap(), videos);
    }
}
