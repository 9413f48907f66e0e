#!/usr/bin/env python3
"""Compare ``imgprep build-shards`` with other tools; see ``tools/bench_build.py --help``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "bench_build_peers"))

from _main import main

sys.exit(main())
