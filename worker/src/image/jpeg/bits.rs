//! Reads Huffman codes and bits.

use super::{Refusal, idct::ZIGZAG};

/// Codes of up to this length are decoded with one table lookup.
const FAST_BITS: u32 = 10;

/// The meaning of the next bits of a file, as bit fields. For the first code: its length (bits 16
/// to 19), the size of its value (20 to 23), the distance from the previous coefficient (24 to 28),
/// the length of code and value together (8 to 13) and, if the bits include all of it, the value
/// (48 to 63). If a second code with its value fits: its distance (32 to 36) and value (40 to 47).
/// The total length of all (0 to 5). For longer codes, the entry is [`SINGLE`].
type Entry = u64;

/// A flag of an entry: end of block, a run of zeros, or longer than the lookup.
const SINGLE: Entry = 1 << 31;
/// A flag of an entry: the block ends after it.
const END: Entry = 1 << 30;
/// A Huffman table of a file.
#[derive(Debug, Clone)]
pub(super) struct Table {
    /// Indexed by the next bits.
    fast: Box<[Entry; 1 << FAST_BITS]>,
    /// For each length, the first 16-bit pattern (left-aligned) beyond its codes.
    beyond: [u32; 17],
    /// For each length, the offset from a code to the index of its symbol.
    offset: [i32; 17],
    symbols: [u8; 256],
}

impl Table {
    /// Builds the table from the number of symbols of each length from 1 to 16. The symbols of a DC
    /// table are bit counts.
    pub(super) fn new(counts: &[u8; 16], listed: &[u8], is_dc: bool) -> Result<Self, Refusal> {
        let bad = || Refusal::Damaged("a Huffman table is invalid");
        if is_dc && listed.iter().any(|symbol| *symbol > 15) {
            return Err(bad());
        }
        let mut symbols = [0; 256];
        symbols.get_mut(..listed.len()).ok_or_else(bad)?.copy_from_slice(listed);
        let mut table =
            Self { fast: Box::new([SINGLE; 1 << FAST_BITS]), beyond: [0; 17], offset: [0; 17], symbols };
        let (mut code, mut place) = (0u32, 0usize);
        for length in 1..=16u32 {
            table.offset[length as usize] = place as i32 - code as i32;
            for _ in 0..counts[length as usize - 1] {
                if code >= 1 << length {
                    return Err(bad());
                }
                table.fill_fast(code, length, symbols[place], is_dc);
                code += 1;
                place += 1;
            }
            table.beyond[length as usize] = code << (16 - length);
            code <<= 1;
        }
        if !is_dc {
            table.add_second_codes();
        }
        Ok(table)
    }

    /// Returns the length and symbol of a code that is not in the fast table, from the next 16
    /// bits.
    #[cold]
    #[inline(never)]
    fn long_symbol(&self, next: u32) -> (u32, u8) {
        for length in FAST_BITS + 1..=16 {
            if next < self.beyond[length as usize] {
                let place = (next >> (16 - length)) as i32 + self.offset[length as usize];
                return (length, self.symbols[(place & 255) as usize]);
            }
        }
        // libjpeg reads one bit more before it gives up.
        (17, 0)
    }

    fn fill_fast(&mut self, code: u32, length: u32, symbol: u8, is_dc: bool) {
        let Some(free) = FAST_BITS.checked_sub(length) else { return };
        let (run, size) = (u64::from(symbol >> 4), u32::from(symbol & 15));
        let total = u64::from(length + size);
        let mut entry =
            (run + 1) << 24 | u64::from(size) << 20 | u64::from(length) << 16 | total << 8 | total;
        if size > free || size == 0 && !is_dc {
            entry |= SINGLE;
        }
        for rest in 0..1u32 << free {
            let value = if (1..=free).contains(&size) { extend(rest >> (free - size), size) } else { 0 };
            self.fast[(code << free | rest) as usize] = entry | (value as u64) << 48;
        }
    }

