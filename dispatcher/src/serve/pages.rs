//! The pages: files in this program, the same for everyone. All data comes from the API.

use super::Service;
use super::http::conditional::is_known;
use axum::Router;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use sha2::{Digest as _, Sha256};
use std::sync::Arc;

/// A file: where it is, what it is, what is in it.
type File = (&'static str, &'static str, &'static str);

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

macro_rules! file {
    ($address:literal, $kind:expr, $name:literal) => {
        ($address, $kind, include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/pages/", $name)))
    };
}

const FILES: &[File] = &[
    file!("/", HTML, "search.html"),
    file!("/item", HTML, "item.html"),
    file!("/runs", HTML, "runs.html"),
    file!("/overview", HTML, "overview.html"),
    file!("/pages/base.css", CSS, "base.css"),
    file!("/pages/gallery.css", CSS, "gallery.css"),
    file!("/pages/runs.css", CSS, "runs.css"),
    file!("/pages/icon.svg", SVG, "icon.svg"),
    file!("/pages/api.js", SCRIPT, "api.js"),
    file!("/pages/dom.js", SCRIPT, "dom.js"),
    file!("/pages/words.js", SCRIPT, "words.js"),
    file!("/pages/sign-in.js", SCRIPT, "sign-in.js"),
    file!("/pages/gallery.js", SCRIPT, "gallery.js"),
    file!("/pages/search.js", SCRIPT, "search.js"),
    file!("/pages/item.js", SCRIPT, "item.js"),
    file!("/pages/runs.js", SCRIPT, "runs.js"),
    file!("/pages/run-card.js", SCRIPT, "run-card.js"),
    file!("/pages/overview.js", SCRIPT, "overview.js"),
];

/// Routes for all pages.
pub fn router() -> Router<Arc<Service>> {
    FILES.iter().fold(Router::new(), |router, (address, kind, text)| {
        let tag = format!("\"{}\"", hex::encode(&Sha256::digest(text)[..12]));
        router.route(address, get(move |headers: HeaderMap| async move { file(&headers, kind, text, &tag) }))
    })
}

fn file(headers: &HeaderMap, kind: &'static str, text: &'static str, tag: &str) -> Response {
    let mut response = if is_known(headers, tag) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        ([(header::CONTENT_TYPE, kind)], text).into_response()
    };
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    if let Ok(tag) = HeaderValue::from_str(tag) {
        headers.insert(header::ETAG, tag);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::FILES;

    #[test]
    fn pages_hold_no_script_or_style_that_the_policy_forbids() {
        for (address, kind, text) in FILES {
            if kind.starts_with("text/html") {
                let inline =
                    text.split("<script").skip(1).any(|script| !script.starts_with(" type=\"module\" src="));
                assert!(!inline && !text.contains("style=") && !text.contains("<style"), "{address}");
                assert!(!text.contains(" onclick") && text.contains("lang=\"en\""), "{address}");
            }
        }
    }

    #[test]
    fn scripts_never_turn_text_into_markup() {
        for (address, _, text) in FILES {
            for way in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("] {
                assert!(!text.contains(way), "{address} uses {way}");
            }
        }
    }

    #[test]
    fn everything_that_a_page_names_is_there() {
        let there = |wanted: &str| FILES.iter().any(|(address, _, _)| *address == wanted);
        for (address, _, text) in FILES {
            for (quote, begin) in [("\"", "\"/pages/"), ("\"", "\"./")] {
                for rest in text.split(begin).skip(1) {
                    let name = rest.split(quote).next().unwrap_or_default();
                    assert!(there(&format!("/pages/{name}")), "{address} names {name}");
                }
            }
        }
    }
}
