"""Questions about imgprep's own parts that the doctor asks in child processes.

Each function imports the part that it asks about, and returns plain JSON values. A failed import
ends the child with that error, which the doctor reports.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def pillow() -> dict[str, Any]:
    """Load Pillow; return the versions of its libraries."""
    import PIL
    from PIL import Image, features

    Image.new("RGB", (2, 2)).tobytes()
    return {
        "version": PIL.__version__,
        "libjpeg": features.version("jpg"),
        "libjpeg_turbo": features.version("libjpeg_turbo"),
        "zlib": features.version("zlib"),
        "webp": bool(features.check("webp")),
        "libtiff": features.version("libtiff"),
    }


def simplejpeg() -> dict[str, Any]:
    """Encode and decode an image; return the version of its libjpeg-turbo."""
    import numpy as np
    import simplejpeg
    from simplejpeg import _jpeg

    grey_hwc = np.full((16, 16, 3), 128, np.uint8)
    back_hwc = simplejpeg.decode_jpeg(simplejpeg.encode_jpeg(grey_hwc))
    if abs(int(back_hwc[8, 8, 0]) - 128) > 1:
        raise RuntimeError("simplejpeg returned wrong pixels")
    return {"libjpeg_turbo": _turbo_version(Path(_jpeg.__file__))}


def kernel() -> dict[str, Any]:
    """Return which pixel code is in use, and which is available."""
    from imgprep.image.kernel import BACKEND, available_backends

    return {"backend": BACKEND, "available": list(available_backends())}


def jpeg_window() -> dict[str, Any]:
    """Return whether the fast JPEG decoder is in use, and the libjpeg that it is linked to."""
    import importlib
    import importlib.util

    from imgprep.image.jpegregion import ENABLED
    from imgprep.image.pillowcheck import loaded_library

    built = importlib.util.find_spec("imgprep.image._jpeg") is not None
    if built:
        importlib.import_module("imgprep.image._jpeg")  # an error here is the answer
    library = loaded_library("libjpeg")
    return {
        "enabled": ENABLED,
        "built": built,
        "library": str(library) if library else None,
        "libjpeg_turbo": _turbo_version(library) if library else None,
    }


def numbers() -> dict[str, Any]:
    """Run the numeric library that the last stage of a build needs, hours after its start."""
    import numpy as np
    from sklearn.decomposition import PCA

    PCA(n_components=3).fit(np.eye(4, 3))
    return {}


def train_kernel() -> dict[str, Any]:
    """Load the trainer's C code without torch; return whether it was built and has AVX2."""
    import importlib.machinery
    import importlib.util

    spec = importlib.util.find_spec("train")
    for place in (spec.submodule_search_locations or ()) if spec else ():
        for suffix in importlib.machinery.EXTENSION_SUFFIXES:
            path = Path(place) / "net" / f"_cpu{suffix}"
            if path.exists():
                loader = importlib.machinery.ExtensionFileLoader("_cpu", str(path))
                found = importlib.util.spec_from_file_location("_cpu", path, loader=loader)
                assert found is not None
                module = importlib.util.module_from_spec(found)
                loader.exec_module(module)
                return {"built": True, "avx2": bool(module.HAS_AVX2)}
    return {"built": False, "avx2": False}


def main(question: str) -> None:
    """Print the answer to one question."""
    answer: dict[str, Any] = QUESTIONS[question]()
    sys.stdout.write(json.dumps(answer) + "\n")


QUESTIONS = {
    each.__name__: each for each in (pillow, simplejpeg, kernel, jpeg_window, numbers, train_kernel)
}


def _turbo_version(library: Path) -> str | None:
    """Search the library for its version; libjpeg-turbo has no function that returns it."""
    import re

    found = re.search(rb"libjpeg-turbo version (\d+\.\d+\.\d+)", library.read_bytes())
    return found[1].decode() if found else None
