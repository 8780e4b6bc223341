//! From pixels of any size to the upright square that a model sees, in one step: the resize computes only what the
//! centre cut will keep, and the orientation is applied to the small square instead of the large picture.

use fast_image_resize::{
    FilterType, PixelTrait, PixelType, ResizeAlg, ResizeError, ResizeOptions,
    images::{Image, ImageRef},
    pixels::{U8, U8x2, U8x3, U8x4},
};

use super::{Orientation, Pixels, Unreadable};

/// Resizes one image after the other with the same buffers.
#[derive(Debug, Default)]
pub struct Resizer {
    inner: fast_image_resize::Resizer,
    square: Vec<u8>,
}

impl Resizer {
    /// Scales the short side to `resize` pixels with an antialiased bilinear filter, cuts the centre of `side` x `side`
    /// out, and hands every pixel of it, upright, from the left and the top, to `put` as (index, [red, green, blue]).
    /// Lengths and offsets are rounded as torchvision's Resize and CenterCrop round them.
    pub fn centre_square(
        &mut self,
        pixels: &Pixels,
        resize: u32,
        side: u32,
        put: impl FnMut(usize, [u8; 3]),
    ) -> Result<(), Unreadable> {
        let turn = Turn::of(pixels.orientation());
        let (width, height) = pixels.span;
        let short = width.min(height);
        let window = |stored: f64, flipped: bool| {
            let scaled = if stored == short {
                f64::from(resize)
            } else {
                (f64::from(resize) * stored / short).floor()
            };
            // The rounding below favours one side, and which side that is on the stored axis depends on the turn.
            let offset = ((scaled - f64::from(side)) / 2.0).round_ties_even();
            let start = if flipped { scaled - f64::from(side) - offset } else { offset };
            let left = start * stored / scaled;
            (left, (f64::from(side) * stored / scaled).min(stored - left))
        };
        let ((left, across), (top, down)) = (window(width, turn.flip_x), window(height, turn.flip_y));
        self.scale_window(pixels, side, (left, top, across, down), put)
    }

    /// The same with the whole picture, whose two sides are scaled to `side` whatever its shape.
    pub fn squashed_square(
        &mut self,
        pixels: &Pixels,
        side: u32,
        put: impl FnMut(usize, [u8; 3]),
    ) -> Result<(), Unreadable> {
        let (width, height) = pixels.span;
        self.scale_window(pixels, side, (0.0, 0.0, width, height), put)
    }

    /// Scales a window of the stored picture (left, top, width, height) to a square of `side`, and hands out its pixels, upright.
    fn scale_window(
        &mut self,
        pixels: &Pixels,
        side: u32,
        (left, top, across, down): (f64, f64, f64, f64),
        mut put: impl FnMut(usize, [u8; 3]),
    ) -> Result<(), Unreadable> {
        let turn = Turn::of(pixels.orientation());
        let (width, height) = pixels.span;
        let kind = match pixels.channels() {
            1 => PixelType::U8,
            2 => PixelType::U8x2,
            3 => PixelType::U8x3,
            _ => PixelType::U8x4,
        };
        let channels = pixels.channels();
        let unfit = |error: &dyn std::fmt::Display| {
            Unreadable::Never(format!("the image of {width} x {height} pixels cannot be resized: {error}"))
        };
        self.square.resize(side as usize * side as usize * channels, 0);
        let from =
            ImageRef::new(pixels.width(), pixels.height(), pixels.samples(), kind).map_err(|e| unfit(&e))?;
        let mut to = Image::from_slice_u8(side, side, &mut self.square, kind).map_err(|e| unfit(&e))?;
        // Alpha is dropped afterwards, so it must not weigh in here.
        let options = ResizeOptions::new()
            .resize_alg(ResizeAlg::Convolution(FilterType::Bilinear))
            .use_alpha(false)
            .crop(left, top, across, down);
        let scaled = match kind {
            PixelType::U8 => scale::<U8>(&mut self.inner, &from, &mut to, &options),
            PixelType::U8x2 => scale::<U8x2>(&mut self.inner, &from, &mut to, &options),
            PixelType::U8x3 => scale::<U8x3>(&mut self.inner, &from, &mut to, &options),
            _ => scale::<U8x4>(&mut self.inner, &from, &mut to, &options),
        };
        scaled.map_err(|e| unfit(&e))?;
        // The buffer between the two passes is as high as the picture: a huge one must not hold its memory for ever.
        if self.inner.size_of_internal_buffers() > super::KEPT_BUFFER_MAX_BYTES {
            self.inner.reset_internal_buffers();
        }

        let side = side as usize;
        for (index, (row, column)) in
            (0..side).flat_map(|row| (0..side).map(move |column| (row, column))).enumerate()
        {
            let (row, column) = turn.stored(row, column, side);
            let at = (row * side + column) * channels;
            let pixel = match channels {
                1 | 2 => [self.square[at]; 3],
                _ => [self.square[at], self.square[at + 1], self.square[at + 2]],
            };
            put(index, pixel);
        }
        Ok(())
    }
}

/// The library's own choice by pixel type at run time would compile its code for every type there is, which takes minutes.
fn scale<P: PixelTrait>(
    resizer: &mut fast_image_resize::Resizer,
    from: &ImageRef<'_>,
    to: &mut Image<'_>,
    options: &ResizeOptions,
) -> Result<(), ResizeError> {
    match (from.typed_image::<P>(), to.typed_image_mut::<P>()) {
        (Some(from), Some(mut to)) => resizer.resize_typed(&from, &mut to, options),
        _ => Err(ResizeError::PixelTypesAreDifferent),
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
