"""Write what `lattok train KIND --help` prints, so that it need not import torch: python scripts/make_help.py"""

from lattok.cli.flags import STORED, Page, to_store
from lattok.cli.models import train_verb
from lattok.recipes import kinds


def text() -> str:
    """Return what the file holds."""
    return to_store({kind: Page.of(verb) for kind in kinds() if (verb := train_verb(kind, [])) is not None})


if __name__ == "__main__":
    STORED.write_text(text(), encoding="utf-8")
