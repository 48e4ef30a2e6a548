"""How figures of a report are printed, and why some are missing."""

Interval = tuple[float, float]  # 95 %
NEEDS_TRAINING = "not run: needs trained controls (controls=trained)"
NOT_TRAINED = "not run: only for models that lattok trains"
NO_START = "not run: the model has no untrained form"
FEW_EPISODES = "fewer than five episodes have no interval"


def printed(value: float, digits: str) -> str:
    """Print a number in a format, with a true minus; what rounds to zero has no sign."""
    text = format(value, digits)
    return text.replace("-", "−") if text.strip("+-0.") else text.lstrip("+-")


def lowered(text: str) -> str:
    """Begin a sentence in small letters, to go on from other words."""
    return text[:1].lower() + text[1:]


def percent(share: float) -> str:
    """Print a share as a whole number of per cent."""
    return f"{printed(100 * share, '.0f')} %"


def difference(interval: Interval | None) -> str:
    """Print where a difference lies, or why that is not known."""
    if interval is None:
        return FEW_EPISODES
    near = any(end and round(end, 2) == 0 for end in interval)  # to zero: on which side shows
    return f"difference {' … '.join(printed(end, '+.3f' if near else '+.2f') for end in interval)}"


def explained_share(explained: float) -> str:
    """Print a share of explained variance; what is further off than the mean explains none of it."""
    return percent(explained) if explained > 0 else "none"
