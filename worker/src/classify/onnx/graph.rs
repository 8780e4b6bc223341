//! Reads the graph of an ONNX file for all engines: operators, names, metadata. Weights are
//! skipped.
//!
//! Field numbers are those of onnx.proto (ONNX 1.17).

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{self, Cursor, Read, Seek},
};

use eirs_platform::protobuf::{Reader, Value, malformed};

use super::Source;

/// Maximum depth of nested graphs; real models have less.
const DEPTH_MAX: usize = 64;

/// A model without its weights.
#[derive(Debug, Default)]
pub(super) struct Graph {
    pub(super) ir_version: u64,
    /// The version of the operator set of the empty domain, which is ONNX itself.
    pub(super) opset: u64,
    /// The metadata of the model file.
    pub(super) metadata: BTreeMap<String, String>,
    pub(super) nodes: Vec<Node>,
    /// The inputs: their names, and the names of their open dimensions.
    pub(super) inputs: Vec<(String, Vec<Option<String>>)>,
    pub(super) outputs: Vec<String>,
    /// The names of values stored in the file.
    pub(super) weights: BTreeSet<String>,
    /// The values among `weights` that are a single float.
    pub(super) numbers: BTreeMap<String, f64>,
    /// Lists of strings among the stored values: the classes of scikit-learn's pipelines.
    pub(super) texts: Vec<Vec<String>>,
}

/// An operation.
#[derive(Debug, Default)]
pub(super) struct Node {
    pub(super) operator: String,
    /// Empty for operators of ONNX itself.
    pub(super) domain: String,
    pub(super) inputs: Vec<String>,
    pub(super) outputs: Vec<String>,
    /// The integer attributes, by name.
    pub(super) numbers: BTreeMap<String, Vec<i64>>,
    /// The string attributes, by name.
    pub(super) texts: BTreeMap<String, Vec<String>>,
    /// The value of the attribute that is a float, or a tensor with one float: the value of a
    /// `Constant`.
    constant: Option<f64>,
    /// The nodes of graphs in attributes, such as the branches of an `If`.
    inner: Vec<Node>,
}

impl Graph {
    /// Returns `None` if the source is not an ONNX file.
    pub(super) fn read(source: &Source) -> Option<Self> {
        match source {
            Source::BuiltIn(bytes) => Self::decode(Cursor::new(*bytes), bytes.len() as u64).ok(),
            Source::File(path) => {
                let file = File::open(path).ok()?;
                let end = file.metadata().ok()?.len();
                Self::decode(file, end).ok()
            }
        }
    }

    fn decode(input: impl Read + Seek, end: u64) -> io::Result<Self> {
        let (mut reader, mut graph, mut is_there) = (Reader::new(input), Self::default(), false);
        while let Some((number, value)) = reader.field(end)? {
            match (number, value) {
                (1, Value::Number(version)) => graph.ir_version = version,
                (7, Value::Until(end)) => {
                    graph.body(&mut reader, end)?;
                    is_there = true;
                }
                (8, Value::Until(end)) => {
                    let (domain, version) = opset(&mut reader, end)?;
                    if domain.is_empty() || domain == "ai.onnx" {
                        graph.opset = version;
                    }
                }
                (14, Value::Until(end)) => {
                    let (key, value) = entry(&mut reader, end)?;
                    graph.metadata.insert(key, value);
                }
                (_, Value::Until(end)) => reader.skip(end)?,
                _ => {}
            }
        }
        if is_there { Ok(graph) } else { Err(malformed()) }
    }

    fn body<R: Read + Seek>(&mut self, reader: &mut Reader<R>, end: u64) -> io::Result<()> {
        while let Some((number, value)) = reader.field(end)? {
            match (number, value) {
                (1, Value::Until(end)) => self.nodes.push(node(reader, end, 0)?),
                (5, Value::Until(end)) => self.weight(reader, end)?,
                (15, Value::Until(end)) => {
                    // The name of a sparse tensor is in its values.
                    while let Some((number, value)) = reader.field(end)? {
                        match (number, value) {
                            (1, Value::Until(end)) => _ = self.weights.insert(name_in(reader, end, 8)?),
                            (_, Value::Until(end)) => reader.skip(end)?,
                            _ => {}
                        }
                    }
                }
                (11, Value::Until(end)) => self.inputs.push(port(reader, end)?),
                (12, Value::Until(end)) => self.outputs.push(port(reader, end)?.0),
                (_, Value::Until(end)) => reader.skip(end)?,
                _ => {}
            }
        }
        Ok(())
    }

