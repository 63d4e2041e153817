//! What is said over which time of a video. Pure.

use captionfleet_proto::rows::Row;
use std::collections::HashMap;
use std::collections::hash_map::Entry;

/// A text over a piece of time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cue {
    /// Where it begins.
    pub start_ms: u64,
    /// Where it ends.
    pub end_ms: u64,
    /// One line.
    pub text: String,
}

/// Shortest chapter, where the film is no shorter than ten of these.
const CHAPTER_MS: u64 = 2_000;
/// Most chapters of a film: more are no help in finding a scene.
const CHAPTERS: u64 = 100;
/// Most captions of a summary.
const TYPICAL: usize = 5;

/// The captions of a video's rows, in the order of time, merged where the text repeats. Failed rows leave a gap.
pub fn cues(rows: &[Row]) -> Vec<Cue> {
    let mut cues: Vec<Cue> = Vec::new();
    for row in rows {
        let (Some(start_ms), Some(span), Some(caption)) = (row.frame_ms, row.span_ms, &row.caption) else {
            continue;
        };
        let text = caption.split_whitespace().collect::<Vec<_>>().join(" ");
        let end_ms = start_ms + span;
        match cues.last_mut() {
            Some(last) if last.text == text && last.end_ms == start_ms => last.end_ms = end_ms,
            _ if text.is_empty() || span == 0 => {}
            _ => cues.push(Cue { start_ms, end_ms, text }),
        }
    }
    cues
}

/// Chapters by scene: a chapter ends where the caption changes, once it has lasted for two seconds, or a tenth of what is
/// captioned if that is shorter, and in a long film for so long that there are at most a hundred. Each is called by the
/// caption that lasts longest in it; neighbours of one name are one.
pub fn chapters(cues: &[Cue]) -> Vec<Cue> {
    let all = spent(cues);
    let shortest = CHAPTER_MS.min(all / 10).max(all / CHAPTERS);
    let mut pieces: Vec<Vec<Cue>> = Vec::new();
    for cue in cues {
        match pieces.last_mut() {
            Some(piece) if spent(piece) < shortest => piece.push(cue.clone()),
            _ => pieces.push(vec![cue.clone()]),
        }
    }
    // What is left at the end is no chapter of its own.
    if pieces.len() > 1
        && let Some(rest) = pieces.pop_if(|piece| spent(piece) < shortest)
        && let Some(last) = pieces.last_mut()
    {
        last.extend(rest);
    }
    let mut chapters: Vec<Cue> = Vec::new();
    for piece in pieces {
        let (Some(first), Some(last)) = (piece.first(), piece.last()) else { continue };
        let (start_ms, end_ms) = (first.start_ms, last.end_ms);
        let Some(Cue { text, .. }) = by_time(&piece).into_iter().next() else { continue };
        match chapters.last_mut() {
            Some(before) if before.text == text => before.end_ms = end_ms,
            _ => chapters.push(Cue { start_ms, end_ms, text }),
        }
    }
    chapters
}

/// The most typical captions: those that last longest in all, in the order in which they are first heard.
pub fn typical(cues: &[Cue]) -> Vec<String> {
    let mut most = by_time(cues);
    most.truncate(TYPICAL);
    most.sort_by_key(|cue| cue.start_ms);
    most.into_iter().map(|cue| cue.text).collect()
}

fn spent(cues: &[Cue]) -> u64 {
    cues.iter().map(|cue| cue.end_ms - cue.start_ms).sum()
}

/// Each text once, from its first start for as long as it lasts in all; the longest first.
fn by_time(cues: &[Cue]) -> Vec<Cue> {
    let mut texts: Vec<Cue> = Vec::new();
    // Ten hours of frames that all differ are a hundred thousand texts: none is compared with all the others.
    let mut places: HashMap<&str, usize> = HashMap::new();
    for cue in cues {
        match places.entry(&cue.text) {
            Entry::Occupied(place) => texts[*place.get()].end_ms += cue.end_ms - cue.start_ms,
            Entry::Vacant(place) => {
                place.insert(texts.len());
                texts.push(cue.clone());
            }
        }
    }
    texts.sort_by_key(|cue| (std::cmp::Reverse(cue.end_ms - cue.start_ms), cue.start_ms));
    texts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn film(pieces: &[(u64, &str)]) -> Vec<Cue> {
        let mut at = 0;
        let cue = |(seconds, text): &(u64, &str)| {
            let cue = Cue { start_ms: at, end_ms: at + seconds * 1000, text: (*text).to_owned() };
            at = cue.end_ms;
            cue
        };
        pieces.iter().map(cue).collect()
    }

    fn names(cues: &[Cue]) -> Vec<(u64, &str)> {
        cues.iter().map(|cue| (cue.start_ms / 1000, cue.text.as_str())).collect()
    }

    #[test]
    fn a_moment_makes_no_chapter() {
        let cues = film(&[(20, "a boat"), (1, "a gull"), (30, "a boat"), (40, "a house"), (1, "a cat")]);
        assert_eq!(names(&chapters(&cues)), [(0, "a boat"), (51, "a house")]);
        assert!(chapters(&[]).is_empty());
    }

    #[test]
    fn each_scene_is_a_chapter() {
        let scenes: Vec<_> = (0..20).map(|scene| (6, if scene % 2 == 0 { "a" } else { "b" })).collect();
        let found = chapters(&film(&scenes));
        assert_eq!(found.len(), 20);
        assert!(found.iter().all(|chapter| chapter.end_ms - chapter.start_ms == 6000), "{found:?}");
    }

    #[test]
    fn a_long_film_has_no_more_chapters_than_help() {
        let quick: Vec<_> = (0..7200)
            .map(|second| (1, if (second / 100 + second % 5 / 4) % 2 == 0 { "a" } else { "b" }))
            .collect();
        let found = chapters(&film(&quick));
        assert!((2..=100).contains(&found.len()), "{}", found.len());
        assert!(found.iter().all(|chapter| chapter.end_ms - chapter.start_ms >= 72_000), "{found:?}");
    }

    #[test]
    fn a_short_film_has_a_chapter_for_each_scene() {
        let scenes = film(&[(3, "a"), (3, "b"), (3, "c"), (3, "d")]);
        assert_eq!(names(&chapters(&scenes)), [(0, "a"), (3, "b"), (6, "c"), (9, "d")]);
        let short = film(&[(2, "a"), (3, "b"), (2, "a")]);
        assert_eq!(names(&chapters(&short)), [(0, "a"), (2, "b"), (5, "a")]);
    }

    #[test]
    fn what_lasts_longest_is_typical() {
        let cues = film(&[(1, "x"), (5, "a"), (9, "b"), (5, "a"), (2, "c"), (2, "d"), (2, "e")]);
        assert_eq!(typical(&cues), ["a", "b", "c", "d", "e"]);
    }
}
