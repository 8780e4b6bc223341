//! The files beside an ONNX model that hold its weights. Which they are stands in the model file
//! itself, with each tensor (onnx.proto of ONNX 1.17: `TensorProto.external_data`, the entry
//! `location`), so that it is walked through: not read as a whole, for it may be large, but from
//! field to field, over the weights that it holds itself.

mod renamed;

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read},
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
static FOUND: Known<Names> = Known::new(Mutex::default);

/// The names of files as they stand in a model, and how many bytes each must have.
type Names = BTreeMap<String, u64>;

/// The files of weights that an ONNX model names; none for what is no model.
#[derive(Debug, Clone)]
pub struct Weights {
    model: PathBuf,
    names: Names,
}

/// The files of weights of an ONNX model.
pub fn weights(model: &Path) -> Weights {
    Weights { model: model.to_owned(), names: names(model) }
}

impl Weights {
    /// Each with the name by which the model finds it beside itself. One that is missing or
    /// elsewhere is left out, and [`Weights::complaint`] names it.
    pub fn files(&self) -> Vec<(String, PathBuf)> {
        let found = |name: &String| Some((name.clone(), beside(&self.model, name)?));
        self.names.keys().filter_map(found).collect()
    }

    /// What is wrong with them, in a sentence without the model's name.
    pub fn complaint(&self) -> Option<String> {
        self.names.iter().find_map(|(name, least)| {
            if !is_within(name) {
                return Some(format!(
                    "its weights are in `{name}`, which is outside of its folder; save it again with its weights beside it"
                ));
            }
            let Some(file) = beside(&self.model, name) else {
                let folder = self.model.parent().unwrap_or(Path::new("")).display();
                return Some(format!(
                    "its weights are in a file `{name}`, which must be beside it, in {folder}"
                ));
            };
            let mut start = Vec::new();
            let _unreadable = File::open(&file).and_then(|file| file.take(64).read_to_end(&mut start));
            if let Some(pointer) = lfs_pointer(&start, "the weights themselves") {
                return Some(format!("{} {pointer}", file.display()));
            }
            let bytes = std::fs::metadata(&file).map_or(*least, |data| data.len());
            (bytes < *least).then(|| {
                format!("{} has {bytes} bytes, and its weights need {least}: copy it again", file.display())
            })
        })
    }

    /// A copy of the model, of these bytes, that finds its weights under `0.data`, `1.data` and so
    /// on, and the files by these names; for an engine that is particular about names.
    pub fn numbered(&self, model: &[u8]) -> (Vec<u8>, Vec<(String, PathBuf)>) {
        let mut files = Vec::new();
        let mut names = BTreeMap::new();
        for (number, (name, file)) in self.files().into_iter().enumerate() {
            let new = format!("{number}.data");
            names.insert(name, new.clone());
            files.push((new, file));
        }
        (renamed::renamed(model, &names).unwrap_or_else(|| model.to_owned()), files)
    }
}

/// What is wrong with a file that begins like this, if Git LFS keeps in its place what is wanted.
pub fn lfs_pointer(start: &[u8], wanted: &str) -> Option<String> {
    start
        .starts_with(b"version https://git-lfs")
        .then(|| format!("is a Git LFS pointer, not {wanted}: run `git lfs pull` where it comes from"))
}

/// The file of this name beside the model as it is named, or beside the file that a link to it
/// leads to.
fn beside(model: &Path, name: &str) -> Option<PathBuf> {
    let target = model.canonicalize().ok();
    let folders = [model.parent(), target.as_deref().and_then(Path::parent)];
    let mut places = folders.into_iter().flatten().map(|folder| folder.join(name));
    places.find(|file| is_within(name) && file.is_file())
}

/// The names as they stand in the model.
fn names(model: &Path) -> Names {
    let found = || FOUND.lock().unwrap_or_else(PoisonError::into_inner);
    let stamp = Stamp::now(model);
    if let Some((_, names)) = found().get(model).filter(|(known, _)| *known == stamp) {
        return names.clone();
    }
    let walked = File::open(model).and_then(|file| {
        let bytes = file.metadata()?.len();
        let mut walk = Walk { reader: Reader::new(file), names: Names::new() };
        walk.message(Kind::Model, bytes, 0)?;
        Ok(walk.names)
    });
    // No model, or only half of one: what it names counts for nothing.
    let names = walked.unwrap_or_default();
    found().insert(model.to_owned(), (stamp, names.clone()));
    names
}

struct Walk {
    reader: Reader<File>,
    names: Names,
}

