"""A GGUF model with its matrices in any type that ggml writes; those whose rows are no whole blocks go to Q8_0."""

import gguf
import numpy as np

from mlxr.weights.gguf_requantize import _copy_metadata

from .ggml_blocks import quantize


def requantized(source, path, kind):
    """Write `path`; returns how many tensors are of the type."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(path, reader.fields["general.architecture"].contents())
    _copy_metadata(gguf, writer, reader)
    count = 0
    for t in reader.tensors:
        data, number = t.data, t.tensor_type
        if len(t.shape) > 1:
            w = np.ascontiguousarray(gguf.dequantize(data, number), np.float32).reshape([int(d) for d in t.shape[::-1]])
            fits = w.shape[-1] % gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]][0] == 0 and t.name != "token_embd.weight"
            number = gguf.GGMLQuantizationType[kind if fits else "Q8_0"]
            count += fits
            data = quantize(w, number.name)
        writer.add_tensor(t.name, data, raw_dtype=number)
    for step in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file, writer.close):
        step()
    return count
