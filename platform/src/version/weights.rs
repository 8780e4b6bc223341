//! The files beside an ONNX model that hold its weights. Which they are stands in the model file
//! itself, with each tensor (onnx.proto of ONNX 1.17: `TensorProto.external_data`, the entry
//! `location`), so that it is walked through: not read as a whole, for it may be large, but from
//! field to field, over the weights that it holds itself.

use std::{
    collections::BTreeSet,
    fs::File,
    io,
    path::{Component, Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use super::Known;
use crate::{
    protobuf::{Reader, Value, malformed},
    state_folder::Stamp,
};

/// What a message of the file is, as far as it leads to tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Model,
    Graph,
    Node,
    Attribute,
    Function,
    SparseTensor,
    Tensor,
    Entry,
}

impl Kind {
    /// What the field of this number is, where it leads to tensors. The numbers are those of
    /// onnx.proto.
    fn field(self, number: u64) -> Option<Self> {
        match (self, number) {
            (Self::Model, 7) | (Self::Attribute, 6 | 11) => Some(Self::Graph),
            (Self::Model, 25) => Some(Self::Function),
            (Self::Graph, 1) | (Self::Function, 7) => Some(Self::Node),
            (Self::Node, 5) => Some(Self::Attribute),
            (Self::Graph, 5) | (Self::Attribute, 5 | 10) | (Self::SparseTensor, 1 | 2) => Some(Self::Tensor),
            (Self::Graph, 15) | (Self::Attribute, 22 | 23) => Some(Self::SparseTensor),
            (Self::Tensor, 13) => Some(Self::Entry),
            _ => None,
        }
    }
}

/// Nodes hold graphs that hold nodes, but in no model so deep.
const DEPTH_MAX: usize = 64;

/// What was found, by path: a model of many nodes takes some milliseconds.
static FOUND: Known<Vec<String>> = Known::new(Mutex::default);

/// The files of weights of an ONNX model, each with the name by which the model finds it beside
/// itself. A file that is no model has none; one that is missing is left out, and the engine says
/// so when it loads the model.
pub fn weights(model: &Path) -> Vec<(String, PathBuf)> {
    // Beside the model as it is named, or beside the file that a link leads to.
    let target = model.canonicalize().ok();
    let folders = [model.parent(), target.as_deref().and_then(Path::parent)];
    let beside = |name: &String| {
        let mut places = folders.into_iter().flatten().map(|folder| folder.join(name));
        Some((name.clone(), places.find(|file| file.is_file())?))
    };
    names(model).iter().filter_map(beside).collect()
}

/// The names as they stand in the model.
fn names(model: &Path) -> Vec<String> {
    let found = || FOUND.lock().unwrap_or_else(PoisonError::into_inner);
    let stamp = Stamp::now(model);
    if let Some((_, names)) = found().get(model).filter(|(known, _)| *known == stamp) {
        return names.clone();
    }
    let mut names = BTreeSet::new();
    let walked = File::open(model).and_then(|file| {
        let bytes = file.metadata()?.len();
        let mut walk = Walk { reader: Reader::new(file), names: &mut names };
        walk.message(Kind::Model, bytes, 0)
    });
    // No model, or only half of one: what it names counts for nothing.
    let names: Vec<_> = if walked.is_ok() { names.into_iter().collect() } else { Vec::new() };
    found().insert(model.to_owned(), (stamp, names.clone()));
    names
}

struct Walk<'a> {
    reader: Reader<File>,
    names: &'a mut BTreeSet<String>,
}

impl Walk<'_> {
    fn message(&mut self, kind: Kind, end: u64, depth: usize) -> io::Result<()> {
        if depth > DEPTH_MAX {
            return Err(malformed());
        }
        let (mut key, mut value) = (String::new(), String::new());
        while let Some((number, field)) = self.reader.field(end)? {
            let Value::Until(inner) = field else { continue };
            match (kind, number, kind.field(number)) {
                (Kind::Entry, 1, _) => key = self.reader.text(inner)?,
                (Kind::Entry, 2, _) => value = self.reader.text(inner)?,
                (_, _, Some(field)) => self.message(field, inner, depth + 1)?,
                _ => self.reader.skip(inner)?,
            }
        }
        if key == "location" && is_within(&value) {
            self.names.insert(value);
        }
        Ok(())
    }
}

