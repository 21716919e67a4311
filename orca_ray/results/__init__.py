"""Records of finished trials, and the results store of Parquet files; imports neither torch nor ray."""
