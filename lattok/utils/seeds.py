"""Seeds of everything random, derived from one."""

import hashlib


def derive_seed(*numbers: int) -> int:
    """Return a 63-bit seed from several integers, well spread."""
    return int.from_bytes(hashlib.blake2b(repr(numbers).encode(), digest_size=8).digest(), "big") >> 1
