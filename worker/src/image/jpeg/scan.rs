//! Reads the scans of an image, one row of units at a time.

use super::{
    Refusal,
    bits::{Bits, Table},
    header::{Frame, Header, Scan},
    idct::ZIGZAG,
};

/// The coefficients of a block by row, before multiplication by the quantisation table.
pub(super) type Block = [i16; 64];

/// The blocks of a component whose coefficients are spread over several scans, or come before those
/// of others.
#[derive(Debug)]
pub(super) struct Kept {
    /// The number of blocks in a row.
    pub(super) across: usize,
    pub(super) blocks: Vec<Block>,
}

/// Receives the blocks of a row of units. A trait, because closures may not be inlined.
pub(super) trait Destination {
    /// Reads the next block, of part `index` of the scan, at this column and row among the blocks
    /// of its component in this row of units.
    fn read(&mut self, reader: &mut Reader, index: usize, column: usize, row: usize);
}

/// The tables of one component in a scan.
pub(super) struct Part<'h> {
    pub(super) component: usize,
    across: usize,
    pub(super) down: usize,
    dc: Option<&'h Table>,
    ac: Option<&'h Table>,
}

/// A scan that is being read.
pub(super) struct Reader<'a, 'h> {
    file: &'a [u8],
    scan: &'h Scan,
    progressive: bool,
    pub(super) parts: Vec<Part<'h>>,
    bits: Bits<'a>,
    restart_every: usize,
    /// Units until the next restart.
    until_restart: usize,
    next_restart: u8,
    /// Whether there is no data until the next restart; blocks stay as they are.
    starved: bool,
    /// The last DC value of each component.
    last_dc: [i32; 4],
    /// The remaining blocks of a run of empty ones.
    empty_run: u32,
    /// The number of units across and down.
    pub(super) units: (usize, usize),
}

impl<'a, 'h> Reader<'a, 'h> {
    pub(super) fn new(
        file: &'a [u8],
        header: &'h Header<'a>,
        frame: &Frame,
        scan: &'h Scan,
    ) -> Result<Self, Refusal> {
        let no_table = || Refusal::Damaged("a Huffman table is missing");
        let needs_dc = scan.from == 0 && scan.high == 0;
        let needs_ac = scan.to > 0;
        let (most_across, most_down) = frame.most();
        let mut parts = Vec::new();
        for &(component, dc, ac) in &scan.parts {
            let dc = header.dc.get(dc).and_then(Option::as_ref);
            let ac = header.ac.get(ac).and_then(Option::as_ref);
            if (needs_dc && dc.is_none()) || (needs_ac && ac.is_none()) {
                return Err(no_table());
            }
            // A component on its own is stored block by block.
            let Frame { components, .. } = frame;
            let (across, down) = match scan.parts.len() {
                1 => (1, 1),
                _ => (components[component].across, components[component].down),
            };
            parts.push(Part { component, across, down, dc, ac });
        }
        let unit = |side: usize, own: usize, most: usize| match scan.parts.len() {
            1 => (side * own).div_ceil(most).div_ceil(8),
            _ => side.div_ceil(8 * most),
        };
        let first = &frame.components[scan.parts[0].0];
        Ok(Self {
            file,
            scan,
            progressive: frame.progressive,
            parts,
            bits: Bits::new(file, header.at),
            restart_every: header.restart_every,
            until_restart: header.restart_every,
            next_restart: 0,
            starved: false,
            last_dc: [0; 4],
            empty_run: 0,
            units: (unit(frame.width, first.across, most_across), unit(frame.height, first.down, most_down)),
        })
    }

    /// Returns the offset of the end of the scan.
    pub(super) fn position(&self) -> usize {
        self.bits.position()
    }

    /// Returns whether the file ended before the scan.
    pub(super) fn is_cut_short(&self) -> bool {
        (self.starved || self.bits.is_short()) && self.bits.at_end_of_file()
    }

    /// Returns whether the data ended before the scan, and not at a valid segment.
    pub(super) fn is_broken_off(&self) -> bool {
        let next = self.file.get(self.position()..).unwrap_or_default();
        let is_strange = matches!(
            next,
            [0xff, 0x02..=0xc3 | 0xc5..=0xcb | 0xcd..=0xcf | 0xd8 | 0xde | 0xdf | 0xf0..=0xfd, ..]
        );
        is_strange && (self.starved || self.bits.is_short())
    }

    /// Reads one row of units.
    #[inline(always)]
    pub(super) fn row(&mut self, to: &mut impl Destination) {
        for unit in 0..self.units.0 {
            if self.restart_every > 0 {
                if self.until_restart == 0 {
                    self.restart();
                }
                self.until_restart -= 1;
            }
            for index in 0..self.parts.len() {
                let Part { across, down, .. } = self.parts[index];
                for row in 0..down {
                    for column in 0..across {
                        to.read(self, index, unit * across + column, row);
                    }
                }
            }
            self.starved |= self.bits.is_short();
        }
    }

