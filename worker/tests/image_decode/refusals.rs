//! What cannot be decoded is refused in a sentence: other formats, too many pixels, damage.

use eirs_platform::formats::Kind;
use eirs_worker::image::{Limits, Pixels, check_pixels, decode};
use image::{DynamicImage, ImageFormat, Rgb, RgbImage};

use crate::{FULL, encoded, fixture, picture, refusal, view};

#[test]
fn unsupported_kinds_are_refused_by_name() {
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
fn a_decompression_bomb_is_refused_with_its_size_and_the_limit() {
    for (format, bomb) in bombs() {
        let why = refusal(&bomb, Limits { max_pixels: 100_000_000, ..FULL });
        for part in ["30000 x 30000", "900000000", "100000000"] {
            assert!(why.contains(part), "{format}: {why}");
        }
        assert!(check_pixels(&bomb, 100_000_000).is_err(), "{format}");
    }
}

#[test]
fn a_webp_with_a_frame_beyond_its_canvas_is_refused_before_decoding() {
    // A canvas of 1 x 1 with a frame of 16383 x 16383.
    let mut file =
        b"RIFF\x30\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0\0\0\0\0\0\0VP8 \x0a\0\0\0\x10\0\0\x9d\x01\x2a".to_vec();
    file.extend([0xff, 0x3f, 0xff, 0x3f, 0, 0, 0, 0]);
    assert!(refusal(&file, FULL).contains("16383 x 16383"));
}

#[test]
fn an_image_of_exactly_the_limit_is_accepted() {
    let file = encoded(&DynamicImage::ImageRgb8(picture(48, 32)), ImageFormat::Png);
    let with = |max_pixels| decode(&file, Limits { max_pixels, ..FULL }, &mut Pixels::default());
    assert!(with(48 * 32).is_ok());
    assert!(with(48 * 32 - 1).is_err());
}

#[test]
fn a_truncated_image_is_refused_in_a_sentence() {
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
fn a_refusal_names_the_byte_offset_if_known() {
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
        // Changes the compression to LZMA.
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
fn a_jpeg_with_too_many_scans_is_refused() {
    let file = fixture("progressive.jpg");
    let start = file.windows(2).position(|pair| pair == [0xff, 0xda]).unwrap();
    let (head, scans) = file.split_at(start);
    let scan = &scans
        [..scans[2..].windows(2).position(|pair| pair == [0xff, 0xc4] || pair == [0xff, 0xda]).unwrap() + 2];
    let bomb = [head, &scan.repeat(101), &[0xff, 0xd9]].concat();
    assert!(refusal(&bomb, FULL).contains("more than 100 scans"));
}

#[test]
fn other_files_are_refused_in_one_sentence() {
    let texts: [&[u8]; 7] = [b"", b"\0", b"hello", b"BM", b"BMW is a car", b"RIFF....WAVE", b"%PDF-1.7"];
    for bytes in texts {
        assert_eq!(refusal(bytes, FULL), Kind::NoImage.refusal().unwrap(), "{bytes:?}");
    }
    assert!(refusal(b"II*\0tiff", FULL).contains("TIFF"));
    // Without the library, the message says what to do; with it, what is wrong.
    let heic = refusal(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", FULL);
    assert!(heic.contains("HEIC") && heic.contains("libheif"), "{heic}");
}
