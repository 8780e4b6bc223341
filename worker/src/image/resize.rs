//! Resizes images to the input of a model in one step: it computes only the pixels that remain
//! after the crop, and applies the orientation to the small image instead of the large one.

use eirs_platform::settings::Filter;

use super::{
    Orientation, Pixels, Unreadable,
    geometry::{Geometry, Plan},
    sample::Taps,
    scale::{Axis, Kernel, Part, Scaler, TRIANGLE},
};

/// Resizes images one after the other, reusing the same buffers.
#[derive(Debug, Default)]
pub struct Resizer {
    scaler: Scaler,
    scaled: Vec<[u8; 4]>,
}

impl Resizer {
    /// Resizes an image to the input of a model. Calls `put` for every pixel of the upright result,
    /// row by row, as (index, [red, green, blue, alpha]).
    pub fn fit(
        &mut self,
        pixels: &Pixels,
        geometry: &Geometry,
        put: impl FnMut(usize, [u8; 4]),
    ) -> Result<(), Unreadable> {
        let plan = geometry.plan(pixels.upright());
        self.place(pixels, geometry, plan, geometry.size, put)
    }

    /// The same with another plan and size.
    pub fn place(
        &mut self,
        pixels: &Pixels,
        geometry: &Geometry,
        plan: Plan,
        size: (u32, u32),
        mut put: impl FnMut(usize, [u8; 4]),
    ) -> Result<(), Unreadable> {
        let turn = Turn::of(pixels.orientation());
        let (columns, rows) =
            (Seen::of(plan.at.0, plan.scaled.0, size.0), Seen::of(plan.at.1, plan.scaled.1, size.1));
        let has_alpha = pixels.channels() == 4;
        if geometry.antialias && geometry.filter != Filter::Nearest {
            self.smooth(pixels, geometry.filter, plan, (&columns, &rows), turn)?;
        } else {
            self.sampled(pixels, geometry, plan, (&columns, &rows), turn);
        }
        let stored = turn.stored_sides((columns.count, rows.count));
        let with_alpha =
            |[red, green, blue, alpha]: [u8; 4]| [red, green, blue, if has_alpha { alpha } else { 255 }];
        // The common case: the whole image, in its stored orientation.
        if !turn.is_any() && stored == (size.0 as usize, size.1 as usize) {
            for (index, pixel) in self.scaled.iter().enumerate() {
                put(index, with_alpha(*pixel));
            }
            return Ok(());
        }
        let [red, green, blue] = geometry.colour();
        for (index, (row, column)) in (0..size.1 as usize)
            .flat_map(|row| (0..size.0 as usize).map(move |column| (row, column)))
            .enumerate()
        {
            let (Some(x), Some(y)) = (columns.within(column), rows.within(row)) else {
                put(index, [red, green, blue, 255]);
                continue;
            };
            let (row, column) = turn.stored(y, x, stored);
            put(index, with_alpha(self.scaled[row * stored.0 + column]));
        }
        Ok(())
    }

    /// Scales the visible part of the image, in its stored orientation, into `scaled`, with
    /// antialiasing.
    fn smooth(
        &mut self,
        pixels: &Pixels,
        filter: Filter,
        plan: Plan,
        (columns, rows): (&Seen, &Seen),
        turn: Turn,
    ) -> Result<(), Unreadable> {
        let (width, height) = pixels.place.whole;
        let (across, down) = if turn.swap { (height, width) } else { (width, height) };
        let axis = |seen: &Seen, whole: u32, scaled: u64, flipped: bool| {
            let (first, count) = (seen.first as u64, seen.count as u64);
            let start = if flipped { scaled - first - count } else { first };
            Axis::new(kernel(filter), whole, scaled, start..start + count, pixels.place.fraction)
        };
        let (flip_columns, flip_rows) = turn.upright_flips();
        let mut horizontal = axis(columns, across, plan.scaled.0, flip_columns);
        let mut vertical = axis(rows, down, plan.scaled.1, flip_rows);
        if turn.swap {
            std::mem::swap(&mut horizontal, &mut vertical);
        }
        let part = Part {
            samples: pixels.samples(),
            channels: pixels.channels(),
            width: pixels.width() as usize,
            left: pixels.place.left as usize,
            top: pixels.place.top as usize,
        };
        if self.scaler.scale(part, &horizontal, &vertical, &mut self.scaled) {
            return Ok(());
        }
        let why = format!("of the image of {width} x {height} pixels, others are seen than were decoded");
        Err(Unreadable::Never(why))
    }

