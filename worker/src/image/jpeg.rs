//! The JPEG decoder: baseline, extended and progressive files with Huffman coding and 8 bits per
//! sample, with scans in any order. Its pixels equal those of libjpeg, which Pillow uses, at full
//! size or at a half, a quarter or an eighth.

mod bits;
mod header;
mod idct;
mod rows;
mod scan;

use eirs_platform::settings::Colour;
use header::{Colours, Frame, Header, Scan, Segment};
use rows::Plane;
use scan::{Destination, Kept, Part, Reader};

use super::{
    Format, Limits, Pixels, Place, Unreadable, check_size, cut_short, fast::fast, turned, view::Window,
};

/// Maximum number of scans of a progressive JPEG. A scan can have a few bytes, but takes time for
/// the whole image. Encoders write about ten.
const SCANS_MAX: usize = 100;

/// Number of coefficients at the start of a block, in file order, that libjpeg estimates (and then
/// smooths the blocks) if no scan has them in full precision. Such a file is refused here.
const GUESSED: usize = 10;

/// The reason why a file cannot be decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refusal {
    /// The file is of an unsupported kind.
    Kind(&'static str),
    /// The file violates the standard in a way that prevents decoding.
    Damaged(&'static str),
    /// The end of the file is missing.
    CutShort,
    /// See [`SCANS_MAX`].
    TooManyScans,
    /// This number of bytes could not be allocated.
    NoMemory(usize),
}

impl From<Refusal> for Unreadable {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Kind(kind) => Self::Never(format!("the image is {kind}, which is not supported")),
            Refusal::Damaged(how) => Self::Never(format!("the JPEG image cannot be decoded: {how}")),
            Refusal::CutShort => cut_short(Format::Jpeg),
            Refusal::TooManyScans => Self::Never(format!("the JPEG image has more than {SCANS_MAX} scans")),
            Refusal::NoMemory(bytes) => Self::NoMemory(bytes),
        }
    }
}

impl Refusal {
    /// Adds the offset of the segment to the message.
    fn at(self, byte: usize) -> Unreadable {
        match self {
            Self::Damaged(how) => {
                Unreadable::Never(format!("the JPEG image cannot be decoded: {how}, at byte {byte}"))
            }
            other => other.into(),
        }
    }
}

/// Returns the width and height from the header.
pub(super) fn dimensions(file: &[u8]) -> Option<(u32, u32)> {
    let mut header = Header::new(file).ok()?;
    let frame = header.read_frame().ok()?;
    Some((frame.width as u32, frame.height as u32))
}

pub(super) fn decode(file: &[u8], limits: Limits, pixels: &mut Pixels) -> Result<(), Unreadable> {
    decode_as(file, None, limits, pixels)
}

/// Decodes a part of a TIFF image, whose tags say whether its three components are YCbCr.
pub(super) fn decode_in_tiff(
    file: &[u8],
    is_ycbcr: bool,
    limits: Limits,
    pixels: &mut Pixels,
) -> Result<(), Unreadable> {
    decode_as(file, Some(if is_ycbcr { Colours::YCbCr } else { Colours::Rgb }), limits, pixels)
}

/// `three` overrides the colour space of a file with three components.
fn decode_as(
    file: &[u8],
    three: Option<Colours>,
    limits: Limits,
    pixels: &mut Pixels,
) -> Result<(), Unreadable> {
    let mut header = Header::new(file)?;
    let frame = match header.read_frame() {
        Ok(frame) => frame.clone(),
        Err(refusal) => return Err(refusal.at(header.segment)),
    };
    let (width, height) = (frame.width as u32, frame.height as u32);
    check_size(width, height, limits.max_pixels)?;
    let scan = loop {
        match header.next_segment().map_err(|refusal| refusal.at(header.segment))? {
            Segment::Scan(scan) => break scan,
            Segment::End => return Err(Refusal::Damaged("it has no scan").into()),
            Segment::Other => {}
        }
    };
    let orientation = turned::orientation(Some(&header.exif), header.xmp);
    // Decodes a fraction of the size if the short side stays at least twice as long as needed, so
    // that the filter does the rest, as it would for the full image. Not for inks: light is a
    // product of two of them, and the product of means is not the mean of products.
    let fraction = match limits.view {
        Some(view) if frame.components.len() < 4 => view.fraction(width, height),
        _ => 1,
    };
    let reduced = (width.div_ceil(fraction), height.div_ceil(fraction));
    let window =
        limits.view.map_or(Window::all(reduced), |view| view.window((width, height), fraction, orientation));
    let colours = match three {
        Some(three) if frame.components.len() == 3 => three,
        _ => header.colours(),
    };
    let colours = match limits.colour {
        Colour::Ignore => colours,
        Colour::Srgb => colours.with_inks_kept(),
    };
    let channels = if colours == Colours::Grey { 1 } else { 4 };
    let in_parts = frame.progressive || scan.parts.len() < frame.components.len();
    let beside = if in_parts { kept_bytes(&frame) } else { 0 };
    pixels.start(window.width(), window.height(), channels, orientation, 1, beside)?;
    pixels.are_inks = colours.are_inks();
    pixels.place =
        Place { left: window.columns.start, top: window.rows.start, fraction, whole: (width, height) };
    let mut picture = Picture::new(&frame, 8 / fraction as usize, colours, &window, &mut pixels.samples)?;
    if in_parts {
        picture.read_scans(file, &mut header, scan).map_err(|refusal| refusal.at(header.segment))?;
    } else {
        picture.read_scan(file, &header, &scan).map_err(|refusal| refusal.at(header.segment))?;
    }
    Ok(())
}

