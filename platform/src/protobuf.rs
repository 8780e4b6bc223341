//! Reads protocol buffers field by field and passes over what nobody asks for: a model's weights
//! are gigabytes, and what stands about them in the file is a few kilobytes.

use std::io::{self, BufReader, ErrorKind, Read, Seek};

/// A longer text is none that anybody reads.
const TEXT_MAX_BYTES: u64 = 4 << 20;

/// A field's value; that of a message or a text is still to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value {
    /// An integer, a truth value or a number of an enumeration.
    Number(u64),
    /// A 32-bit float.
    Float(u32),
    /// A 64-bit float.
    Double(u64),
    /// A message, a text, bytes or packed numbers: they end at this offset.
    Until(u64),
}

/// Reads one file from its begin.
#[derive(Debug)]
pub struct Reader<R> {
    input: BufReader<R>,
    at: u64,
}

impl<R: Read + Seek> Reader<R> {
    /// Of a file that is read from its begin.
    pub fn new(input: R) -> Self {
        Self { input: BufReader::new(input), at: 0 }
    }

    /// The next field of a message that ends at `end`; `None` at its end. What is [`Value::Until`]
    /// must be read, as a text or field by field, or skipped, before the next call.
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

    /// A number without a field before it, as packed lists have them; `None` at their end.
    pub fn packed(&mut self, end: u64) -> io::Result<Option<u64>> {
        if self.at < end { self.varint().map(Some) } else { Ok(None) }
    }

    /// A text that ends at `end`.
    pub fn text(&mut self, end: u64) -> io::Result<String> {
        let length = end.checked_sub(self.at).filter(|length| *length <= TEXT_MAX_BYTES);
        let mut bytes = vec![0; usize::try_from(length.ok_or_else(malformed)?).map_err(|_| malformed())?];
        self.input.read_exact(&mut bytes)?;
        self.at = end;
        String::from_utf8(bytes).map_err(|_| malformed())
    }

    /// Goes on at `end`. Within what is buffered this costs nothing.
    pub fn skip(&mut self, end: u64) -> io::Result<()> {
        let bytes = end.checked_sub(self.at).ok_or_else(malformed)?;
        self.at = end;
        self.input.seek_relative(i64::try_from(bytes).map_err(|_| malformed())?)
    }

    fn bytes<const N: usize>(&mut self) -> io::Result<[u8; N]> {
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

/// What is no protocol buffer.
pub fn malformed() -> io::Error {
    io::Error::from(ErrorKind::InvalidData)
}
