//! Endless repetition: the sign of a model that has lost its way.

/// Longest phrase, in tokens, whose repetition is looked for.
const LONGEST_PHRASE: usize = 64;
/// How much of the end must be one phrase again and again; of a shorter answer, all of it.
const STRETCH: usize = 32;
/// How often at least: a few words may be said again and again, a sentence is not.
const TIMES: usize = 6;
/// The same of a phrase of more than [`FEW`] tokens.
const TIMES_OF_A_SENTENCE: usize = 4;
const FEW: usize = 8;

/// Whether `tokens` ends in one phrase repeated over a long stretch.
///
/// Asked only of sequences that ran into their limit: an answer that ended by itself may repeat words.
pub(super) fn is_endless(tokens: &[u32]) -> bool {
    (1..=LONGEST_PHRASE).any(|phrase| {
        let times = if phrase > FEW { TIMES_OF_A_SENTENCE } else { TIMES };
        let stretch = STRETCH.min(tokens.len()).max(phrase * times);
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
        assert!(is_endless(&[5; 20]), "all of a short answer");
        let sentence: Vec<u32> = (0..20).collect();
        assert!(is_endless(&[&[99][..], &sentence.repeat(4)].concat()));
    }

    #[test]
    fn ordinary_text_and_short_repetition_are_not() {
        let ordinary: Vec<u32> = (0..200).map(|token| token * token % 89).collect();
        assert!(!is_endless(&ordinary));
        assert!(!is_endless(&[&[1, 2, 3][..], &[4; 20]].concat()), "not all of a short answer");
        assert!(!is_endless(&[4; 5]) && !is_endless(&[]));
        let sentence: Vec<u32> = (0..20).collect();
        assert!(!is_endless(&sentence.repeat(3)));
        let mut recovered = vec![4; 60];
        recovered.extend(0..10);
        assert!(!is_endless(&recovered));
    }
}
