"""Removes the XOR mask of a client's payloads (RFC 6455 section 5.3).

A key is carried as a *word*: its four bytes twice, little-endian, in a signed 64-bit number. Whole words are XORed,
8 bytes a step, through librt's readers and writers, which mypyc turns into plain loads and stores.
"""

import sysconfig
from typing import Final

from librt.strings import BytesWriter, read_i32_le, read_i64_le, write_i64_le
from mypy_extensions import i64

_IS_COMPILED: Final = not __file__.endswith(".py")

# One writer for all small payloads: a new one costs 35 ns a message and grows from 256 bytes again each time (100 of
# the 370 ns for 1 KiB). No other thread can get in between, for compiled code never lets go of the GIL here;
# interpreted, or without a GIL, each payload has its own. Larger ones do too, so that the shared one stays small.
_SCRATCH: Final = BytesWriter()
_SCRATCH_LIMIT_BYTES: Final = 16384
_MAY_SHARE: Final = _IS_COMPILED and sysconfig.get_config_var("Py_GIL_DISABLED") != 1


def read_key(data: bytes, at: i64) -> i64:
    """Reads the four bytes of a masking key in `data` from index `at` on; returns the key as a word."""
    key = i64(read_i32_le(data, at))
    return (key << 32) | (key & 0xFFFFFFFF)


def rotate_key(key: i64, size: i64) -> i64:
    """Returns the key word for the next byte of a payload, of which `size` bytes have been unmasked with `key`."""
    shift: i64 = (size & 3) * 8
    if shift == 0:
        return key
    # Only the low half is used, and without its sign: i64 has no unsigned shift, and Python's numbers do not wrap.
    low: i64 = key & 0xFFFFFFFF
    low = ((low >> shift) | (low << (32 - shift))) & 0xFFFFFFFF
    high: i64 = low - 0x100000000 if low >= 0x80000000 else low
    return (high << 32) | low


def unmask(data: bytes, start: i64, size: i64, key: i64) -> bytes:
    """Unmasks a part of a client's frame; returns `size` unmasked bytes from index `start` of `data` on.

    Args:
        data: must hold all of them.
        key: from `read_key` or `rotate_key`.

    Cost: 65 ns for 64 B, 270 ns for 1 KiB, 0.2 ns per byte beyond.
    """
    if _IS_COMPILED:
        return unmask_by_words(data, start, size, key)
    return unmask_by_number(data, start, size, key)


def unmask_by_words(data: bytes, start: i64, size: i64, key: i64) -> bytes:
    """Unmasks a part of a client's frame as `unmask` does, eight bytes a step: for compiled code.

    Correct but slow when interpreted: 5 times slower than `unmask_by_number` at 1 KiB.
    """
    if _MAY_SHARE and size <= _SCRATCH_LIMIT_BYTES:
        out = _SCRATCH
        out.truncate(0)
    else:
        out = BytesWriter()
    at: i64 = start
    end: i64 = start + size
    while end - at >= 32:  # four words a turn: a fifth less than one at 1 KiB
        write_i64_le(out, read_i64_le(data, at) ^ key)
        write_i64_le(out, read_i64_le(data, at + 8) ^ key)
        write_i64_le(out, read_i64_le(data, at + 16) ^ key)
        write_i64_le(out, read_i64_le(data, at + 24) ^ key)
        at += 32
    while end - at >= 8:
        write_i64_le(out, read_i64_le(data, at) ^ key)
        at += 8
    rest: i64 = end - at
    if rest > 0:
        if end >= 8:
            # The word that ends with the payload's last byte always lies inside `data`; what comes down with the sign
            # beyond `rest` bytes is cut off again.
            write_i64_le(out, (read_i64_le(data, end - 8) >> (8 * (8 - rest))) ^ key)
            out.truncate(size)
        else:
            while at < end:
                out.append((data[at] ^ (key >> (8 * (at - start)))) & 0xFF)
                at += 1
    return out.getvalue()


def unmask_by_number(data: bytes, start: i64, size: i64, key: i64) -> bytes:
    """Unmasks a part of a client's frame as `unmask` does, with one XOR of two long integers: for interpreted code.

    5 to 15 times slower than `unmask_by_words` when compiled.
    """
    word = int(key & 0xFFFFFFFF).to_bytes(4, "little")
    mask = int.from_bytes((word * ((int(size) + 3) // 4))[:size], "little")
    return (int.from_bytes(data[start : start + size], "little") ^ mask).to_bytes(int(size), "little")
