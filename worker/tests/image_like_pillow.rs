//! Some 2,200 files of `testing/images/variants.py`: each gives the same pixels as in Pillow, or is
//! refused.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "clippy.toml allows them in tests, but not in what tests call"
)]

use std::{fs, path::Path, process::Command};

use eirs_platform::{
    settings::{Alpha, Colour},
    testing::{not_run, python},
};
use eirs_worker::image::{Limits, Pixels, decode};
use image::{DynamicImage, RgbImage};

/// Files that Pillow reads and EIRS refuses: prefixes of names, and words in the refusal.
const ONLY_PILLOW: [(&str, &str); 31] = [
    ("frame-c9", "an arithmetic-coded JPEG"),
    ("jpegtran-arithmetic", "an arithmetic-coded JPEG"),
    ("cjpeg-arithmetic", "an arithmetic-coded JPEG"),
    // libjpeg estimates missing coefficients of a progressive file.
    ("flipped-", "the scans with its details are missing"),
    ("script-", "the scans with its details are missing"),
    // Chunks with a wrong or missing check sum, and unknown critical chunks.
    ("damaged-no-end.png", "is cut short"),
    ("damaged-cut-sum.png", "is cut short"),
    ("damaged-wrong-sum.png", "check sum of its chunk IDAT at byte 33"),
    ("damaged-critical-unknown.png", "its chunk TeSt at byte 33 is not known"),
    ("no-palette.gif", "no color table"),
    // The intended pixels are unknown.
    ("runs8-outside-list", "a list of 6 pixels at column 12"),
    ("runs4-outside-list", "a list of 6 pixels at column 12"),
    ("runs8-outside-jump", "jumps to column 103"),
    ("runs4-outside-jump", "jumps to column 103"),
    ("1-group3", "compressed with the fax code of group 3"),
    ("page-", "compressed with Zstandard"),
    ("strips-", "compressed with Zstandard"),
    ("page-", "compressed with LZMA"),
    ("strips-", "compressed with LZMA"),
    ("page-la-jpeg", "JPEGs of 2 components"),
    ("strips-la-jpeg", "JPEGs of 2 components"),
    ("page-ycbcr", "YCbCr colours outside of JPEG"),
    ("strips-ycbcr", "YCbCr colours outside of JPEG"),
    ("page-lab", "the colours of CIE Lab"),
    ("strips-lab", "the colours of CIE Lab"),
    ("lab-", "the colours of CIE Lab"),
    ("ycbcr-", "YCbCr colours outside of JPEG"),
    ("signed", "signed samples of"),
    ("float-", "that are fractions"),
    ("bits12-", "samples of 12 bits"),
    ("whole", "samples of 32 bits"),
];

/// Files that EIRS reads and Pillow does not. Each is complete and unambiguous: short headers and
/// masks of bitmaps that Pillow does not list, runs that end early or leave the row, unknown
/// segments, images without an end marker, check sums within valid ones.
const ONLY_EIRS: [&str; 15] = [
    "header16-",
    "masks16-2",
    "masks32-",
    "alpha-rgba-",
    "alpha-4444-",
    "runs8-",
    "runs4-",
    "bits-2.bmp",
    "unknown-segments.jpg",
    "image-in-the-middle.jpg",
    "no-end.jpg",
    "damaged-wrong-adler.png",
    "grey-alpha1-",
    "samples1-photometric0-bits16-",
    "samples2-photometric1-bits16-",
];

/// Known differences with their maximum: lossy WebP by the rounding of two decoders, unusual grey
/// levels by that of a division; grey with 16 bits, which Pillow clips to white while EIRS keeps
/// the high byte, by any value.
const DIFFERENT: [(&str, u8); 22] = [
    ("lossy-", 6),
    ("page-rgba-jpeg", 1),
    ("page-cmyk-jpeg", 1),
    ("few.pgm", 1),
    ("most-100.", 1),
    ("words-100.", 1),
    ("most-1023.ppm", 1),
    ("words-1023.ppm", 1),
    ("most-65535.ppm", 1),
    ("words-65535.ppm", 1),
    ("bits16-colour0", 255),
    ("kind0-16-", 255),
    ("clear0-16", 255),
    ("samples1-photometric0-bits16-", 255),
    ("samples1-photometric1-bits16-", 255),
    ("wide-grey.tif", 255),
    ("most-256.pgm", 255),
    ("most-1023.pgm", 255),
    ("most-65535.pgm", 255),
    ("words-256.pgm", 255),
    ("words-1023.pgm", 255),
    ("words-65535.pgm", 255),
];

