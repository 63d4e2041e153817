//! What ffprobe reports of a film: whatever a file made it print.
#![no_main]

use captionfleet_worker::video::{Film, VideoLimits};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let limits = VideoLimits::default();
    if let Ok(film) = Film::of_report(bytes, "", &limits) {
        assert!(film.width > 0 && film.height > 0 && film.frame_ms > 0);
    }
});
