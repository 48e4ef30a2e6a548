"""What lattok says while it works: lines of the logger "lattok", on stderr until its user decides otherwise.

>>> logging.getLogger("lattok").setLevel("WARNING")  # nothing but warnings
"""

import logging
import sys

from tqdm import tqdm

from lattok.utils.checks import printable

LOGGER = logging.getLogger("lattok")


class _Stderr(logging.Handler):
    """Writes to what `sys.stderr` is now, which tests and notebooks change."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            tqdm.write(self.format(record), file=sys.stderr)  # above a bar, where there is one
        except Exception:
            self.handleError(record)


if not LOGGER.handlers:  # else its user has set it up
    LOGGER.addHandler(_Stderr())
    LOGGER.propagate = False
if LOGGER.level == logging.NOTSET:
    LOGGER.setLevel(logging.INFO)


def say(text: str) -> None:
    """Say what is being done; the text may hold a stranger's words."""
    LOGGER.info("%s", printable(text))


def caution(text: str) -> None:
    """Say what may be wrong, though the work goes on."""
    LOGGER.warning("%s", printable(text))


def said() -> bool:
    """Return whether what is being done is said."""
    return LOGGER.isEnabledFor(logging.INFO)
