//! Scales with antialiasing like Pillow: first rows, rounded to integers, then columns. Only
//! visible pixels are computed.
//!
//! Pillow computes with integer weights of 22 bits. The same weights as floats give the same pixels
//! (except for sums within a millionth of a half), eight numbers at a time.

use std::ops::Range;

use super::fast::fast;

/// Maximum width, in columns; wider images are scaled in strips, so that the buffers stay small.
const STRIP_MAX_COLUMNS: usize = 1 << 16;

/// Number of fractional bits of Pillow's weights.
const WEIGHT_BITS: i32 = 22;

/// Two pixels, one below the other, each of red, green, blue and a fourth channel.
type Pair = [f32; 8];

/// A filter: its weight by distance in pixels of the smaller image, and the distance from which the
/// weight is zero.
#[derive(Debug, Clone, Copy)]
pub struct Kernel {
    pub reach: f64,
    pub weight: fn(f64) -> f64,
}

/// Pillow's BILINEAR.
pub const TRIANGLE: Kernel = Kernel { reach: 1.0, weight: |x| (1.0 - x.abs()).max(0.0) };

/// The weights of source samples for the visible part of one axis.
#[derive(Debug, Clone, Default)]
pub struct Axis {
    /// The first sample of each pixel, and its weights; all have the same number, padded with
    /// zeros.
    first: Vec<usize>,
    weights: Vec<f32>,
    taps: usize,
    /// The range of all needed samples.
    needs: Range<usize>,
}

impl Axis {
    /// Computes the weights for an axis of `whole` samples that is scaled to `scaled`, of which
    /// `seen` are visible. If `fraction` is above 1, each stored sample is the mean of that number
    /// of samples.
    pub fn new(kernel: Kernel, whole: u32, scaled: u64, seen: Range<u64>, fraction: u32) -> Self {
        let scale = f64::from(whole) / scaled as f64;
        let stretch = scale.max(1.0);
        let reach = kernel.reach * stretch;
        let (fraction, cells) = (fraction as usize, whole.div_ceil(fraction) as usize);
        let mut listed: Vec<(usize, Vec<f64>)> = Vec::new();
        for place in seen {
            let centre = (place as f64 + 0.5) * scale;
            let first = (centre - reach + 0.5).max(0.0) as usize;
            let after = ((centre + reach + 0.5) as usize).min(whole as usize);
            let weight = |at: usize| (kernel.weight)((at as f64 - centre + 0.5) / stretch);
            let sum: f64 = (first..after).map(weight).sum();
            let rounded = |at: usize| {
                let bits = f64::from(1 << WEIGHT_BITS);
                (weight(at) / sum * bits).round() / bits
            };
            let (first, weights) = if fraction == 1 {
                (first, (first..after).map(rounded).collect())
            } else {
                of_means(fraction, cells, first, (first..after).map(rounded))
            };
            listed.push((first, weights));
        }
        let begin = listed.iter().map(|(first, _)| *first).min().unwrap_or(0);
        let end = listed.iter().map(|(first, weights)| first + weights.len()).max().unwrap_or(0);
        let needs = begin..end;
        // Rows are processed in pairs, starting at an even one.
        let taps = listed.iter().map(|(first, weights)| first % 2 + weights.len());
        let taps = taps.max().unwrap_or(0).next_multiple_of(2);
        let mut axis = Self { first: Vec::new(), weights: Vec::new(), taps, needs };
        for (first, weights) in listed {
            axis.first.push(first / 2 * 2);
            axis.weights
                .extend((0..first % 2).map(|_| 0.0).chain(weights.iter().map(|weight| *weight as f32)));
            axis.weights.resize(axis.first.len() * taps, 0.0);
        }
        axis
    }

    /// Returns the number of visible samples.
    fn len(&self) -> usize {
        self.first.len()
    }

    fn of(&self, place: usize) -> (usize, &[f32]) {
        (self.first[place], &self.weights[place * self.taps..][..self.taps])
    }
}

