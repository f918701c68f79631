"""Builds and registers the device of accelerator.cpp, by the compiler of this machine."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import types
from pathlib import Path

import torch
from torch.utils.cpp_extension import include_paths, library_paths

import efface.memory

__all__ = ["COMPILER", "NAME", "WITHOUT_FLOAT64", "register"]

NAME = "toy"
"""Of the device, as in ``pipe.to("toy")``."""
COMPILER = shutil.which("g++")
WITHOUT_FLOAT64 = "EFFACE_TOY_WITHOUT_FLOAT64"
"""Environment variable: the device then holds no float64, as Apple's GPUs do not."""
SOURCE = Path(__file__).with_name("accelerator.cpp")


def register() -> None:
    """Makes the device known to torch in this process, which cannot be undone."""
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "accelerator.so"
        subprocess.run(_command(library), check=True)
        torch.ops.load_library(str(library))
    torch.utils.rename_privateuse1_backend(NAME)
    module = types.ModuleType(f"torch.{NAME}")
    answers = {
        "is_available": True,
        "is_initialized": True,
        "_is_in_bad_fork": False,
        "device_count": 1,
        "current_device": 0,
        "manual_seed_all": None,
        "synchronize": None,
        "get_amp_supported_dtype": [torch.float16, torch.bfloat16],
    }
    for name, answer in answers.items():
        setattr(module, name, lambda *_, answer=answer: answer)
    torch._register_device_module(NAME, module)
    torch.utils.generate_methods_for_privateuse1_backend()
    if os.environ.get(WITHOUT_FLOAT64):
        efface.memory.WITHOUT_FLOAT64.add(NAME)


def _command(library: Path) -> list[str]:
    if COMPILER is None:
        sys.exit("no g++ here to build the toy device with")
    abi = int(torch.compiled_with_cxx11_abi())
    return [
        *(COMPILER, "-O0", "-w", "-shared", "-fPIC", "-std=c++20"),
        f"-D_GLIBCXX_USE_CXX11_ABI={abi}",
        *(f"-I{path}" for path in include_paths()),
        *(str(SOURCE), "-o", str(library)),
        *(f"-L{path}" for path in library_paths()),
        *("-ltorch", "-ltorch_cpu", "-lc10"),
    ]
