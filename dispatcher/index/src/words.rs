//! Words of captions and queries.

/// Longest word that is kept, in bytes.
const LONGEST: usize = 64;

/// The words of `text`: runs of letters and digits, in lower case.
pub(crate) fn words(text: &str) -> impl Iterator<Item = String> {
    text.split(|letter: char| !letter.is_alphanumeric())
        .filter(|word| !word.is_empty() && word.len() <= LONGEST)
        .map(str::to_lowercase)
}

#[cfg(test)]
mod tests {
    use super::words;

    #[test]
    fn punctuation_parts_words_and_case_does_not_count() {
        assert_eq!(words("A red-ish Ökobus, 2nd.").collect::<Vec<_>>(), ["a", "red", "ish", "ökobus", "2nd"]);
        assert_eq!(words(" -- ").count(), 0);
    }
}