/// Refuses a scan with incomplete data. A scan that ends early at the end marker, or at another
/// scan, is grey from there, as in libjpeg.
fn whole(reader: &Reader) -> Result<(), Refusal> {
    match () {
        () if reader.is_cut_short() => Err(Refusal::CutShort),
        () if reader.is_broken_off() => Err(Refusal::Damaged("its data breaks off at an unknown marker")),
        () => Ok(()),
    }
}

/// Returns the memory for the coefficients of an image whose blocks are complete only after several
/// scans, in bytes.
fn kept_bytes(frame: &Frame) -> u64 {
    let most = frame.most();
    let units = frame.width.div_ceil(8 * most.0) * frame.height.div_ceil(8 * most.1);
    let blocks: usize = frame.components.iter().map(|component| component.across * component.down).sum();
    (units * blocks * size_of::<scan::Block>()) as u64
}

/// An image that is being decoded from coefficients to pixels.
struct Picture<'f, 'p> {
    frame: &'f Frame,
    /// The side length of a block in pixels: 8, 4, 2 or 1.
    size: usize,
    colours: Colours,
    planes: Vec<Plane>,
    quantisation: Vec<Option<[i32; 64]>>,
    /// Which of the first coefficients of each component are known in full precision.
    known: Vec<[bool; GUESSED]>,
    /// The number of units across and down.
    units: (usize, usize),
    /// The first wanted row.
    top: usize,
    row_bytes: usize,
    out: &'p mut [u8],
}

impl<'f, 'p> Picture<'f, 'p> {
    fn new(
        frame: &'f Frame,
        size: usize,
        colours: Colours,
        window: &Window,
        out: &'p mut [u8],
    ) -> Result<Self, Refusal> {
        let most = frame.most();
        let units = (frame.width.div_ceil(8 * most.0), frame.height.div_ceil(8 * most.1));
        let planes = frame.components.iter().map(|component| Plane::new(frame, component, size, window));
        let planes = planes.collect::<Result<Vec<_>, _>>()?;
        let channels = if colours == Colours::Grey { 1 } else { 4 };
        let row_bytes = window.width() as usize * channels;
        let quantisation = vec![None; planes.len()];
        let known = vec![[false; GUESSED]; planes.len()];
        let top = window.rows.start as usize;
        Ok(Self { frame, size, colours, planes, quantisation, known, units, top, row_bytes, out })
    }

    /// Takes the quantisation tables for the components of a scan, since later scans may have
    /// others.
    fn take_tables(&mut self, header: &Header, scan: &Scan) -> Result<(), Refusal> {
        for (component, ..) in &scan.parts {
            let table = header.quantisation[self.frame.components[*component].table];
            let table = table.ok_or(Refusal::Damaged("a quantisation table is missing"))?;
            self.quantisation[*component].get_or_insert(table);
        }
        Ok(())
    }

    /// Decodes an image in a single scan while reading it.
    fn read_scan(&mut self, file: &[u8], header: &Header, scan: &Scan) -> Result<(), Refusal> {
        self.take_tables(header, scan)?;
        let mut reader = Reader::new(file, header, self.frame, scan)?;
        decode_rows(self, &mut reader);
        whole(&reader)
    }

