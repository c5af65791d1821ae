"""Reads CTranslate2's model.bin (version 6), so that two of them can be compared number by number."""

import dataclasses
import pathlib
import struct

import numpy

TYPES = ["float32", "int8", "int16", "int32", "float16", "bfloat16"]
# numpy has no bfloat16: its bits are read, and widened in `numbers`.
LAYOUTS = ["<f4", "i1", "<i2", "<i4", "<f2", "<u2"]


@dataclasses.dataclass
class Variable:
    dtype: str
    values: numpy.ndarray

    def numbers(self):
        """The values as float64."""
        if self.dtype == "bfloat16":
            return (self.values.astype(numpy.uint32) << 16).view(numpy.float32).astype(numpy.float64)
        return self.values.astype(numpy.float64)


class Reader:
    def __init__(self, path):
        self.data, self.at = pathlib.Path(path).read_bytes(), 0

    def take(self, layout):
        value = struct.unpack_from("<" + layout, self.data, self.at)[0]
        self.at += struct.calcsize("<" + layout)
        return value

    def text(self):
        length = self.take("H")
        self.at += length
        text = self.data[self.at - length:self.at]
        if text[-1:] != b"\0":
            raise ValueError(f"a name does not end with a zero byte at {self.at}")
        return text[:-1].decode("utf-8")

    def variable(self):
        shape = [self.take("I") for _ in range(self.take("B"))]
        dtype, size = self.take("B"), self.take("I")
        values = numpy.frombuffer(self.data, LAYOUTS[dtype], size // numpy.dtype(LAYOUTS[dtype]).itemsize, self.at)
        self.at += size
        return Variable(TYPES[dtype], values.reshape(shape))


def read_model(path):
    """(head, variables by name, aliases by name). Head is (version of the format, name and revision of the spec)."""
    reader = Reader(path)
    head = (reader.take("I"), reader.text(), reader.take("I"))
    variables = {}
    for _ in range(reader.take("I")):
        name = reader.text()
        variables[name] = reader.variable()
    aliases = {}
    for _ in range(reader.take("I")):
        alias = reader.text()
        aliases[alias] = reader.text()
    if reader.at != len(reader.data):
        raise ValueError(f"{len(reader.data) - reader.at} bytes behind the last alias")
    return head, variables, aliases