    /// Reads a stored tensor.
    fn weight<R: Read + Seek>(&mut self, reader: &mut Reader<R>, end: u64) -> io::Result<()> {
        let tensor = Tensor::read(reader, end)?;
        if let Some(number) = tensor.number {
            self.numbers.insert(tensor.name.clone(), number);
        }
        if tensor.texts.len() > 1 {
            self.texts.push(tensor.texts);
        }
        self.weights.insert(tensor.name);
        Ok(())
    }

    /// Returns the value of a constant if it is a single float.
    pub(super) fn constant(&self, value: &str) -> Option<f64> {
        let made = || self.maker(value).filter(|node| node.operator == "Constant")?.constant;
        self.numbers.get(value).copied().or_else(made)
    }

    /// Returns all nodes on which an output depends, last ones first.
    pub(super) fn making<'a>(&'a self, output: &'a str) -> Vec<&'a Node> {
        let by_output: BTreeMap<&str, usize> = (self.nodes.iter().enumerate())
            .flat_map(|(index, node)| node.outputs.iter().map(move |name| (name.as_str(), index)))
            .collect();
        let (mut seen, mut open, mut making) = (BTreeSet::new(), vec![output], Vec::new());
        while let Some(name) = open.pop() {
            let Some(index) = by_output.get(name).copied().filter(|index| seen.insert(*index)) else {
                continue;
            };
            let node = &self.nodes[index];
            making.push(index);
            node.all(&mut |node| open.extend(node.inputs.iter().map(String::as_str)));
        }
        making.sort_unstable_by(|a, b| b.cmp(a));
        making.into_iter().map(|index| &self.nodes[index]).collect()
    }

    /// Returns the node that computes a value.
    pub(super) fn maker(&self, value: &str) -> Option<&Node> {
        self.nodes.iter().find(|node| node.outputs.iter().any(|output| output == value))
    }

    /// Returns the operator that computes an output, ignoring changes of shape or type.
    pub(super) fn last_operator(&self, output: &str) -> Option<&str> {
        self.last_node(output).map(|node| node.operator.as_str())
    }

    /// Returns the node of that operator.
    pub(super) fn last_node(&self, output: &str) -> Option<&Node> {
        let mut name = output;
        for _ in 0..self.nodes.len() {
            let node = self.maker(name)?;
            if !node.is_shape_or_type() {
                return Some(node);
            }
            name = node.inputs.first()?;
        }
        None
    }

    /// Returns whether a value is the same for all images.
    pub(super) fn is_constant(&self, value: &str) -> bool {
        self.weights.contains(value) || self.maker(value).is_some_and(|node| node.operator == "Constant")
    }

    /// Returns whether the graph contains an operator, also in nested graphs.
    pub(super) fn has(&self, operator: &str) -> bool {
        let mut found = false;
        self.nodes.iter().for_each(|node| node.all(&mut |node| found |= node.operator == operator));
        found
    }

    /// Returns the class names in a classifier of ONNX-ML: `ZipMap`, trees, linear models.
    pub(super) fn classes(&self) -> Option<Vec<String>> {
        let texts =
            |node: &Node| node.texts.get("classlabels_strings").filter(|list| list.len() > 1).cloned();
        // If there is a single list of strings, it is the class names.
        let only = || if let [only] = &self.texts[..] { Some(only.clone()) } else { None };
        self.nodes.iter().find_map(texts).or_else(only)
    }
}

impl Node {
    /// Returns whether the node only changes the shape or type of a value.
    pub(super) fn is_shape_or_type(&self) -> bool {
        matches!(
            self.operator.as_str(),
            "Identity"
                | "Cast"
                | "Reshape"
                | "Flatten"
                | "Squeeze"
                | "Unsqueeze"
                | "Transpose"
                | "DequantizeLinear"
                | "QuantizeLinear"
                | "ZipMap"
        )
    }

    /// Visits this node and all nested ones.
    fn all<'a>(&'a self, visit: &mut impl FnMut(&'a Self)) {
        visit(self);
        for inner in &self.inner {
            inner.all(visit);
        }
    }

    pub(super) fn number(&self, attribute: &str) -> Option<i64> {
        self.numbers.get(attribute)?.first().copied()
    }

