"""Unknown actions are filled in: a column of the dataset with what a model inferred where nobody measured anything."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa

from lattok.data.tables import to_arrow


class Fill(NamedTuple):
    """A column that gets what a model inferred, in the rows that its labels name."""

    key: str
    prefix: str
    width: int  # of the column, where there is none yet
    names: tuple[str, ...]

    def into(self, table: pa.Table, new: dict[str, np.ndarray]) -> pa.Table:
        """Return a table with this column filled; measured rows keep their values and type, as other columns do."""
        inferred, rows = new[f"{self.prefix}.action"], new[f"{self.prefix}.filled"].astype(bool).reshape(-1)
        if self.key not in table.column_names:
            return table.append_column(self.key, to_arrow(np.where(rows[:, None], inferred, np.nan).astype(np.float32)))
        if not rows.any():
            return table
        place, kind = table.column_names.index(self.key), table.schema.field(self.key).type
        values = to_arrow(inferred.reshape(len(inferred), -1) if self.width > 1 else inferred.reshape(-1)).cast(kind)
        chosen = pa.array(np.where(rows, len(table) + np.arange(len(table)), np.arange(len(table))))
        both = pa.chunked_array([*table.column(place).chunks, values])
        return table.set_column(place, table.schema.field(self.key), both.take(chosen))
