//! Standard output and standard error: results go to the one, progress and remarks to the other.

use serde::Serialize;
use std::io::Write as _;

/// Prints one line of results. A reader that has gone away (`| head`) is no error.
pub fn line(text: impl AsRef<str>) {
    drop(writeln!(std::io::stdout().lock(), "{}", text.as_ref()));
}

/// Prints the one JSON document of a command.
pub fn json(document: &impl Serialize) -> anyhow::Result<()> {
    line(serde_json::to_string_pretty(document)?);
    Ok(())
}

/// Prints one remark beside the results.
pub fn remark(text: impl AsRef<str>) {
    drop(writeln!(std::io::stderr().lock(), "{}", text.as_ref()));
}

/// A count with its noun: "1 picture", "2 pictures".
pub fn counted(count: u64, noun: &str) -> String {
    match (count, noun.strip_suffix('y')) {
        (1, _) => format!("1 {noun}"),
        (_, Some(stem)) => format!("{count} {stem}ies"),
        _ => format!("{count} {noun}s"),
    }
}

/// Text from outside, made safe for a terminal and a page: control characters become spaces, and so do those that turn
/// the direction of what follows and may never turn it back.
pub fn plain(text: &str) -> String {
    let steers = |letter: char| {
        letter.is_control() || matches!(letter, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.chars().map(|letter| if steers(letter) { ' ' } else { letter }).collect()
}

/// At most `width` characters of `text`, the end replaced by "…" where it was cut.
pub fn clipped(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let mut kept: String = text.chars().take(width.saturating_sub(1)).collect();
    kept.push('…');
    kept
}

#[cfg(test)]
mod tests {
    use super::{clipped, counted, plain};

    #[test]
    fn nouns_follow_their_count() {
        assert_eq!(counted(1, "picture"), "1 picture");
        assert_eq!(counted(0, "picture"), "0 pictures");
        assert_eq!(counted(2, "query"), "2 queries");
    }

    #[test]
    fn text_from_outside_cannot_steer_the_terminal() {
        assert_eq!(plain("a\x1b[31mred\nb"), "a [31mred b");
        assert_eq!(plain("gpj.\u{202e}exe.\u{2067}ü عربي"), "gpj. exe. ü عربي");
    }

    #[test]
    fn long_text_is_cut_by_characters() {
        assert_eq!(clipped("äöüß", 3), "äö…");
        assert_eq!(clipped("äöü", 3), "äöü");
    }
}
