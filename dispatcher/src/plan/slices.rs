//! Cutting items into jobs that fit into a message.

use super::segments;
use captionfleet_proto::job::JobItem;

/// Bytes of items in one message, as JSON: well below the limit of a message's body, whatever else it carries.
const MOST_BYTES: usize = 600 * 1024;
/// Bytes of an item's fixed fields as JSON, and of the copy's address that may be added.
const FIXED_BYTES: usize = 512;

/// Cuts `things` into slices of at most `most` pictures and frames (but one item at least), smaller where their names are very long.
pub(super) fn cut<T>(
    things: impl IntoIterator<Item = T>,
    most: usize,
    item: impl Fn(&T) -> &JobItem,
) -> Vec<Vec<T>> {
    let mut slices = Vec::new();
    let (mut slice, mut bytes, mut weight) = (Vec::new(), 0, 0);
    for thing in things {
        let more = item(&thing).uri.as_str().len() + FIXED_BYTES;
        let heavier = segments::weight(item(&thing));
        if !slice.is_empty() && (weight + heavier > most as u64 || bytes + more > MOST_BYTES) {
            slices.push(std::mem::take(&mut slice));
            (bytes, weight) = (0, 0);
        }
        bytes += more;
        weight += heavier;
        slice.push(thing);
    }
    if !slice.is_empty() {
        slices.push(slice);
    }
    slices
}

#[cfg(test)]
mod tests {
    use super::cut;
    use captionfleet_proto::job::JobItem;
    use captionfleet_proto::uri::ItemUri;

    fn items(count: usize, name_length: usize) -> Vec<JobItem> {
        (0..count).map(|index| JobItem::new(ItemUri::s3("b", &format!("{index:0name_length$}")))).collect()
    }

    fn sizes(count: usize, name_length: usize, most: usize) -> Vec<usize> {
        cut(items(count, name_length), most, |item| item).iter().map(Vec::len).collect()
    }

    #[test]
    fn slices_keep_to_the_size() {
        assert_eq!(sizes(10, 5, 4), [4, 4, 2]);
        assert_eq!(sizes(4, 5, 4), [4]);
        assert!(sizes(0, 5, 4).is_empty());
    }

    #[test]
    fn long_names_make_smaller_slices() {
        let sizes = sizes(1000, 1000, 1000);
        assert!(sizes.len() > 1 && sizes.iter().sum::<usize>() == 1000, "{sizes:?}");
    }
}
