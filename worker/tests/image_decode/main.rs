//! Every format, every way to store pixels, and all kinds of invalid uploads.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "clippy.toml allows them in tests, but not in what tests call"
)]

mod any_bytes;
mod colours;
mod formats;
mod orientation;
mod refusals;
mod views;

use std::io::Cursor;

use eirs_platform::settings::{Alpha, Colour};
use eirs_worker::image::{Limits, Pixels, Resizer, Unreadable, View, decode, geometry::Geometry};
use image::{DynamicImage, ImageFormat, Rgb, RgbImage};

const FULL: Limits = Limits { max_pixels: 1_000_000, view: None, alpha: Alpha::Drop, colour: Colour::Ignore };

/// A view with this short side, and a centre crop of this side.
fn view(short: u32, side: Option<u32>) -> View {
    View { short, cut: side.map(|side| (side, side)), fractions: true }
}

/// The four quarters of the images in `tests/images`.
const QUARTERS: [[u8; 3]; 4] = [[220, 30, 30], [30, 200, 30], [30, 30, 220], [250, 250, 250]];

/// The image of `tests/images/make.py`.
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

/// Checks that a file has these quarters, in reading order.
fn check_quarters(what: &str, file: &[u8], quarters: [[u8; 3]; 4]) {
    let square = seen(file, FULL, 16, 16);
    for ((x, y), expected) in [(4, 4), (11, 4), (4, 11), (11, 11)].into_iter().zip(quarters) {
        let found = square[y * 16 + x];
        let near = found.iter().zip(expected).all(|(a, b)| a.abs_diff(b) <= 12);
        assert!(near, "{what}: at {x}, {y} is {found:?}, not {expected:?}");
    }
}
