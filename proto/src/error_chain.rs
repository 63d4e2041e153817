//! Errors for people.

use std::error::Error;

/// An error and its causes in one line. Some libraries repeat their source's text: nothing is said twice.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        if !text.ends_with(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::chain;

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Said(&'static str, #[source] Option<Box<Said>>);

    #[test]
    fn a_chain_says_nothing_twice() {
        let error =
            Said("connect", Some(Box::new(Said("IO error: refused", Some(Box::new(Said("refused", None)))))));
        assert_eq!(chain(&error), "connect: IO error: refused");
    }
}