/// Weights are beside the model or below it; engines refuse other places, too.
fn is_within(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    !name.is_empty() && parts.all(|part| matches!(part, Component::Normal(_) | Component::CurDir))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A field with a content of its own.
    fn field(number: u64, content: &[u8]) -> Vec<u8> {
        [varint(number << 3 | 2), varint(content.len() as u64), content.to_vec()].concat()
    }

    fn varint(mut value: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        loop {
            let low = (value & 0x7f) as u8;
            value >>= 7;
            bytes.push(if value > 0 { low | 0x80 } else { low });
            if value == 0 {
                return bytes;
            }
        }
    }

    fn tensor(location: &str) -> Vec<u8> {
        let entry = [field(1, b"location"), field(2, location.as_bytes())].concat();
        let offset = [field(1, b"offset"), field(2, b"4096")].concat();
        // Its dimensions, its type, its places, and that its data are elsewhere.
        [vec![8, 3, 16, 1], field(13, &entry), field(13, &offset), vec![112, 1]].concat()
    }

    /// A model with tensors among its initializers, and one in a graph within a node.
    fn model() -> Vec<u8> {
        let branch = field(5, &tensor("branch.bin"));
        let node = field(1, &field(5, &field(6, &branch)));
        let own = field(5, &[vec![8, 200, 1], field(9, &[7; 500])].concat());
        let graph = [node, own, field(5, &tensor("big.data"))].concat();
        [vec![8, 8], field(7, &graph), field(20, b"")].concat()
    }

    fn found(bytes: &[u8]) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("m.onnx");
        std::fs::write(&file, bytes).unwrap();
        names(&file)
    }

    #[test]
    fn weights_are_found_wherever_the_model_names_them() {
        assert_eq!(found(&model()), ["big.data", "branch.bin"]);
    }

    #[test]
    fn a_file_that_is_no_model_or_half_of_one_is_read_to_no_harm() {
        let whole = model();
        for end in 2..whole.len() {
            let cut = found(&whole[..end]);
            assert!(cut.is_empty() || cut == found(&whole), "a cut at {end} names {cut:?}");
        }
        for bytes in [&b"version https://git-lfs.github.com/spec/v1\n"[..], &[0xff; 100], b""] {
            assert_eq!(found(bytes), Vec::<String>::new());
        }
        let nested = (0..200).fold(Vec::new(), |inner, _| field(1, &field(5, &field(6, &inner))));
        assert_eq!(found(&field(7, &nested)), Vec::<String>::new());
    }

    #[test]
    fn a_place_that_leads_elsewhere_is_no_weights() {
        for name in ["../x", "/etc/passwd", "a/../../b", ""] {
            assert!(!is_within(name), "{name}");
        }
        assert!(is_within("sub/weights.bin") && is_within("./model.onnx_data"));
    }

    #[test]
    fn weights_are_beside_the_model_or_beside_what_a_link_to_it_leads_to() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = folder.path().join("blobs");
        std::fs::create_dir(&blobs).unwrap();
        std::fs::write(blobs.join("m"), model()).unwrap();
        std::os::unix::fs::symlink(blobs.join("m"), folder.path().join("m.onnx")).unwrap();
        std::fs::write(folder.path().join("big.data"), "here").unwrap();
        std::fs::write(blobs.join("branch.bin"), "there").unwrap();
        let there = blobs.canonicalize().unwrap().join("branch.bin");
        let expected = [("big.data".into(), folder.path().join("big.data")), ("branch.bin".into(), there)];
        assert_eq!(weights(&folder.path().join("m.onnx")), expected);
    }
}