/// Returns the index of the first mean, and weights for it and the following means of `f` samples,
/// that best approximate the weights of the samples from `first` on.
///
/// Giving each mean the sum of the weights of its samples would blur twice, each time as if the
/// filter were wider by a variance of (f^2 - 1) / 12 square samples: only the means are known, and
/// all samples of a mean get equal weights. Subtracting that multiple of the second difference of
/// the weights restores the sharpness.
fn of_means(f: usize, cells: usize, first: usize, weights: impl Iterator<Item = f64>) -> (usize, Vec<f64>) {
    let start = (first / f).saturating_sub(1);
    let mut sums = vec![0.0; cells.min(first / f + weights.size_hint().0 / f + 4) - start];
    for (at, weight) in (first..).zip(weights) {
        sums[at / f - start] += weight;
    }
    let part = (1.0 - 1.0 / (f * f) as f64) / 12.0;
    // Beyond the edges, the last value is repeated.
    let last = sums.len() - 1;
    let sharp = |at: usize| {
        let around = sums[at.saturating_sub(1)] + sums[(at + 1).min(last)];
        sums[at] - part * (around - 2.0 * sums[at])
    };
    (start, (0..=last).map(sharp).collect())
}

/// A part of an image with 8 bits per sample, interleaved, without padding.
#[derive(Debug, Clone, Copy)]
pub struct Part<'p> {
    pub samples: &'p [u8],
    pub channels: usize,
    /// The number of columns.
    pub width: usize,
    /// The position of the part in the image.
    pub left: usize,
    pub top: usize,
}

/// Reusable buffers.
#[derive(Debug, Default)]
pub struct Scaler {
    /// Two rows of the image, as bytes and as floats.
    bytes: Vec<[u8; 8]>,
    wide: Vec<Pair>,
    /// Scaled rows: row `y` is stored at `y % rows`.
    scaled: Vec<f32>,
    rows: usize,
    /// One row of the result.
    sums: Vec<f32>,
}

impl Scaler {
    /// Scales a part of an image to RGB and a fourth channel, row by row. Returns `false` if pixels
    /// are needed that are not in the part.
    pub fn scale(&mut self, part: Part, columns: &Axis, rows: &Axis, out: &mut Vec<[u8; 4]>) -> bool {
        let height = part.samples.len() / (part.width * part.channels).max(1);
        let is_there = |axis: &Axis, start: usize, length: usize| {
            axis.needs.start >= start && axis.needs.end <= start + length && !axis.needs.is_empty()
        };
        if !is_there(columns, part.left, part.width) || !is_there(rows, part.top, height) {
            return false;
        }
        self.rows = rows.taps.next_power_of_two();
        self.scaled.resize(self.rows * columns.len() * 4, 0.0);
        self.sums.resize(columns.len() * 4, 0.0);
        out.resize(columns.len() * rows.len(), [0; 4]);
        let mut from = 0;
        while from < columns.len() {
            // The last pixel of each strip, for which the buffers have their maximum length, or the
            // strip a single pixel.
            let fits = |to: &usize| columns.first[*to] - columns.first[from] < STRIP_MAX_COLUMNS;
            let to = (from + 1..columns.len()).take_while(fits).last().unwrap_or(from) + 1;
            let strip = Strip {
                first: &columns.first[from..to],
                weights: &columns.weights[from * columns.taps..to * columns.taps],
                taps: columns.taps,
                start: columns.first[from],
            };
            let width = columns.first[to - 1] + columns.taps - strip.start;
            // Columns beyond the last one have zero weight, but are read.
            self.bytes.clear();
            self.bytes.resize(width, [0; 8]);
            self.wide.resize(width, [0.0; 8]);
            scale(self, part, strip, rows, from, columns.len(), out);
            from = to;
        }
        true
    }
}

/// Adjacent columns of the result, see [`Axis`].
#[derive(Debug, Clone, Copy)]
struct Strip<'a> {
    first: &'a [usize],
    weights: &'a [f32],
    taps: usize,
    /// The first needed column of the image.
    start: usize,
}

