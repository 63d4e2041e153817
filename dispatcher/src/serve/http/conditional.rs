//! Conditional requests (RFC 9110, section 13.1.2).

use axum::http::{HeaderMap, header};

/// Whether the client has what is tagged with `tag`, in its quotes. Tags are compared weakly: a proxy that compresses an
/// answer makes its tag a weak one.
pub fn is_known(headers: &HeaderMap, tag: &str) -> bool {
    let lists = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    let mut tags = lists.flat_map(|list| list.split(',')).map(str::trim);
    tags.any(|one| one == "*" || one.strip_prefix("W/").unwrap_or(one) == tag)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::is_known;
    use axum::http::{HeaderMap, header};

    #[test]
    fn tags_are_compared_weakly_and_in_lists() {
        for (given, known) in [
            (r#""a""#, true),
            (r#"W/"a""#, true),
            (r#""b", W/"a""#, true),
            ("*", true),
            (r#""b""#, false),
            ("a", false),
            ("", false),
        ] {
            let headers = HeaderMap::from_iter([(header::IF_NONE_MATCH, given.parse().unwrap())]);
            assert_eq!(is_known(&headers, r#""a""#), known, "{given}");
        }
        assert!(!is_known(&HeaderMap::new(), r#""a""#));
    }
}
