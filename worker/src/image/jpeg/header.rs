//! Reads the segments of a JPEG file: the frame header, the tables, the scan headers.

use super::{
    Refusal,
    bits::{Table, standard},
    idct::ZIGZAG,
};

/// One of up to four components of an image.
#[derive(Debug, Clone)]
pub(super) struct Component {
    pub(super) id: u8,
    /// The number of blocks across and down in a unit of an interleaved scan.
    pub(super) across: usize,
    pub(super) down: usize,
    /// The index of the quantisation table.
    pub(super) table: usize,
}

/// The frame header.
#[derive(Debug, Clone)]
pub(super) struct Frame {
    pub(super) progressive: bool,
    pub(super) width: usize,
    pub(super) height: usize,
    pub(super) components: Vec<Component>,
}

impl Frame {
    /// Returns the largest `across` and `down` of the components, which are those of full
    /// resolution.
    pub(super) fn most(&self) -> (usize, usize) {
        let most = |of: fn(&Component) -> usize| self.components.iter().map(of).max().unwrap_or(1);
        (most(|component| component.across), most(|component| component.down))
    }
}

/// A scan header: the components, by index in the frame, and the part of their coefficients.
#[derive(Debug, Clone)]
pub(super) struct Scan {
    /// Component, DC table, AC table.
    pub(super) parts: Vec<(usize, usize, usize)>,
    /// The first and last coefficient.
    pub(super) from: usize,
    pub(super) to: usize,
    /// The bit position of this scan, and that of the previous one (zero for none).
    pub(super) low: u32,
    pub(super) high: u32,
}

/// The colour space of the samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Colours {
    Grey,
    Rgb,
    YCbCr,
    /// Inverted, as Adobe writes it.
    Cmyk,
    /// The same, with the first three as YCbCr.
    Ycck,
    /// The same two, but without conversion to RGB.
    InksOfCmyk,
    InksOfYcck,
}

impl Colours {
    /// Returns the variant without conversion to RGB, if this is CMYK.
    pub(super) fn with_inks_kept(self) -> Self {
        match self {
            Self::Cmyk => Self::InksOfCmyk,
            Self::Ycck => Self::InksOfYcck,
            other => other,
        }
    }

    /// Returns whether the result is CMYK.
    pub(super) fn are_inks(self) -> bool {
        matches!(self, Self::InksOfCmyk | Self::InksOfYcck)
    }
}

/// The kind of a segment.
pub(super) enum Segment {
    Scan(Scan),
    End,
    Other,
}

/// The data read from a file so far.
pub(super) struct Header<'a> {
    file: &'a [u8],
    /// The offset of the next byte.
    pub(super) at: usize,
    /// The offset of the current segment.
    pub(super) segment: usize,
    pub(super) frame: Option<Frame>,
    pub(super) quantisation: [Option<[i32; 64]>; 4],
    pub(super) dc: [Option<Table>; 4],
    pub(super) ac: [Option<Table>; 4],
    /// Number of units between restarts; zero for none.
    pub(super) restart_every: usize,
    jfif: bool,
    adobe_transform: Option<u8>,
    /// The content of all EXIF segments.
    pub(super) exif: Vec<u8>,
    pub(super) xmp: Option<&'a [u8]>,
}

impl<'a> Header<'a> {
    pub(super) fn new(file: &'a [u8]) -> Result<Self, Refusal> {
        Ok(Self {
            file,
            at: 2,
            segment: 0,
            frame: None,
            quantisation: Default::default(),
            dc: [Some(standard(true, false)?), Some(standard(true, true)?), None, None],
            ac: [Some(standard(false, false)?), Some(standard(false, true)?), None, None],
            restart_every: 0,
            jfif: false,
            adobe_transform: None,
            exif: Vec::new(),
            xmp: None,
        })
    }

    /// Reads up to the frame header.
    pub(super) fn read_frame(&mut self) -> Result<&Frame, Refusal> {
        while self.frame.is_none() {
            if !matches!(self.next_segment()?, Segment::Other) {
                return Err(Refusal::Damaged("it has no frame header"));
            }
        }
        self.frame.as_ref().ok_or(Refusal::Damaged("it has no frame header"))
    }

