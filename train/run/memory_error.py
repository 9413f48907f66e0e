"""Recognises a lack of memory in the errors of Python and torch."""

from __future__ import annotations


def is_torch_out_of_memory(error: Exception) -> bool:
    """Whether Python or torch raised ``error`` because a device has too little memory."""
    words = ("DefaultCPUAllocator", "out of memory")
    return isinstance(error, MemoryError) or any(word in str(error) for word in words)