    /// Reads a block and returns the index of its last coefficient, in file order.
    #[inline(always)]
    pub(super) fn read_block(&mut self, index: usize, block: &mut Block) -> usize {
        if self.starved {
            return 0;
        }
        if !self.progressive {
            return self.sequential(index, block);
        }
        match (self.scan.from, self.scan.high) {
            (0, 0) => self.first_dc(index, block),
            (0, _) => {
                if self.bits.bit() {
                    block[0] |= 1 << self.scan.low;
                }
            }
            (_, 0) => self.first_ac(index, block),
            _ => self.more_ac(index, block),
        }
        63
    }

    #[inline(always)]
    fn next_dc(&mut self, index: usize) -> i32 {
        let Part { component, dc, .. } = self.parts[index];
        if let Some(table) = dc {
            let size = self.bits.symbol(table);
            let difference = self.bits.value(u32::from(size));
            self.last_dc[component] = self.last_dc[component].wrapping_add(difference);
        }
        self.last_dc[component]
    }

    #[inline(always)]
    fn sequential(&mut self, index: usize, block: &mut Block) -> usize {
        block[0] = self.next_dc(index) as i16;
        let Some(table) = self.parts[index].ac else { return 0 };
        self.bits.coefficients(table, block)
    }

    /// Skips a block of an image in a single scan.
    #[inline(always)]
    pub(super) fn pass_block(&mut self, index: usize) {
        if self.starved {
            return;
        }
        self.next_dc(index);
        if let Some(table) = self.parts[index].ac {
            self.bits.coefficients(table, &mut [0; 64]);
        }
    }

    fn first_dc(&mut self, index: usize, block: &mut Block) {
        block[0] = (self.next_dc(index) << self.scan.low) as i16;
    }

    fn first_ac(&mut self, index: usize, block: &mut Block) {
        if self.empty_run > 0 {
            self.empty_run -= 1;
            return;
        }
        let Some(table) = self.parts[index].ac else { return };
        let mut at = self.scan.from;
        while at <= self.scan.to {
            let (run, value) = self.bits.run_and_value(table);
            if value != 0 {
                at += run;
                block[usize::from(ZIGZAG[at & 127])] = (value << self.scan.low) as i16;
                at += 1;
            } else if run == 15 {
                at += 16;
            } else {
                self.empty_run = (1 << run) - 1 + self.bits.bits(run as u32);
                break;
            }
        }
    }

    fn more_ac(&mut self, index: usize, block: &mut Block) {
        let Some(table) = self.parts[index].ac else { return };
        let one = 1i16 << self.scan.low;
        let mut at = self.scan.from;
        if self.empty_run == 0 {
            while at <= self.scan.to {
                let symbol = self.bits.symbol(table);
                let (mut run, size) = (usize::from(symbol >> 4), symbol & 15);
                let mut new = 0;
                if size != 0 {
                    new = if self.bits.bit() { one } else { -one };
                } else if run < 15 {
                    self.empty_run = (1 << run) + self.bits.bits(run as u32);
                    break;
                }
                // Skips `run` zeros; coefficients that are already nonzero get their next bit.
                while at <= self.scan.to {
                    let place = usize::from(ZIGZAG[at]);
                    if block[place] != 0 {
                        self.refine(&mut block[place], one);
                    } else if run == 0 {
                        break;
                    } else {
                        run -= 1;
                    }
                    at += 1;
                }
                // In a damaged file this may be beyond the band; libjpeg does not check either.
                if new != 0 {
                    block[usize::from(ZIGZAG[at & 127])] = new;
                }
                at += 1;
            }
        }
        if self.empty_run > 0 {
            for place in &ZIGZAG[at..=self.scan.to] {
                let value = &mut block[usize::from(*place)];
                if *value != 0 {
                    self.refine(value, one);
                }
            }
            self.empty_run -= 1;
        }
    }

    #[inline(always)]
    fn refine(&mut self, value: &mut i16, one: i16) {
        if self.bits.bit() && *value & one == 0 {
            *value = if *value > 0 { value.wrapping_add(one) } else { value.wrapping_sub(one) };
        }
    }

    /// Finds the next restart marker. A wrong one is handled as in libjpeg
    /// (`jpeg_resync_to_restart`): if it is slightly ahead, data was lost, and it is kept; an older
    /// or unknown one is skipped.
    #[cold]
    fn restart(&mut self) {
        let mut at = self.bits.position();
        let wanted = self.next_restart;
        let mut found = false;
        while let Some(&[first, marker]) = self.file.get(at..at + 2) {
            if first != 0xff || matches!(marker, 0 | 0xff) {
                at += 1;
                continue;
            }
            let ahead = marker.wrapping_sub(0xd0).wrapping_sub(wanted) & 7;
            match marker {
                0xd0..=0xd7 if ahead == 0 || (3..=5).contains(&ahead) => {
                    at += 2;
                    found = true;
                }
                0xd0..=0xd7 if ahead >= 6 => {
                    at += 2;
                    continue;
                }
                // Markers below the first frame marker have no meaning here.
                ..0xc0 => {
                    at += 2;
                    continue;
                }
                _ => {}
            }
            break;
        }
        self.next_restart = (wanted + 1) & 7;
        self.until_restart = self.restart_every;
        self.last_dc = [0; 4];
        self.empty_run = 0;
        self.bits.restart(at);
        // Without a marker, the following blocks are read as zeros.
        self.starved &= !found;
    }
}
