"""What tells a model's files from those of any other model."""

import hashlib

SAMPLE, SAMPLES = 1 << 16, 16      # bytes of a weight file that are read for its identity, at its ends and between
ENDINGS = ".gguf", ".safetensors"


def identity(path):
    """32 hex digits for the model at a path (a folder, or a .gguf file): of its config, and of the sizes and samples of
    its weight files. Where it lies, and what it is called, do not matter."""
    files = sorted(p for p in path.iterdir() if p.suffix in ENDINGS or p.name == "config.json") if path.is_dir() else [path]
    digest = hashlib.sha256()
    for file in files:
        size = file.stat().st_size
        digest.update(f"{file.suffix} {size}\n".encode())
        with open(file, "rb") as f:
            for i in range(SAMPLES):
                f.seek(max(0, size - SAMPLE) * i // (SAMPLES - 1))
                digest.update(f.read(SAMPLE))
    return digest.hexdigest()[:32]
