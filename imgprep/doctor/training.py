"""Checks what training and the optional parts need: torch, DALI, GPUs and the links between them.

Versions come from metadata. Questions that only torch can answer are asked in a child process, so
that imgprep never imports torch.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict
from importlib import metadata
from typing import Any

from imgprep.doctor import nvidia
from imgprep.doctor.child import NoAnswerError
from imgprep.doctor.finding import Finding, Level
from imgprep.doctor.software import Answer, pip, version_of
from imgprep.wording import counted

TORCH_QUESTION = """
import torch
count = torch.cuda.device_count() if torch.cuda.is_available() else 0
print(json.dumps({
    "cuda": torch.version.cuda,
    "devices": [torch.cuda.get_device_name(k) for k in range(count)],
    "capabilities": [list(torch.cuda.get_device_capability(k)) for k in range(count)],
    "kernels": torch.cuda.get_arch_list() if count else [],
    "peers": [[a, b] for a in range(count) for b in range(count)
              if a != b and torch.cuda.can_device_access_peer(a, b)],
}))
"""
# Name, packages, what is missing without them, and the extra that installs them.
_OPTIONAL = (
    ("charts", ("vl-convert-python", "Jinja2"), "pages have no charts", "figures"),
    ("s3://", ("s3fs",), "s3:// URLs are unsupported", "s3"),
    ("gs://", ("gcsfs",), "gs:// URLs are unsupported", "gcs"),
    ("ray", ("ray",), "--runner ray is unsupported", "ray"),
)
_TRAIN = "pip install 'imgprep[train]'"
_SMI_NO_DEVICES = "No devices were found"


def examine(answer: Answer, ask_torch: Callable[[], dict[str, Any]]) -> list[Finding]:
    """Return the findings, in the order of the screen."""
    gpus = _Gpus()
    try:
        torch = ask_torch() if version_of("torch") else {}
        trouble = ""
    except NoAnswerError as exc:
        torch, trouble = {}, str(exc)
    return [
        _torch(torch, trouble, gpus),
        _dali(torch, gpus),
        _train_kernel(answer),
        *(_optional(*row) for row in _OPTIONAL),
        _readers(),
        gpus.finding(torch),
        *([gpus.links(torch)] if len(gpus.found) > 1 else []),
    ]


def _finding(level: Level, what: str, value: str, **more: Any) -> Finding:
    return Finding(group="training", level=level, what=what, value=value, **more)


class _Gpus:
    """The answers of nvidia-smi, which is asked once."""

    def __init__(self) -> None:
        self.found: list[nvidia.Gpu] = []
        self.trouble = ""
        said = nvidia.run(f"--query-gpu={','.join(nvidia.QUERY)}", "--format=csv")
        if said is None:
            return
        code, text = said
        if code == 0:
            self.found = nvidia.parse_gpus(text)
        elif _SMI_NO_DEVICES not in text:
            self.trouble = " ".join(text.split()) or f"nvidia-smi ended with exit code {code}"

    @property
    def driver(self) -> str:
        return self.found[0].driver if self.found else ""

    def finding(self, torch: dict[str, Any]) -> Finding:
        facts = {"gpus": [asdict(gpu) for gpu in self.found]}
        if self.trouble:
            why = "no GPU can be used"
            fix = "reload or reinstall the driver (a new one needs a restart), then run nvidia-smi"
            return _finding("fix", "GPUs", self.trouble, why=why, fix=fix, facts=facts)
        if not self.found:
            seen = torch.get("devices", [])
            value = f"{', '.join(seen)} (by torch; no nvidia-smi)" if seen else "none"
            why = "" if seen else "training uses the CPU"
            return _finding("ok", "GPUs", value, why=why, facts=facts)
        names = [gpu.name for gpu in self.found]
        counted = ", ".join(f"{names.count(name)} x {name}" for name in dict.fromkeys(names))
        least = min((gpu.memory_mib or 0) for gpu in self.found)
        memory = f", {least / 1024:.0f} GiB each" if least else ""
        newest = nvidia.cuda_of_driver(self.driver)
        runs = f" (runs CUDA {newest})" if newest else ""
        value = f"{counted}{memory}; driver {self.driver}{runs}"
        return _finding("ok", "GPUs", value, facts=facts)

    def links(self, torch: dict[str, Any]) -> Finding:
        topology = nvidia.parse_topology((nvidia.run("topo", "-m") or (1, ""))[1])
        links = nvidia.parse_links((nvidia.run("nvlink", "-s") or (1, ""))[1])
        return links_finding(topology, links, torch.get("peers"))


def links_finding(
    topology: dict[tuple[int, int], str],
    links: dict[int, tuple[float, ...]],
    peers: list[list[int]] | None,
) -> Finding:
    """Return the finding on NVLink and peer access; ``peers`` is None if torch gave no answer."""
    joined = [pair for pair, how in topology.items() if how.startswith("NV")]
    facts = {
        "pairs": [{"gpus": list(pair), "by": how} for pair, how in topology.items()],
        "link_gb_per_s": {str(gpu): list(speeds) for gpu, speeds in links.items()},
        "peers": peers,
    }
    if not topology:
        return _finding(
            "note", "NVLink", "unknown: nvidia-smi topo -m printed no table", facts=facts
        )
    if joined:
        how = "/".join(dict.fromkeys(topology[pair] for pair in joined))
        each = max((sum(speeds) for speeds in links.values()), default=0.0)
        speed = f", {each:.0f} GB/s each way per GPU" if each else ""
        value = f"{len(joined)} of {len(topology)} pairs of GPUs ({how}{speed})"
    else:
        value = f"none: GPUs are linked by {'/'.join(dict.fromkeys(topology.values()))}"
    if peers is not None:
        value += f"; peer access: {counted(len(peers) // 2, 'pair')}"
    if joined and (0, 1) not in joined:
        a, b = joined[0]
        why = "columns use GPUs 0 and 1, which are not linked by NVLink"
        fix = f"CUDA_VISIBLE_DEVICES={a},{b} imgprep-train fit ..."
        return _finding("note", "NVLink", value, why=why, fix=fix, facts=facts)
    return _finding("ok", "NVLink", value, facts=facts)


def _torch(torch: dict[str, Any], trouble: str, gpus: _Gpus) -> Finding:
    version = version_of("torch")
    facts = {"version": version, **torch}
    if version is None:
        return _finding(
            "note", "torch", "not installed", why="training is not possible", fix=_TRAIN
        )
    if trouble:
        fix = pip("install --force-reinstall torch")
        return _finding("fix", "torch", f"{version} does not load: {trouble}",
                        why="training fails", fix=fix, facts=facts)  # fmt: skip
    cuda = torch.get("cuda")
    value = f"{version}, built for " + (f"CUDA {cuda}" if cuda else "the CPU")
    problem, fix = "", "install the build of torch that pytorch.org lists for this driver"
    newest = nvidia.cuda_of_driver(gpus.driver)
    if gpus.found and not cuda:
        problem = "there is a GPU, but this build of torch supports only the CPU"
    elif gpus.found and not torch["devices"]:
        wanted = nvidia.driver_for(int(cuda.partition(".")[0])) if cuda else None
        problem = "torch finds no GPU, but nvidia-smi does"
        if newest and cuda and int(cuda.partition(".")[0]) > newest:
            fix = f"update the driver to {wanted} or newer, or install a build for CUDA {newest}"
    elif lacking := _without_kernels(torch):
        problem = f"this build of torch has no code for {lacking}"
    if problem:
        return _finding("fix", "torch", value, why=problem, fix=fix, facts=facts)
    return _finding("ok", "torch", value, facts=facts)


def _without_kernels(torch: dict[str, Any]) -> str:
    """Return the first GPU that torch has neither machine code nor PTX for; empty if none."""
    built = [name.rpartition("_") for name in torch.get("kernels", [])]
    for device, (major, minor) in zip(
        torch.get("devices", []), torch.get("capabilities", []), strict=True
    ):
        for kind, _, number in built:
            digits = "".join(each for each in number if each.isdigit())
            code = divmod(int(digits), 10) if digits else (0, 0)
            same = kind == "sm" and code[0] == major and code[1] <= minor
            if same or (kind == "compute" and code <= (major, minor)):
                break
        else:
            if built:
                return f"{device} (sm_{major}{minor})"
    return ""


def _dali(torch: dict[str, Any], gpus: _Gpus) -> Finding:
    stem = "nvidia-dali-cuda"
    found = {
        name.lower().removeprefix(stem): each.version
        for each in metadata.distributions()
        if (name := each.metadata["Name"] or "").lower().startswith(stem)
    }
    if not found:
        return _finding("note", "DALI", "not installed", why="training is not possible", fix=_TRAIN)
    facts = {"versions": found}
    if len(found) > 1:
        names = [f"{stem}{cuda}" for cuda in found]
        why = "both install into the same folder, and only the last one installed is complete"
        fix = f"{pip(f'uninstall -y {chr(32).join(names)}')}; {_TRAIN}"
        return _finding("fix", "DALI", ", ".join(names), why=why, fix=fix, facts=facts)
    ((release, version),) = found.items()
    cuda = int(release[:2]) if release[:2].isdigit() else 0
    value = f"{version}, built for CUDA {cuda}"
    newest = nvidia.cuda_of_driver(gpus.driver)
    if newest and cuda > newest:
        why = f"driver {gpus.driver} supports CUDA {newest} at most"
        fix = f"update the driver to {nvidia.driver_for(cuda)}, or install {stem}{newest}0"
        return _finding("fix", "DALI", value, why=why, fix=fix, facts=facts)
    theirs = str(torch.get("cuda") or "").partition(".")[0]
    if gpus.found and theirs and int(theirs) != cuda:
        why = f"torch is built for CUDA {theirs}, so one process loads two CUDA runtimes"
        fix = f"install {stem}{theirs}0"
        return _finding("note", "DALI", value, why=why, fix=fix, facts=facts)
    return _finding("ok", "DALI", value, facts=facts)


def _train_kernel(answer: Answer) -> Finding:
    what = "LRN code"
    slower = "LRN on the CPU is many times slower"
    try:
        found = answer("train_kernel")
    except NoAnswerError as exc:
        fix = "install a C compiler, then imgprep again"
        return _finding("note", what, f"does not load: {exc}", why=slower, fix=fix)
    if not found["built"]:
        value, fix = "train/net/_cpu was not compiled", "install a C compiler, then run tools/setup"
        return _finding("note", what, value, why=slower, fix=fix, facts=found)
    wanted = os.environ.get("TRAIN_KERNEL", "")
    if wanted == "torch":
        value = "torch, because TRAIN_KERNEL is set"
        return _finding("note", what, value, why=slower, fix="unset TRAIN_KERNEL", facts=found)
    value = "C with AVX2" if found["avx2"] and wanted != "c" else "plain C"
    return _finding("ok", what, value, facts=found)


def _optional(what: str, packages: tuple[str, ...], lacking: str, extra: str) -> Finding:
    versions = {name: version_of(name) for name in packages}
    value = ", ".join(f"{name} {version or 'missing'}" for name, version in versions.items())
    if None in versions.values():
        fix = f"pip install 'imgprep[{extra}]'"
        return _finding("note", what, value, why=lacking, fix=fix, facts=versions)
    return _finding("ok", what, value, facts=versions)


def _readers() -> Finding:
    version = version_of("webdataset")
    value = f"webdataset {version or 'not installed'}" + ("" if version else " (optional)")
    return _finding("ok", "readers", value, facts={"webdataset": version})
