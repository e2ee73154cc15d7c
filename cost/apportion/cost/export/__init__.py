"""The ledger as Parquet files, for engines that read those. Written by a process of its own."""
