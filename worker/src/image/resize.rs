//! From pixels of any size to the upright square that a model sees, in one step: the resize
//! computes only what the centre cut will keep, and the orientation is applied to the small square
//! instead of the large picture.

use super::{
    Orientation, Pixels, Unreadable,
    scale::{Axis, Part, Scaler, TRIANGLE},
};

/// Resizes one image after the other with the same buffers.
#[derive(Debug, Default)]
pub struct Resizer {
    scaler: Scaler,
    square: Vec<[u8; 4]>,
}

impl Resizer {
    /// Scales the short side to `resize` pixels with an antialiased bilinear filter, cuts the
    /// centre of `side` x `side` out, and hands every pixel of it, upright, from the left and the
    /// top, to `put` as (index, [red, green, blue]). Lengths and offsets are rounded as
    /// torchvision's Resize and CenterCrop round them.
    pub fn centre_square(
        &mut self,
        pixels: &Pixels,
        resize: u32,
        side: u32,
        put: impl FnMut(usize, [u8; 3]),
    ) -> Result<(), Unreadable> {
        let turn = Turn::of(pixels.orientation());
        let (width, height) = pixels.place.whole;
        let short = width.min(height);
        let axis = |stored: u32, flipped: bool| {
            let scaled = u64::from(resize) * u64::from(stored) / u64::from(short);
            let around = scaled - u64::from(side);
            // The rounding below favours one side, and which side that is on the stored axis
            // depends on the turn.
            let offset = (around as f64 / 2.0).round_ties_even() as u64;
            let start = if flipped { around - offset } else { offset };
            Axis::new(TRIANGLE, stored, scaled, start..start + u64::from(side), pixels.place.fraction)
        };
        let (columns, rows) = (axis(width, turn.flip_x), axis(height, turn.flip_y));
        self.scale(pixels, side, &columns, &rows, put)
    }

    /// The same with the whole picture, whose two sides are scaled to `side` whatever its shape.
    pub fn squashed_square(
        &mut self,
        pixels: &Pixels,
        side: u32,
        put: impl FnMut(usize, [u8; 3]),
    ) -> Result<(), Unreadable> {
        let (width, height) = pixels.place.whole;
        let seen = 0..u64::from(side);
        let axis = |stored| Axis::new(TRIANGLE, stored, side.into(), seen.clone(), pixels.place.fraction);
        self.scale(pixels, side, &axis(width), &axis(height), put)
    }

    /// Scales both sides and hands out the pixels, upright.
    fn scale(
        &mut self,
        pixels: &Pixels,
        side: u32,
        columns: &Axis,
        rows: &Axis,
        mut put: impl FnMut(usize, [u8; 3]),
    ) -> Result<(), Unreadable> {
        let turn = Turn::of(pixels.orientation());
        let part = Part {
            samples: pixels.samples(),
            channels: pixels.channels(),
            width: pixels.width() as usize,
            left: pixels.place.left as usize,
            top: pixels.place.top as usize,
        };
        if !self.scaler.scale(part, columns, rows, &mut self.square) {
            let (width, height) = pixels.place.whole;
            let why = format!("of the image of {width} x {height} pixels, others are seen than were decoded");
            return Err(Unreadable::Never(why));
        }
        let side = side as usize;
        for (index, (row, column)) in
            (0..side).flat_map(|row| (0..side).map(move |column| (row, column))).enumerate()
        {
            let (row, column) = turn.stored(row, column, side);
            let [r, g, b, _] = self.square[row * side + column];
            put(index, [r, g, b]);
        }
        Ok(())
    }
}

/// Where the pixels of the upright picture are stored.
#[derive(Debug, Clone, Copy)]
struct Turn {
    /// Upright rows are stored columns.
    swap: bool,
    /// Stored columns run the other way.
    flip_x: bool,
    /// Stored rows run the other way.
    flip_y: bool,
}

impl Turn {
    fn of(orientation: Orientation) -> Self {
        let (swap, flip_x, flip_y) = match orientation {
            Orientation::NoTransforms => (false, false, false),
            Orientation::FlipHorizontal => (false, true, false),
            Orientation::Rotate180 => (false, true, true),
            Orientation::FlipVertical => (false, false, true),
            Orientation::Rotate90FlipH => (true, false, false),
            Orientation::Rotate90 => (true, false, true),
            Orientation::Rotate270FlipH => (true, true, true),
            Orientation::Rotate270 => (true, true, false),
        };
        Self { swap, flip_x, flip_y }
    }

    /// The stored row and column of an upright pixel.
    fn stored(self, row: usize, column: usize, side: usize) -> (usize, usize) {
        let (row, column) = if self.swap { (column, row) } else { (row, column) };
        (if self.flip_y { side - 1 - row } else { row }, if self.flip_x { side - 1 - column } else { column })
    }
}
