//! Sizes, and numbers per channel, as written in settings.

use std::fmt;

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error, SeqAccess, Visitor},
};

/// A size in pixels: `224`, or `"320x240"`, which is width x height.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    /// A square, or a short side.
    Side(u32),
    /// Width and height.
    Rectangle {
        /// Pixels per row.
        width: u32,
        /// Number of rows.
        height: u32,
    },
}

impl Size {
    /// Returns width and height; a single number is a square.
    pub fn sides(self) -> (u32, u32) {
        match self {
            Self::Side(side) => (side, side),
            Self::Rectangle { width, height } => (width, height),
        }
    }

    /// Creates a size; a single number if the sides are equal.
    pub fn of(width: u32, height: u32) -> Self {
        if width == height { Self::Side(width) } else { Self::Rectangle { width, height } }
    }

    fn parse(text: &str) -> Option<Self> {
        let number = |text: &str| text.trim().parse::<u32>().ok();
        match text.split_once(['x', 'X']) {
            Some((width, height)) => Some(Self::Rectangle { width: number(width)?, height: number(height)? }),
            None => number(text).map(Self::Side),
        }
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Side(side) => write!(f, "{side}"),
            Self::Rectangle { width, height } => write!(f, "{width}x{height}"),
        }
    }
}

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Side(side) => serializer.serialize_u32(*side),
            Self::Rectangle { .. } => serializer.collect_str(self),
        }
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reads;
        impl Visitor<'_> for Reads {
            type Value = Size;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of pixels, or width and height such as \"320x240\"")
            }
            fn visit_u64<E: Error>(self, side: u64) -> Result<Size, E> {
                u32::try_from(side).map(Size::Side).map_err(|_| E::custom("is not a size: too large"))
            }
            fn visit_i64<E: Error>(self, side: i64) -> Result<Size, E> {
                u32::try_from(side).map(Size::Side).map_err(|_| E::custom("is not a size"))
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Size, E> {
                Size::parse(text).ok_or_else(|| {
                    E::custom(format!(
                        "`{text}` is not a size; write a number of pixels, or width and height such as \"320x240\""
                    ))
                })
            }
        }
        deserializer.deserialize_any(Reads)
    }
}

/// A size of 0 means `None`: the model file or the preset decides.
pub(super) fn optional_size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Size>, D::Error> {
    Ok(Option::<Size>::deserialize(deserializer)?.filter(|size| *size != Size::Side(0)))
}

/// A number per channel of the model, in their order; a single one applies to all.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(transparent)]
pub struct PerChannel(Vec<f32>);

impl PerChannel {
    /// Returns the numbers for `channels` channels; `None` if their count differs.
    pub fn of(&self, channels: usize) -> Option<Vec<f32>> {
        match self.0[..] {
            [one] => Some(vec![one; channels]),
            _ => (self.0.len() == channels).then(|| self.0.clone()),
        }
    }

    /// Returns the numbers as they were written.
    pub fn numbers(&self) -> &[f32] {
        &self.0
    }
}

impl<const N: usize> From<[f32; N]> for PerChannel {
    fn from(numbers: [f32; N]) -> Self {
        Self(numbers.to_vec())
    }
}

impl From<Vec<f32>> for PerChannel {
    fn from(numbers: Vec<f32>) -> Self {
        Self(numbers)
    }
}

impl<'de> Deserialize<'de> for PerChannel {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reads;
        impl<'de> Visitor<'de> for Reads {
            type Value = PerChannel;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number, or one for each channel such as [0.5, 0.5, 0.5]")
            }
            fn visit_f64<E: Error>(self, number: f64) -> Result<PerChannel, E> {
                Ok(PerChannel(vec![number as f32]))
            }
            fn visit_i64<E: Error>(self, number: i64) -> Result<PerChannel, E> {
                Ok(PerChannel(vec![number as f32]))
            }
            fn visit_u64<E: Error>(self, number: u64) -> Result<PerChannel, E> {
                Ok(PerChannel(vec![number as f32]))
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<PerChannel, E> {
                let number =
                    text.trim().parse().map_err(|_| E::custom(format!("`{text}` is not a number")))?;
                Ok(PerChannel(vec![number]))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<PerChannel, A::Error> {
                let mut numbers = Vec::new();
                while let Some(number) = list.next_element()? {
                    numbers.push(number);
                }
                Ok(PerChannel(numbers))
            }
        }
        deserializer.deserialize_any(Reads)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_one_number_or_width_and_height() {
        assert_eq!(Size::parse("224"), Some(Size::Side(224)));
        assert_eq!(Size::parse("320x240").map(Size::sides), Some((320, 240)));
        for wrong in ["", "x", "320x", "3.5", "-1", "1x2x3"] {
            assert_eq!(Size::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_single_number_applies_to_all_channels_and_other_counts_must_match() {
        assert_eq!(PerChannel::from([0.5]).of(3), Some(vec![0.5; 3]));
        assert_eq!(PerChannel::from([1.0, 2.0, 3.0]).of(3), Some(vec![1.0, 2.0, 3.0]));
        assert_eq!(PerChannel::from([1.0, 2.0, 3.0]).of(1), None);
    }
}
