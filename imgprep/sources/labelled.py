"""Read a source that says itself which label each image has."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from imgprep.dataset.labels import LabelMap
from imgprep.sources.containers import Findings, assemble
from imgprep.sources.layout import ScanLabelled
from imgprep.sources.manifest import SplitManifest
from imgprep.sources.scan_threads import ScanOptions
from imgprep.spec import SplitChoice


def read_labelled(
    scan: ScanLabelled, options: ScanOptions, split: SplitChoice
) -> tuple[LabelMap, dict[str, SplitManifest], Findings]:
    """Scan a source that says itself which label each image has; keep the classes in use."""
    findings, selection = Findings(), options.selection
    found = scan(split, findings)
    findings.class_names.update(found.labels.names)
    selection.check(findings.class_names)
    labels = found.labels.only(selection.takes)
    index = labels.index_by_name()
    label_of = np.array([index.get(name, -1) for name in found.labels.names], np.int32)
    splits: dict[str, SplitManifest] = {}
    for name, parts in found.splits.items():
        kept = []
        for images, numbers in parts:
            rows = np.flatnonzero(label_of[numbers] >= 0)
            kept.append((images.pick(rows), label_of[numbers[rows]]))
            findings.merge(images.findings)
        manifest = assemble(name, kept)
        manifest = manifest.sorted_by_name() if found.sort_by_name else manifest
        splits[name] = replace(manifest, form=found.form)
        if options.progress:
            options.progress(len(splits[name]))
    return labels, splits, findings
