//! Pictures of every format. Whatever comes out must be what it says.
#![no_main]

use std::sync::Once;

use captionfleet_model::preprocess::{DecodeLimits, decode, resize_square};
use libfuzzer_sys::fuzz_target;

/// A panic in a decoder is contained, and told as `corrupt`. The fuzzer's own hook would end the process before that; a panic that gets
/// out of there still does.
static CONTAINED: Once = Once::new();

fuzz_target!(|bytes: &[u8]| {
    CONTAINED.call_once(|| std::panic::set_hook(Box::new(|_| {})));
    let limits = DecodeLimits { max_pixels: 1_000_000, ..DecodeLimits::default() };
    if let Ok(picture) = decode(bytes, &limits) {
        assert_eq!(picture.rgb.len(), picture.width as usize * picture.height as usize * 3);
        let _ = resize_square(&picture, 16);
    }
});
