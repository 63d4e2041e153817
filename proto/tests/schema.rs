//! `proto/schema` holds the JSON Schemas of the messages, generated from the types, and the golden messages obey
//! them.
//!
//! `CAPTIONFLEET_BLESS=1 cargo test --release -p captionfleet-proto --test schema` writes them anew.
#![allow(clippy::unwrap_used, missing_docs)]

use std::path::PathBuf;

use captionfleet_proto::job::{Job, RerankReply, SearchReply};
use captionfleet_proto::manifest::RunManifest;
use captionfleet_proto::outcome::JobOutcome;
use schemars::{JsonSchema, schema_for};

fn is_current<T: JsonSchema>(name: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("schema").join(name);
    let schema = format!("{}\n", serde_json::to_string_pretty(&schema_for!(T)).unwrap());
    if std::env::var_os("CAPTIONFLEET_BLESS").is_some() {
        std::fs::write(&path, &schema).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap();
    assert_eq!(committed, schema, "{name} is not what the types say: see the head of this test");
}

#[test]
fn schemas_are_current() {
    is_current::<Job>("job.json");
    is_current::<JobOutcome>("outcome.json");
    is_current::<SearchReply>("reply.json");
    is_current::<RerankReply>("rerank-reply.json");
    is_current::<RunManifest>("run.json");
}
