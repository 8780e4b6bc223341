//! Image types, and the decoders: what is read has the size that it announced, and everything else
//! is a sentence.
#![no_main]

use eirs_platform::{
    formats::{HEAD_BYTES, Kind},
    settings::{Alpha, Colour},
};
use eirs_worker::image::{Limits, Pixels, decode};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let head = &data[..data.len().min(HEAD_BYTES)];
    let kind = Kind::of(head);
    assert_eq!(format!("{kind:?}"), format!("{:?}", Kind::of(data)), "the first bytes say what it is");
    let limits = Limits { max_pixels: 1 << 20, view: None, alpha: Alpha::default(), colour: Colour::Srgb };
    let mut pixels = Pixels::default();
    match decode(data, limits, &mut pixels) {
        Ok(()) => {
            let samples = pixels.width() as usize * pixels.height() as usize * pixels.channels();
            assert_eq!(pixels.samples().len(), samples);
            assert!(pixels.width() > 0 && pixels.height() > 0);
            assert!(kind.refusal().is_none(), "{kind:?} was read and is refused at the door");
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