    /// Reads one segment. After `Scan`, the compressed data follows.
    pub(super) fn next_segment(&mut self) -> Result<Segment, Refusal> {
        let file = self.file;
        // Bytes that are not a marker are skipped.
        let marker = loop {
            match file.get(self.at..).unwrap_or_default() {
                [0xff, 0x00 | 0xff, ..] => self.at += 1,
                [0xff, marker, ..] => {
                    self.at += 2;
                    break *marker;
                }
                [_, _, ..] => self.at += 1,
                _ => return Err(Refusal::CutShort),
            }
        };
        self.segment = self.at - 2;
        if matches!(marker, 0x01 | 0xd0..=0xd8) {
            return Ok(Segment::Other);
        }
        if marker == 0xd9 {
            return Ok(Segment::End);
        }
        let length = match file.get(self.at..self.at + 2) {
            Some(bytes) => usize::from(u16::from_be_bytes([bytes[0], bytes[1]])),
            None => return Err(Refusal::CutShort),
        };
        if length < 2 {
            return Err(Refusal::Damaged("a segment is shorter than its own length"));
        }
        let body = file.get(self.at + 2..self.at + length).ok_or(Refusal::CutShort)?;
        self.at += length;
        match marker {
            0xc0..=0xc2 => self.read_frame_header(body, marker == 0xc2)?,
            0xc3 => return Err(Refusal::Kind("a lossless JPEG")),
            0xc4 => self.read_huffman(body)?,
            0xc5..=0xc7 => return Err(Refusal::Kind("a hierarchical JPEG")),
            0xc9..=0xcb | 0xcd..=0xcf => return Err(Refusal::Kind("an arithmetic-coded JPEG")),
            0xf7 => return Err(Refusal::Kind("a JPEG-LS")),
            0x02..=0xbf | 0xde | 0xdf => return Err(Refusal::Damaged("a marker has no meaning")),
            0xda => return self.read_scan_header(body).map(Segment::Scan),
            0xdb => self.read_quantisation(body)?,
            0xdd => {
                let &[high, low] = body else {
                    return Err(Refusal::Damaged("the distance of restarts is invalid"));
                };
                self.restart_every = usize::from(u16::from_be_bytes([high, low]));
            }
            0xe0 if body.starts_with(b"JFIF\0") => self.jfif = true,
            0xe1 => {
                if let Some(exif) = body.strip_prefix(b"Exif\0\0") {
                    self.exif.extend_from_slice(exif);
                } else if let Some(xmp) = body.strip_prefix(b"http://ns.adobe.com/xap/1.0/\0") {
                    self.xmp = Some(xmp);
                }
            }
            0xee if body.starts_with(b"Adobe") && body.len() >= 12 => self.adobe_transform = Some(body[11]),
            _ => {}
        }
        Ok(Segment::Other)
    }

    fn read_frame_header(&mut self, body: &[u8], progressive: bool) -> Result<(), Refusal> {
        if self.frame.is_some() {
            return Err(Refusal::Damaged("it has two frame headers"));
        }
        let damaged = || Refusal::Damaged("the frame header is invalid");
        let &[precision, h0, h1, w0, w1, count, ref listed @ ..] = body else { return Err(damaged()) };
        if precision != 8 {
            return Err(if precision == 12 { Refusal::Kind("a 12-bit JPEG") } else { damaged() });
        }
        if !matches!(count, 1 | 3 | 4) {
            return Err(if count == 2 { Refusal::Kind("a JPEG of two components") } else { damaged() });
        }
        if listed.len() != usize::from(count) * 3 {
            return Err(damaged());
        }
        let mut components: Vec<Component> = listed
            .chunks_exact(3)
            .map(|c| Component {
                id: c[0],
                across: usize::from(c[1] >> 4),
                down: usize::from(c[1] & 15),
                table: usize::from(c[2]),
            })
            .collect();
        if !components.iter().all(|c| (1..=4).contains(&c.across) && (1..=4).contains(&c.down) && c.table < 4)
        {
            return Err(damaged());
        }
        if let [only] = components.as_mut_slice() {
            // A single component is stored block by block, at full resolution.
            (only.across, only.down) = (1, 1);
        }
        let (width, height) = (u16::from_be_bytes([w0, w1]), u16::from_be_bytes([h0, h1]));
        if height == 0 {
            return Err(Refusal::Kind("a JPEG that gives its height after the picture (DNL)"));
        }
        if width == 0 {
            return Err(damaged());
        }
        let frame = Frame { progressive, width: width.into(), height: height.into(), components };
        let most = frame.most();
        if !frame.components.iter().all(|c| most.0.is_multiple_of(c.across) && most.1.is_multiple_of(c.down))
        {
            return Err(Refusal::Kind("a JPEG whose components differ in size by a fraction"));
        }
        self.frame = Some(frame);
        Ok(())
    }