    pub(super) fn text(&self, attribute: &str) -> Option<&str> {
        self.texts.get(attribute)?.first().map(String::as_str)
    }
}

/// The parts of a tensor that are read.
#[derive(Debug, Default)]
struct Tensor {
    name: String,
    /// The elements, if they are strings.
    texts: Vec<String>,
    /// The element, if there is only one and it is a float.
    number: Option<f64>,
}

impl Tensor {
    fn read<R: Read + Seek>(reader: &mut Reader<R>, end: u64) -> io::Result<Self> {
        /// The numbers of the element types in onnx.proto.
        const F32: u64 = 1;
        const F64: u64 = 11;
        let (mut tensor, mut kind, mut elements) = (Self::default(), 0, Vec::new());
        while let Some((number, value)) = reader.field(end)? {
            // More than one is not counted.
            elements.truncate(2);
            match (number, value) {
                (2, Value::Number(number)) => kind = number,
                (6, Value::Until(end)) => tensor.texts.push(reader.text(end)?),
                (8, Value::Until(end)) => tensor.name = reader.text(end)?,
                // Floats are in a field of their type, packed or not, or in the raw bytes.
                (4, Value::Float(bits)) => elements.push((F32, u64::from(bits))),
                (10, Value::Double(bits)) => elements.push((F64, bits)),
                (4 | 9 | 10, Value::Until(end)) => match reader.left(end) {
                    4 => elements.push((F32, u32::from_le_bytes(reader.bytes()?).into())),
                    8 => elements.push((F64, u64::from_le_bytes(reader.bytes()?))),
                    _ => reader.skip(end)?,
                },
                (_, Value::Until(end)) => reader.skip(end)?,
                _ => {}
            }
        }
        tensor.number = match elements[..] {
            [(F32, bits)] if kind == F32 => u32::try_from(bits).ok().map(|bits| f32::from_bits(bits).into()),
            [(F64, bits)] if kind == F64 => Some(f64::from_bits(bits)),
            _ => None,
        };
        Ok(tensor)
    }
}

fn node<R: Read + Seek>(reader: &mut Reader<R>, end: u64, depth: usize) -> io::Result<Node> {
    if depth > DEPTH_MAX {
        return Err(malformed());
    }
    let mut node = Node::default();
    while let Some((number, value)) = reader.field(end)? {
        match (number, value) {
            (1, Value::Until(end)) => node.inputs.push(reader.text(end)?),
            (2, Value::Until(end)) => node.outputs.push(reader.text(end)?),
            (4, Value::Until(end)) => node.operator = reader.text(end)?,
            (7, Value::Until(end)) => {
                node.domain = reader.text(end)?;
                if node.domain == "ai.onnx" {
                    node.domain.clear();
                }
            }
            (5, Value::Until(end)) => attribute(reader, end, depth, &mut node)?,
            (_, Value::Until(end)) => reader.skip(end)?,
            _ => {}
        }
    }
    Ok(node)
}

fn attribute<R: Read + Seek>(
    reader: &mut Reader<R>,
    end: u64,
    depth: usize,
    node: &mut Node,
) -> io::Result<()> {
    let (mut name, mut numbers, mut texts) = (String::new(), Vec::new(), Vec::new());
    while let Some((number, value)) = reader.field(end)? {
        match (number, value) {
            (1, Value::Until(end)) => name = reader.text(end)?,
            (2, Value::Float(bits)) => node.constant = Some(f32::from_bits(bits).into()),
            (5, Value::Until(end)) => node.constant = Tensor::read(reader, end)?.number,
            (3 | 8, Value::Number(value)) => numbers.push(value as i64),
            (8, Value::Until(end)) => {
                while let Some(value) = reader.packed(end)? {
                    numbers.push(value as i64);
                }
            }
            // The bytes may be something other than text, and may be long.
            (4 | 9, Value::Until(end)) => match reader.text(end) {
                Ok(text) => texts.push(text),
                Err(_) => reader.skip(end)?,
            },
            (6 | 11, Value::Until(end)) => {
                let mut within = Graph::default();
                while let Some((number, value)) = reader.field(end)? {
                    match (number, value) {
                        (1, Value::Until(end)) => within.nodes.push(self::node(reader, end, depth + 1)?),
                        (_, Value::Until(end)) => reader.skip(end)?,
                        _ => {}
                    }
                }
                node.inner.append(&mut within.nodes);
            }
            (_, Value::Until(end)) => reader.skip(end)?,
            _ => {}
        }
    }
    if !numbers.is_empty() {
        node.numbers.insert(name, numbers);
    } else if !texts.is_empty() {
        node.texts.insert(name, texts);
    }
    Ok(())
}

