"""Write what `lattok train KIND --help` prints, so that it need not import torch: python scripts/make_help.py"""

import json

from lattok.cli.flags import STORED
from lattok.cli.models import train_verb
from lattok.recipes import kinds


def text() -> str:
    """Return what the file holds: each option once, since kinds have most of them in common."""
    row_of: dict[tuple[str, str], int] = {}
    pages = {}
    for kind in kinds():
        verb = train_verb(kind, [])
        rows = [[row_of.setdefault(word[:2], len(row_of)), *word[2:5]] for word in verb.words]
        pages[kind] = [verb.about, rows]
    options = ",\n".join(f"  {json.dumps(each)}" for each in row_of)
    lines = ",\n".join(f"  {json.dumps(kind)}: {json.dumps(page)}" for kind, page in pages.items())
    return f'{{"options": [\n{options}\n],\n"kinds": {{\n{lines}\n}}}}\n'


if __name__ == "__main__":
    STORED.write_text(text(), encoding="utf-8")
