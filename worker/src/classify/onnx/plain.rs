//! Rewrites the messages of engines for operators, without function names and source paths.

/// Returns the message of an engine as a plain sentence.
pub(super) fn plain(message: &str) -> String {
    let message = message.trim();
    if let Some(version) = after(message, "Unsupported model IR version: ") {
        let most = after(message, "max supported IR version: ").unwrap_or_default();
        return format!("the file is of IR version {version}, and {most} is the newest that is known");
    }
    if message.contains("official support for domain") {
        let most = after(message, " is till opset ").unwrap_or_default();
        return format!("the file is of a newer opset than {most}, the newest that is known");
    }
    if ["expected 2 dilation values", "expected 2 stride values", "strides len does not match spatial dims"]
        .iter()
        .any(|what| message.contains(what))
    {
        return "it needs the strides and dilations of convolutions and pooling to be in the file".to_owned();
    }
    for marker in [
        " is not a registered function/op",
        " operator not supported",
        " operator not enabled",
        " is not a registered function",
    ] {
        if let Some(operator) = before(message, marker) {
            return format!("the operator {operator} is not known");
        }
    }
    if let Some(operator) = after(message, "Could not find an implementation for ") {
        let operator = operator.split('(').next().unwrap_or(operator);
        return format!("the operator {operator} is not there for these types or this opset");
    }
    if message.contains("Protobuf parsing failed") || message.contains("ModelProto does not have a graph") {
        return "it is not an ONNX model".to_owned();
    }
    without_code(message)
}

/// Returns the word after a marker.
fn after<'a>(text: &'a str, marker: &str) -> Option<&'a str> {
    let rest = &text[text.find(marker)? + marker.len()..];
    rest.split([' ', ',', ';', '\n'])
        .next()
        .map(|word| word.trim_end_matches('.'))
        .filter(|word| !word.is_empty())
}

/// Returns the word before a marker.
fn before<'a>(text: &'a str, marker: &str) -> Option<&'a str> {
    let front = &text[..text.find(marker)?];
    let word = front.rsplit([' ', ':', '\n', '"', '\'']).next()?;
    let word = word.split('(').next().unwrap_or(word);
    Some(word).filter(|word| !word.is_empty())
}

/// Removes places in source code and function signatures, and joins the lines.
fn without_code(message: &str) -> String {
    let is_place = |word: &str| {
        let word = word.trim_matches(['(', ')', ':', ',', '"', '\'']);
        (word.contains(".cc:") || word.contains(".h:") || word.contains(".cpp:")) || word.contains("::")
    };
    let (mut words, mut depth) = (Vec::new(), 0i32);
    for word in message.split_whitespace() {
        if depth > 0 || is_place(word) {
            // A signature extends to its last parenthesis; the word before it is the return type.
            let opened = word.matches('(').count() as i32 - word.matches(')').count() as i32;
            depth = (depth + opened).max(0);
            continue;
        }
        words.push(word);
    }
    let text = words.join(" ");
    // rten appends the shapes of all inputs.
    let text = text.split(". Inputs were ").next().unwrap_or(&text);
    let text = text.strip_prefix("operator \"\" failed: ").unwrap_or(text);
    let text = text.strip_prefix("Exception during initialization: ").unwrap_or(text);
    let text = text.strip_prefix("Non-zero status code returned while running ").unwrap_or(text);
    let text = text.trim_matches([' ', '.', ':']);
    let mut letters = text.chars();
    letters.by_ref().take(400).collect::<String>() + if letters.next().is_some() { " ..." } else { "" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_engines_become_sentences_without_signatures() {
        for (message, expected) in [
            (
                "Load model from m.onnx failed:/onnxruntime_src/onnxruntime/core/graph/model.cc:181 \
                 onnxruntime::Model::Model(onnx::ModelProto&&, const onnxruntime::PathString&, const \
                 onnxruntime::IOnnxRuntimeOpSchemaRegistryList*) Unsupported model IR version: 99, max \
                 supported IR version: 13\n",
                "the file is of IR version 99, and 13 is the newest that is known",
            ),
            (
                "Load model from m.onnx failed:Fatal error: NoSuchOperator is not a registered function/op",
                "the operator NoSuchOperator is not known",
            ),
            ("in node \"x\": ZipMap operator not supported", "the operator ZipMap is not known"),
            (
                "operator error: Dropout operator not enabled because rten was compiled without \
                 the \"random\" feature",
                "the operator Dropout is not known",
            ),
            (
                "operator \"\" failed: input or attribute has invalid value: expected 2 stride values. \
                 Inputs were (tensor(f32) [1])",
                "it needs the strides and dilations of convolutions and pooling to be in the file",
            ),
            (
                "Could not find an implementation for Conv(11) node with name 'c'",
                "the operator Conv is not there for these types or this opset",
            ),
            (
                "Non-zero status code returned while running MatMul node. Name:'m' Status Message: \
                 /src/core/providers/cpu/math/matmul_helper.h:65 onnxruntime::common::Status \
                 onnxruntime::MatMulComputeHelper::Compute(const TensorShape&, const TensorShape&, bool) \
                 left operand cannot broadcast on dim 1",
                "MatMul node. Name:'m' Status Message: left operand cannot broadcast on dim 1",
            ),
        ] {
            assert_eq!(plain(message), expected);
        }
    }
}
