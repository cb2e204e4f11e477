"""Everything that knows Faust: the app, its consumer, table and partitions. Nothing outside imports Faust."""
