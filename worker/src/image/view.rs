//! Computes the visible part of an image: a model sees the reduced centre of a photo, so not all
//! pixels need decoding, and not at full size.

use std::ops::Range;

use super::Orientation;

/// Maximum reach of a filter in pixels of the scaled image, including the rounding of the centre.
const REACH: f64 = 4.0;

/// The intended use of an image.
#[derive(Debug, Clone, Copy)]
pub struct View {
    /// The length of the scaled short side, in pixels. If the aspect ratio is not kept, the larger
    /// side of the result.
    pub short: u32,
    /// The number of columns and rows that are cropped from the centre of the upright image;
    /// without it, the whole image is visible.
    pub cut: Option<(u32, u32)>,
    /// Whether a JPEG may be decoded at an eighth, a quarter or a half of its size, if its short
    /// side stays at least twice as long as needed.
    pub fractions: bool,
}

/// A range of columns and rows of a stored image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Window {
    pub(super) columns: Range<u32>,
    pub(super) rows: Range<u32>,
}

impl Window {
    /// Returns the window of the whole image.
    pub(super) fn all((width, height): (u32, u32)) -> Self {
        Self { columns: 0..width, rows: 0..height }
    }

    pub(super) fn width(&self) -> u32 {
        self.columns.end - self.columns.start
    }

    pub(super) fn height(&self) -> u32 {
        self.rows.end - self.rows.start
    }
}

impl View {
    /// Returns the number by which both sides may be divided before the image is scaled.
    pub(super) fn fraction(&self, width: u32, height: u32) -> u32 {
        let enough = self.short.saturating_mul(2);
        let fits = |fraction: &u32| self.fractions && width.min(height).div_ceil(*fraction) >= enough;
        [8, 4, 2].into_iter().find(fits).unwrap_or(1)
    }

    /// Returns the part of a stored image at a fraction of its size that is needed, for any filter.
    pub(super) fn window(
        &self,
        (width, height): (u32, u32),
        fraction: u32,
        orientation: Orientation,
    ) -> Window {
        let reduced = (width.div_ceil(fraction), height.div_ceil(fraction));
        let Some((across, down)) = self.cut else { return Window::all(reduced) };
        let (across, down) = if is_lying(orientation) { (down, across) } else { (across, down) };
        let scale = f64::from(width.min(height)) / f64::from(self.short.max(1)) / f64::from(fraction);
        let middle = |side: u32, reduced: u32, seen: u32| {
            let half = f64::from(seen) / 2.0 * scale + REACH * scale.max(1.0) + 2.0;
            let middle = f64::from(side) / f64::from(fraction) / 2.0;
            let (start, end) = ((middle - half).floor().max(0.0), (middle + half).ceil());
            (start as u32).min(reduced)..(end as u32).min(reduced)
        };
        Window { columns: middle(width, reduced.0, across), rows: middle(height, reduced.1, down) }
    }
}

/// Returns whether upright rows are stored columns.
pub(super) fn is_lying(orientation: Orientation) -> bool {
    use Orientation::{Rotate90, Rotate90FlipH, Rotate270, Rotate270FlipH};
    matches!(orientation, Rotate90 | Rotate90FlipH | Rotate270 | Rotate270FlipH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_is_the_centre_with_a_margin_for_the_filter() {
        let view = View { short: 256, cut: Some((224, 224)), fractions: true };
        assert_eq!(view.fraction(500, 375), 1);
        let window = view.window((500, 375), 1, Orientation::NoTransforms);
        // 224 pixels are 328.1 of the image, plus four pixels and a little on each side.
        assert_eq!(window, Window { columns: 78..422, rows: 15..360 });
        assert_eq!(view.fraction(4000, 3000), 4);
        let window = view.window((4000, 3000), 4, Orientation::Rotate90);
        assert_eq!(window, Window { columns: 158..842, rows: 33..717 });
        // Almost nothing is cut off.
        let window = view.window((10, 8), 1, Orientation::NoTransforms);
        assert_eq!(window, Window { columns: 0..10, rows: 0..8 });
        let whole = View { cut: None, ..view };
        assert_eq!(whole.window((500, 375), 1, Orientation::NoTransforms), Window::all((500, 375)));
        assert_eq!(View { fractions: false, ..view }.fraction(4000, 3000), 1);
    }
}
