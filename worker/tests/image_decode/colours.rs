//! The conversion of CMYK, 16 bits, grey and alpha.

use eirs_platform::settings::Alpha;
use eirs_worker::image::Limits;
use image::{DynamicImage, ImageFormat, Rgb, RgbImage};

use crate::{FULL, QUARTERS, check_quarters, encoded, fixture, picture, seen};

#[test]
fn cmyk_is_read_as_adobe_writes_it() {
    check_quarters("CMYK", &fixture("cmyk.jpg"), QUARTERS);
}

#[test]
fn sixteen_bits_keep_their_high_byte() {
    let sixteen = image::ImageBuffer::from_fn(48, 32, |x, y| {
        Rgb(picture(48, 32).get_pixel(x, y).0.map(|sample| u16::from(sample) << 8 | 0x7f))
    });
    check_quarters("RGB", &encoded(&DynamicImage::ImageRgb16(sixteen), ImageFormat::Png), QUARTERS);
    let grey =
        image::ImageBuffer::from_fn(48, 32, |x, _| image::Luma([if x < 24 { 0x40ff } else { 0xc000u16 }]));
    let expected = [[0x40; 3], [0xc0; 3], [0x40; 3], [0xc0; 3]];
    check_quarters("grey", &encoded(&DynamicImage::ImageLuma16(grey), ImageFormat::Png), expected);
}

#[test]
fn transparent_pixels_are_blended_with_white_or_black_if_set() {
    // Half of each colour remains.
    let half = RgbImage::from_fn(48, 32, |x, y| Rgb(picture(48, 32).get_pixel(x, y).0));
    let half = image::RgbaImage::from_fn(48, 32, |x, y| {
        let [r, g, b] = half.get_pixel(x, y).0;
        image::Rgba([r, g, b, 128])
    });
    let grey = image::GrayAlphaImage::from_pixel(48, 32, image::LumaA([100, 0]));
    for (alpha, ground) in [(Alpha::White, 255u16), (Alpha::Black, 0)] {
        let square = |file: &[u8]| seen(file, Limits { alpha, ..FULL }, 16, 16);
        for format in [ImageFormat::Png, ImageFormat::WebP, ImageFormat::Tiff, ImageFormat::Qoi] {
            let found = square(&encoded(&DynamicImage::ImageRgba8(half.clone()), format))[4 * 16 + 4];
            for (found, colour) in found.iter().zip(QUARTERS[0]) {
                let expected = (u16::from(colour) * 128 + ground * 127) / 255;
                assert!(u16::from(*found).abs_diff(expected) <= 1, "{format:?}: {found} is not {expected}");
            }
        }
        let found = square(&encoded(&DynamicImage::ImageLumaA8(grey.clone()), ImageFormat::Png))[0];
        assert_eq!(found, [ground as u8; 3]);
    }
}

#[test]
fn grey_becomes_three_equal_channels() {
    let grey = image::GrayImage::from_fn(48, 32, |_, y| image::Luma([if y < 16 { 50 } else { 200 }]));
    let expected = [[50; 3], [50; 3], [200; 3], [200; 3]];
    for format in [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::Bmp] {
        check_quarters("grey", &encoded(&DynamicImage::ImageLuma8(grey.clone()), format), expected);
    }
}

#[test]
fn alpha_is_dropped_and_not_blended() {
    let clear = DynamicImage::ImageRgb8(picture(48, 32)).to_rgba8();
    let clear = image::RgbaImage::from_fn(48, 32, |x, y| {
        let [r, g, b, _] = clear.get_pixel(x, y).0;
        image::Rgba([r, g, b, if x % 2 == 0 { 0 } else { 90 }])
    });
    for format in [ImageFormat::Png, ImageFormat::WebP] {
        check_quarters("alpha", &encoded(&DynamicImage::ImageRgba8(clear.clone()), format), QUARTERS);
    }
    let grey =
        image::GrayAlphaImage::from_fn(48, 32, |x, _| image::LumaA([if x < 24 { 10 } else { 240 }, 3]));
    let expected = [[10; 3], [240; 3], [10; 3], [240; 3]];
    check_quarters("grey", &encoded(&DynamicImage::ImageLumaA8(grey), ImageFormat::Png), expected);
}