    fn read_huffman(&mut self, mut body: &[u8]) -> Result<(), Refusal> {
        let damaged = || Refusal::Damaged("a Huffman table is invalid");
        while let Some((head, rest)) = body.split_at_checked(17) {
            let (is_dc, slot) = (head[0] >> 4 == 0, usize::from(head[0] & 15));
            if head[0] >> 4 > 1 {
                return Err(damaged());
            }
            let counts: &[u8; 16] = head[1..].try_into().map_err(|_| damaged())?;
            let total = counts.iter().map(|count| usize::from(*count)).sum();
            let (symbols, rest) = rest.split_at_checked(total).ok_or_else(damaged)?;
            let tables = if is_dc { &mut self.dc } else { &mut self.ac };
            *tables.get_mut(slot).ok_or_else(damaged)? = Some(Table::new(counts, symbols, is_dc)?);
            body = rest;
        }
        if body.is_empty() { Ok(()) } else { Err(damaged()) }
    }

    fn read_quantisation(&mut self, mut body: &[u8]) -> Result<(), Refusal> {
        let damaged = || Refusal::Damaged("a quantisation table is invalid");
        while let Some((&head, rest)) = body.split_first() {
            let wide = head >> 4 != 0;
            let (values, rest) = rest.split_at_checked(if wide { 128 } else { 64 }).ok_or_else(damaged)?;
            let mut table = [0; 64];
            for (index, place) in ZIGZAG[..64].iter().enumerate() {
                table[usize::from(*place)] = if wide {
                    i32::from(u16::from_be_bytes([values[2 * index], values[2 * index + 1]]))
                } else {
                    i32::from(values[index])
                };
            }
            *self.quantisation.get_mut(usize::from(head & 15)).ok_or_else(damaged)? = Some(table);
            body = rest;
        }
        Ok(())
    }

    fn read_scan_header(&mut self, body: &[u8]) -> Result<Scan, Refusal> {
        let damaged = || Refusal::Damaged("a scan header is invalid");
        let frame = self.frame.as_ref().ok_or(Refusal::Damaged("a scan comes before the frame header"))?;
        let (&count, rest) = body.split_first().ok_or_else(damaged)?;
        let (listed, rest) = rest.split_at_checked(usize::from(count) * 2).ok_or_else(damaged)?;
        let &[from, to, bits] = rest else { return Err(damaged()) };
        let mut parts: Vec<(usize, usize, usize)> = Vec::new();
        for pair in listed.chunks_exact(2) {
            let index = frame.components.iter().position(|c| c.id == pair[0]).ok_or_else(damaged)?;
            if parts.iter().any(|(used, ..)| *used == index) {
                return Err(damaged());
            }
            parts.push((index, usize::from(pair[1] >> 4), usize::from(pair[1] & 15)));
        }
        let mut scan = Scan {
            parts,
            from: from.into(),
            to: to.into(),
            low: u32::from(bits & 15),
            high: u32::from(bits >> 4),
        };
        if !frame.progressive {
            // These fields have no meaning in a sequential scan.
            (scan.from, scan.to, scan.low, scan.high) = (0, 63, 0, 0);
        } else if scan.to > 63
            || scan.from > scan.to
            || (scan.from == 0) != (scan.to == 0)
            || (scan.from > 0 && scan.parts.len() != 1)
            || scan.low > 13
            || (scan.high > 0 && scan.low + 1 != scan.high)
        {
            return Err(damaged());
        }
        if scan.parts.is_empty() || scan.parts.len() > 4 {
            return Err(damaged());
        }
        Ok(scan)
    }

    /// Guesses the colour space of the samples like libjpeg.
    pub(super) fn colours(&self) -> Colours {
        let ids: Vec<u8> = self.frame.iter().flat_map(|frame| &frame.components).map(|c| c.id).collect();
        match (ids.as_slice(), self.adobe_transform) {
            ([_], _) => Colours::Grey,
            ([_, _, _, _], Some(0) | None) => Colours::Cmyk,
            ([_, _, _, _], Some(_)) => Colours::Ycck,
            (_, _) if self.jfif => Colours::YCbCr,
            (_, Some(0)) => Colours::Rgb,
            (b"RGB", None) => Colours::Rgb,
            _ => Colours::YCbCr,
        }
    }
}
