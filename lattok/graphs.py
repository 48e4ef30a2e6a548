"""ONNX graphs, built node by node, and sessions of onnxruntime; both need the extra `onnx`."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lattok import checks


def package(name: str) -> Any:
    """The module onnx or onnxruntime."""
    try:
        return importlib.import_module(name)
    except ImportError:
        checks.fail(name, "an installed package", "none", "Run: pip install 'lattok[onnx]'")


class Graph:
    """Nodes and constants under way; calling it adds a node and returns the name of its output."""

    def __init__(self) -> None:
        self.onnx = package("onnx")
        self.nodes: list[Any] = []
        self.constants: dict[str, Any] = {}

    def __call__(self, op: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        name = name or f"{op}_{len(self.nodes)}"
        self.nodes.append(self.onnx.helper.make_node(op, inputs, [name], name=name, **attributes))
        return name

    def constant(self, array: Any) -> str:
        """An array in the graph."""
        name = f"constant_{len(self.constants)}"
        self.constants[name] = self.onnx.numpy_helper.from_array(np.ascontiguousarray(array), name)
        return name

    def reshape(self, x: str, *shape: int) -> str:
        """As numpy's, 0 for an axis that stays."""
        return self("Reshape", x, self.constant(np.array(shape, dtype=np.int64)))

    def serialized(
        self,
        inputs: Mapping[str, tuple[type, Sequence[Any]]],
        outputs: Mapping[str, tuple[type, Sequence[Any]]],
        facts: Mapping[str, Any],
        opset: int,
    ) -> bytes:
        """The graph as a file; types and shapes (names for free axes) of what goes in and out, facts as metadata."""
        helper = self.onnx.helper

        def described(values: Mapping[str, tuple[type, Sequence[Any]]]) -> list[Any]:
            kind = helper.np_dtype_to_tensor_dtype
            return [
                helper.make_tensor_value_info(n, kind(np.dtype(t)), list(shape)) for n, (t, shape) in values.items()
            ]

        graph = helper.make_graph(
            self.nodes, "encoder", described(inputs), described(outputs), list(self.constants.values())
        )
        version = 10 if opset > 20 else 9 if opset > 18 else 8
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=version, producer_name="lattok"
        )
        helper.set_model_props(model, {key: str(value) for key, value in facts.items()})
        self.onnx.checker.check_model(model)
        return model.SerializeToString()
