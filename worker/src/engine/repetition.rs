//! Endless repetition: the sign of a model that has lost its way.

/// Longest phrase, in tokens, whose repetition is looked for.
const LONGEST_PHRASE: usize = 8;
/// How much of the end must be one phrase again and again.
const STRETCH: usize = 32;
/// How often at least.
const TIMES: usize = 6;

/// Whether `tokens` ends in one short phrase repeated over a long stretch.
///
/// Asked only of sequences that ran into their limit: an answer that ended by itself may repeat words.
pub(super) fn is_endless(tokens: &[u32]) -> bool {
    (1..=LONGEST_PHRASE).any(|phrase| {
        let stretch = STRETCH.max(phrase * TIMES);
        tokens.len() >= stretch
            && tokens[tokens.len() - stretch..].windows(phrase + 1).all(|window| window[0] == window[phrase])
    })
}

#[cfg(test)]
mod tests {
    use super::is_endless;

    #[test]
    fn a_phrase_over_and_over_is_endless() {
        let mut tokens = vec![9, 8, 7];
        tokens.extend([1, 2, 3].repeat(11));
        assert!(is_endless(&tokens));
        assert!(is_endless(&[5; 40]));
    }

    #[test]
    fn ordinary_text_and_short_repetition_are_not() {
        let ordinary: Vec<u32> = (0..200).map(|token| token % 23).collect();
        assert!(!is_endless(&ordinary));
        assert!(!is_endless(&[4; 20]));
        let mut recovered = vec![4; 60];
        recovered.extend(0..10);
        assert!(!is_endless(&recovered));
    }
}