    /// Adds the second code to entries in which code and value leave room.
    fn add_second_codes(&mut self) {
        let single = self.fast.clone();
        for (bits, entry) in self.fast.iter_mut().enumerate() {
            if *entry & SINGLE != 0 {
                continue;
            }
            let used = *entry & 63;
            let second = single[bits << used & ((1 << FAST_BITS) - 1)];
            let (length, size, distance) = (second & 63, second >> 20 & 15, second >> 24 & 31);
            if distance == 0 || used + length > u64::from(FAST_BITS) {
                continue;
            }
            if size > 0 {
                *entry += length | distance << 32 | (second >> 48 & 255) << 40;
            } else if distance < 16 {
                *entry = (*entry + length) | END;
            }
        }
    }
}

/// Returns the example tables of the standard (annex K.3). Cameras omit them from the frames of
/// videos.
pub(super) fn standard(is_dc: bool, is_colour: bool) -> Result<Table, Refusal> {
    const DC: [u8; 12] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11];
    const DC_COUNTS: [[u8; 16]; 2] =
        [[0, 1, 5, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0], [0, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0]];
    const AC_COUNTS: [[u8; 16]; 2] = [
        [0, 2, 1, 3, 3, 2, 4, 3, 5, 5, 4, 4, 0, 0, 1, 125],
        [0, 2, 1, 2, 4, 4, 3, 4, 7, 5, 4, 4, 0, 1, 2, 119],
    ];
    const AC: [&[u8; 162]; 2] = [
        b"\x01\x02\x03\x00\x04\x11\x05\x12\x21\x31\x41\x06\x13\x51\x61\x07\x22\x71\x14\x32\x81\x91\xa1\x08\
          \x23\x42\xb1\xc1\x15\x52\xd1\xf0\x24\x33\x62\x72\x82\x09\x0a\x16\x17\x18\x19\x1a\x25\x26\x27\x28\
          \x29\x2a\x34\x35\x36\x37\x38\x39\x3a\x43\x44\x45\x46\x47\x48\x49\x4a\x53\x54\x55\x56\x57\x58\x59\
          \x5a\x63\x64\x65\x66\x67\x68\x69\x6a\x73\x74\x75\x76\x77\x78\x79\x7a\x83\x84\x85\x86\x87\x88\x89\
          \x8a\x92\x93\x94\x95\x96\x97\x98\x99\x9a\xa2\xa3\xa4\xa5\xa6\xa7\xa8\xa9\xaa\xb2\xb3\xb4\xb5\xb6\
          \xb7\xb8\xb9\xba\xc2\xc3\xc4\xc5\xc6\xc7\xc8\xc9\xca\xd2\xd3\xd4\xd5\xd6\xd7\xd8\xd9\xda\xe1\xe2\
          \xe3\xe4\xe5\xe6\xe7\xe8\xe9\xea\xf1\xf2\xf3\xf4\xf5\xf6\xf7\xf8\xf9\xfa",
        b"\x00\x01\x02\x03\x11\x04\x05\x21\x31\x06\x12\x41\x51\x07\x61\x71\x13\x22\x32\x81\x08\x14\x42\x91\
          \xa1\xb1\xc1\x09\x23\x33\x52\xf0\x15\x62\x72\xd1\x0a\x16\x24\x34\xe1\x25\xf1\x17\x18\x19\x1a\x26\
          \x27\x28\x29\x2a\x35\x36\x37\x38\x39\x3a\x43\x44\x45\x46\x47\x48\x49\x4a\x53\x54\x55\x56\x57\x58\
          \x59\x5a\x63\x64\x65\x66\x67\x68\x69\x6a\x73\x74\x75\x76\x77\x78\x79\x7a\x82\x83\x84\x85\x86\x87\
          \x88\x89\x8a\x92\x93\x94\x95\x96\x97\x98\x99\x9a\xa2\xa3\xa4\xa5\xa6\xa7\xa8\xa9\xaa\xb2\xb3\xb4\
          \xb5\xb6\xb7\xb8\xb9\xba\xc2\xc3\xc4\xc5\xc6\xc7\xc8\xc9\xca\xd2\xd3\xd4\xd5\xd6\xd7\xd8\xd9\xda\
          \xe2\xe3\xe4\xe5\xe6\xe7\xe8\xe9\xea\xf2\xf3\xf4\xf5\xf6\xf7\xf8\xf9\xfa",
    ];
    let which = usize::from(is_colour);
    if is_dc {
        Table::new(&DC_COUNTS[which], &DC, true)
    } else {
        Table::new(&AC_COUNTS[which], AC[which], false)
    }
}

