"""CRC-32 (that of zlib, PNG and gzip), by Intel's ISA-L where it is installed: 2 µs instead of 42 µs a segment."""

try:
    from isal.isal_zlib import crc32
except ImportError:  # no wheel for this machine
    from zlib import crc32

__all__ = ["crc32"]
