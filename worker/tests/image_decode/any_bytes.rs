//! Any bytes give pixels or an error sentence.

use eirs_worker::image::{Limits, Pixels, Resizer, check_pixels, decode, geometry::Geometry};
use image::{DynamicImage, ImageFormat};
use proptest::prelude::*;

use crate::{FULL, encoded, fixture, picture, view};

/// Files of all kinds, to be damaged.
fn files() -> Vec<Vec<u8>> {
    let image = DynamicImage::ImageRgb8(picture(48, 32));
    let formats = [
        ImageFormat::Jpeg,
        ImageFormat::Png,
        ImageFormat::WebP,
        ImageFormat::Bmp,
        ImageFormat::Tiff,
        ImageFormat::Pnm,
        ImageFormat::Qoi,
    ];
    let names = [
        "cmyk.jpg",
        "progressive.jpg",
        "separate-scans-440.jpg",
        "orientation-6.jpg",
        "orientation-6.webp",
        "lossy.webp",
        "animated.webp",
        "animated.gif",
        "palette.png",
        "palette.bmp",
    ];
    formats.map(|format| encoded(&image, format)).into_iter().chain(names.map(fixture)).collect()
}

/// Decodes any bytes to pixels or an error sentence.
fn survive(bytes: &[u8]) {
    let mut pixels = Pixels::default();
    for view in [None, Some(view(9, Some(8))), Some(view(2, Some(1)))] {
        match decode(bytes, Limits { max_pixels: 100_000, view, ..FULL }, &mut pixels) {
            Ok(()) => {
                let expected = pixels.width() as usize * pixels.height() as usize * pixels.channels();
                assert_eq!(pixels.samples().len(), expected);
                let (resize, side) = if view.is_some_and(|view| view.short == 2) { (2, 1) } else { (9, 8) };
                Resizer::default().fit(&pixels, &Geometry::crop(side, resize), |_, _| {}).unwrap();
            }
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
    let _ = check_pixels(bytes, 1);
}

proptest! {
    #[test]
    fn any_bytes_give_pixels_or_a_sentence(bytes: Vec<u8>) {
        survive(&bytes);
    }

    #[test]
    fn any_bytes_after_a_known_signature_give_pixels_or_a_sentence(
        which: prop::sample::Index,
        keep in 4usize..40,
        rest: Vec<u8>,
    ) {
        let files = files();
        let file = which.get(&files);
        survive(&[&file[..keep.min(file.len())], &rest].concat());
    }

    #[test]
    fn a_damaged_image_gives_pixels_or_a_sentence(
        which: prop::sample::Index,
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut file = which.get(&files()).clone();
        for (at, byte) in damage {
            let at = at.index(file.len());
            file[at] = byte;
        }
        if let Some(cut) = cut {
            file.truncate(cut.index(file.len()));
        }
        survive(&file);
    }
}
