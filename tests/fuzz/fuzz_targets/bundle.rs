//! Bundles: the tar around them, their manifest and its digest.
#![no_main]

use std::io::Write;

use captionfleet_model::bundle::Bundle;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = Bundle::read_manifest(bytes, "fuzz");
    let mut file = tempfile::Builder::new().suffix(".tar").tempfile_in("/dev/shm").expect("a temporary file");
    file.write_all(bytes).expect("room for it");
    let _ = Bundle::open(file.path());
});
