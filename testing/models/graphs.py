#!/usr/bin/env python3
"""Small ONNX models of all kinds, whose right answers can be worked out by hand: worker/tests/models/*.onnx.

    pip install onnx==1.23.2 numpy
    python graphs.py

Unless it says otherwise, a model averages each channel of its input and gives red, green and blue."""
from pathlib import Path

import numpy as np
from onnx import TensorProto as T, helper as h, numpy_helper, save

OUT = Path(__file__).parents[2] / "worker/tests/models"
F = T.FLOAT
node, info = h.make_node, h.make_tensor_value_info
X = [info("x", F, ["N", 3, 16, 16])]


def y(*shape, name="y", kind=F):
    return info(name, kind, ["N", *shape])


def means(source="x", to="m"):
    return [node("GlobalAveragePool", [source], ["pooled"]), node("Flatten", ["pooled"], [to])]


def write(name, nodes, inputs, outputs, weights=(), opset=17, ir=8, meta=None, **more):
    tensors = [numpy_helper.from_array(np.asarray(value), key) for key, value in weights]
    graph = h.make_graph(nodes, "g", inputs, outputs, tensors, **more)
    opsets = [h.make_opsetid("", opset), h.make_opsetid("ai.onnx.ml", 3)]
    model = h.make_model(graph, opset_imports=opsets, ir_version=ir)
    h.set_model_props(model, meta or {})
    save(model, OUT / f"{name}.onnx")


OUT.mkdir(exist_ok=True)
write("logits", means(to="y"), X, [y(3)])
write("softmax", means() + [node("Softmax", ["m"], ["y"], axis=1)], X, [y(3)])
write("log_softmax", means() + [node("LogSoftmax", ["m"], ["y"], axis=1)], X, [y(3)])
write("sigmoid", means() + [node("Sigmoid", ["m"], ["y"])], X, [y(3)])
write("percent", means() + [node("Softmax", ["m"], ["s"], axis=1), node("Mul", ["s", "c"], ["y"])], X, [y(3)],
      [("c", np.float32(100))])
SOFT = means() + [node("Softmax", ["m"], ["s"], axis=1)]
write("bytes", SOFT + [node("Mul", ["s", "c"], ["y"])], X, [y(3)], [("c", np.float32(255))])
write("scaled", SOFT + [node("Mul", ["s", "c"], ["y"])], X, [y(3)], [("c", np.float32(256))])
write("negative_log", SOFT + [node("Log", ["s"], ["l"]), node("Neg", ["l"], ["y"])], X, [y(3)])
write("part", SOFT + [node("Concat", ["s", "s"], ["t"], axis=1), node("Slice", ["t", "a", "b", "i"], ["y"])], X, [y(2)],
      [("a", np.int64([2])), ("b", np.int64([4])), ("i", np.int64([1]))])
write("groups", SOFT + [node("MatMul", ["s", "w"], ["y"])], X, [y(2)], [("w", np.float32([[1, 0], [0, 1], [0, 1]]))])
write("distances", means() + [node("Unsqueeze", ["m", "a"], ["u"]), node("Sub", ["u", "w"], ["d"]),
                              node("ReduceL2", ["d"], ["y"], axes=[2], keepdims=0)], X, [y(3)],
      [("a", np.int64([1])), ("w", np.eye(3, dtype="f"))])
write("weighted", means() + [node("MatMul", ["m", "w"], ["n"]), node("Add", ["n", "b"], ["y"])], X, [y(3)],
      [("w", np.eye(3, dtype="f")), ("b", np.zeros(3, "f"))])
write("one_number", means() + [node("MatMul", ["m", "w"], ["l"]), node("Sigmoid", ["l"], ["y"])], X, [y(1)],
      [("w", np.float32([[4], [0], [-4]]))])
write("one_logit", means() + [node("MatMul", ["m", "w"], ["y"])], X, [y(1)], [("w", np.float32([[4], [0], [-4]]))])
write("two_outputs", means(to="y") + [node("Neg", ["y"], ["neg"])], X, [y(3, name="neg"), y(3)])
write("hidden_and_logits", means(to="logits") + [node("Concat", ["logits"] * 4, ["hidden"], axis=1)], X,
      [y(12, name="hidden"), y(3, name="logits")])
