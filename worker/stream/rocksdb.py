"""The RocksDB options, each with the measurement it was chosen by (`python -m loadtest state`).

What all databases of a process share is one bound on their memory: blocks, indexes, filters and memtables are counted
in one cache, however many partitions there are. Knows neither keys nor values.
"""

from functools import cache
from typing import Final

import rocksdict

CACHE_BYTES: Final = 256 << 20
_MEMTABLES_BYTES: Final = 96 << 20
_MEMTABLE_BYTES: Final = 32 << 20


@cache
def _shared() -> tuple[rocksdict.Cache, rocksdict.WriteBufferManager]:
    """Faust's default is a block cache of 2 GiB for each partition; one for the process is enough."""
    blocks = rocksdict.Cache(CACHE_BYTES)
    return blocks, rocksdict.WriteBufferManager.new_write_buffer_manager_with_cache(_MEMTABLES_BYTES, False, blocks)


def options() -> rocksdict.Options:
    """For one partition's database."""
    block_cache, memtables = _shared()
    blocks = rocksdict.BlockBasedOptions()
    blocks.set_block_cache(block_cache)
    blocks.set_bloom_filter(10, block_based=False)
    blocks.set_cache_index_and_filter_blocks(True)
    chosen = rocksdict.Options(raw_mode=True)
    chosen.create_if_missing(True)
    chosen.set_block_based_table_factory(blocks)
    chosen.set_compression_type(rocksdict.DBCompressionType.lz4())
    chosen.set_write_buffer_size(_MEMTABLE_BYTES)
    chosen.set_write_buffer_manager(memtables)
    return chosen
