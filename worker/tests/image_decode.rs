//! Every format, every way of storing pixels, and everything that a stranger might send instead.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "clippy.toml allows them in tests, but not in what tests call"
)]

use std::io::Cursor;

use eirs_platform::{
    formats::{Kind, heif},
    settings::{Alpha, Colour},
    testing::not_run,
};
use eirs_worker::image::{
    Limits, Pixels, Resizer, Unreadable, View, check_pixels, decode, geometry::Geometry,
};
use image::{
    DynamicImage, ExtendedColorType, ImageEncoder, ImageFormat, Rgb, RgbImage,
    codecs::{jpeg::JpegEncoder, png::PngEncoder},
    metadata::Orientation,
};
use proptest::prelude::*;

const FULL: Limits = Limits { max_pixels: 1_000_000, view: None, alpha: Alpha::Drop, colour: Colour::Ignore };

/// A short side of so many pixels, and a square that is cut out of the middle.
fn view(short: u32, side: Option<u32>) -> View {
    View { short, cut: side.map(|side| (side, side)), fractions: true }
}

/// The four quarters of the pictures in `tests/images`.
const QUARTERS: [[u8; 3]; 4] = [[220, 30, 30], [30, 200, 30], [30, 30, 220], [250, 250, 250]];

/// The picture of `tests/images/make.py`.
fn picture(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| {
        Rgb(QUARTERS[usize::from(2 * y >= height) * 2 + usize::from(2 * x >= width)])
    })
}

fn encoded(image: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut file = Cursor::new(Vec::new());
    image.write_to(&mut file, format).unwrap();
    file.into_inner()
}

fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(format!("{}/tests/images/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

fn refusal(file: &[u8], limits: Limits) -> String {
    match decode(file, limits, &mut Pixels::default()) {
        Err(Unreadable::Never(why)) => why,
        other => panic!("{other:?}"),
    }
}

/// The square that a model of `side` pixels sees of this file.
fn seen(file: &[u8], limits: Limits, resize: u32, side: u32) -> Vec<[u8; 3]> {
    let mut pixels = Pixels::default();
    decode(file, limits, &mut pixels).unwrap();
    let mut square = vec![[0; 3]; (side * side) as usize];
    Resizer::default()
        .fit(&pixels, &Geometry::crop(side, resize), |index, [r, g, b, _]| square[index] = [r, g, b])
        .unwrap();
    square
}

#[test]
fn a_squashed_picture_shows_both_edges_and_a_centre_cut_neither() {
    // Red, a wide grey middle, blue: upright, and stored lying on its side.
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

/// Checks that a file shows these quarters, in the order of reading.
fn check_quarters(what: &str, file: &[u8], quarters: [[u8; 3]; 4]) {
    let square = seen(file, FULL, 16, 16);
    for ((x, y), expected) in [(4, 4), (11, 4), (4, 11), (11, 11)].into_iter().zip(quarters) {
        let found = square[y * 16 + x];
        let near = found.iter().zip(expected).all(|(a, b)| a.abs_diff(b) <= 12);
        assert!(near, "{what}: at {x}, {y} is {found:?}, not {expected:?}");
    }
}

#[test]
fn every_format_shows_the_same_picture() {
    let image = DynamicImage::ImageRgb8(picture(48, 32));
    for format in [
        ImageFormat::Jpeg,
        ImageFormat::Png,
        ImageFormat::WebP,
        ImageFormat::Gif,
        ImageFormat::Bmp,
        ImageFormat::Tiff,
        ImageFormat::Ico,
        ImageFormat::Pnm,
        ImageFormat::Qoi,
    ] {
        let image = if matches!(format, ImageFormat::Gif | ImageFormat::Ico) {
            DynamicImage::ImageRgba8(image.to_rgba8())
        } else {
            image.clone()
        };
        check_quarters(&format!("{format:?}"), &encoded(&image, format), QUARTERS);
    }
    for name in ["progressive.jpg", "subsampled.jpg", "lossy.webp", "palette.png", "palette.bmp"] {
        check_quarters(name, &fixture(name), QUARTERS);
    }
}

#[test]
fn a_bitmap_whose_pixels_are_said_to_begin_at_its_colour_table_begins_them_after_it() {
    let mut file = fixture("palette.bmp");
    let header = u32::from_le_bytes(file[14..18].try_into().unwrap());
    file[10..14].copy_from_slice(&(14 + header).to_le_bytes());
    check_quarters("palette.bmp", &file, QUARTERS);
}

#[test]
fn an_animation_is_its_first_frame() {
    check_quarters("GIF", &fixture("animated.gif"), QUARTERS);
    check_quarters("WebP", &fixture("animated.webp"), QUARTERS);
}

#[test]
fn photos_of_phones_are_read_where_there_is_libheif() {
    if !heif::is_there() {
        return not_run("there is no libheif", "the package libheif1");
    }
    let names = ["photo.heic", "orientation-6.avif", "xmp-6.avif", "alpha.heic", "premultiplied.avif"];
    for name in names {
        check_quarters(name, &fixture(name), QUARTERS);
    }
    // By the properties `irot` and `imir`.
    for orientation in 2..=8 {
        let name = format!("turned-{orientation}.heic");
        check_quarters(&name, &fixture(&name), QUARTERS);
    }
    let file = fixture("photo.heic");
    let small = Limits { max_pixels: 1000, ..FULL };
    assert!(refusal(&file, small).contains("48 x 32 = 1536 pixels, more than the limit"));
    let white = Limits { alpha: Alpha::White, ..FULL };
    let (seen_on, dropped) =
        (seen(&fixture("alpha.heic"), white, 16, 16), seen(&fixture("alpha.heic"), FULL, 16, 16));
    assert!(seen_on[0][1] > dropped[0][1] + 30, "{:?} {:?}", seen_on[0], dropped[0]);
    for part in [1, 2, 3] {
        let why = refusal(&file[..file.len() * part / 4], FULL);
        assert!(why.contains("the HEIC image"), "{why}");
    }
}

#[test]
fn a_baseline_jpeg_with_a_scan_for_each_component_shows_the_same_picture() {
    for name in ["420", "440", "411"] {
        check_quarters(name, &fixture(&format!("separate-scans-{name}.jpg")), QUARTERS);
    }
}

#[test]
fn what_is_not_read_is_refused_by_its_name() {
    let plain = encoded(&DynamicImage::ImageRgb8(picture(48, 32)), ImageFormat::Jpeg);
    let frame = plain.windows(2).position(|pair| pair == [0xff, 0xc0]).unwrap();
    for (marker, name) in [
        (0xc3, "a lossless JPEG"),
        (0xc5, "a hierarchical JPEG"),
        (0xc9, "an arithmetic-coded JPEG"),
        (0xca, "an arithmetic-coded JPEG"),
        (0xf7, "a JPEG-LS"),
    ] {
        let mut file = plain.clone();
        file[frame + 1] = marker;
        assert_eq!(refusal(&file, FULL), format!("the image is {name}, which is not supported"));
    }
    let mut twelve = plain.clone();
    twelve[frame + 4] = 12;
    assert_eq!(refusal(&twelve, FULL), "the image is a 12-bit JPEG, which is not supported");
    let mut late = plain;
    late[frame + 5..frame + 7].fill(0);
    assert!(refusal(&late, FULL).contains("DNL"));
}

#[test]
fn cmyk_is_read_as_adobe_writes_it() {
    check_quarters("CMYK", &fixture("cmyk.jpg"), QUARTERS);
}

#[test]
fn a_picture_of_inks_is_not_decoded_at_a_fraction_which_would_change_its_colours() {
    let mut pixels = Pixels::default();
    let small = Limits { view: Some(view(2, None)), ..FULL };
    decode(&fixture("cmyk.jpg"), small, &mut pixels).unwrap();
    assert_eq!((pixels.width(), pixels.height()), (48, 32));
    decode(&fixture("subsampled.jpg"), small, &mut pixels).unwrap();
    assert_eq!((pixels.width(), pixels.height()), (6, 4), "an eighth");
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
fn a_transparent_picture_lies_on_white_or_black_where_that_is_wished() {
    // Half of each colour is there.
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

/// A TIFF header and one entry: the orientation.
fn exif(orientation: u8) -> Vec<u8> {
    let mut exif = b"II\x2a\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0".to_vec();
    exif.extend([orientation, 0, 0, 0, 0, 0, 0, 0]);
    exif
}

/// The image as a camera stores it that writes this orientation.
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
    // Odd sides and a gradient: a cut that is off by one pixel would show.
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
fn the_orientation_is_read_from_other_writers_too() {
    check_quarters("JPEG", &fixture("orientation-6.jpg"), QUARTERS);
    check_quarters("WebP", &fixture("orientation-6.webp"), QUARTERS);
}

#[test]
fn a_large_jpeg_decoded_at_a_fraction_looks_the_same() {
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
        "an eighth, which is still twice the 36 that are needed"
    );
    let (full, scaled) = (seen(&file, FULL, 36, 32), seen(&file, scaled, 36, 32));
    let total: u32 =
        full.iter().flatten().zip(scaled.iter().flatten()).map(|(a, b)| u32::from(a.abs_diff(*b))).sum();
    assert!(f64::from(total) / (32.0 * 32.0 * 3.0) < 1.0, "{total}");
}

#[test]
fn a_jpeg_of_which_only_the_middle_is_decoded_looks_the_same() {
    let names =
        ["subsampled.jpg", "progressive.jpg", "separate-scans-440.jpg", "separate-scans-411.jpg", "cmyk.jpg"];
    let image = RgbImage::from_fn(203, 131, |x, y| Rgb([(x * 7) as u8, (y * 5) as u8, (x * y) as u8]));
    let own = encoded(&DynamicImage::ImageRgb8(image), ImageFormat::Jpeg);
    for file in names.map(fixture).into_iter().chain([own]) {
        for orientation in 1..=8 {
            // EXIF data behind the first marker.
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
fn pixels_that_were_not_decoded_are_not_invented() {
    let image = RgbImage::from_pixel(300, 200, Rgb([9, 99, 199]));
    let file = encoded(&DynamicImage::ImageRgb8(image), ImageFormat::Jpeg);
    let mut pixels = Pixels::default();
    decode(&file, Limits { view: Some(view(100, Some(10))), ..FULL }, &mut pixels).unwrap();
    let why = Resizer::default().fit(&pixels, &Geometry::crop(90, 100), |_, _| {}).unwrap_err();
    assert!(why.to_string().contains("others are seen than were decoded"), "{why}");
}

#[test]
fn pictures_of_extreme_proportions_are_seen_too() {
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

/// Headers that announce 30,000 x 30,000 pixels.
fn bombs() -> Vec<(&'static str, Vec<u8>)> {
    let crc = |bytes: &[u8]| {
        !bytes.iter().fold(!0u32, |crc, byte| {
            (0..8).fold(crc ^ u32::from(*byte), |c, _| if c & 1 == 1 { c >> 1 ^ 0xedb8_8320 } else { c >> 1 })
        })
    };
    let small = DynamicImage::ImageRgb8(picture(48, 32));
    let size = 30_000u32;

    let mut png = encoded(&small, ImageFormat::Png);
    png[16..20].copy_from_slice(&size.to_be_bytes());
    png[20..24].copy_from_slice(&size.to_be_bytes());
    let sum = crc(&png[12..29]);
    png[29..33].copy_from_slice(&sum.to_be_bytes());

    let mut jpeg = encoded(&small, ImageFormat::Jpeg);
    let start = jpeg.windows(2).position(|pair| pair == [0xff, 0xc0]).unwrap();
    jpeg[start + 5..start + 7].copy_from_slice(&(size as u16).to_be_bytes());
    jpeg[start + 7..start + 9].copy_from_slice(&(size as u16).to_be_bytes());

    let mut gif = fixture("animated.gif");
    gif[6..8].copy_from_slice(&(size as u16).to_le_bytes());
    gif[8..10].copy_from_slice(&(size as u16).to_le_bytes());

    let mut bmp = encoded(&small, ImageFormat::Bmp);
    bmp[18..22].copy_from_slice(&size.to_le_bytes());
    bmp[22..26].copy_from_slice(&size.to_le_bytes());
    vec![("PNG", png), ("JPEG", jpeg), ("GIF", gif), ("BMP", bmp)]
}

#[test]
fn a_bomb_is_refused_by_its_header_naming_its_size_and_the_limit() {
    for (format, bomb) in bombs() {
        let why = refusal(&bomb, Limits { max_pixels: 100_000_000, ..FULL });
        for part in ["30000 x 30000", "900000000", "100000000"] {
            assert!(why.contains(part), "{format}: {why}");
        }
        assert!(check_pixels(&bomb, 100_000_000).is_err(), "{format}");
    }
}

#[test]
fn a_webp_whose_frame_is_larger_than_it_says_is_refused_before_it_is_decoded() {
    // A canvas of 1 x 1, and in it a frame of 16383 x 16383.
    let mut file =
        b"RIFF\x30\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0\0\0\0\0\0\0VP8 \x0a\0\0\0\x10\0\0\x9d\x01\x2a".to_vec();
    file.extend([0xff, 0x3f, 0xff, 0x3f, 0, 0, 0, 0]);
    assert!(refusal(&file, FULL).contains("16383 x 16383"));
}

#[test]
fn the_limit_is_the_last_size_that_passes() {
    let file = encoded(&DynamicImage::ImageRgb8(picture(48, 32)), ImageFormat::Png);
    let with = |max_pixels| decode(&file, Limits { max_pixels, ..FULL }, &mut Pixels::default());
    assert!(with(48 * 32).is_ok());
    assert!(with(48 * 32 - 1).is_err());
}

#[test]
fn an_image_that_is_cut_short_is_refused_in_a_sentence() {
    // Noise, so that every format needs all of its bytes.
    let noise =
        RgbImage::from_fn(64, 64, |x, y| Rgb([(x * 89 + y * 57) as u8, (x * y * 31) as u8, (x ^ y) as u8]));
    let noise = DynamicImage::ImageRgb8(noise);
    for format in [ImageFormat::Jpeg, ImageFormat::Png, ImageFormat::WebP, ImageFormat::Gif, ImageFormat::Bmp]
    {
        let image = if format == ImageFormat::Gif {
            DynamicImage::ImageRgba8(noise.to_rgba8())
        } else {
            noise.clone()
        };
        let file = encoded(&image, format);
        for part in [2, 3, 4] {
            let why = refusal(&file[..file.len() * part / 5], FULL);
            assert!(why.contains("image"), "{format:?}: {why}");
        }
    }
    let jpeg = fixture("progressive.jpg");
    let half = &jpeg[..jpeg.len() / 2];
    let why = format!("the JPEG image of 48 x 32 pixels is cut short after {} bytes", half.len());
    assert_eq!(refusal(half, FULL), why);
    assert_eq!(refusal(half, Limits { view: Some(view(1, None)), ..FULL }), why);
}

#[test]
fn a_refusal_names_the_byte_where_it_is_known() {
    let image = DynamicImage::ImageRgb8(picture(48, 32));
    let of = |format, change: &dyn Fn(&mut Vec<u8>)| {
        let image = if format == ImageFormat::Gif { image.to_rgba8().into() } else { image.clone() };
        let mut file = encoded(&image, format);
        change(&mut file);
        refusal(&file, FULL)
    };
    let why = of(ImageFormat::Png, &|file| {
        let end = file.len() - 12;
        file[end - 1] ^= 1;
    });
    assert!(why.contains("the check sum of its chunk IDAT at byte 33 is wrong"), "{why}");
    assert!(why.starts_with("the PNG image of 48 x 32 pixels cannot be decoded: "), "{why}");
    let why = of(ImageFormat::Bmp, &|file| file[28] = 7);
    assert!(why.contains("7 bits a pixel") && why.ends_with("at byte 28"), "{why}");
    let why = of(ImageFormat::Tiff, &|file| {
        // The compression becomes LZMA's.
        let entry = file.windows(4).position(|tag| tag == [3, 1, 3, 0]).unwrap();
        file[entry + 8..entry + 10].copy_from_slice(&34925u16.to_le_bytes());
    });
    assert!(why.contains("is compressed with LZMA (byte "), "{why}");
    let why = of(ImageFormat::Gif, &|file| {
        // More bits than a code can have.
        let frame = file.windows(2).rposition(|pair| pair == [0x2c, 0]).unwrap();
        let colours = 3 << ((file[frame + 9] & 7) + 1);
        file[frame + 10 + colours] = 99;
    });
    assert!(why.contains("in the pixels from byte "), "{why}");
    let why = of(ImageFormat::WebP, &|file| file[24..32].fill(0xff));
    assert!(why.contains("in the pixels from byte 12"), "{why}");
}

#[test]
fn a_jpeg_that_only_lacks_its_last_marker_is_read() {
    let file = encoded(&DynamicImage::ImageRgb8(picture(48, 32)), ImageFormat::Jpeg);
    check_quarters("JPEG", &file[..file.len() - 2], QUARTERS);
}

#[test]
fn a_jpeg_of_countless_scans_is_refused() {
    let file = fixture("progressive.jpg");
    let start = file.windows(2).position(|pair| pair == [0xff, 0xda]).unwrap();
    let (head, scans) = file.split_at(start);
    let scan = &scans
        [..scans[2..].windows(2).position(|pair| pair == [0xff, 0xc4] || pair == [0xff, 0xda]).unwrap() + 2];
    let bomb = [head, &scan.repeat(101), &[0xff, 0xd9]].concat();
    assert!(refusal(&bomb, FULL).contains("more than 100 scans"));
}

#[test]
fn what_is_no_image_is_refused_in_one_sentence() {
    let texts: [&[u8]; 7] = [b"", b"\0", b"hello", b"BM", b"BMW is a car", b"RIFF....WAVE", b"%PDF-1.7"];
    for bytes in texts {
        assert_eq!(refusal(bytes, FULL), Kind::NoImage.refusal().unwrap(), "{bytes:?}");
    }
    assert!(refusal(b"II*\0tiff", FULL).contains("TIFF"));
    // Without the library, what to do; with it, what is wrong.
    let heic = refusal(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", FULL);
    assert!(heic.contains("HEIC") && heic.contains("libheif"), "{heic}");
}

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

/// What comes of any bytes: pixels or a sentence.
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
    fn any_bytes_behind_a_known_start_give_pixels_or_a_sentence(which: prop::sample::Index, keep in 4usize..40, rest: Vec<u8>) {
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
