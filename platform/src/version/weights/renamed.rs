//! Renames the files of weights in a model, for an engine that requires certain names.

use std::collections::BTreeMap;

use super::{DEPTH_MAX, Kind};

/// Returns a copy of an ONNX model in which the files of weights have new names, by their current
/// ones. `None` if the bytes are no model.
pub(super) fn renamed(model: &[u8], names: &BTreeMap<String, String>) -> Option<Vec<u8>> {
    message(Kind::Model, model, names, 0)
}

fn message(kind: Kind, bytes: &[u8], names: &BTreeMap<String, String>, depth: usize) -> Option<Vec<u8>> {
    if depth > DEPTH_MAX {
        return None;
    }
    let is_location =
        kind == Kind::Entry && fields(bytes)?.iter().any(|part| part.content == Some(b"location"));
    let mut copy = Vec::with_capacity(bytes.len());
    for part in fields(bytes)? {
        let content = match (kind.field(part.number), part.content) {
            (Some(inner), Some(content)) => Some(message(inner, content, names, depth + 1)?),
            (None, Some(content)) if is_location && part.number == 2 => {
                let name = std::str::from_utf8(content).ok()?;
                names.get(name).map(|name| name.clone().into_bytes())
            }
            _ => None,
        };
        match content {
            Some(content) => copy.extend(field(part.number, &content)),
            None => copy.extend_from_slice(part.whole),
        }
    }
    Some(copy)
}

/// A field of a message: all its bytes, and its content if that has a length.
struct Part<'a> {
    number: u64,
    whole: &'a [u8],
    content: Option<&'a [u8]>,
}

fn fields(bytes: &[u8]) -> Option<Vec<Part<'_>>> {
    let (mut parts, mut rest) = (Vec::new(), bytes);
    while !rest.is_empty() {
        let whole = rest;
        let tag = varint(&mut rest)?;
        let mut content = None;
        match tag & 7 {
            0 => _ = varint(&mut rest)?,
            1 => rest = rest.get(8..)?,
            2 => {
                let length = usize::try_from(varint(&mut rest)?).ok()?;
                content = Some(rest.get(..length)?);
                rest = &rest[length..];
            }
            5 => rest = rest.get(4..)?,
            _ => return None,
        }
        parts.push(Part { number: tag >> 3, whole: &whole[..whole.len() - rest.len()], content });
    }
    Some(parts)
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, after) = rest.split_first()?;
        *rest = after;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// Encodes a field with this content.
pub(super) fn field(number: u64, content: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(content.len() + 8);
    for mut value in [number << 3 | 2, content.len() as u64] {
        while value > 0x7f {
            bytes.push(value as u8 | 0x80);
            value >>= 7;
        }
        bytes.push(value as u8);
    }
    bytes.extend_from_slice(content);
    bytes
}

#[cfg(test)]
mod tests {
    use super::{super::tests, *};

    #[test]
    fn only_the_names_of_weights_change_in_a_copy() {
        let model = tests::model();
        let long = format!("{}.data", "x".repeat(300));
        let names = [("big.data".to_owned(), long.clone()), ("branch.bin".to_owned(), "0.data".to_owned())];
        let copy = renamed(&model, &names.clone().into()).unwrap();
        assert_eq!(tests::found(&copy), ["0.data", &long]);
        let back = names.map(|(old, new)| (new, old)).into();
        assert_eq!(renamed(&copy, &back).unwrap(), model);
    }

    #[test]
    fn an_invalid_model_is_not_copied_and_is_harmless() {
        let model = tests::model();
        for end in 0..model.len() {
            let _copied = renamed(&model[..end], &BTreeMap::new());
        }
        assert_eq!(renamed(&[0xff; 30], &BTreeMap::new()), None);
    }
}