/// Reads the text of one field of a message.
fn name_in<R: Read + Seek>(reader: &mut Reader<R>, end: u64, field: u64) -> io::Result<String> {
    let mut name = String::new();
    while let Some((number, value)) = reader.field(end)? {
        match value {
            Value::Until(end) if number == field => name = reader.text(end)?,
            Value::Until(end) => reader.skip(end)?,
            _ => {}
        }
    }
    Ok(name)
}

fn opset<R: Read + Seek>(reader: &mut Reader<R>, end: u64) -> io::Result<(String, u64)> {
    let mut opset = (String::new(), 0);
    while let Some((number, value)) = reader.field(end)? {
        match (number, value) {
            (1, Value::Until(end)) => opset.0 = reader.text(end)?,
            (2, Value::Number(version)) => opset.1 = version,
            (_, Value::Until(end)) => reader.skip(end)?,
            _ => {}
        }
    }
    Ok(opset)
}

fn entry<R: Read + Seek>(reader: &mut Reader<R>, end: u64) -> io::Result<(String, String)> {
    let mut entry = (String::new(), String::new());
    while let Some((number, value)) = reader.field(end)? {
        match (number, value) {
            (1, Value::Until(end)) => entry.0 = reader.text(end)?,
            (2, Value::Until(end)) => entry.1 = reader.text(end)?,
            (_, Value::Until(end)) => reader.skip(end)?,
            _ => {}
        }
    }
    Ok(entry)
}

/// Reads the name of an input or output and the names of its open dimensions, which are nested:
/// value, type, tensor, shape, dimension, name.
fn port<R: Read + Seek>(reader: &mut Reader<R>, end: u64) -> io::Result<(String, Vec<Option<String>>)> {
    let (mut name, mut dimensions) = (String::new(), Vec::new());
    while let Some((number, value)) = reader.field(end)? {
        match (number, value) {
            (1, Value::Until(end)) => name = reader.text(end)?,
            (2, Value::Until(end)) => within(reader, end, 1, &mut |reader, end| {
                within(reader, end, 2, &mut |reader, end| {
                    within(reader, end, 1, &mut |reader, end| {
                        let open = name_in(reader, end, 2)?;
                        dimensions.push(Some(open).filter(|name| !name.is_empty()));
                        Ok(())
                    })
                })
            })?,
            (_, Value::Until(end)) => reader.skip(end)?,
            _ => {}
        }
    }
    Ok((name, dimensions))
}

/// Visits each field with this number.
fn within<R: Read + Seek>(
    reader: &mut Reader<R>,
    end: u64,
    field: u64,
    visit: &mut dyn FnMut(&mut Reader<R>, u64) -> io::Result<()>,
) -> io::Result<()> {
    while let Some((number, value)) = reader.field(end)? {
        match value {
            Value::Until(end) if number == field => visit(reader, end)?,
            Value::Until(end) => reader.skip(end)?,
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_model_is_parsed_with_operators_inputs_and_outputs() {
        let graph = Graph::read(&Source::SHAPES).unwrap();
        assert_eq!((graph.ir_version, graph.opset), (7, 13));
        assert_eq!(graph.outputs, ["logits"]);
        assert_eq!(graph.inputs[0].0, "input");
        assert_eq!(graph.inputs[0].1.len(), 4);
        assert_eq!(graph.last_operator("logits"), Some("Gemm"));
        let operators: BTreeSet<_> =
            graph.making("logits").iter().map(|node| node.operator.as_str()).collect();
        assert!(operators.contains("Conv") && operators.contains("MaxPool"), "{operators:?}");
        assert!(!graph.weights.is_empty());
    }

    #[test]
    fn truncated_models_and_other_files_are_refused() {
        let Source::BuiltIn(bytes) = Source::SHAPES else { panic!("the model is built in") };
        for end in (0..bytes.len()).step_by(9973) {
            let cut = Graph::decode(Cursor::new(&bytes[..end]), end as u64);
            assert!(cut.is_err(), "{end}");
        }
        assert!(Graph::decode(Cursor::new(b"hello, world"), 12).is_err());
    }
}
