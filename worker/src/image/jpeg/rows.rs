//! From planes of components to rows of pixels: smaller components are enlarged and colours converted, both as libjpeg
//! does it, to the bit.

use super::{header::Colours, idct};

/// The samples of one component, as many rows of it as are needed at a time.
#[derive(Debug)]
pub(super) struct Plane {
    /// Samples: columns and rows that count. There are more, to whole blocks.
    pub(super) width: usize,
    pub(super) height: usize,
    /// Side of a block: 8, 4, 2 or 1.
    pub(super) block: usize,
    /// How many columns and rows of pixels a sample covers.
    pub(super) factors: (usize, usize),
    pub(super) stride: usize,
    /// Row `y` is kept at `y % rows`, a power of two.
    pub(super) rows: usize,
    pub(super) samples: Vec<u8>,
    /// One enlarged row, and one of sums.
    enlarged: Vec<u8>,
    sums: Vec<u16>,
}

impl Plane {
    pub(super) fn new(
        (width, height): (usize, usize),
        block: usize,
        factors: (usize, usize),
        stride: usize,
        rows: usize,
        samples: Vec<u8>,
    ) -> Self {
        Self { width, height, block, factors, stride, rows, samples, enlarged: Vec::new(), sums: Vec::new() }
    }

    /// Puts a block in its place.
    #[inline(always)]
    pub(super) fn put(
        &mut self,
        block: &[i16; 64],
        quantisation: &[i32; 64],
        only_dc: bool,
        column: usize,
        row: usize,
    ) {
        let at = ((row * self.block) & (self.rows - 1)) * self.stride + column * self.block;
        idct::block(block, quantisation, only_dc, self.block, &mut self.samples, at, self.stride);
    }

    #[inline(always)]
    fn row(&self, y: usize) -> &[u8] {
        let y = y.min(self.height - 1) & (self.rows - 1);
        &self.samples[y * self.stride..][..self.width]
    }

    /// Makes row `y` of the picture ready for `ready`.
    #[inline(always)]
    fn enlarge(&mut self, y: usize, smooth: bool) {
        let (fx, fy) = self.factors;
        if (fx, fy) == (1, 1) {
            return;
        }
        let mut enlarged = std::mem::take(&mut self.enlarged);
        let mut sums = std::mem::take(&mut self.sums);
        enlarged.resize(self.width * fx, 0);
        let own = y / fy;
        let near = self.row(own);
        // The other row that the pixels of this one are near to.
        let other = self.row(if y.is_multiple_of(fy) { own.saturating_sub(1) } else { own + 1 });
        match (fx, fy) {
            (2, 1) if smooth && self.width > 2 => twice(near, &mut enlarged),
            (1, 2) if smooth => {
                let bias = if y.is_multiple_of(2) { 1 } else { 2 };
                for ((out, near), other) in enlarged.iter_mut().zip(near).zip(other) {
                    *out = ((u16::from(*near) * 3 + u16::from(*other) + bias) >> 2) as u8;
                }
            }
            (2, 2) if smooth && self.width > 2 => {
                sums.clear();
                sums.extend(
                    near.iter().zip(other).map(|(near, other)| u16::from(*near) * 3 + u16::from(*other)),
                );
                twice_of_sums(&sums, &mut enlarged);
            }
            _ => {
                for (out, sample) in enlarged.chunks_exact_mut(fx).zip(near) {
                    out.fill(*sample);
                }
            }
        }
        (self.enlarged, self.sums) = (enlarged, sums);
    }

    #[inline(always)]
    fn ready(&self, y: usize) -> &[u8] {
        if self.factors == (1, 1) { self.row(y) } else { &self.enlarged }
    }
}

