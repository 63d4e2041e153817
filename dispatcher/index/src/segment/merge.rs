//! Making one segment of several.

use super::{PartStamp, Segment, SegmentBuilder};
use std::collections::{HashMap, HashSet};

/// One segment in place of `segments`, which are of one space and shape, without the parts that `gone` names. A part
/// that several have is taken once.
///
/// Superseded rows stay: should the part of a newer row be removed, the older row counts again.
pub fn merge(segments: &[&Segment], gone: impl Fn(&PartStamp) -> bool) -> Option<SegmentBuilder> {
    let first = segments.first()?;
    let mut merged = SegmentBuilder::new(first.space(), first.shape());
    let mut taken: HashSet<&PartStamp> = HashSet::new();
    for segment in segments {
        let mut places = HashMap::new();
        for (number, stamp) in segment.parts().iter().enumerate() {
            if !gone(stamp) && taken.insert(stamp) {
                places.insert(number as u32, merged.open_part(stamp.clone()));
            }
        }
        for row in 0..segment.rows() {
            let mut record = segment.record(row);
            let Some(part) = places.get(&record.part) else { continue };
            record.part = *part;
            let (item, caption) = (segment.item(&record), segment.caption(&record));
            let codes = record.code.map(|code| segment.codes(code as usize));
            merged.copy(record.clone(), item, caption, codes);
        }
    }
    Some(merged)
}
