"""Mutate bytes and JSON for fuzz tests: flips, cuts, splices, extreme numbers and values.

Every function takes a ``Random``, so hypothesis, replays and ``tools/fuzz.py`` can all use it.
"""

from __future__ import annotations

import io
import json
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

Mutation = Callable[[bytes, Random], bytes]

NUMBERS = (
    b"0", b"-1", b"1", b"255", b"65535", b"4294967295", b"2147483648", b"9223372036854775807",
    b"9223372036854775808", b"18446744073709551616", b"99999999999999999999999999", b"1e400",
    b"NaN", b"-Infinity", b"1.5", b"0x10", b"1_0", b"7" * 5000,
)  # fmt: skip
WORDS = (
    2**8 - 1, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63 - 1, 2**63, 2**64 - 1, 0,
)  # fmt: skip
# Raw JSON text, because an encoder would not write some of it.
JSON_VALUES = (
    "null", "true", "[]", "{}", '""', "-1", "0", "1.5", "1e400", "-1e400", "NaN", "Infinity",
    "9223372036854775807", "9223372036854775808", "1" + "0" * 400, "7" * 4999,
    '"\\ud800"', '"a\\u0000b"', '"../../x"', '"/etc/passwd"', '"\\u001b[2J"',
    '"' + "x" * 5000 + '"', "4611686018427387904",
    "[[1,2],[3]]", '{"a":1,"a":2}', "[" * 60 + "]" * 60, "[" * 900 + "]" * 900,
    "[" * 200_000, '{"a":' * 900 + "1" + "}" * 900,
)  # fmt: skip


def mutate_bytes(data: bytes, random: Random, tokens: Sequence[bytes] = ()) -> bytes:
    """Make one to six changes: to a bit, byte, word or number, or a cut, a copy or a token."""
    value = bytearray(data)
    for _ in range(random.randint(1, 6)):
        if not value:
            value += random.randbytes(random.randint(1, 64))
        at = random.randrange(len(value))
        kind = random.randrange(9)
        if kind == 0:
            value[at] ^= 1 << random.randrange(8)
        elif kind == 1:
            value[at] = random.choice((0, 1, 0x7F, 0x80, 0xFF, random.randrange(256)))
        elif kind == 2:
            size = random.choice((2, 4, 8))
            word = random.choice(WORDS) % 2 ** (8 * size)
            value[at : at + size] = word.to_bytes(size, random.choice(("little", "big")))
        elif kind == 3:
            _number(value, random)
        elif kind == 4:
            del value[at : at + random.choice((1, 2, 7, 64, 512, len(value)))]
        elif kind == 5:
            end = min(len(value), at + random.choice((1, 16, 512, 1024)))
            to = random.randrange(len(value) + 1)
            value[to:to] = value[at:end]
        elif kind == 6:
            value[at:at] = random.choice((b"\0", b"\xff", b"\n", b" ")) * random.choice((1, 9, 600))
        elif kind == 7:
            value[at : at + random.choice((0, 1, 4))] = random.choice([*tokens, b"\xff\xff"])
        else:
            value[at:at] = random.randbytes(random.randint(1, 16))
    return bytes(value)


def _number(value: bytearray, random: Random) -> None:
    """Replace a number in the text by another one."""
    found = list(re.finditer(rb"\d+", bytes(value)))
    if found:
        start, end = random.choice(found).span()
        value[start:end] = random.choice(NUMBERS)


def mutate_json(data: bytes, random: Random) -> bytes:
    """Replace, drop or duplicate a part of a JSON value; one time in eight, mutate the bytes."""
    if random.randrange(8) == 0:
        return mutate_bytes(data, random)
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return mutate_bytes(data, random)
    raw: dict[str, str] = {}
    for number in range(random.randint(1, 3)):
        value = _changed(value, random, f"@hostile{number}@", raw)
    text = json.dumps(value)
    for mark, replacement in raw.items():
        text = text.replace(f'"{mark}"', replacement)
    return text.encode()


def _changed(value: Any, random: Random, mark: str, raw: dict[str, str]) -> Any:
    if isinstance(value, dict) and value and random.randrange(6):
        key = random.choice(sorted(value))
        if random.randrange(12) == 0:
            return {name: inner for name, inner in value.items() if name != key}
        if random.randrange(16) == 0:
            raw[mark] = random.choice(('"again":1,"again"', '"\\ud800"', '"../x"', '""'))
            return {**value, mark: value[key]}
        return {**value, key: _changed(value[key], random, mark, raw)}
    if isinstance(value, list) and value and random.randrange(6):
        at = random.randrange(len(value))
        if random.randrange(12) == 0:
            return value[:at] + value[at + 1 :]
        return [*value[:at], _changed(value[at], random, mark, raw), *value[at + 1 :]]
    raw[mark] = random.choice(JSON_VALUES)
    return mark


# ---- correct the checksums, so that damage is not caught by them --------------------------------


def repaired_tar(data: bytes) -> bytes:
    """Give every block that looks like a header the right checksum."""
    out = bytearray(data)
    for at in range(0, len(out) - 511, 512):
        block = out[at : at + 512]
        if block[257:262] == b"ustar":
            total = 256 + sum(block[:148]) + sum(block[156:])
            out[at + 148 : at + 156] = b"%06o\0 " % total
    return bytes(out)


def repaired_png(data: bytes) -> bytes:
    """Give every chunk the right checksum."""
    position, out = 8, bytearray(data)
    while position + 12 <= len(out):
        (length,) = struct.unpack_from(">I", out, position)
        end = position + 8 + length
        if end + 4 > len(out):
            break
        struct.pack_into(">I", out, end, zlib.crc32(out[position + 4 : end]))
        position = end + 4
    return bytes(out)


def mutate_zip(data: bytes, random: Random) -> bytes:
    """Mutate an entry of a zip and store it with the right checksum, or mutate the bytes."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = [(each.filename, archive.read(each)) for each in archive.infolist()]
    except Exception:  # not a zip any more after an earlier mutation
        entries = []
    if not entries or random.randrange(3) == 0:
        return mutate_bytes(data, random)
    at = random.choice((0, random.randrange(len(entries))))
    name, content = entries[at]
    entries[at] = (name, mutate_bytes(content, random, PICKLE_TOKENS))
    return stored_zip(entries)


def stored_zip(entries: Sequence[tuple[str, bytes]]) -> bytes:
    """A zip of uncompressed entries, as torch writes it."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in entries:
            archive.writestr(zipfile.ZipInfo(name), content)
    return file.getvalue()


PICKLE_TOKENS = (
    b"cposix\nsystem\n", b"ctorch._utils\n_rebuild_tensor_v2\n", b"ctorch\nByteStorage\n",
    b"ccollections\nOrderedDict\n", b"K\xff", b"M\xff\xff", b"J\xff\xff\xff\x7f", b"J\0\0\0\x80",
    b"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f", b"\x88", b"N", b"(", b"t", b"R", b"0", b"]", b"}",
    b"h\0", b"q\0", b"Q", b"b", b"s", b"u", b"e", b"\x93", b"\x94", b"G\x7f\xf8\0\0\0\0\0\0", b".",
)  # fmt: skip
