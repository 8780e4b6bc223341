//! Converts planes of components to rows of pixels: upsampling and colour conversion, both as in
//! libjpeg, bit by bit.

use std::ops::Range;

use super::{
    super::view::Window,
    Refusal,
    header::{Colours, Component, Frame},
    idct,
};

/// The samples of one component, with as many rows as are needed at a time.
#[derive(Debug)]
pub(super) struct Plane {
    /// The number of kept columns and of valid rows, without the padding to whole blocks.
    width: usize,
    height: usize,
    /// The number of samples across and down in a block: 8, 4, 2 or 1 each.
    block: (usize, usize),
    /// The columns and rows of kept blocks.
    pub(super) kept: (Range<usize>, Range<usize>),
    /// The number of pixels that a sample covers, across and down.
    factors: (usize, usize),
    /// Whether upsampling interpolates instead of copying.
    smooth: bool,
    /// The weights for [`blur`], across and down; zero for none.
    blur: (u32, u32),
    /// The number of pixels before the first wanted one.
    skip: usize,
    stride: usize,
    /// Row `y` is stored at `y % rows`, a power of two.
    rows: usize,
    samples: Vec<u8>,
    /// One upsampled row, and one row of sums.
    enlarged: Vec<u8>,
    sums: Vec<u16>,
}

impl Plane {
    /// Creates the plane of a component for a window of the image, with blocks of `size` pixels on
    /// each side.
    pub(super) fn new(
        frame: &Frame,
        component: &Component,
        size: usize,
        window: &Window,
    ) -> Result<Self, Refusal> {
        let most = frame.most();
        let ratio = (most.0 / component.across, most.1 / component.down);
        // A subsampled component needs less reduction than the image.
        let side = |ratio: usize| {
            let fits = |block: &usize| *block <= size * ratio && (size * ratio).is_multiple_of(*block);
            [8, 4, 2].into_iter().find(fits).unwrap_or(1)
        };
        let block = (side(ratio.0), side(ratio.1));
        let factors = (size * ratio.0 / block.0, size * ratio.1 / block.1);
        let length =
            |side: usize, own: usize, most: usize, block: usize| (side * own * block).div_ceil(most * 8);
        let width = length(frame.width, component.across, most.0, block.0);
        let height = length(frame.height, component.down, most.1, block.1);
        // The row of units being read, the one being written, and the one before.
        let rows = 3 * component.down * block.1;
        // The condition of libjpeg.
        let is_smooth = matches!(ratio, (2, 1) | (2, 2)) && frame.width.div_ceil(2) > 2 || ratio == (1, 2);
        let fraction = 8 / size as u32;
        let blurred = |ratio: usize, factor: usize| {
            if is_smooth && size < 8 && ratio == 2 && factor == 1 { 2 * fraction * fraction } else { 0 }
        };
        let blur = (blurred(ratio.0, factors.0), blurred(ratio.1, factors.1));

        // Interpolation needs the samples on both sides.
        let blocks = |pixels: &Range<u32>, factor: usize, samples: usize, block: usize| {
            let first = (pixels.start as usize / factor).saturating_sub(1);
            let last = (pixels.end as usize).saturating_sub(1) / factor + 2;
            first / block..last.min(samples).div_ceil(block)
        };
        let columns = blocks(&window.columns, factors.0, width, block.0);
        let kept = (columns, blocks(&window.rows, factors.1, height, block.1));
        let (stride, rows) = (kept.0.len() * block.0, rows.next_power_of_two());
        let first = kept.0.start * block.0;
        let mut samples = Vec::new();
        samples.try_reserve_exact(stride * rows).map_err(|_| Refusal::NoMemory(stride * rows))?;
        samples.resize(stride * rows, 0);
        Ok(Self {
            width: width.min(kept.0.end * block.0) - first,
            height,
            block,
            kept,
            factors,
            smooth: is_smooth && size == 8,
            blur,
            skip: window.columns.start as usize - first * factors.0,
            stride,
            rows,
            samples,
            enlarged: Vec::new(),
            sums: Vec::new(),
        })
    }

