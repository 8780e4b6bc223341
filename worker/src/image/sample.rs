//! Scales without antialiasing: each pixel is computed from the nearest few, whatever the
//! reduction, as in OpenCV and in torch without `antialias`.

use eirs_platform::settings::Filter;

/// The source pixels of each scaled pixel along one axis.
#[derive(Debug)]
pub(super) struct Taps {
    /// For each scaled pixel, the same number of positions and weights.
    taps: Vec<(usize, f32)>,
    /// The number of taps per scaled pixel.
    each: usize,
}

impl Taps {
    /// Computes the taps of the scaled pixels `first..first + count`, for an axis of `length`
    /// pixels that is scaled to `scaled`.
    pub(super) fn new(
        filter: Filter,
        centred: bool,
        length: f64,
        pixels: usize,
        scaled: u64,
        first: usize,
        count: usize,
    ) -> Self {
        let (each, scale) = (width(filter), length / scaled as f64);
        let last = pixels.saturating_sub(1) as i64;
        let mut taps = Vec::with_capacity(each * count);
        let mut middle = (0..first).fold(scale * 0.5, |middle, _| middle + scale);
        for index in first..first + count {
            if each == 1 {
                // OpenCV and torch take the pixel at the left edge; Pillow takes that at the
                // centre. Pillow adds up the position step by step (`Geometry.c`,
                // ImagingScaleAffine), and its rounding errors decide near whole numbers.
                let place = if centred { middle } else { index as f64 * scale };
                middle += scale;
                taps.push(((place.floor() as i64).clamp(0, last) as usize, 1.0));
                continue;
            }
            let place = (index as f64 + 0.5) * scale - 0.5;
            let left = place.floor() as i64 - (each as i64 / 2 - 1);
            let weights: Vec<f64> =
                (0..each).map(|tap| weight(filter, place - (left + tap as i64) as f64)).collect();
            let sum: f64 = weights.iter().sum();
            // Beyond the edge, the last pixel is repeated.
            taps.extend(
                weights.iter().enumerate().map(|(tap, weight)| {
                    ((left + tap as i64).clamp(0, last) as usize, (weight / sum) as f32)
                }),
            );
        }
        Self { taps, each }
    }

    pub(super) fn of(&self, index: usize) -> &[(usize, f32)] {
        &self.taps[index * self.each..(index + 1) * self.each]
    }

    /// Reverses the positions, for an axis that is stored in reverse.
    pub(super) fn flipped(mut self, pixels: usize) -> Self {
        self.taps.iter_mut().for_each(|(place, _)| *place = pixels - 1 - *place);
        self
    }
}

fn width(filter: Filter) -> usize {
    match filter {
        Filter::Nearest | Filter::Box => 1,
        Filter::Bilinear => 2,
        Filter::Bicubic => 4,
        Filter::Lanczos => 8,
    }
}

fn weight(filter: Filter, x: f64) -> f64 {
    let x = x.abs();
    match filter {
        Filter::Nearest | Filter::Box => 1.0,
        Filter::Bilinear => (1.0 - x).max(0.0),
        // Keys' cubic with -0.75, as in OpenCV and torch; Pillow has -0.5.
        Filter::Bicubic if x < 1.0 => (1.25 * x - 2.25) * x * x + 1.0,
        Filter::Bicubic if x < 2.0 => ((-0.75 * x + 3.75) * x - 6.0) * x + 3.0,
        Filter::Lanczos if x < 1e-9 => 1.0,
        Filter::Lanczos if x < 4.0 => {
            let angle = std::f64::consts::PI * x;
            4.0 * angle.sin() * (angle / 4.0).sin() / (angle * angle)
        }
        Filter::Bicubic | Filter::Lanczos => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn weights_sum_to_one_and_positions_are_in_range(
            pixels in 1usize..300, scaled in 1u32..300, centred: bool,
            filter in prop::sample::select(vec![
                Filter::Nearest, Filter::Box, Filter::Bilinear, Filter::Bicubic, Filter::Lanczos,
            ]),
        ) {
            let taps = Taps::new(filter, centred, pixels as f64, pixels, scaled.into(), 0, scaled as usize);
            for index in 0..scaled as usize {
                let (places, weights): (Vec<_>, Vec<_>) = taps.of(index).iter().copied().unzip();
                prop_assert!(places.iter().all(|place: &usize| *place < pixels));
                prop_assert!((weights.iter().sum::<f32>() - 1.0).abs() < 1e-4);
            }
        }
    }
}