/// Each sample becomes two, at a quarter and three quarters between its neighbours; the halves are rounded by turns.
#[inline(always)]
fn twice(row: &[u8], out: &mut [u8]) {
    let last = row.len() - 1;
    let wide = |sample: u8| u16::from(sample);
    let inner = out[1..2 * last + 1].chunks_exact_mut(2);
    for (pair, two) in inner.zip(row.windows(2)) {
        let (left, right) = (wide(two[0]), wide(two[1]));
        pair[0] = ((left * 3 + right + 2) >> 2) as u8;
        pair[1] = ((right * 3 + left + 1) >> 2) as u8;
    }
    (out[0], out[2 * last + 1]) = (row[0], row[last]);
}

/// The same of rows that were weighted by three and one.
#[inline(always)]
fn twice_of_sums(row: &[u16], out: &mut [u8]) {
    let last = row.len() - 1;
    let inner = out[1..2 * last + 1].chunks_exact_mut(2);
    for (pair, two) in inner.zip(row.windows(2)) {
        pair[0] = ((two[0] * 3 + two[1] + 7) >> 4) as u8;
        pair[1] = ((two[1] * 3 + two[0] + 8) >> 4) as u8;
    }
    out[0] = ((row[0] * 4 + 8) >> 4) as u8;
    out[2 * last + 1] = ((row[last] * 4 + 7) >> 4) as u8;
}

/// Writes row `y` of the picture: one sample a pixel where it is grey, else three.
#[inline(always)]
pub(super) fn write(planes: &mut [Plane], colours: Colours, smooth: bool, y: usize, out: &mut [u8]) {
    for plane in planes.iter_mut() {
        plane.enlarge(y, smooth);
    }
    match (colours, planes) {
        (Colours::Grey, [grey, ..]) => {
            let row = grey.ready(y);
            let count = out.len().min(row.len());
            out[..count].copy_from_slice(&row[..count]);
        }
        (Colours::Rgb, [r, g, b, ..]) => {
            let (r, g, b) = (r.ready(y), g.ready(y), b.ready(y));
            for (((out, r), g), b) in out.chunks_exact_mut(3).zip(r).zip(g).zip(b) {
                (out[0], out[1], out[2]) = (*r, *g, *b);
            }
        }
        (Colours::YCbCr, [luma, blue, red, ..]) => {
            let (luma, blue, red) = (luma.ready(y), blue.ready(y), red.ready(y));
            for (((out, luma), blue), red) in out.chunks_exact_mut(3).zip(luma).zip(blue).zip(red) {
                let [r, g, b] = rgb(*luma, *blue, *red);
                (out[0], out[1], out[2]) = (r, g, b);
            }
        }
        (Colours::Cmyk | Colours::Ycck, [c, m, y_, k]) => {
            let (c, m, y_, k) = (c.ready(y), m.ready(y), y_.ready(y), k.ready(y));
            let rows = out.chunks_exact_mut(3).zip(c).zip(m).zip(y_).zip(k);
            for ((((out, c), m), y_), k) in rows {
                // How much of each ink there is not, as Adobe writes it.
                let ink = if colours == Colours::Ycck {
                    rgb(*c, *m, *y_)
                } else {
                    [*c, *m, *y_].map(|light| 255 - light)
                };
                for (out, ink) in out.iter_mut().zip(ink) {
                    let product = u32::from(ink) * u32::from(*k) + 128;
                    *out = (i32::from(*k) - ((product + (product >> 8)) >> 8) as i32).clamp(0, 255) as u8;
                }
            }
        }
        _ => {}
    }
}

/// ITU-R BT.601 with the full range, in 16 bits after the point.
#[inline(always)]
fn rgb(luma: u8, blue: u8, red: u8) -> [u8; 3] {
    let (luma, blue, red) = (i32::from(luma), i32::from(blue) - 128, i32::from(red) - 128);
    let half = 1 << 15;
    let sample = |value: i32| value.clamp(0, 255) as u8;
    [
        sample(luma + ((91_881 * red + half) >> 16)),
        sample(luma + ((-22_554 * blue - 46_802 * red + half) >> 16)),
        sample(luma + ((116_130 * blue + half) >> 16)),
    ]
}
