//! Every supported format, and every way in which its files store pixels.

use eirs_platform::{formats::heif, settings::Alpha, testing::not_run};
use eirs_worker::image::{Limits, Pixels, decode};
use image::{DynamicImage, ImageFormat};

use crate::{FULL, QUARTERS, check_quarters, encoded, fixture, picture, refusal, seen};

#[test]
fn every_format_gives_the_same_image() {
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
fn bitmap_pixels_at_the_offset_of_the_colour_table_follow_it() {
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
fn grey_levels_of_television_are_expanded() {
    if !heif::is_there() {
        return not_run("there is no libheif", "apt install libheif1");
    }
    let mut pixels = Pixels::default();
    decode(&fixture("grey-limited.avif"), FULL, &mut pixels).unwrap();
    let row = &pixels.samples()[..32 * pixels.channels()];
    let levels: Vec<u8> = row.iter().step_by(pixels.channels()).copied().collect();
    assert!(levels[..14].iter().all(|level| *level <= 1), "{levels:?}");
    assert!(levels[18..].iter().all(|level| *level >= 254), "{levels:?}");
}

#[test]
fn photos_of_phones_are_read_with_libheif() {
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
fn a_baseline_jpeg_with_a_scan_per_component_gives_the_same_image() {
    for name in ["420", "440", "411"] {
        check_quarters(name, &fixture(&format!("separate-scans-{name}.jpg")), QUARTERS);
    }
}

#[test]
fn a_jpeg_without_end_marker_is_read() {
    let file = encoded(&DynamicImage::ImageRgb8(picture(48, 32)), ImageFormat::Jpeg);
    check_quarters("JPEG", &file[..file.len() - 2], QUARTERS);
}