/// Returns the value that `size` bits stand for: it is negative if the first bit is zero.
#[inline(always)]
fn extend(bits: u32, size: u32) -> i32 {
    let negative = (bits >> (size - 1) ^ 1) & 1;
    bits as i32 - ((negative << size) as i32 - negative as i32)
}

/// Reads the compressed data of a scan, most significant bits first, skipping the zero byte after
/// each 0xff. At a marker, and at the end of the file, it returns zeros.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bits<'a> {
    file: &'a [u8],
    /// The offset of the next byte to load; at a marker, that of its 0xff.
    at: usize,
    /// The next bits, from the most significant one.
    buffer: u64,
    /// The number of valid bits in the buffer.
    count: u32,
    /// Whether there is nothing more to load before a restart.
    ended: bool,
    /// The number of zeros that were added in place of missing data.
    invented: u64,
}

impl<'a> Bits<'a> {
    pub(super) fn new(file: &'a [u8], at: usize) -> Self {
        Self { file, at, buffer: 0, count: 0, ended: false, invented: 0 }
    }

    /// Returns the offset of the next marker, or of the rest of the file.
    pub(super) fn position(&self) -> usize {
        self.at
    }

    /// Returns whether missing data was read.
    pub(super) fn is_short(&self) -> bool {
        self.invented > u64::from(self.count)
    }

    /// Returns whether the data ended at the end of the file, not at a marker.
    pub(super) fn at_end_of_file(&self) -> bool {
        self.file.len() < self.at + 2
    }

    /// Clears the buffer and continues at this offset, for a restart.
    pub(super) fn restart(&mut self, at: usize) {
        *self = Self::new(self.file, at);
    }

    /// Ensures 48 bits in the buffer, which is more than a code (16) and its value (15).
    #[inline(always)]
    fn fill(&mut self) {
        if self.count < 48 {
            self.fill_up();
        }
    }

    /// Ensures 56 bits in the buffer.
    #[inline(always)]
    fn fill_up(&mut self) {
        if let Some(Ok(eight)) = self.file.get(self.at..self.at + 8).map(<[u8; 8]>::try_from) {
            let word = u64::from_be_bytes(eight);
            let has_ff = word & (!word).wrapping_sub(0x0101_0101_0101_0101) & 0x8080_8080_8080_8080;
            if has_ff == 0 && self.count < 64 {
                self.buffer |= word >> self.count;
                self.at += ((63 - self.count) >> 3) as usize;
                self.count |= 56;
                return;
            }
        }
        *self = self.filled_slowly();
    }

    /// By value, so that the fields can stay in registers.
    #[cold]
    #[inline(never)]
    fn filled_slowly(mut self) -> Self {
        while self.count <= 56 && !self.ended {
            let byte = match self.file.get(self.at..).unwrap_or_default() {
                [0xff, rest @ ..] => {
                    // Any number of 0xff may precede a marker.
                    let fill = rest.iter().take_while(|byte| **byte == 0xff).count();
                    if rest.get(fill) == Some(&0) {
                        self.at += fill + 2;
                        0xff
                    } else {
                        self.at += fill;
                        self.ended = true;
                        break;
                    }
                }
                [byte, ..] => {
                    self.at += 1;
                    *byte
                }
                [] => {
                    self.ended = true;
                    break;
                }
            };
            self.buffer |= u64::from(byte) << (56 - self.count);
            self.count += 8;
        }
        if self.ended {
            self.invented += u64::from(64 - self.count);
            self.count = 64;
        }
        self
    }