/// The RGB samples of the upright image.
fn upright(file: &[u8], colour: Colour) -> Result<RgbImage, String> {
    let mut pixels = Pixels::default();
    let limits = Limits { max_pixels: 1_000_000, view: None, alpha: Alpha::Drop, colour };
    decode(file, limits, &mut pixels).map_err(|error| error.to_string())?;
    let channels = pixels.channels();
    let rgb = pixels.samples().chunks_exact(channels).flat_map(|pixel| match *pixel {
        [grey] | [grey, _] => [grey; 3],
        [r, g, b, ..] => [r, g, b],
        [] => [0; 3],
    });
    let stored = RgbImage::from_vec(pixels.width(), pixels.height(), rgb.collect()).unwrap();
    let mut image = DynamicImage::ImageRgb8(stored);
    image.apply_orientation(pixels.orientation());
    Ok(image.into_rgb8())
}

/// Describes how the result for a file differs from the expected one.
fn complaint(folder: &Path, entry: &serde_json::Value) -> Option<String> {
    let name = entry["name"].as_str().unwrap();
    let file = fs::read(folder.join(name)).unwrap();
    let found = upright(&file, Colour::Ignore);
    // With the `colour` setting, CMYK without a profile is converted by other code to the same
    // colours.
    if (name.starts_with("four-") || name.contains("cmyk")) && upright(&file, Colour::Srgb) != found {
        return Some("is other colours where profiles count, and has none".to_owned());
    }
    match (found, entry.get("refused")) {
        (Err(why), Some(_)) => why.is_empty().then(|| "is refused without a word".to_owned()),
        (Ok(_), Some(why)) => {
            let known = ONLY_EIRS.iter().any(|start| name.starts_with(start));
            (!known).then(|| format!("is read, and Pillow says {why}"))
        }
        (Err(why), None) => {
            let known =
                ONLY_PILLOW.iter().any(|(start, words)| name.starts_with(start) && why.contains(words));
            (!known).then(|| format!("is refused: {why}"))
        }
        (Ok(seen), None) => {
            let size = (entry["width"].as_u64().unwrap() as u32, entry["height"].as_u64().unwrap() as u32);
            if seen.dimensions() != size {
                return Some(format!("is {:?}, and for Pillow {size:?}", seen.dimensions()));
            }
            let expected = fs::read(folder.join(format!("{name}.rgb"))).unwrap();
            let far = seen.iter().zip(&expected).map(|(a, b)| a.abs_diff(*b)).max().unwrap_or(0);
            let allowed =
                DIFFERENT.iter().find(|(start, _)| name.starts_with(start)).map_or(0, |(_, far)| *far);
            (far > allowed).then(|| format!("has pixels that differ by {far}"))
        }
    }
}

#[test]
fn every_variant_is_read_like_pillow_or_refused() {
    let how = "`make test`, or a Python with Pillow in TESTING_PYTHON";
    let Some(python) = python() else { return not_run("there is no Python", how) };
    let folder = tempfile::tempdir().unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../testing/images/variants.py");
    if !Command::new(&python).args(["-c", "import PIL"]).output().unwrap().status.success() {
        return not_run("this Python has no Pillow", how);
    }
    let made = Command::new(&python).arg("-B").arg(script).arg(folder.path()).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let list = fs::read_to_string(folder.path().join("list.jsonl")).unwrap();
    let mut wrong = Vec::new();
    for line in list.lines() {
        let entry: serde_json::Value = serde_json::from_str(line).unwrap();
        if let Some(what) = complaint(folder.path(), &entry) {
            wrong.push(format!("{} {what}", entry["name"].as_str().unwrap()));
        }
    }
    assert!(list.lines().count() > 1800, "only {} variants", list.lines().count());
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), list.lines().count(), wrong.join("\n"));
}
