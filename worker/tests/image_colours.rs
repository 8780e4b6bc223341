//! Colour profiles: `colour = "srgb"` gives the same as Pillow's `ImageCms` (littlecms), and
//! `ignore` the stored values.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "clippy.toml allows them in tests, but not in what tests call"
)]

use std::{fs, process::Command};

use eirs_platform::{
    formats::heif,
    settings::{Alpha, Colour},
    testing::{not_run, python},
};
use eirs_worker::image::{Limits, Pixels, decode};
use moxcms::ColorProfile;

/// Maximum difference of a sample from littlecms, which rounds to 16 bits in between; the curves of
/// dark colours are steep.
const FAR: u8 = 2;

/// The same after two decoders of AVIF, which round differently before the curves.
const FAR_IN_AVIF: u8 = 20;

/// The same for profiles with tables, for one sample and in the mean. Both libraries first compute
/// a coarser table, and interpolate in it.
const FAR_BY_TABLE: u8 = 24;
const FAR_BY_TABLE_MEAN: f64 = 1.0;

/// The RGB samples of an image without orientation.
fn colours(file: &[u8], colour: Colour) -> Vec<u8> {
    let mut pixels = Pixels::default();
    let limits = Limits { max_pixels: 1_000_000, view: None, alpha: Alpha::Drop, colour };
    decode(file, limits, &mut pixels).unwrap();
    let rgb = pixels.samples().chunks_exact(pixels.channels()).flat_map(|pixel| match *pixel {
        [grey] | [grey, _] => [grey; 3],
        [red, green, blue, ..] => [red, green, blue],
        [] => [0; 3],
    });
    rgb.collect()
}

#[test]
fn profiles_are_converted_to_srgb_like_littlecms() {
    let how = "`make test`, or a Python with Pillow in TESTING_PYTHON";
    let Some(python) = python() else { return not_run("there is no Python", how) };
    if !Command::new(&python).args(["-c", "from PIL import ImageCms"]).output().unwrap().status.success() {
        return not_run("this Python has no Pillow", how);
    }
    let folder = tempfile::tempdir().unwrap();
    for (name, profile) in [
        ("srgb", ColorProfile::new_srgb()),
        ("display-p3", ColorProfile::new_display_p3()),
        ("adobe", ColorProfile::new_adobe_rgb()),
        ("bt2020", ColorProfile::new_bt2020()),
        ("grey-2.2", ColorProfile::new_gray_with_gamma(2.2)),
        ("grey-1.8", ColorProfile::new_gray_with_gamma(1.8)),
    ] {
        fs::write(folder.path().join(format!("{name}.icc")), profile.encode().unwrap()).unwrap();
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../testing/images/profiles.py");
    let made = Command::new(&python).arg("-B").arg(script).arg(folder.path()).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let list = fs::read_to_string(folder.path().join("list.jsonl")).unwrap();
    let (mut files, mut changed) = (0, 0);
    for line in list.lines() {
        let entry: serde_json::Value = serde_json::from_str(line).unwrap();
        let name = entry["name"].as_str().unwrap();
        let is_avif = name.ends_with(".avif");
        if is_avif && !heif::is_there() {
            continue;
        }
        let file = fs::read(folder.path().join(name)).unwrap();
        let expected = fs::read(folder.path().join(format!("{name}.rgb"))).unwrap();
        let far = |found: &[u8]| found.iter().zip(&expected).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
        let found = colours(&file, Colour::Srgb);
        assert_eq!(found.len(), expected.len(), "{name}");
        println!("{name}: {} (ignored: {})", far(&found), far(&colours(&file, Colour::Ignore)));
        let is_table = name.starts_with("inks") || name.starts_with("table");
        let sum: u64 = found.iter().zip(&expected).map(|(a, b)| u64::from(a.abs_diff(*b))).sum();
        let mean = sum as f64 / found.len() as f64;
        assert!(!is_table || mean <= FAR_BY_TABLE_MEAN, "{name} differs by {mean} in the mean");
        let most = match () {
            () if is_table => FAR_BY_TABLE,
            () if is_avif => FAR_IN_AVIF,
            () => FAR,
        };
        assert!(far(&found) <= most, "{name} differs by {}", far(&found));
        files += 1;
        changed += usize::from(far(&colours(&file, Colour::Ignore)) > 5 * FAR);
    }
    assert!(files > 45 && changed > 35, "{changed} of {files}");
}

#[test]
fn unreadable_and_mismatched_profiles_change_nothing() {
    let picture = image::RgbImage::from_fn(9, 7, |x, y| image::Rgb([x as u8 * 20, y as u8 * 30, 77]));
    let with = |profile: Vec<u8>| {
        let mut file = Vec::new();
        let mut encoder = image::codecs::png::PngEncoder::new(&mut file);
        image::ImageEncoder::set_icc_profile(&mut encoder, profile).unwrap();
        picture.write_with_encoder(encoder).unwrap();
        file
    };
    let p3 = ColorProfile::new_display_p3().encode().unwrap();
    let grey = ColorProfile::new_gray_with_gamma(1.8).encode().unwrap();
    assert_ne!(
        colours(&with(p3.clone()), Colour::Srgb),
        picture.as_raw()[..],
        "the valid profile changes the colours"
    );
    for wrong in [b"no profile".to_vec(), p3[..p3.len() / 2].to_vec(), grey] {
        let file = with(wrong);
        assert_eq!(colours(&file, Colour::Srgb), picture.as_raw()[..]);
    }
    // CMYK without a profile, or with one for RGB, is converted as without the setting.
    let inks = include_bytes!("images/cmyk.jpg");
    let wrong = with_profile(inks, &p3);
    for file in [&inks[..], &wrong] {
        assert_eq!(colours(file, Colour::Srgb), colours(inks, Colour::Ignore));
    }
    // Damage anywhere in the profile must not do more than change colours.
    for at in (0..p3.len()).step_by(3) {
        let mut damaged = p3.clone();
        damaged[at] ^= 0xff;
        assert_eq!(colours(&with(damaged), Colour::Srgb).len(), picture.as_raw().len());
    }
}

/// Inserts a profile into a JPEG.
fn with_profile(jpeg: &[u8], profile: &[u8]) -> Vec<u8> {
    let length = u16::try_from(profile.len() + 16).unwrap().to_be_bytes();
    let head = [&[0xff, 0xe2], &length[..], b"ICC_PROFILE\0", &[1, 1]].concat();
    [&jpeg[..2], &head, profile, &jpeg[2..]].concat()
}
