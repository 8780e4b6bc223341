//! Decodes the first frame of a GIF, on its canvas. The decoder of the `image` crate fills
//! transparent pixels, and the canvas around a smaller frame, with black. Pillow fills both with
//! the palette's colour of the transparent index, or else with the first colour.

use eirs_platform::settings::Alpha;
use gif::{ColorOutput, DecodeOptions, DecodingError, MemoryLimit};

use super::{Format, Limits, Orientation, Pixels, Unreadable, check_size, cut_short};

/// Returns the width and height from the header.
pub(super) fn dimensions(file: &[u8]) -> Option<(u32, u32)> {
    match file.get(6..10)? {
        &[w0, w1, h0, h1] => Some((u16::from_le_bytes([w0, w1]).into(), u16::from_le_bytes([h0, h1]).into())),
        _ => None,
    }
}

pub(super) fn decode(file: &[u8], limits: Limits, pixels: &mut Pixels) -> Result<(), Unreadable> {
    let mut options = DecodeOptions::new();
    options.set_color_output(ColorOutput::Indexed);
    options.set_memory_limit(MemoryLimit::Unlimited);
    let mut decoder = options.read_info(file).map_err(broken)?;
    let frame = decoder.next_frame_info().map_err(broken)?;
    let frame = frame.ok_or_else(|| Unreadable::Never("the GIF image has no frame".to_owned()))?;
    let (left, top) = (u32::from(frame.left), u32::from(frame.top));
    let (across, down) = (u32::from(frame.width), u32::from(frame.height));
    let transparent = frame.transparent;
    // A frame that is larger than the canvas enlarges it.
    let width = u32::from(decoder.width()).max(left + across);
    let height = u32::from(decoder.height()).max(top + down);
    check_size(width, height, limits.max_pixels)?;

    if across == 0 || down == 0 {
        return Err(Unreadable::Never("the GIF image has an empty first frame".to_owned()));
    }
    let frame_bytes = across as usize * down as usize;
    pixels.start(width, height, 3, Orientation::NoTransforms, 1, frame_bytes as u64)?;
    let mut indices = Vec::new();
    indices.try_reserve_exact(frame_bytes).map_err(|_| Unreadable::NoMemory(frame_bytes))?;
    indices.resize(frame_bytes, 0);
    decoder.read_into_buffer(&mut indices).map_err(broken)?;
    // Without a palette, an index is a shade of grey.
    let grey: Vec<u8> = (0..=255).flat_map(|shade| [shade; 3]).collect();
    let palette = decoder.palette().unwrap_or(&grey);
    let mut colours = [[0; 3]; 256];
    for (colour, entry) in colours.iter_mut().zip(palette.chunks_exact(3)) {
        colour.copy_from_slice(entry);
    }

    let mut around = colours[usize::from(transparent.unwrap_or(0))];
    let ground = match limits.alpha {
        Alpha::Drop => None,
        Alpha::White => Some([255; 3]),
        Alpha::Black => Some([0; 3]),
    };
    if let Some(ground) = ground {
        around = ground;
        if let Some(index) = transparent {
            colours[usize::from(index)] = ground;
        }
    }

    let samples = &mut pixels.samples;
    if (across, down) != (width, height) {
        samples.chunks_exact_mut(3).for_each(|pixel| pixel.copy_from_slice(&around));
    }
    let rows = samples.chunks_exact_mut(width as usize * 3).skip(top as usize);
    for (row, indices) in rows.zip(indices.chunks_exact(across as usize)) {
        for (pixel, index) in row[left as usize * 3..].chunks_exact_mut(3).zip(indices) {
            pixel.copy_from_slice(&colours[usize::from(*index)]);
        }
    }
    Ok(())
}

fn broken(error: DecodingError) -> Unreadable {
    match &error {
        DecodingError::Io(io) if io.kind() == std::io::ErrorKind::UnexpectedEof => cut_short(Format::Gif),
        error => Unreadable::Never(format!("the GIF image cannot be decoded: {error}")),
    }
}
