//! Rotated or mirrored photos are seen upright.

use image::{
    DynamicImage, ExtendedColorType, ImageEncoder, Rgb, RgbImage,
    codecs::{jpeg::JpegEncoder, png::PngEncoder},
    metadata::Orientation,
};

use crate::{FULL, QUARTERS, check_quarters, fixture, seen};

/// A TIFF header and one entry: the orientation.
fn exif(orientation: u8) -> Vec<u8> {
    let mut exif = b"II\x2a\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0".to_vec();
    exif.extend([orientation, 0, 0, 0, 0, 0, 0, 0]);
    exif
}

/// The image as stored by a camera with this orientation.
fn stored(upright: &RgbImage, orientation: u8) -> DynamicImage {
    let turn = match Orientation::from_exif(orientation).unwrap() {
        Orientation::Rotate90 => Orientation::Rotate270,
        Orientation::Rotate270 => Orientation::Rotate90,
        own_inverse => own_inverse,
    };
    let mut image = DynamicImage::ImageRgb8(upright.clone());
    image.apply_orientation(turn);
    image
}

#[test]
fn all_eight_orientations_give_the_same_tensor() {
    // With odd sides and a gradient, a crop that is off by one pixel is noticed.
    let upright =
        RgbImage::from_fn(61, 40, |x, y| Rgb([(x * 4) as u8, (y * 6) as u8, ((x * y) % 256) as u8]));
    let tensor = |orientation: u8, as_jpeg: bool| {
        let image = stored(&upright, orientation);
        let mut file = Vec::new();
        if as_jpeg {
            let mut encoder = JpegEncoder::new_with_quality(&mut file, 98);
            encoder.set_exif_metadata(exif(orientation)).unwrap();
            encoder.encode_image(&image).unwrap();
        } else {
            let mut encoder = PngEncoder::new(&mut file);
            encoder.set_exif_metadata(exif(orientation)).unwrap();
            let (width, height) = (image.width(), image.height());
            encoder.write_image(image.as_bytes(), width, height, ExtendedColorType::Rgb8).unwrap();
        }
        seen(&file, FULL, 37, 32)
    };
    for (as_jpeg, tolerance) in [(false, 1.0), (true, 6.0)] {
        let expected = tensor(1, as_jpeg);
        for orientation in 2..=8 {
            let found = tensor(orientation, as_jpeg);
            let differences =
                expected.iter().flatten().zip(found.iter().flatten()).map(|(a, b)| f64::from(a.abs_diff(*b)));
            let (worst, total) =
                differences.fold((0f64, 0f64), |(worst, total), d| (worst.max(d), total + d));
            let mean = total / (32.0 * 32.0 * 3.0);
            assert!(
                mean < tolerance / 4.0,
                "orientation {orientation}, JPEG {as_jpeg}: mean {mean}, worst {worst}"
            );
            assert!(as_jpeg || worst <= tolerance, "orientation {orientation}: worst {worst}");
        }
    }
}

#[test]
fn the_orientation_is_read_from_files_of_other_programs_too() {
    check_quarters("JPEG", &fixture("orientation-6.jpg"), QUARTERS);
    check_quarters("WebP", &fixture("orientation-6.webp"), QUARTERS);
}