impl Walk {
    fn message(&mut self, kind: Kind, end: u64, depth: usize) -> io::Result<()> {
        if depth > DEPTH_MAX {
            return Err(malformed());
        }
        let (mut location, mut offset, mut length) = (None, 0, 0);
        while let Some((number, field)) = self.reader.field(end)? {
            let Value::Until(inner) = field else { continue };
            match kind.field(number) {
                Some(Kind::Entry) => match self.entry(inner)? {
                    (key, value) if key == "location" => location = Some(value),
                    (key, value) if key == "offset" => offset = value.parse().unwrap_or(0),
                    (key, value) if key == "length" => length = value.parse().unwrap_or(0),
                    _ => {}
                },
                Some(field) => self.message(field, inner, depth + 1)?,
                None => self.reader.skip(inner)?,
            }
        }
        if let Some(name) = location {
            let least = self.names.entry(name).or_default();
            *least = (*least).max(u64::saturating_add(offset, length));
        }
        Ok(())
    }

    fn entry(&mut self, end: u64) -> io::Result<(String, String)> {
        let (mut key, mut value) = (String::new(), String::new());
        while let Some((number, field)) = self.reader.field(end)? {
            match (number, field) {
                (1, Value::Until(inner)) => key = self.reader.text(inner)?,
                (2, Value::Until(inner)) => value = self.reader.text(inner)?,
                (_, Value::Until(inner)) => self.reader.skip(inner)?,
                _ => {}
            }
        }
        Ok((key, value))
    }
}

/// Weights are beside the model or below it; engines refuse other places, too.
fn is_within(name: &str) -> bool {
    let mut depth = 0;
    let is_below = |part: Component| {
        depth += match part {
            Component::Normal(_) => 1,
            Component::CurDir => 0,
            Component::ParentDir => -1,
            Component::RootDir | Component::Prefix(_) => return false,
        };
        depth >= 0
    };
    !name.is_empty() && Path::new(name).components().all(is_below)
}

#[cfg(test)]
mod tests {
    use super::{renamed::field, *};

    fn tensor(location: &str) -> Vec<u8> {
        let entry = [field(1, b"location"), field(2, location.as_bytes())].concat();
        let offset = [field(1, b"offset"), field(2, b"4096")].concat();
        // Its dimensions, its type, its places, and that its data are elsewhere.
        [vec![8, 3, 16, 1], field(13, &entry), field(13, &offset), vec![112, 1]].concat()
    }

    /// A model with tensors among its initializers, and one in a graph within a node.
    pub(super) fn model() -> Vec<u8> {
        let branch = field(5, &tensor("branch.bin"));
        let node = field(1, &field(5, &field(6, &branch)));
        let own = field(5, &[vec![8, 200, 1], field(9, &[7; 500])].concat());
        let graph = [node, own, field(5, &tensor("big.data"))].concat();
        [vec![8, 8], field(7, &graph), field(20, b"")].concat()
    }

    pub(super) fn found(bytes: &[u8]) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("m.onnx");
        std::fs::write(&file, bytes).unwrap();
        names(&file).into_keys().collect()
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
        for name in ["sub/weights.bin", "./model.onnx_data", "a/../model.data"] {
            assert!(is_within(name), "{name}");
        }
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
        assert_eq!(weights(&folder.path().join("m.onnx")).files(), expected);
    }

    #[test]
    fn weights_that_are_missing_cut_short_or_elsewhere_are_named_in_a_sentence() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let file = path("m.onnx");
        let says = |expected: &str| {
            let complaint = weights(&file).complaint().unwrap_or_default();
            assert!(complaint.contains(expected), "{expected:?}: {complaint}");
        };
        std::fs::write(&file, model()).unwrap();
        says("`big.data`, which must be beside it");
        std::fs::write(path("big.data"), vec![0; 4096]).unwrap();
        says("`branch.bin`, which must be beside it");
        std::fs::write(path("branch.bin"), "short").unwrap();
        says("branch.bin has 5 bytes, and its weights need 4096");
        std::fs::write(path("branch.bin"), "version https://git-lfs.github.com/spec/v1\n").unwrap();
        says("branch.bin is a Git LFS pointer");
        std::fs::write(path("branch.bin"), vec![0; 4097]).unwrap();
        assert_eq!(weights(&file).complaint(), None);
        std::fs::write(&file, field(7, &field(5, &tensor("../big.data")))).unwrap();
        says("`../big.data`, which is outside of its folder");
    }
}
