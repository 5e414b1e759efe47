"""Records what gguf's own numpy code makes of random blocks of every type that the reader takes.

Needs gguf (recorded with 0.19.0) and numpy: python record_ggml_blocks.py
"""

import json
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type
from gguf.quants import dequantize

FOLDER = Path(__file__).parent / "ggml_blocks"
ROWS, COLUMNS = 2, 256
# Offsets of the f16 scales in a block.
HALVES = {
    Type.Q4_0: [0], Type.Q4_1: [0, 2], Type.Q5_0: [0], Type.Q5_1: [0, 2], Type.Q8_0: [0],
    Type.Q4_K: [0, 2], Type.Q5_K: [0, 2], Type.Q6_K: [208], Type.MXFP4: [], Type.NVFP4: [],
}

rng = np.random.default_rng(20261122)
writer = gguf.GGUFWriter(FOLDER / "blocks.gguf", "none")
expected = {}
for kind, halves in HALVES.items():
    elements, size = gguf.GGML_QUANT_SIZES[kind]
    blocks = rng.integers(0, 256, (ROWS * COLUMNS // elements, size), dtype=np.uint8)
    for offset in halves:
        scales = rng.uniform(-0.1, 0.1, (len(blocks), 1)).astype(np.float16)
        blocks[:, offset:offset + 2] = scales.view(np.uint8)
    if kind == Type.MXFP4:
        blocks[:, 0] = rng.integers(110, 135, len(blocks))
        blocks[0, 0] = 0
    if kind == Type.NVFP4:
        # All but the code that is no number; the sign bit is set now and then.
        blocks[:, :4] = rng.integers(0, 127, (len(blocks), 4)) | rng.integers(0, 2, (len(blocks), 4)) << 7
    rows = blocks.reshape(ROWS, -1)
    writer.add_tensor(f"{kind.name}.weight", rows, raw_dtype=kind)
    expected[kind.name] = [float(value) for value in dequantize(rows, kind).astype(np.float32).ravel()]
writer.add_tensor("NVFP4.scale", np.array([0.75], dtype=np.float32))
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
(FOLDER / "expected.json").write_text(json.dumps(expected) + "\n")