fast! {
    /// Scales a strip of an image to the columns from `from` on, in a result that is `stride` wide.
    fn scale(
        scaler: &mut Scaler,
        part: Part,
        strip: Strip,
        rows: &Axis,
        from: usize,
        stride: usize,
        out: &mut [[u8; 4]],
    ) {
        let across = strip.first.len();
        let Scaler { bytes, wide, scaled, rows: kept, sums } = scaler;
        let place = |y: usize| (y & (*kept - 1)) * across * 4;
        let height = part.samples.len() / (part.width * part.channels);
        // Missing columns and rows have zero weight.
        let (before, skip) = (part.left.saturating_sub(strip.start), strip.start.saturating_sub(part.left));
        let row_of = |y: usize| {
            let y = y.saturating_sub(part.top).min(height - 1);
            &part.samples[y * part.width * part.channels..][..part.width * part.channels]
                [skip * part.channels..]
        };
        let mut next = 0;
        for (out, index) in out.chunks_exact_mut(stride).zip(0..) {
            let (first, weights) = rows.of(index);
            for y in (next.max(first)..first + rows.taps).step_by(2) {
                lay_together(row_of(y), row_of(y + 1), part.channels, &mut bytes[before..]);
                for (number, byte) in wide.as_flattened_mut().iter_mut().zip(bytes.as_flattened()) {
                    *number = f32::from(*byte);
                }
                // An even row and the next one are adjacent.
                scale_rows(wide, strip, &mut scaled[place(y)..][..across * 8]);
            }
            next = first + rows.taps;
            let row = |tap: usize| &scaled[place(first + tap)..][..across * 4];
            let out = out[from..from + across].as_flattened_mut();
            scale_column(weights, row, &mut sums[..across * 4], out);
        }
    }
}

/// Interleaves two rows, pixel by pixel.
#[inline(always)]
fn lay_together(upper: &[u8], lower: &[u8], channels: usize, out: &mut [[u8; 8]]) {
    match channels {
        1 | 2 => {
            let pixels = upper.chunks_exact(channels).zip(lower.chunks_exact(channels));
            for (out, (a, b)) in out.iter_mut().zip(pixels) {
                *out = [a[0], a[0], a[0], a[0], b[0], b[0], b[0], b[0]];
            }
        }
        3 => {
            let pixels = upper.as_chunks::<3>().0.iter().zip(lower.as_chunks::<3>().0);
            for (out, (a, b)) in out.iter_mut().zip(pixels) {
                *out = [a[0], a[1], a[2], 0, b[0], b[1], b[2], 0];
            }
        }
        _ => {
            let pixels = upper.as_chunks::<4>().0.iter().zip(lower.as_chunks::<4>().0);
            for (out, (a, b)) in out.iter_mut().zip(pixels) {
                let [a, b] = [a, b].map(|pixel| u64::from(u32::from_le_bytes(*pixel)));
                *out = (a | b << 32).to_le_bytes();
            }
        }
    }
}

/// Scales two rows, and rounds to integers.
#[inline(always)]
fn scale_rows(wide: &[Pair], strip: Strip, out: &mut [f32]) {
    let (upper, lower) = out.split_at_mut(out.len() / 2);
    let out = upper.as_chunks_mut::<4>().0.iter_mut().zip(lower.as_chunks_mut::<4>().0);
    let places = out.zip(strip.first).zip(strip.weights.chunks_exact(strip.taps));
    for (((upper, lower), first), weights) in places {
        let pixels = &wide[first - strip.start..][..weights.len()];
        let mut sum = [0.0; 8];
        for (pixel, weight) in pixels.iter().zip(weights) {
            for lane in 0..8 {
                sum[lane] += pixel[lane] * weight;
            }
        }
        let sum = sum.map(rounded);
        let (above, below) = sum.split_at(4);
        upper.copy_from_slice(above);
        lower.copy_from_slice(below);
    }
}

/// Computes one row of the result.
#[inline(always)]
fn scale_column<'s>(weights: &[f32], row: impl Fn(usize) -> &'s [f32], sums: &mut [f32], out: &mut [u8]) {
    sums.fill(0.0);
    for (tap, weights) in weights.as_chunks::<2>().0.iter().enumerate() {
        let rows = row(2 * tap).iter().zip(row(2 * tap + 1));
        for (sum, (upper, lower)) in sums.iter_mut().zip(rows) {
            *sum += upper * weights[0] + lower * weights[1];
        }
    }
    for (out, sum) in out.iter_mut().zip(sums) {
        // The sum is between 0 and 255, so the lowest bits of its mantissa are the number.
        *out = (rounded(*sum) + 8_388_608.0).to_bits() as u8;
    }
}

