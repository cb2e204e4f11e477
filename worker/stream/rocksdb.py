"""The RocksDB options, each with the measurement it was chosen by (`python -m loadtest state`).

What all databases of a process share is one bound on their memory: blocks, indexes, filters and memtables are counted
in one cache, however many partitions there are. Knows neither keys nor values.

One million users with windows of the GA360 sample (226 bytes in the mean), 200,000 events, 2 shared cores: 199 bytes a
user on disk, 266 MB of memory, 13 µs of CPU to read and replace a window, 4 to find one missing, 1.3 s of background
CPU. What the other choices change of that:

===================== =================================================================================
no compression        296 bytes; 0.8 s background
zstd                  166 bytes; 3.1 s background
no filter             13.5 µs for a window that is missing
index beside cache    nothing that repeats; a few bytes a user without a bound
cache of 64 MiB       89 MB; 15 µs an event, 3 s background: for a small container
cache of 1 GiB        nothing: the state fits already
memtables of 16 MiB   3.8 s background
universal compaction  nothing
no write-ahead log    nothing that repeats, since windows are written together; with it all that was written stays
===================== =================================================================================
"""

from dataclasses import dataclass
from functools import cache
from typing import Final, Literal

import rocksdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What can be chosen; the defaults are."""

    cache_bytes: int = 256 << 20
    """Of the process: everything below is within it."""
    memtables_bytes: int = 96 << 20
    """Of the process: when all memtables together have so much, one is written out."""
    memtable_bytes: int = 32 << 20
    """Of one partition."""
    compression: Literal["none", "lz4", "zstd"] = "lz4"
    bloom_bits: int = 10
    """For each key, so that a new user costs no disk access; 0: no filter."""
    index_in_cache: bool = True
    """Else indexes and filters of open files are held beside the cache, without a bound."""
    compaction: Literal["level", "universal"] = "level"
    open_files: int = -1
    """For each partition; -1: all."""


CHOSEN: Final = Choice()
LOGS: Final = 4
"""Files in a folder, of a mebibyte at most, in which RocksDB tells what it does: by itself it begins one each time it
is opened, keeps a thousand, and adds to the newest every ten minutes.
"""


@cache
def _shared(cache_bytes: int, memtables_bytes: int) -> tuple[rocksdict.Cache, rocksdict.WriteBufferManager]:
    """Faust's default is a block cache of 2 GiB for each partition; one for the process is enough."""
    blocks = rocksdict.Cache(cache_bytes)
    return blocks, rocksdict.WriteBufferManager.new_write_buffer_manager_with_cache(memtables_bytes, False, blocks)


def options(choice: Choice = CHOSEN) -> rocksdict.Options:
    """For one partition's database."""
    block_cache, memtables = _shared(choice.cache_bytes, choice.memtables_bytes)
    blocks = rocksdict.BlockBasedOptions()
    blocks.set_block_cache(block_cache)
    if choice.bloom_bits:
        blocks.set_bloom_filter(choice.bloom_bits, block_based=False)
    blocks.set_cache_index_and_filter_blocks(choice.index_in_cache)
    made = rocksdict.Options(raw_mode=True)
    made.create_if_missing(True)
    made.set_block_based_table_factory(blocks)
    made.set_compression_type(getattr(rocksdict.DBCompressionType, choice.compression)())
    made.set_compaction_style(getattr(rocksdict.DBCompactionStyle, choice.compaction)())
    made.set_write_buffer_size(choice.memtable_bytes)
    made.set_write_buffer_manager(memtables)
    made.set_max_open_files(choice.open_files)
    made.set_keep_log_file_num(LOGS)
    made.set_max_log_file_size(1 << 20)
    return made
