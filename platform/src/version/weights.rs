//! The files with the weights of an ONNX model. Each tensor in the model file names its file
//! (onnx.proto of ONNX 1.17: `TensorProto.external_data`, the entry `location`). The model file may
//! be large, so it is not read as a whole, but field by field, skipping the weights in it.

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

/// The type of a message in the file, if it may lead to tensors.
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
    /// Returns the type of a field, if it may lead to tensors. The numbers are those of onnx.proto.
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

/// Maximum depth; nodes hold graphs that hold nodes, but in real models not that deep.
const DEPTH_MAX: usize = 64;

/// The cache of names: parsing a model with many nodes takes a few milliseconds.
static FOUND: Known<Names> = Known::new(Mutex::default);

/// The file names in a model, with the minimum number of bytes of each file.
type Names = BTreeMap<String, u64>;

/// The files of weights that an ONNX model names; empty if the file is no model.
#[derive(Debug, Clone)]
pub struct Weights {
    model: PathBuf,
    names: Names,
}

/// Returns the files of weights of an ONNX model.
pub fn weights(model: &Path) -> Weights {
    Weights { model: model.to_owned(), names: names(model) }
}

impl Weights {
    /// Returns each file with its name in the model. Leaves out missing files and those elsewhere;
    /// [`Weights::complaint`] reports them.
    pub fn files(&self) -> Vec<(String, PathBuf)> {
        let found = |name: &String| Some((name.clone(), beside(&self.model, name)?));
        self.names.keys().filter_map(found).collect()
    }

    /// Returns what is wrong with the files, in a sentence without the model's name.
    pub fn complaint(&self) -> Option<String> {
        self.names.iter().find_map(|(name, least)| {
            if !is_within(name) {
                return Some(format!(
                    "its weights are in `{name}`, which is outside of its folder; save it again with its \
                     weights beside it"
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

    /// Returns a copy of the model (given its bytes) that names its weights `0.data`, `1.data` and
    /// so on, and the files with these names; for an engine that requires such names.
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

/// Returns what is wrong with a file that begins like this, if it is a Git LFS pointer instead of
/// `wanted`.
pub fn lfs_pointer(start: &[u8], wanted: &str) -> Option<String> {
    start
        .starts_with(b"version https://git-lfs")
        .then(|| format!("is a Git LFS pointer, not {wanted}: run `git lfs pull` where it comes from"))
}

/// Returns the file with this name beside the model's path, or beside the target of its link.
fn beside(model: &Path, name: &str) -> Option<PathBuf> {
    let target = model.canonicalize().ok();
    let folders = [model.parent(), target.as_deref().and_then(Path::parent)];
    let mut places = folders.into_iter().flatten().map(|folder| folder.join(name));
    places.find(|file| is_within(name) && file.is_file())
}

/// Returns the names in the model.
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
    // An invalid or incomplete model names nothing.
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

/// Weights must be in the model's folder or below it; engines refuse other places as well.
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
        // Dimensions, type, locations, and that the data are external.
        [vec![8, 3, 16, 1], field(13, &entry), field(13, &offset), vec![112, 1]].concat()
    }

    /// A model with tensors in its initializers and in a graph within a node.
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
    fn weights_are_found_in_all_parts_of_a_model() {
        assert_eq!(found(&model()), ["big.data", "branch.bin"]);
    }

    #[test]
    fn an_invalid_or_incomplete_model_is_harmless() {
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
    fn paths_out_of_the_folder_are_refused() {
        for name in ["../x", "/etc/passwd", "a/../../b", ""] {
            assert!(!is_within(name), "{name}");
        }
        for name in ["sub/weights.bin", "./model.onnx_data", "a/../model.data"] {
            assert!(is_within(name), "{name}");
        }
    }

    #[test]
    fn weights_are_found_beside_the_model_or_the_target_of_its_link() {
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
    fn missing_truncated_and_misplaced_weights_are_reported_in_a_sentence() {
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