    #[inline(always)]
    fn peek(&self, bits: u32) -> u32 {
        (self.buffer >> (64 - bits)) as u32
    }

    #[inline(always)]
    fn skip(&mut self, bits: u32) {
        self.buffer <<= bits;
        self.count -= bits;
    }

    /// Reads one bit.
    #[inline(always)]
    pub(super) fn bit(&mut self) -> bool {
        self.fill();
        let bit = self.peek(1) == 1;
        self.skip(1);
        bit
    }

    /// Reads up to 16 bits.
    #[inline(always)]
    pub(super) fn bits(&mut self, size: u32) -> u32 {
        if size == 0 {
            return 0;
        }
        self.fill();
        let bits = self.peek(size);
        self.skip(size);
        bits
    }

    /// Reads a symbol. An invalid code is the symbol zero, as in libjpeg.
    #[inline(always)]
    pub(super) fn symbol(&mut self, table: &Table) -> u8 {
        self.fill();
        let entry = table.fast[self.peek(FAST_BITS) as usize];
        if entry != SINGLE {
            self.skip((entry >> 16 & 15) as u32);
            return ((((entry >> 24 & 31) - 1) << 4) | (entry >> 20 & 15)) as u8;
        }
        let (length, symbol) = table.long_symbol(self.peek(16));
        self.skip(length);
        symbol
    }

    /// Reads a signed value of `size` bits, at most 15.
    #[inline(always)]
    pub(super) fn value(&mut self, size: u32) -> i32 {
        if size == 0 {
            return 0;
        }
        let bits = self.bits(size);
        extend(bits, size)
    }

    /// Reads the next coefficient of a block: the number of zeros before it, and its value. A value
    /// of zero is a symbol of its own (16 zeros, or the end of the block), whose high half is the
    /// first number.
    #[inline(always)]
    pub(super) fn run_and_value(&mut self, table: &Table) -> (usize, i32) {
        let symbol = self.symbol(table);
        (usize::from(symbol >> 4), self.value(u32::from(symbol & 15)))
    }

    /// Reads the coefficients of a block after the first one, in their places, and returns the
    /// index of the last one in file order.
    ///
    /// Half of the total time is spent here. The function is not inlined, and works on a copy, so
    /// that its state fits into registers.
    #[inline(never)]
    pub(super) fn coefficients(&mut self, table: &Table, block: &mut [i16; 64]) -> usize {
        let mut bits = *self;
        let fast = &*table.fast;
        let mut last = 0;
        let mut put = |at: usize, value: i16| block[usize::from(ZIGZAG[at & 127])] = value;
        'block: loop {
            // Two lookups of ten bits leave enough for the longest code and value.
            bits.fill_up();
            for _ in 0..3 {
                let entry = fast[bits.peek(FAST_BITS) as usize];
                if entry & SINGLE == 0 {
                    let first = last + (entry >> 24 & 31) as usize;
                    if first >= 63 {
                        // The following code belongs to the next block.
                        put(first, (entry >> 48) as i16);
                        bits.skip((entry >> 8 & 63) as u32);
                        last = first;
                        break 'block;
                    }
                    last = first + (entry >> 32 & 31) as usize;
                    // Without a second value, both have the same place.
                    put(last, i16::from((entry >> 40) as i8));
                    put(first, (entry >> 48) as i16);
                    bits.skip((entry & 63) as u32);
                    if entry & END != 0 {
                        break 'block;
                    }
                } else {
                    let symbol = bits.symbol(table);
                    let (run, size) = (usize::from(symbol >> 4), u32::from(symbol & 15));
                    match (run, size) {
                        (15, 0) => last += 16,
                        (_, 0) => break 'block,
                        _ => {
                            last += run + 1;
                            put(last, bits.value(size) as i16);
                        }
                    }
                }
                if last >= 63 {
                    break 'block;
                }
            }
        }
        *self = bits;
        last
    }
}
