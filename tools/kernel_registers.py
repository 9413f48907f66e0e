#!/usr/bin/env python3
"""Registers and spills of the Triton norm kernels, compiled for a GPU without having one.

    .venv/bin/python tools/kernel_registers.py [--capability 90] [--json]

Each kernel is compiled for the layers of the paper in every number type. A thread whose values do
not fit into its registers spills them to memory, which makes a kernel many times slower. So the
exit code is 1 if a kernel spills, or takes more than ``--limit`` registers.
"""

# ruff: noqa: T201
from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

TYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
"""Triton's names of the number types, and torch's."""
LAYERS = ((96, 55), (256, 27))
"""Channels of conv1 and conv2 in the paper, and the side of their maps."""
CHANNEL_KERNELS = ("channel_forward", "channel_backward")
PLANE_KERNELS = ("plane_forward", "plane_terms", "plane_backward")
ALWAYS_FLOAT32 = ("direct_all", "term_all")
SCALARS = {"values": "i64", "height": "i32", "k": "fp32", "alpha": "fp32"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """What a thread of one compiled kernel needs."""

    kernel: str
    channels: int
    dtype: str
    registers: int
    spilled_bytes: int
    loads_per_value: float
    """Reads of at most 32 bits for each value; most of them hit the cache nearest to the cores."""


def usages(capability: int) -> Iterator[Usage]:
    """Compile each kernel for each layer of the paper and each number type."""
    import torch

    from train.net.kernels import gpu
    from train.net.kernels.constants import ChannelWindow
    from train.net.norms import SPATIAL_CONSTANTS

    window = ChannelWindow(size=5, groups=2, rectify=True)
    for channels, side in LAYERS:
        x = torch.empty((1, channels, side, side), device="meta")
        blocks = dict(zip(CHANNEL_KERNELS, (gpu.FORWARD_BLOCK, gpu.BACKWARD_BLOCK), strict=True))
        settings = {
            **{
                kernel: gpu.channel_settings(x, SPATIAL_CONSTANTS, window, block)
                for kernel, block in blocks.items()
            },
            **{kernel: gpu.plane_settings(x, SPATIAL_CONSTANTS) for kernel in PLANE_KERNELS},
        }
        for kernel, constants in settings.items():
            for dtype in TYPES:
                yield usage(kernel, channels, dtype, constants, capability)


def usage(
    kernel: str, channels: int, dtype: str, constants: dict[str, Any], capability: int
) -> Usage:
    """Compile one kernel, as Triton does at its first launch, and read what it needs."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from train.net.kernels import gpu, triton_norms

    function = getattr(triton_norms, kernel)
    names = list(enumerate(function.arg_names))
    aligned = [["tt.divisibility", 16]]  # as tensors of torch and their sizes are
    source = ASTSource(
        function,
        signature={name: kind_of(name, dtype) for _, name in names},
        constexprs={name: constants[name] for _, name in names if name in constants},
        attrs={(k,): aligned for k, name in names if name.endswith("_all") or name == "values"},
    )
    target = GPUTarget("cuda", capability, 32)
    compiled = triton.compile(source, target=target, options={"num_warps": gpu.WARPS})
    registers, spilled_bytes = resources(compiled.asm["cubin"])
    return Usage(
        kernel=kernel,
        channels=channels,
        dtype=TYPES[dtype],
        registers=registers,
        spilled_bytes=spilled_bytes,
        loads_per_value=loads(compiled.asm["ptx"]) / (constants["BLOCK"] / (gpu.WARPS * 32)),
    )


def kind_of(name: str, dtype: str) -> str:
    """Triton's word for the type of an argument."""
    if name.endswith("_all"):
        return "*fp32" if name in ALWAYS_FLOAT32 else f"*{dtype}"
    return SCALARS.get(name, "constexpr")


def resources(cubin: bytes) -> tuple[int, int]:
    """Registers, and bytes on the stack, of a compiled kernel, by the tool that Triton ships."""
    import triton

    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [triton.knobs.nvidia.cuobjdump.path, "--dump-resource-usage", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+) .*LOCAL:(\d+)", text)
    if found is None:
        raise SystemExit(f"cuobjdump printed no resource usage: {text!r:.300}")
    registers, stack, local = map(int, found.groups())
    return registers, stack + local


def loads(ptx: str) -> int:
    """Values that a thread reads from memory, in the text of a compiled kernel."""
    widths = re.findall(r"ld\.global(?:\.(?!v\d)\w+(?:::\w+)?)*(?:\.v(\d))?", ptx)
    return sum(int(width or 1) for width in widths)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--capability", type=int, default=90, help="90: H100 and H200")
    parser.add_argument("--limit", type=int, default=96, help="most registers of a thread")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    found = list(usages(options.capability))
    if options.json:
        print(json.dumps([asdict(each) for each in found], indent=2))
    else:
        print(
            f"{'kernel':<18}{'channels':>9} {'type':<9}{'registers':>10}{'spilled':>9}{'loads':>7}"
        )
        for each in found:
            print(
                f"{each.kernel:<18}{each.channels:>9} {each.dtype:<9}{each.registers:>10}"
                f"{each.spilled_bytes:>9}{each.loads_per_value:>7.1f}"
            )
    sys.exit(any(each.spilled_bytes or each.registers > options.limit for each in found))


if __name__ == "__main__":
    main()
