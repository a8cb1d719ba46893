"""Packaging beyond pyproject.toml: the wheel carries the kernel sources of metal/ as mlxr/_metal."""

from pathlib import Path

from setuptools import find_packages, setup

folders = sorted({p.parent for p in Path("metal").rglob("*.h")} | {Path("metal")})
sources = {"mlxr._metal" + "".join(f".{part}" for part in f.parts[1:]): str(f) for f in folders}

setup(packages=[*find_packages(include=["mlxr*"]), *sources], package_dir=sources,
      package_data={**{name: ["*.metal", "*.h", "*.md"] for name in sources}, "mlxr.kernels": ["host/*.cpp"],
                    "mlxr": ["docs/*.md"], "mlxr.quality": ["texts/*.txt"], "mlxr.server": ["page/*.html"]})
