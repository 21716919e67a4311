"""Parquet tables."""

from pathlib import Path

from orca_ray.data import cache
from orca_ray.errors import UserError, shorten
from orca_ray.own_data._tables import from_arrow
from orca_ray.own_data.format import Format
from orca_ray.own_data.options import Options
from orca_ray.own_data.user_data import UserData


def _read(path: Path, options: Options, labelled: bool) -> UserData:
    import pyarrow as pa
    from pyarrow import parquet

    cache.check_special(path)
    try:
        with parquet.ParquetFile(path) as file:
            meta = file.metadata
            size = sum(meta.row_group(group).total_byte_size for group in range(meta.num_row_groups))
            cells = 64.0 * meta.num_rows * meta.num_columns
            cache.check_memory(max(2.0 * size, cells), f"{path}: its table", "split it")
            table = file.read()
    except (pa.ArrowException, OSError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: expected a Parquet table: {shorten(error)}") from error
    return from_arrow(str(path), table, options, labelled)


FORMAT = Format("Parquet table", (".parquet", ".pq"), _read)
