//! What is done of a job that is not done yet: a part that notes which rows are whose. Neither can be told by the rows: a segment
//! of a video may have a row that begins behind its end, or no rows at all.

use bytes::Bytes;

use super::column::FORMAT;
use super::write::batch_of;
use super::{EmbeddingShape, Projection, Row, TableError, read_part};
use crate::table;

/// Key of the note: pairs of an item's place in its job and the number of its rows, in the order of both.
const ITEMS_KEY: &str = "captionfleet.items";

/// Encodes the rows of the items that are done, each with its place in the job. Checks what [`super::write_part`] checks.
pub fn write_unfinished(
    mut items: Vec<(usize, Vec<Row>)>,
    shape: EmbeddingShape,
) -> Result<Bytes, TableError> {
    items.sort_unstable_by_key(|(at, _)| *at);
    let counts: Vec<(usize, usize)> = items.iter().map(|(at, rows)| (*at, rows.len())).collect();
    let note = serde_json::to_string(&counts).expect("pairs of numbers are JSON");
    let rows: Vec<Row> = items.into_iter().flat_map(|(_, rows)| rows).collect();
    table::write_noted(&batch_of(&rows, shape)?, &FORMAT, Some((ITEMS_KEY, note)))
}

/// Reads what [`write_unfinished`] wrote, in the order of the items' places; none comes twice.
///
/// # Errors
/// Also when nothing says which rows are whose, as in what earlier versions wrote.
pub fn read_unfinished(bytes: Bytes) -> Result<Vec<(usize, Vec<Row>)>, TableError> {
    let note = table::note(&bytes, ITEMS_KEY)?;
    let note = note.ok_or_else(|| TableError::damaged("nothing says which rows are whose"))?;
    let counts: Vec<(usize, usize)> = serde_json::from_str(&note).map_err(TableError::parquet)?;
    if !counts.is_sorted_by(|(before, _), (at, _)| before < at) {
        return Err(TableError::damaged("an item is named twice"));
    }
    let mut rows = read_part(bytes, Projection::All)?.into_iter();
    let wrong = || TableError::damaged("the items have not as many rows as there are");
    let mut items = Vec::with_capacity(counts.len());
    for (at, count) in counts {
        let own: Vec<Row> = rows.by_ref().take(count).collect();
        if own.len() != count {
            return Err(wrong());
        }
        items.push((at, own));
    }
    if rows.next().is_some() {
        return Err(wrong());
    }
    Ok(items)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::rows::{read_shaped_part, write_part};

    fn examples() -> (Vec<Row>, EmbeddingShape) {
        let bytes = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/golden/part.parquet")).unwrap();
        let (rows, shape) = read_shaped_part(bytes.into()).unwrap();
        (rows, shape.unwrap())
    }

    #[test]
    fn rows_stay_with_their_items() {
        let (rows, shape) = examples();
        // The failed row of the first segment begins where the second one does, which has a row, too; the third has none.
        let row = |ms| Row { frame_ms: Some(ms), ..rows[1].clone() };
        let items = vec![(7, vec![row(60_000)]), (2, vec![row(0), row(61_000)]), (9, Vec::new())];
        let read = read_unfinished(write_unfinished(items.clone(), shape).unwrap()).unwrap();
        assert_eq!(read, [items[1].clone(), items[0].clone(), items[2].clone()]);
        let none = vec![(3, Vec::new())];
        assert_eq!(read_unfinished(write_unfinished(none.clone(), shape).unwrap()).unwrap(), none);
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        let (rows, shape) = examples();
        assert!(read_unfinished(write_part(&rows, shape).unwrap()).is_err());
        for note in ["[[0,1]]", "[[0,1],[0,1]]", "[[1,1],[0,1]]", "[[0,1],[1,2]]", "[[0,-1]]", "{}"] {
            let batch = batch_of(&rows[..2], shape).unwrap();
            let bytes = table::write_noted(&batch, &FORMAT, Some((ITEMS_KEY, note.to_owned()))).unwrap();
            assert!(read_unfinished(bytes).is_err(), "{note}");
        }
    }
}