write("f16_output", means() + [node("Cast", ["m"], ["y"], to=T.FLOAT16)], X, [y(3, kind=T.FLOAT16)])
write("f64_output", means() + [node("Cast", ["m"], ["y"], to=T.DOUBLE)], X, [y(3, kind=T.DOUBLE)])
write("f16_input", [node("Cast", ["h"], ["x"], to=F)] + means(to="y"), [info("h", T.FLOAT16, ["N", 3, 16, 16])], [y(3)])
write("u8_nhwc", [node("Cast", ["q"], ["f"], to=F), node("Div", ["f", "c"], ["d"]), node("Transpose", ["d"], ["x"], perm=[0, 3, 1, 2])]
      + means(to="y"), [info("q", T.UINT8, ["N", 16, 16, 3])], [y(3)], [("c", np.float32(255))])
write("grey", [node("GlobalAveragePool", ["x"], ["p"]), node("Flatten", ["p"], ["m"]), node("MatMul", ["m", "w"], ["y"])],
      [info("x", F, ["N", 1, 16, 16])], [y(2)], [("w", np.float32([[1, -1]]))])
write("rgba", means(to="y"), [info("x", F, ["N", 4, 16, 16])], [y(4)])
write("flat", [node("ReduceMean", ["x"], ["m"], axes=[1]), node("Neg", ["m"], ["n"]), node("Concat", ["m", "n"], ["y"], axis=1)],
      [info("x", F, ["N", 64])], [y(2)])
write("open_nhwc", [node("Transpose", ["i"], ["x"], perm=[0, 3, 1, 2])] + means(to="y"),
      [info("i", F, ["batch", "height", "width", "channels"])], [y(3)])
write("rectangle", means(to="y"), [info("x", F, ["N", 3, 12, 48])], [y(3)])
write("batch_of_4", means(to="y"), [info("x", F, [4, 3, 16, 16])], [info("y", F, [4, 3])])
write("two_inputs", means() + [node("Add", ["m", "b"], ["y"])], X + [info("b", F, [3])], [y(3)])
write("default_input", means() + [node("Add", ["m", "b"], ["y"])], X + [info("b", F, [3])], [y(3)],
      [("b", np.zeros(3, np.float32))])
write("detector", means() + [node("Unsqueeze", ["m", "a"], ["u"]), node("Concat", ["u"] * 3, ["y"], axis=1)], X, [y(3, 3)],
      [("a", np.int64([1]))])
write("embedding", means() + [node("MatMul", ["m", "w"], ["e"]), node("LpNormalization", ["e"], ["y"], axis=1, p=2)], X, [y(32)],
      [("w", np.random.default_rng(0).normal(size=(3, 32)).astype("f"))])
write("names", means(to="y"), X, [y(3)], meta={"names": "{0: 'red \"wine\"', 1: \"green's\", 2: 'blue'}", "task": "classify"})
write("task_detect", means(to="y"), X, [y(3)], meta={"task": "detect"})
write("zipmap", means() + [
    node("Softmax", ["m"], ["s"], axis=1), node("ZipMap", ["s"], ["loss"], domain="ai.onnx.ml", classlabels_strings=["c", "a", "b"]),
    node("ArgMax", ["s"], ["best"], axis=1, keepdims=0),
    node("LabelEncoder", ["best"], ["classLabel"], domain="ai.onnx.ml", keys_int64s=[0, 1, 2], values_strings=["c", "a", "b"])],
    X, [info("classLabel", T.STRING, ["N"]), h.make_value_info("loss", h.make_sequence_type_proto(
        h.make_map_type_proto(T.STRING, h.make_tensor_type_proto(F, []))))])
VECTORS = dict(kernel_type="LINEAR", support_vectors=[1.0, 0.0, 0.0, 0.0, 0.0, 1.0], vectors_per_class=[1, 1], coefficients=[1.0, -1.0],
               rho=[0.0], kernel_params=[0.0, 0.0, 0.0], classlabels_ints=[0, 1], post_transform="NONE")
# The columns are in the other order than the labels.
write("svm_of_two", means() + [node("SVMClassifier", ["m"], ["label", "probabilities"], domain="ai.onnx.ml", **VECTORS)],
      X, [info("label", T.INT64, ["N"]), y(2, name="probabilities")])
# 1 - d and d, of which the second is the greater one from 0.5 on; the label changes at 0.
DISTANCE = node("LinearClassifier", ["m"], ["label", "distances"], domain="ai.onnx.ml",
                coefficients=[1.0, 0.0, -1.0], intercepts=[0.0], classlabels_ints=[0, 1], post_transform="NONE")
