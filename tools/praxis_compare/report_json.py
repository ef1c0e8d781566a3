"""The comparison as JSON, for machines."""

import dataclasses
import json
import math
import pathlib
from collections.abc import Sequence
from typing import Any

from praxis_compare import table


def plain(row: table.Row) -> dict[str, Any]:
  out = dataclasses.asdict(row)
  return {k: str(v) if isinstance(v, float) and not math.isfinite(v) else v
          for k, v in out.items()}


def write(path: str | pathlib.Path, rows: Sequence[table.Row],
          versions: dict[str, dict[str, str]]) -> None:
  """`{versions, failed, rows: [...]}`, failures first."""
  document = {
      'versions': versions,
      'failed': sum(r.failed for r in rows),
      'rows': [plain(r) for r in table.sort_rows(list(rows))],
  }
  pathlib.Path(path).write_text(json.dumps(document, indent=1) + '\n')