    /// Reads an image whose blocks are complete only after several scans.
    fn read_scans(&mut self, file: &[u8], header: &mut Header, first: Scan) -> Result<(), Refusal> {
        let mut kept = Vec::new();
        for component in &self.frame.components {
            let across = self.units.0 * component.across;
            let count = across * self.units.1 * component.down;
            let mut blocks = Vec::new();
            blocks.try_reserve_exact(count).map_err(|_| Refusal::NoMemory(count * 128))?;
            blocks.resize(count, [0; 64]);
            kept.push(Kept { across, blocks });
        }
        let mut next = Some(first);
        let mut count = 0;
        while let Some(scan) = next.take() {
            count += 1;
            if count > SCANS_MAX {
                return Err(Refusal::TooManyScans);
            }
            self.take_tables(header, &scan)?;
            let mut reader = Reader::new(file, header, self.frame, &scan)?;
            keep_rows(&mut reader, &mut kept);
            for (component, ..) in &scan.parts {
                for coefficient in scan.from..=scan.to.min(GUESSED - 1) {
                    self.known[*component][coefficient] = scan.low == 0;
                }
            }
            whole(&reader)?;
            let position = reader.position();
            header.at = position;
            next = loop {
                match header.next_segment() {
                    Ok(Segment::Scan(scan)) => break Some(scan),
                    Ok(Segment::End) => break None,
                    Ok(Segment::Other) => {}
                    // Only the end marker is missing.
                    Err(Refusal::CutShort) if !self.frame.progressive && !self.lacks_a_component() => {
                        break None;
                    }
                    Err(refusal) => return Err(refusal),
                }
            };
        }
        if self.lacks_a_component() {
            return Err(Refusal::Damaged("the scan of a component is missing"));
        }
        if self.frame.progressive && !self.known.iter().flatten().all(|known| *known) {
            return Err(Refusal::Damaged("the scans with its details are missing"));
        }
        show_rows(self, &kept);
        Ok(())
    }

    fn lacks_a_component(&self) -> bool {
        self.quantisation.iter().any(Option::is_none)
    }

    /// Writes the row of units before this one, since smoothing needs the rows around it.
    #[inline(always)]
    fn write_before(&mut self, unit: usize) {
        let Some(unit) = unit.checked_sub(1) else { return };
        let high = self.frame.most().1 * self.size;
        let (first, after) = (unit * high, (unit + 1) * high);
        let rows = (self.top..after).zip(self.out.chunks_exact_mut(self.row_bytes));
        for (y, row) in rows.skip(first.saturating_sub(self.top)) {
            rows::write(&mut self.planes, self.colours, y, row);
        }
    }
}

/// Converts blocks to samples at once.
struct ToPlanes<'p> {
    /// The row of units.
    y: usize,
    planes: &'p mut [Plane],
    tables: &'p [[i32; 64]; 4],
}

impl Destination for ToPlanes<'_> {
    #[inline(always)]
    fn read(&mut self, reader: &mut Reader, index: usize, column: usize, row: usize) {
        let Part { component, down, .. } = reader.parts[index];
        let (plane, row) = (&mut self.planes[component], self.y * down + row);
        if plane.keeps(column, row) {
            let mut block = [0; 64];
            let last = reader.read_block(index, &mut block);
            plane.put(&block, &self.tables[component], last == 0, column, row);
        } else {
            reader.pass_block(index);
        }
    }
}

/// Keeps blocks until all scans are read.
struct ToKept<'k> {
    /// The row of units.
    y: usize,
    kept: &'k mut [Kept],
}

impl Destination for ToKept<'_> {
    #[inline(always)]
    fn read(&mut self, reader: &mut Reader, index: usize, column: usize, row: usize) {
        let Part { component, down, .. } = reader.parts[index];
        let Kept { across, blocks } = &mut self.kept[component];
        reader.read_block(index, &mut blocks[(self.y * down + row) * *across + column]);
    }
}

fast! {
    /// Decodes the only scan of an image and writes its pixels.
    fn decode_rows(picture: &mut Picture, reader: &mut Reader) {
        let tables: [[i32; 64]; 4] =
            std::array::from_fn(|c| picture.quantisation.get(c).copied().flatten().unwrap_or([0; 64]));
        for y in 0..picture.units.1 {
            reader.row(&mut ToPlanes { y, planes: &mut picture.planes, tables: &tables });
            picture.write_before(y);
        }
        picture.write_before(picture.units.1);
    }
}

fast! {
    /// Reads one of several scans.
    fn keep_rows(reader: &mut Reader, kept: &mut [Kept]) {
        for y in 0..reader.units.1 {
            reader.row(&mut ToKept { y, kept });
        }
    }
}

fast! {
    /// Writes the pixels of an image that was read in several scans.
    fn show_rows(picture: &mut Picture, kept: &[Kept]) {
        for y in 0..picture.units.1 {
            for (component, kept) in kept.iter().enumerate() {
                let Some(table) = &picture.quantisation[component] else { continue };
                let down = picture.frame.components[component].down;
                let (columns, rows) = picture.planes[component].kept.clone();
                for row in (y * down..(y + 1) * down).filter(|row| rows.contains(row)) {
                    let blocks = &kept.blocks[row * kept.across..][..kept.across];
                    for (column, block) in columns.clone().zip(&blocks[columns.clone()]) {
                        let only_dc = block[1..].iter().all(|c| *c == 0);
                        picture.planes[component].put(block, table, only_dc, column, row);
                    }
                }
            }
            picture.write_before(y);
        }
        picture.write_before(picture.units.1);
    }
}
