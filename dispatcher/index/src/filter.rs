//! Which rows may be found.

use crate::segment::{Record, Segment, Status};

/// What a row must be; a field that is not set lets every row through.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// The item's URI begins with this.
    pub source: Option<String>,
    /// Made at this time or later, in microseconds since 1970.
    pub since: Option<i64>,
    /// Made before this time.
    pub until: Option<i64>,
    /// What the part's key begins with: `parts/RUN/`.
    pub parts: Option<String>,
    /// Smallest width and height in pixels.
    pub least_size: Option<(u32, u32)>,
    /// Largest width and height in pixels.
    pub largest_size: Option<(u32, u32)>,
    /// What became of the item the last time it was tried.
    pub status: Option<Status>,
    /// The caption has this in it, whatever the case.
    pub caption: Option<String>,
}

impl Filter {
    /// Whether every row is let through.
    pub fn is_open(&self) -> bool {
        *self == Self::default()
    }

    /// Whether a row is let through, whose item ended as `latest` when it was last tried.
    pub(crate) fn lets_through(&self, segment: &Segment, record: &Record, latest: Status) -> bool {
        let part = || segment.parts().get(record.part as usize).map_or("", |part| part.key.as_str());
        let size = |wanted: Option<(u32, u32)>, fits: fn(&u32, &u32) -> bool| {
            wanted.is_none_or(|(width, height)| {
                record.size.is_some_and(|size| fits(&size.0, &width) && fits(&size.1, &height))
            })
        };
        self.status.is_none_or(|status| status == latest)
            && self.since.is_none_or(|since| record.finished >= since)
            && self.until.is_none_or(|until| record.finished < until)
            && size(self.least_size, u32::ge)
            && size(self.largest_size, u32::le)
            && self.parts.as_ref().is_none_or(|prefix| part().starts_with(prefix))
            && self.source.as_ref().is_none_or(|prefix| segment.item(record).starts_with(prefix))
            && self
                .caption
                .as_ref()
                .is_none_or(|wanted| segment.caption(record).is_some_and(|caption| contains(caption, wanted)))
    }
}

/// Whatever the case of either.
fn contains(caption: &str, wanted: &str) -> bool {
    if caption.is_ascii() && wanted.is_ascii() {
        let wanted = wanted.as_bytes();
        return wanted.is_empty()
            || caption.as_bytes().windows(wanted.len()).any(|window| window.eq_ignore_ascii_case(wanted));
    }
    caption.to_lowercase().contains(&wanted.to_lowercase())
}

#[cfg(test)]
mod tests {
    use super::contains;

    #[test]
    fn case_does_not_count() {
        assert!(contains("A Red circle", "red C"));
        assert!(contains("Über dem Meer", "über"));
        assert!(!contains("a red circle", "blue"));
    }
}