write("linear_of_two", means() + [DISTANCE], X, [info("label", T.INT64, ["N"]), y(2, name="distances")])
# One number for two labels, although it says two.
write("one_of_two", means() + [DISTANCE, node("ArrayFeatureExtractor", ["distances", "second"], ["probabilities"], domain="ai.onnx.ml")],
      X, [info("label", T.INT64, ["N"]), y(2, name="probabilities")], [("second", np.array([1], np.int64))])
write("softmax_9", [node("GlobalAveragePool", ["x"], ["p"]), node("Softmax", ["p"], ["y"])], X, [y(3, 1, 1)], opset=9)
write("softmax_9_matrix", means() + [node("Softmax", ["m"], ["y"])], X, [y(3)], opset=9)
write("conv_integer", [
    node("Mul", ["x", "z"], ["o"]), node("Add", ["o", "t"], ["p"]), node("Cast", ["p"], ["q"], to=T.UINT8),
    node("ConvInteger", ["q", "k", "xz", "kz"], ["c"], kernel_shape=[3, 3], strides=[1, 1], pads=[1, 1, 1, 1]),
    node("Cast", ["c"], ["f"], to=F), node("Flatten", ["f"], ["y"])],
    [info("x", F, ["N", 3, 4, 4])], [y(16)],
    [("k", np.ones((1, 3, 3, 3), np.uint8)), ("xz", np.uint8(0)), ("kz", np.uint8(0)), ("z", np.float32(0)), ("t", np.float32(10))],
    opset=13)
write("arg_max", means() + [node("ArgMax", ["m"], ["b"], axis=1), node("Cast", ["b"], ["c"], to=F), node("Add", ["m", "c"], ["y"])],
      X, [y(3)])
write("new_ir", means(to="y"), X, [y(3)], ir=99)
# What else rten 0.27 computes otherwise than ONNX Runtime: a number made true or false, the nearest of two half pixels, a
# reduction over no axis.
write("cast_to_bool", means() + [node("Mul", ["m", "c"], ["t"]), node("Cast", ["t"], ["b"], to=T.BOOL), node("Cast", ["b"], ["f"], to=F),
      node("Add", ["m", "f"], ["y"])], X, [y(3)], [("c", np.float32(50))])
write("resize_half_pixel", [node("Resize", ["x", "", "s"], ["r"], mode="nearest", coordinate_transformation_mode="half_pixel", nearest_mode="floor")]
      + means("r", "y"), X, [y(3)], [("s", np.float32([1, 1, 0.6, 0.7]))])
write("reduce_nothing", means() + [node("ReduceL2", ["m"], ["y"], noop_with_empty_axes=1)], X, [y(3)], opset=18)
# What ONNX Runtime 1.32 takes for a layer normalization, and is none: the difference the other way round, another power. And two
# quantizations, which it makes one.
def norm(name, difference, power):
    write(name, means() + [node("ReduceMean", ["m"], ["mean"], axes=[1]), node("Sub", difference, ["d"]), node("Pow", ["d", "p"], ["q"]),
          node("ReduceMean", ["q"], ["v"], axes=[1]), node("Add", ["v", "e"], ["w"]), node("Sqrt", ["w"], ["s"]), node("Div", ["d", "s"], ["n"]),
          node("Mul", ["n", "one"], ["o"]), node("Add", ["o", "zero"], ["y"])], X, [y(3)],
          [("p", np.float32(power)), ("e", np.float32(1e-5)), ("one", np.ones(3, "f")), ("zero", np.zeros(3, "f"))])


norm("norm", ["m", "mean"], 2)
norm("norm_reversed", ["mean", "m"], 2)
norm("norm_cubic", ["m", "mean"], 3)
write("quantized_twice", means() + [node("QuantizeLinear", ["m", "a", "z"], ["b"]), node("DequantizeLinear", ["b", "a", "z"], ["c"]),
      node("QuantizeLinear", ["c", "s", "z"], ["q"]), node("DequantizeLinear", ["q", "s", "z"], ["y"])], X, [y(3)],
      [("a", np.float32(0.125)), ("s", np.float32(0.3)), ("z", np.uint8(0))])
write("top_k", means() + [node("TopK", ["m", "k"], ["best", "places"], axis=1)], X, [y(2, name="best"), y(2, name="places", kind=T.INT64)],
      [("k", np.int64([2]))])
write("ultralytics", means(to="y"), X, [y(3)], meta={"names": "{0: 'red', 1: 'green', 2: 'blue'}", "task": "classify", "author": "Ultralytics"})
