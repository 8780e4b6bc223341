#!/bin/sh
# tiff 0.11.3 (Rust, with weezl 0.1.12): a complete TIFF whose tiles of LZW end in an even background cannot be read.
#
# The crate reads a tile at the edge of a picture row by row. When the last codes are loaded and stand for several rows, weezl reports that it
# makes no progress although it writes a row, and the crate takes this for the end of the data. Maps and scans in tiles are of this kind.
#
# Expected beforehand: tiles of LZW are read like tiles of deflate.
# Seen: "no lzw end code found" for LZW; the same picture with deflate, and with LZW in strips, is read.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q --disable-pip-version-check tifffile==2026.3.3 imagecodecs==2026.3.6 numpy==2.4.6 pillow==13.0.0
venv/bin/python - <<'PYTHON'
import numpy as np, tifffile
from PIL import Image

page = np.full((700, 1000, 3), 255, np.uint8)
page[30:60, 30:90] = 200, 30, 10
for name, more in {"lzw-tiles": dict(compression="lzw", tile=(256, 256)), "lzw-strips": dict(compression="lzw"),
                   "deflate-tiles": dict(compression="deflate", tile=(256, 256))}.items():
    tifffile.imwrite(f"{name}.tif", page, photometric="rgb", **more)
    assert (np.array(Image.open(f"{name}.tif")) == page).all(), "changed: Pillow"
PYTHON
mkdir src
cat >Cargo.toml <<'TOML'
[package]
name = "seen"
edition = "2021"
[dependencies]
tiff = "=0.11.3"
weezl = "=0.1.12"
TOML
cat >src/main.rs <<'RUST'
use std::fs::File;
use tiff::decoder::Decoder;

fn main() {
    for (name, is_read) in [("deflate-tiles", true), ("lzw-strips", true), ("lzw-tiles", false)] {
        let mut decoder = Decoder::new(File::open(format!("{name}.tif")).unwrap()).unwrap();
        let seen = decoder.read_image().map(|_| "read").map_err(|error| error.to_string());
        println!("{name}: {seen:?}");
        assert_eq!(seen.is_ok(), is_read, "changed: {name}");
    }
}
RUST
cargo run -q
