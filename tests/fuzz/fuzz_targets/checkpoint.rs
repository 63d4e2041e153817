//! Published checkpoints: zip and pickle of `.pth`, header of safetensors; every tensor's bounds are tried.
#![no_main]

use std::io::Write;

use captionfleet_model::checkpoint::open_file;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    for suffix in [".pth", ".safetensors"] {
        let mut file =
            tempfile::Builder::new().suffix(suffix).tempfile_in("/dev/shm").expect("a temporary file");
        file.write_all(bytes).expect("room for it");
        let _ = open_file(file.path());
    }
});
