"""Many names in little memory."""

import hashlib

ID_BYTES = 16


class IdSet:
    """A set of 16-byte digests in one block of memory: about 32 bytes each, where a `set` of `bytes` takes 100.

    Open addressing with linear probing; the digests are their own hashes. All zeros is not a digest.
    """

    def __init__(self) -> None:
        self._count = 0
        self._slots = 1024
        self._table = bytearray(self._slots * ID_BYTES)

    def __len__(self) -> int:
        return self._count

    def __contains__(self, name: bytes) -> bool:
        return self._table[(at := self._find(name)) : at + ID_BYTES] == name

    def add(self, name: bytes) -> None:
        at = self._find(name)
        if self._table[at : at + ID_BYTES] == name:
            return
        self._table[at : at + ID_BYTES] = name
        self._count += 1
        if self._count * 3 > self._slots * 2:
            self._grow()

    def _find(self, name: bytes) -> int:
        """Where `name` is, or the empty place where it belongs."""
        slot = int.from_bytes(name[:8], "little") % self._slots
        while True:
            held = self._table[slot * ID_BYTES : (slot + 1) * ID_BYTES]
            if held == name or not any(held):
                return slot * ID_BYTES
            slot = (slot + 1) % self._slots

    def _grow(self) -> None:
        old = self._table
        self._slots *= 2
        self._table = bytearray(self._slots * ID_BYTES)
        for start in range(0, len(old), ID_BYTES):
            name = old[start : start + ID_BYTES]
            if any(name):
                at = self._find(bytes(name))
                self._table[at : at + ID_BYTES] = name


def identity(sample_id: str, key: str) -> bytes:
    """The 16 bytes under which a sample's answer to one request is remembered."""
    return hashlib.blake2b(f"{key} {sample_id}".encode("utf-8", "surrogatepass"), digest_size=ID_BYTES).digest()
