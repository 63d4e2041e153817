//! The OpenAPI document, made from the operations themselves.

use super::operation::{Operation, describe};
use serde_json::{Value, json};

/// The document for `operations`; `needs_token` says whether this service wants one.
pub fn document(operations: &[Operation], needs_token: bool) -> Value {
    let (paths, schemas) = describe(operations);
    let mut document = json!({
        "openapi": "3.1.0",
        "info": {
            "title": "captionfleet",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Captions whole archives of pictures and videos on a fleet of workers, and finds them again. \
                            Errors are problem+json (RFC 9457). Requests are limited in size, time and rate.",
            "license": {"name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer"},
                "session": {"type": "apiKey", "in": "cookie", "name": "captionfleet_session"},
            },
        },
    });
    if needs_token {
        document["security"] = json!([{"token": []}, {"session": []}]);
    }
    document
}
