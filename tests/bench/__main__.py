# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""`make bench`: run every bench_*.py beside its peer, print one table, write build/bench.json.

A bench module has `rows() -> Iterator[Row]`. A ratio is our value over the peer's in the same run;
below 1 we need less. A bar is for the ratio, without a peer for the value.
`python tests/bench [NAME ...]` runs only the modules named.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from pathlib import Path

HERE = Path(__file__).parent
RESULT = HERE.parents[1] / "build/bench.json"


def main(names: list[str]) -> int:
    sys.path[:0] = [str(HERE), str(HERE.parent / "integration"), str(HERE.parent / "nvmlsim")]
    from agent_process import SOURCE
    from row import Row

    sys.path.append(str(SOURCE))
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed release is compiled, so what runs here is, too
    rows: list[Row] = []
    for path in sorted(HERE.glob("bench_*.py")):
        if not names or path.stem.removeprefix("bench_") in names:
            print(f"== {path.stem}", file=sys.stderr, flush=True)
            rows += importlib.import_module(path.stem).rows()
    print(f"\n{'what':<58}{'esnode':>12}  {'unit':<8}{'peer':>12}  {'ratio':>7}  {'bar':>11}  peer")
    for row in rows:
        peer, ratio = (f"{row.peer_value:.4g}", f"{row.ratio:.3f}") if row.peer_value is not None else ("-", "-")
        bar = "" if row.bar is None else f"{'MISSED ' if row.missed else ''}{row.bar:.4g}"
        print(f"{row.name:<58}{row.value:>12.4g}  {row.unit:<8}{peer:>12}  {ratio:>7}  {bar:>11}  {row.peer}")
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps([row.as_dict() for row in rows], indent=1) + "\n")
    print(f"\n{len(rows)} rows in {RESULT.relative_to(HERE.parents[1])}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
