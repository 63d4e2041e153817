//! Pictures of every format. Whatever comes out must be what it says.
#![no_main]

use captionfleet_model::preprocess::{DecodeLimits, decode, resize_square};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let limits = DecodeLimits { max_pixels: 1_000_000, ..DecodeLimits::default() };
    if let Ok(picture) = decode(bytes, &limits) {
        assert_eq!(picture.rgb.len(), picture.width as usize * picture.height as usize * 3);
        let _ = resize_square(&picture, 16);
    }
});
