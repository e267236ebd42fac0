"""The wire format of ONNX files, read far enough to find tensors that are stored elsewhere.

ONNX Runtime resolves external data against the current folder, even for a model loaded from bytes,
so a graph could read any file of the machine, and no SHA-256 of the bundle would cover it. The
runtime has no ``onnx`` package. Source: protobuf's encoding, and the field numbers of onnx.proto3.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from streamseg.errors import BundleError

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
_SIZES = {FIXED64: 8, FIXED32: 4}

# Message -> number of a field that holds messages -> their kind; other fields are skipped.
_MESSAGES: Mapping[str, Mapping[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
_TENSOR_NAME, _TENSOR_EXTERNAL, _TENSOR_LOCATION = 8, 13, 14
_NODE_OPERATOR = 4
_ORT_FORMAT = b"ORTM"  # at byte 4: ONNX Runtime's own format, which is not protobuf


def require_self_contained(content: bytes, name: str) -> None:
    """Check that an ONNX file holds every tensor that it uses.

    Looks at initialisers, attributes, subgraphs, functions, training graphs and sparse tensors.

    Args:
        content: of the file.
        name: of the file, for messages.
    Raises:
        BundleError: a tensor or a compiled part is stored outside the file, or this is not an
            ONNX file.
    """
    if content[4:8] == _ORT_FORMAT:
        raise BundleError(f"{name} is in ONNX Runtime's own format, expected an ONNX file")
    pending = [("model", 0, len(content))]
    try:
        while pending:
            kind, start, end = pending.pop()
            parts = _MESSAGES[kind]
            for number, wire, value, stop in _fields(content, start, end):
                if number in parts:
                    if wire != BYTES:
                        raise ValueError(f"field {number} of a {kind} is not a message")
                    pending.append((parts[number], value, stop))
            _refuse_outside(content, kind, start, end, name)
    except ValueError as error:
        raise BundleError(f"{name} is not a valid ONNX file: {error}") from None


def _refuse_outside(content: bytes, kind: str, start: int, end: int, name: str) -> None:
    """Raise BundleError where a message refers to something outside the file."""
    if kind == "tensor":
        label, outside = b"", False
        for number, wire, value, stop in _fields(content, start, end):
            if number == _TENSOR_NAME and wire == BYTES:
                label = content[value:stop]
            elif number in (_TENSOR_EXTERNAL, _TENSOR_LOCATION):
                outside = outside or wire != VARINT or value != 0
        if outside:
            raise BundleError(
                f"{name}: tensor {_shown(label)} is stored outside the file; a bundle contains all "
                "that it runs. Save the model without external data and export it again"
            )
    elif kind == "node":
        for number, wire, value, stop in _fields(content, start, end):
            if number == _NODE_OPERATOR and wire == BYTES and content[value:stop] == b"EPContext":
                raise BundleError(
                    f"{name}: a node 'EPContext' refers to a compiled part outside the file; "
                    "export the model again"
                )


def _fields(content: bytes, at: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """The fields of a message: number, wire type, and value (varint) or extent (others).

    Raises:
        ValueError: the message is malformed.
    """
    while at < end:
        tag, at = _varint(content, at, end)
        number, wire = tag >> 3, tag & 7
        # protobuf drops what is above 32 bits, so that such a tag would mean another field there.
        if number == 0 or tag >> 32:
            raise ValueError(f"a field has the tag {tag}")
        if wire == VARINT:
            value, at = _varint(content, at, end)
            yield number, wire, value, at
            continue
        if wire == BYTES:
            size, at = _varint(content, at, end)
        elif wire in _SIZES:
            size = _SIZES[wire]
        else:
            raise ValueError(f"field {number} has wire type {wire}")
        if size > end - at:
            raise ValueError(f"field {number} is longer than what it stands in")
        yield number, wire, at, at + size
        at += size


def _varint(content: bytes, at: int, end: int) -> tuple[int, int]:
    """A number of up to ten bytes, and the place after it."""
    result = 0
    for count, byte in enumerate(content[at : min(at + 10, end)]):
        result |= (byte & 0x7F) << (7 * count)
        if byte < 0x80:
            return result, at + count + 1
    raise ValueError("a number is cut short")


def _shown(label: bytes) -> str:
    return repr(label[:80].decode("utf-8", "backslashreplace"))
