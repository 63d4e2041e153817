//! Cues as the files that players read. Pure.

use super::Cue;
use std::fmt::Write as _;

/// WebVTT; `kind` is said in a note, for people.
pub fn web_vtt(cues: &[Cue], note: &str) -> String {
    let mut text = format!("WEBVTT\n\nNOTE {}\n", line(note));
    for cue in cues {
        let (start, end) = (clock(cue.start_ms, '.'), clock(cue.end_ms, '.'));
        let _ = write!(text, "\n{start} --> {end}\n{}\n", line(&cue.text));
    }
    text
}

/// SubRip.
pub fn srt(cues: &[Cue]) -> String {
    let mut text = String::new();
    for (number, cue) in (1..).zip(cues) {
        let (start, end) = (clock(cue.start_ms, ','), clock(cue.end_ms, ','));
        // No player agrees with the next one about escapes; tags are what they all understand.
        let said = plain(&cue.text).replace(['<', '>'], "");
        let _ = write!(text, "{number}\n{start} --> {end}\n{said}\n\n");
    }
    text
}

fn clock(ms: u64, point: char) -> String {
    let (hours, minutes, seconds) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60);
    format!("{hours:02}:{minutes:02}:{seconds:02}{point}{:03}", ms % 1000)
}

/// Text that cannot end a cue, begin a tag or look like a time.
fn line(text: &str) -> String {
    plain(text).replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

fn plain(text: &str) -> String {
    let text: String = text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect();
    text.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cues() -> Vec<Cue> {
        let cue = |start_ms, end_ms, text: &str| Cue { start_ms, end_ms, text: text.to_owned() };
        vec![cue(0, 4040, "a <b>red</b> boat\n\n& a sail"), cue(3_723_004, 3_724_000, "00:01 --> 00:02")]
    }

    #[test]
    fn captions_cannot_break_out_of_their_cue() {
        let expected = "WEBVTT\n\nNOTE n\n\n00:00:00.000 --> 00:00:04.040\na &lt;b&gt;red&lt;/b&gt; boat  &amp; a sail\n\n\
            01:02:03.004 --> 01:02:04.000\n00:01 --&gt; 00:02\n";
        assert_eq!(web_vtt(&cues(), "n"), expected);
        let expected = "1\n00:00:00,000 --> 00:00:04,040\na bred/b boat  & a sail\n\n\
            2\n01:02:03,004 --> 01:02:04,000\n00:01 -- 00:02\n\n";
        assert_eq!(srt(&cues()), expected);
    }
}