/// Rounds to the nearest integer, halves up.
#[inline(always)]
fn rounded(sum: f32) -> f32 {
    (sum + 0.5).floor().clamp(0.0, 255.0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Pillow's scaling of a line, in its own arithmetic (`src/libImaging/Resample.c`), before
    /// rounding.
    fn line(samples: &[u8], scaled: usize) -> Vec<f64> {
        let scale = samples.len() as f64 / scaled as f64;
        let stretch = scale.max(1.0);
        let seen = |place: usize| {
            let centre = (place as f64 + 0.5) * scale;
            let first = (centre - stretch + 0.5).max(0.0) as usize;
            let after = ((centre + stretch + 0.5) as usize).min(samples.len());
            let weight = |at: usize| (1.0 - ((at as f64 - centre + 0.5) / stretch).abs()).max(0.0);
            let sum: f64 = (first..after).map(weight).sum();
            let fixed = |at| (0.5 + weight(at) / sum * f64::from(1 << 22)) as i64;
            let total: i64 = (first..after).map(|at| i64::from(samples[at]) * fixed(at)).sum();
            total as f64 / f64::from(1 << 22)
        };
        (0..scaled).map(seen).collect()
    }

    /// Scales an image with the given number of channels.
    fn scaled(samples: &[u8], channels: usize, width: usize, to: (usize, usize)) -> Vec<[u8; 4]> {
        let height = samples.len() / channels / width;
        let axis = |from: usize, to: usize| Axis::new(TRIANGLE, from as u32, to as u64, 0..to as u64, 1);
        let part = Part { samples, channels, width, left: 0, top: 0 };
        let mut found = Vec::new();
        assert!(Scaler::default().scale(part, &axis(width, to.0), &axis(height, to.1), &mut found));
        found
    }

    proptest! {
        #[test]
        fn pixels_equal_those_of_pillow(
            width in 1usize..70, height in 1usize..9, to in 1usize..60, channels in 1usize..5, seed: u32,
        ) {
            let place = |x: usize, y: usize, channel: usize| (y * width + x) * channels + channel;
            let count = place(0, height, 0);
            let sample = |index: usize| (seed.wrapping_add(index as u32).wrapping_mul(2_654_435_761) >> 23) as u8;
            let samples: Vec<u8> = (0..count).map(sample).collect();
            let mut turned = vec![0; count];
            for (x, y) in (0..width).flat_map(|x| (0..height).map(move |y| (x, y))) {
                for channel in 0..channels {
                    turned[(x * height + y) * channels + channel] = samples[place(x, y, channel)];
                }
            }
            let across = scaled(&samples, channels, width, (to, height));
            let down = scaled(&turned, channels, height, (height, to));
            // The alpha of grey images is omitted.
            for channel in (0..channels).filter(|channel| channels != 2 || *channel == 0) {
                for y in 0..height {
                    let row: Vec<u8> = (0..width).map(|x| samples[place(x, y, channel)]).collect();
                    for (x, exact) in line(&row, to).into_iter().enumerate() {
                        // A float cannot resolve on which side of a half a very close sum is.
                        let is_tie = (exact.fract() - 0.5).abs() < 1e-4;
                        for found in [across[y * to + x][channel], down[x * height + y][channel]] {
                            let far = (f64::from(found) - (exact + 0.5).floor()).abs();
                            prop_assert!(
                                far == 0.0 || is_tie && far == 1.0,
                                "{} {} {}: {} {}", x, y, channel, found, exact
                            );
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn weights_of_means_do_not_blur() {
        let sample = |at: usize| 128.0 + 100.0 * (at as f64 * std::f64::consts::TAU / 60.0).sin();
        let value = |axis: &Axis, place: usize, sample: &dyn Fn(usize) -> f64| {
            let (first, weights) = axis.of(place);
            let all = (first..).zip(weights).filter(|(_, weight)| **weight != 0.0);
            all.map(|(at, weight)| sample(at) * f64::from(*weight)).sum::<f64>()
        };
        let full = Axis::new(TRIANGLE, 1001, 100, 0..100, 1);
        // With the sum of the weights, a mean would be off by 0.25 and by 1.3.
        for (f, allowed) in [(2, 0.05), (4, 0.25)] {
            let means: Vec<f64> =
                (0..1001).step_by(f).map(|j| (j..j + f).map(sample).sum::<f64>() / f as f64).collect();
            let axis = Axis::new(TRIANGLE, 1001, 100, 0..100, f as u32);
            assert_eq!(axis.needs, 0..means.len());
            for place in 0..100 {
                assert!((value(&axis, place, &|_| 1.0) - 1.0).abs() < 1e-5);
                let (full, found) = (value(&full, place, &sample), value(&axis, place, &|at| means[at]));
                let allowed = if (2..98).contains(&place) { allowed } else { 2.0 };
                assert!((full - found).abs() < allowed, "a fraction of {f}: {place}: {full} {found}");
            }
        }
    }
}
