//! Parts, item tables and captioned pictures. The Parquet reader's own panics are contained by ours, so the hook of the fuzzer, which
//! aborts on any panic, is taken out; what is left to find are aborts, hangs and memory.
#![no_main]

use std::sync::Once;

use bytes::Bytes;
use captionfleet_proto::examples::read_examples;
use captionfleet_proto::manifest::read_items;
use captionfleet_proto::rows::{Projection, read_embeddings, read_keys, read_part};
use libfuzzer_sys::fuzz_target;

static QUIET: Once = Once::new();

fuzz_target!(|bytes: &[u8]| {
    QUIET.call_once(|| std::panic::set_hook(Box::new(|_| {})));
    let bytes = Bytes::copy_from_slice(bytes);
    let _ = read_part(bytes.clone(), Projection::All);
    let _ = read_keys(bytes.clone());
    let _ = read_embeddings(bytes.clone());
    let _ = read_items(bytes.clone());
    let _ = read_examples(bytes);
});
