//! Only the part that a model sees is decoded, and at reduced size; the result looks the same.

use eirs_worker::image::{Limits, Pixels, Resizer, View, decode, geometry::Geometry};
use image::{DynamicImage, ImageFormat, Rgb, RgbImage};

use crate::{FULL, encoded, fixture, seen, view};

#[test]
fn a_squashed_image_has_both_edges_and_a_centre_crop_has_none() {
    // Red, a wide grey middle, blue: upright, and stored rotated.
    let upright = image::RgbImage::from_fn(80, 20, |x, _| match x {
        0..20 => image::Rgb([255, 0, 0]),
        20..60 => image::Rgb([128, 128, 128]),
        _ => image::Rgb([0, 0, 255]),
    });
    let mut file = Vec::new();
    upright.write_to(&mut std::io::Cursor::new(&mut file), image::ImageFormat::Png).unwrap();
    let mut pixels = Pixels::default();
    decode(&file, FULL, &mut pixels).unwrap();
    let mut square = [[0; 3]; 64];
    Resizer::default()
        .fit(&pixels, &Geometry::squash(8), |index, [r, g, b, _]| square[index] = [r, g, b])
        .unwrap();
    assert_eq!((square[24], square[28], square[31]), ([255, 0, 0], [128, 128, 128], [0, 0, 255]));
    let cut = seen(&file, FULL, 8, 8);
    assert!(cut.iter().all(|pixel| *pixel == [128, 128, 128]), "{cut:?}");
}

#[test]
fn cmyk_is_not_decoded_at_reduced_size() {
    let mut pixels = Pixels::default();
    let small = Limits { view: Some(view(2, None)), ..FULL };
    decode(&fixture("cmyk.jpg"), small, &mut pixels).unwrap();
    assert_eq!((pixels.width(), pixels.height()), (48, 32));
    decode(&fixture("subsampled.jpg"), small, &mut pixels).unwrap();
    assert_eq!((pixels.width(), pixels.height()), (6, 4), "an eighth");
}

#[test]
fn a_large_jpeg_decoded_at_reduced_size_looks_the_same() {
    let large = RgbImage::from_fn(800, 600, |x, y| {
        let wave = ((f64::from(x) / 60.0).sin() * (f64::from(y) / 45.0).cos() * 100.0) as i32;
        Rgb([(128 + wave) as u8, (x / 4) as u8, (y / 3) as u8])
    });
    let file = encoded(&DynamicImage::ImageRgb8(large), ImageFormat::Jpeg);
    let scaled = Limits { view: Some(view(36, None)), ..FULL };
    let mut pixels = Pixels::default();
    decode(&file, scaled, &mut pixels).unwrap();
    assert_eq!(
        (pixels.width(), pixels.height()),
        (100, 75),
        "an eighth, which is twice the 36 pixels that are needed"
    );
    let (full, scaled) = (seen(&file, FULL, 36, 32), seen(&file, scaled, 36, 32));
    let total: u32 =
        full.iter().flatten().zip(scaled.iter().flatten()).map(|(a, b)| u32::from(a.abs_diff(*b))).sum();
    assert!(f64::from(total) / (32.0 * 32.0 * 3.0) < 1.0, "{total}");
}

#[test]
fn a_jpeg_of_which_only_the_centre_is_decoded_looks_the_same() {
    let names =
        ["subsampled.jpg", "progressive.jpg", "separate-scans-440.jpg", "separate-scans-411.jpg", "cmyk.jpg"];
    let image = RgbImage::from_fn(203, 131, |x, y| Rgb([(x * 7) as u8, (y * 5) as u8, (x * y) as u8]));
    let own = encoded(&DynamicImage::ImageRgb8(image), ImageFormat::Jpeg);
    for file in names.map(fixture).into_iter().chain([own]) {
        for orientation in 1..=8 {
            // EXIF data after the first marker.
            let exif =
                [b"Exif\0\0MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0", &[orientation][..], &[0; 6]];
            let exif = exif.concat();
            let file = [&file[..2], b"\xff\xe1\0", &[exif.len() as u8 + 2], &exif, &file[2..]].concat();
            for (resize, side) in [(9, 8), (20, 5), (31, 30), (90, 60)] {
                let middle = View { fractions: false, ..view(resize, Some(side)) };
                let middle = Limits { view: Some(middle), ..FULL };
                let same = seen(&file, FULL, resize, side) == seen(&file, middle, resize, side);
                assert!(same, "orientation {orientation}, {side} of {resize}");
            }
        }
    }
}

#[test]
fn missing_pixels_are_an_error() {
    let image = RgbImage::from_pixel(300, 200, Rgb([9, 99, 199]));
    let file = encoded(&DynamicImage::ImageRgb8(image), ImageFormat::Jpeg);
    let mut pixels = Pixels::default();
    decode(&file, Limits { view: Some(view(100, Some(10))), ..FULL }, &mut pixels).unwrap();
    let why = Resizer::default().fit(&pixels, &Geometry::crop(90, 100), |_, _| {}).unwrap_err();
    assert!(why.to_string().contains("others are seen than were decoded"), "{why}");
}

#[test]
fn images_with_extreme_aspect_ratios_are_read() {
    for (width, height) in [(1, 1), (1, 2000), (3000, 2), (16, 16), (17, 16), (900_000, 1), (1, 900_000)] {
        let file = encoded(
            &DynamicImage::ImageRgb8(RgbImage::from_pixel(width, height, Rgb([9, 99, 199]))),
            ImageFormat::Png,
        );
        assert!(seen(&file, FULL, 18, 16).iter().all(|pixel| *pixel == [9, 99, 199]), "{width} x {height}");
        let mut pixels = Pixels::default();
        decode(&file, FULL, &mut pixels).unwrap();
        let check = |_, pixel| assert_eq!(pixel, [9, 99, 199, 255], "{width} x {height}");
        Resizer::default().fit(&pixels, &Geometry::squash(16), check).unwrap();
    }
}