    /// The same without antialiasing.
    fn sampled(
        &mut self,
        pixels: &Pixels,
        geometry: &Geometry,
        plan: Plan,
        (columns, rows): (&Seen, &Seen),
        turn: Turn,
    ) {
        let upright = pixels.upright();
        let (width, height) = (pixels.width() as usize, pixels.height() as usize);
        // The number of pixels along the upright axes.
        let (across, down) = if turn.swap { (height, width) } else { (width, height) };
        let taps = |part: &Seen, length: f64, count: usize, scaled: u64, flipped: bool| {
            let taps =
                Taps::new(geometry.filter, geometry.antialias, length, count, scaled, part.first, part.count);
            if flipped { taps.flipped(count) } else { taps }
        };
        let (flip_columns, flip_rows) = turn.upright_flips();
        let mut horizontal = taps(columns, upright.0, across, plan.scaled.0, flip_columns);
        let mut vertical = taps(rows, upright.1, down, plan.scaled.1, flip_rows);
        if turn.swap {
            std::mem::swap(&mut horizontal, &mut vertical);
        }
        let (to_width, to_height) = turn.stored_sides((columns.count, rows.count));
        let (channels, samples) = (pixels.channels(), pixels.samples());
        self.scaled.clear();
        for row in 0..to_height {
            // The taps are flipped already, so the result must not be.
            let row = if turn.flip_y { to_height - 1 - row } else { row };
            for column in 0..to_width {
                let column = if turn.flip_x { to_width - 1 - column } else { column };
                let mut pixel = [0; 4];
                for (channel, number) in pixel.iter_mut().enumerate() {
                    // Grey stands for all three colours; missing channels are ignored.
                    let channel = if channels < 3 { 0 } else { channel.min(channels - 1) };
                    let mut sum = 0.0f32;
                    for (y, down) in vertical.of(row) {
                        let line = y * width;
                        for (x, across) in horizontal.of(column) {
                            sum += f32::from(samples[(line + x) * channels + channel]) * down * across;
                        }
                    }
                    *number = sum.round_ties_even().clamp(0.0, 255.0) as u8;
                }
                self.scaled.push(pixel);
            }
        }
    }
}

/// The visible part of one axis of the scaled image.
struct Seen {
    /// The first visible pixel of the scaled image.
    first: usize,
    count: usize,
    /// Its position in the result.
    at: usize,
}

impl Seen {
    fn of(at: i64, scaled: u64, size: u32) -> Self {
        let (begin, end) = (at.max(0), (at + scaled as i64).min(i64::from(size)));
        let length = |pixels: i64| usize::try_from(pixels).unwrap_or_default();
        Self { first: length(begin - at), count: length(end - begin), at: length(begin) }
    }

    fn within(&self, index: usize) -> Option<usize> {
        index.checked_sub(self.at).filter(|inside| *inside < self.count)
    }
}

/// The kernels of Pillow.
fn kernel(filter: Filter) -> Kernel {
    fn cubic(x: f64) -> f64 {
        match x.abs() {
            x if x < 1.0 => (1.5 * x - 2.5) * x * x + 1.0,
            x if x < 2.0 => ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0,
            _ => 0.0,
        }
    }
    fn lanczos(x: f64) -> f64 {
        let sinc = |x: f64| {
            let angle = std::f64::consts::PI * x;
            if x == 0.0 { 1.0 } else { angle.sin() / angle }
        };
        if (-3.0..3.0).contains(&x) { sinc(x) * sinc(x / 3.0) } else { 0.0 }
    }
    match filter {
        Filter::Bilinear => TRIANGLE,
        Filter::Bicubic => Kernel { reach: 2.0, weight: cubic },
        Filter::Lanczos => Kernel { reach: 3.0, weight: lanczos },
        Filter::Box | Filter::Nearest => {
            Kernel { reach: 0.5, weight: |x| if x > -0.5 && x <= 0.5 { 1.0 } else { 0.0 } }
        }
    }
}

/// The mapping from the upright image to the stored one.
#[derive(Debug, Clone, Copy)]
struct Turn {
    /// Whether upright rows are stored columns.
    swap: bool,
    /// Whether stored columns are reversed.
    flip_x: bool,
    /// Whether stored rows are reversed.
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

    fn is_any(self) -> bool {
        self.swap || self.flip_x || self.flip_y
    }

    /// Returns whether the upright columns and rows are stored in reverse.
    fn upright_flips(self) -> (bool, bool) {
        if self.swap { (self.flip_y, self.flip_x) } else { (self.flip_x, self.flip_y) }
    }

    /// Returns the stored number of columns and rows for that of the upright image.
    fn stored_sides(self, (columns, rows): (usize, usize)) -> (usize, usize) {
        if self.swap { (rows, columns) } else { (columns, rows) }
    }

    /// Returns the stored row and column of an upright pixel, given the number of stored columns
    /// and rows.
    fn stored(self, row: usize, column: usize, (columns, rows): (usize, usize)) -> (usize, usize) {
        let (row, column) = if self.swap { (column, row) } else { (row, column) };
        (
            if self.flip_y { rows - 1 - row } else { row },
            if self.flip_x { columns - 1 - column } else { column },
        )
    }
}
