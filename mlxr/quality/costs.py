"""What each layer's K and V cost a model in few bits: by that, page format fit spends its bits over layers."""

import tempfile
from pathlib import Path

import numpy as np

from ..calibration import save
from .gains import score_window
from .metrics import figures

OF_K = "k:q3:bits=2,v:f16"        # KL of K in 2 bits
OF_V = "k:q3:bits=4,v:q2"         # of V in 2 bits beside a K that costs little: that much is taken off
OF_K_LEFT = 4.0 ** (2 - 4)        # of K's cost, in 4 bits
LEAST = 0.02                      # of the mean cost: chance may make a layer look free


def costs(engine, arrays, metadata, windows, context, progress=None):
    """float32 [layers, 2]: mean KL that K, and V, of each layer add in 2 bits, all other layers in f16, in-forward.

    engine: with unquantized pages and room for a window. windows: of window_tokens(context) tokens.
    """
    layers = sum(1 for s in engine.specs if s)
    references = [score_window(engine, w, context) for w in windows]
    found = np.zeros((layers, 2))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "calibration.safetensors"
        save(file, arrays, metadata)
        for i in range(layers):
            others = ",".join(str(j) for j in range(layers) if j != i)
            others = f",skip={others}" if others else ""
            for part, kv in enumerate((OF_K, OF_V)):
                if progress:
                    progress.begin(f"bits of layer {i}")
                one = engine.sibling(kv=kv + others, calibration=str(file))
                found[i, part] = figures([score_window(one, w, context, r) for w, r in zip(windows, references)])["kl"]
                if progress:
                    progress.step()
    found[:, 1] -= OF_K_LEFT * found[:, 0]
    return np.maximum(found, LEAST * found.mean(axis=0)).astype(np.float32)
