//! Reads protocol buffers field by field and skips unneeded fields: the weights of a model may have
//! gigabytes, and the rest a few kilobytes.

use std::io::{self, BufReader, ErrorKind, Read, Seek};

/// Maximum length of a text, in bytes.
const TEXT_MAX_BYTES: u64 = 4 << 20;

/// The value of a field; a message or text must still be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value {
    /// An integer, a boolean or a value of an enumeration.
    Number(u64),
    /// A 32-bit float.
    Float(u32),
    /// A 64-bit float.
    Double(u64),
    /// A message, text, bytes or packed numbers, which end at this offset.
    Until(u64),
}

/// Reads a file from its start.
#[derive(Debug)]
pub struct Reader<R> {
    input: BufReader<R>,
    at: u64,
}

impl<R: Read + Seek> Reader<R> {
    /// Creates a reader for a file at its start.
    pub fn new(input: R) -> Self {
        Self { input: BufReader::new(input), at: 0 }
    }

    /// Returns the next field of a message that ends at `end`, or `None` at its end. A
    /// [`Value::Until`] must be read as a text, read field by field, or skipped before the next
    /// call.
    pub fn field(&mut self, end: u64) -> io::Result<Option<(u64, Value)>> {
        if self.at >= end {
            return if self.at == end { Ok(None) } else { Err(malformed()) };
        }
        let tag = self.varint()?;
        let value = match tag & 7 {
            0 => Value::Number(self.varint()?),
            1 => Value::Double(u64::from_le_bytes(self.bytes()?)),
            2 => {
                let length = self.varint()?;
                let inner = self.at.checked_add(length).filter(|inner| *inner <= end);
                Value::Until(inner.ok_or_else(malformed)?)
            }
            5 => Value::Float(u32::from_le_bytes(self.bytes()?)),
            _ => return Err(malformed()),
        };
        Ok(Some((tag >> 3, value)))
    }

    /// Returns the next number of a packed list that ends at `end`, or `None` at its end.
    pub fn packed(&mut self, end: u64) -> io::Result<Option<u64>> {
        if self.at < end { self.varint().map(Some) } else { Ok(None) }
    }

    /// Reads a text that ends at `end`.
    pub fn text(&mut self, end: u64) -> io::Result<String> {
        let length = end.checked_sub(self.at).filter(|length| *length <= TEXT_MAX_BYTES);
        let mut bytes = vec![0; usize::try_from(length.ok_or_else(malformed)?).map_err(|_| malformed())?];
        self.input.read_exact(&mut bytes)?;
        self.at = end;
        String::from_utf8(bytes).map_err(|_| malformed())
    }

    /// Returns the number of bytes until `end`.
    pub fn left(&self, end: u64) -> u64 {
        end.saturating_sub(self.at)
    }

    /// Continues at `end`. Free within the buffer.
    pub fn skip(&mut self, end: u64) -> io::Result<()> {
        let bytes = end.checked_sub(self.at).ok_or_else(malformed)?;
        self.at = end;
        self.input.seek_relative(i64::try_from(bytes).map_err(|_| malformed())?)
    }

    /// Reads this number of bytes.
    pub fn bytes<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.input.read_exact(&mut bytes)?;
        self.at += N as u64;
        Ok(bytes)
    }

    fn varint(&mut self) -> io::Result<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let [byte] = self.bytes()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(malformed())
    }
}

/// The error for an invalid protocol buffer.
pub fn malformed() -> io::Error {
    io::Error::from(ErrorKind::InvalidData)
}
