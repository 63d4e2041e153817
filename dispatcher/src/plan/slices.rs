//! Cutting items into jobs that fit into a message.

use crate::planned_job;
use captionfleet_proto::job::JobItem;

/// Bytes of items in one message, as JSON: well below the limit of a message's body, whatever else it carries.
const MOST_BYTES: usize = 600 * 1024;
/// Bytes of an item's fixed fields as JSON, and of the copy's address that may be added.
const FIXED_BYTES: usize = 512;
/// Most questions that the items of one message have of their own: each is an answer that takes its time.
const MOST_QUESTIONS: usize = 1000;

/// Cuts `things` into slices of at most `most` pictures and frames (but one item at least), smaller where their names are very long
/// or much is asked about each.
pub(crate) fn cut<T>(
    things: impl IntoIterator<Item = T>,
    most: usize,
    item: impl Fn(&T) -> &JobItem,
) -> Vec<Vec<T>> {
    let mut slices = Vec::new();
    let (mut slice, mut bytes, mut weight, mut asked) = (Vec::new(), 0, 0, 0);
    for thing in things {
        let more = bytes_of(item(&thing));
        let heavier = planned_job::weight(item(&thing));
        let questions = item(&thing).questions.len();
        let is_full =
            weight + heavier > most as u64 || bytes + more > MOST_BYTES || asked + questions > MOST_QUESTIONS;
        if !slice.is_empty() && is_full {
            slices.push(std::mem::take(&mut slice));
            (bytes, weight, asked) = (0, 0, 0);
        }
        asked += questions;
        bytes += more;
        weight += heavier;
        slice.push(thing);
    }
    if !slice.is_empty() {
        slices.push(slice);
    }
    slices
}

/// About how many bytes an item has as JSON, rather too many.
fn bytes_of(item: &JobItem) -> usize {
    let questions = match &*item.questions {
        [] => 0,
        asked => serde_json::to_vec(asked).map_or(MOST_BYTES, |json| json.len()),
    };
    item.uri.as_str().len() + FIXED_BYTES + questions
}

#[cfg(test)]
mod tests {
    use super::cut;
    use captionfleet_proto::job::{JobItem, Question};
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
    fn questions_make_smaller_slices() {
        let asked = |length: usize, count: usize| {
            let mut asked = items(100, 5);
            for item in &mut asked {
                item.questions = vec![Question::free("?".repeat(length)); count];
            }
            cut(asked, 100, |item| item).iter().map(Vec::len).collect::<Vec<_>>()
        };
        assert_eq!(asked(10, 400), [2; 50]);
        let long = asked(4000, 10);
        assert!(long.len() >= 7 && long.iter().all(|&size| size <= 15), "{long:?}");
        assert_eq!(asked(4000, 1000), [1; 100]);
    }

    #[test]
    fn long_names_make_smaller_slices() {
        let sizes = sizes(1000, 1000, 1000);
        assert!(sizes.len() > 1 && sizes.iter().sum::<usize>() == 1000, "{sizes:?}");
    }
}