    /// Returns whether the block at this place is wanted.
    #[inline(always)]
    pub(super) fn keeps(&self, column: usize, row: usize) -> bool {
        self.kept.0.contains(&column) && self.kept.1.contains(&row)
    }

    /// Stores a wanted block.
    #[inline(always)]
    pub(super) fn put(
        &mut self,
        block: &[i16; 64],
        quantisation: &[i32; 64],
        only_dc: bool,
        column: usize,
        row: usize,
    ) {
        let column = column - self.kept.0.start;
        let (across, down) = self.block;
        let at = ((row * down) & (self.rows - 1)) * self.stride + column * across;
        idct::block(block, quantisation, only_dc, self.block, &mut self.samples, at, self.stride);
    }

    #[inline(always)]
    fn row(&self, y: usize) -> &[u8] {
        let y = y.min(self.height - 1) & (self.rows - 1);
        &self.samples[y * self.stride..][..self.width]
    }

    /// Prepares row `y` of the image for `ready`.
    #[inline(always)]
    fn enlarge(&mut self, y: usize) {
        let (fx, fy) = self.factors;
        if (fx, fy) == (1, 1) && self.blur == (0, 0) {
            return;
        }
        let mut enlarged = std::mem::take(&mut self.enlarged);
        let mut sums = std::mem::take(&mut self.sums);
        enlarged.resize(self.width * fx, 0);
        let own = y / fy;
        let near = self.row(own);
        // The other row near the pixels of this one.
        let other = self.row(if y.is_multiple_of(fy) { own.saturating_sub(1) } else { own + 1 });
        match (fx, fy) {
            (2, 1) if self.smooth => twice(near, &mut enlarged),
            (1, 2) if self.smooth => {
                let bias = if y.is_multiple_of(2) { 1 } else { 2 };
                for ((out, near), other) in enlarged.iter_mut().zip(near).zip(other) {
                    *out = ((u16::from(*near) * 3 + u16::from(*other) + bias) >> 2) as u8;
                }
            }
            (2, 2) if self.smooth => {
                sums.clear();
                sums.extend(
                    near.iter().zip(other).map(|(near, other)| u16::from(*near) * 3 + u16::from(*other)),
                );
                twice_of_sums(&sums, &mut enlarged);
            }
            (1, 1) => {
                let (above, below) = (self.row(own.saturating_sub(1)), self.row(own + 1));
                blur(self.blur, [above, near, below], &mut sums, &mut enlarged);
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
        let row = if self.factors == (1, 1) && self.blur == (0, 0) { self.row(y) } else { &self.enlarged };
        &row[self.skip..]
    }
}

/// Blurs a component. At full size, upsampling blurs subsampled colours. At a fraction of the size
/// nothing is upsampled, so this applies the same blur: each neighbour has a weight of one in this
/// number of parts, across and down (zero for none).
#[inline(always)]
fn blur((across, down): (u32, u32), [above, row, below]: [&[u8]; 3], sums: &mut Vec<u16>, out: &mut [u8]) {
    sums.clear();
    let own = down.saturating_sub(2) as u16;
    if down == 0 {
        sums.extend(row.iter().map(|sample| u16::from(*sample)));
    } else {
        let near = row.iter().zip(above).zip(below);
        sums.extend(near.map(|((sample, above), below)| {
            u16::from(*sample) * own + u16::from(*above) + u16::from(*below)
        }));
    }
    let (own, parts) = (across.saturating_sub(2), across.max(1) * down.max(1));
    // All are powers of two.
    let (half, shift) = (parts / 2, parts.trailing_zeros());
    if across == 0 {
        out.iter_mut().zip(sums).for_each(|(out, sum)| *out = ((u32::from(*sum) + half) >> shift) as u8);
        return;
    }
    let wide = |sum: u16| u32::from(sum);
    for (out, three) in out[1..].iter_mut().zip(sums.windows(3)) {
        *out = ((wide(three[1]) * own + wide(three[0]) + wide(three[2]) + half) >> shift) as u8;
    }
    let last = sums.len() - 1;
    for (place, neighbour) in [(0, 1), (last, last.saturating_sub(1))] {
        let sum = wide(sums[place]) * (own + 1) + wide(sums[neighbour.min(last)]);
        out[place] = ((sum + half) >> shift) as u8;
    }
}

/// Upsamples a row to two pixels per sample, with weights of 3/4 and 1/4; the rounding of halves
/// alternates.
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

/// The same for rows of sums with weights three and one.
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

/// Writes the wanted part of row `y`: one sample per pixel if grey, else four.
#[inline(always)]
pub(super) fn write(planes: &mut [Plane], colours: Colours, y: usize, out: &mut [u8]) {
    for plane in planes.iter_mut() {
        plane.enlarge(y);
    }
    if let (Colours::Grey, [grey, ..]) = (colours, &*planes) {
        let row = grey.ready(y);
        let count = out.len().min(row.len());
        out[..count].copy_from_slice(&row[..count]);
        return;
    }
    let (out, _) = out.as_chunks_mut::<4>();
    match (colours, planes) {
        (Colours::Rgb, [r, g, b, ..]) => {
            let (r, g, b) = (r.ready(y), g.ready(y), b.ready(y));
            for (((out, r), g), b) in out.iter_mut().zip(r).zip(g).zip(b) {
                *out = [*r, *g, *b, 255];
            }
        }
        (Colours::YCbCr, [luma, blue, red, ..]) => {
            let (luma, blue, red) = (luma.ready(y), blue.ready(y), red.ready(y));
            for (((out, luma), blue), red) in out.iter_mut().zip(luma).zip(blue).zip(red) {
                let [r, g, b] = rgb(*luma, *blue, *red);
                // As one number, so that eight pixels are computed at a time.
                *out = (r as u32 | (g as u32) << 8 | (b as u32) << 16 | 255 << 24).to_le_bytes();
            }
        }
        (Colours::Cmyk | Colours::Ycck | Colours::InksOfCmyk | Colours::InksOfYcck, [c, m, y_, k]) => {
            let (c, m, y_, k) = (c.ready(y), m.ready(y), y_.ready(y), k.ready(y));
            for ((((out, c), m), y_), k) in out.iter_mut().zip(c).zip(m).zip(y_).zip(k) {
                // Adobe stores inverted amounts of ink.
                let ink = if matches!(colours, Colours::Ycck | Colours::InksOfYcck) {
                    rgb(*c, *m, *y_)
                } else {
                    [*c, *m, *y_].map(|light| 255 - i32::from(light))
                };
                if colours.are_inks() {
                    let [c, m, y_] = ink.map(|ink| ink as u8);
                    *out = [c, m, y_, 255 - *k];
                    continue;
                }
                let [r, g, b] = ink.map(|ink| {
                    let product = ink * i32::from(*k) + 128;
                    (i32::from(*k) - ((product + (product >> 8)) >> 8)).clamp(0, 255) as u8
                });
                *out = [r, g, b, 255];
            }
        }
        _ => {}
    }
}

/// Full-range ITU-R BT.601, in 16-bit fixed point; returns values of 0 to 255.
#[inline(always)]
fn rgb(luma: u8, blue: u8, red: u8) -> [i32; 3] {
    let (luma, blue, red) = (i32::from(luma), i32::from(blue) - 128, i32::from(red) - 128);
    let half = 1 << 15;
    [
        (luma + ((91_881 * red + half) >> 16)).clamp(0, 255),
        (luma + ((-22_554 * blue - 46_802 * red + half) >> 16)).clamp(0, 255),
        (luma + ((116_130 * blue + half) >> 16)).clamp(0, 255),
    ]
}
