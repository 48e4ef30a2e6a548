"""Argument checks with the three-part message: which argument, what was expected, what came."""

import difflib
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from typing import Any, NoReturn, TypeGuard

LONGEST = 40_000  # characters of what came: a list of a million names says no more than its beginning
MOST_LISTED, MOST_READ = 1000, 30  # characters, names
WIDEST = 2**63 - 1  # whole number that our files may hold, and torch counts to
MOST_THREADS = 1024  # of torch; results depend on their number


# what a terminal obeys instead of showing it: commands, and marks that turn the direction of text around
_COMMANDS = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """Return untrusted text with `�` in place of control characters."""
    return _COMMANDS.sub("\ufffd", text)


def warn(text: str, stacklevel: int = 1) -> None:
    """Warn, also with untrusted text, at the line of the caller or of one further up."""
    warnings.warn(printable(text), stacklevel=stacklevel + 1)  # noqa: TID251


@cache
def note(text: str) -> None:
    """Say something that may hold a stranger's words on stderr, once in a process."""
    print(printable(f"note: {text}"), file=sys.stderr)


class LattokError(ValueError):
    """Bad input. The text, of one line, names the argument, what was expected, what came and the way out."""

    def __init__(self, text: str = ""):
        super().__init__(printable(text).replace("\n", " "))


class Unreachable(LattokError):
    """A network of others, which an argument names, is not on this machine and could not be fetched."""

    def __init__(self, argument: str, text: str):
        super().__init__(text)
        self.argument = argument


def fail(name: str, expected: str, got: object, hint: str = "") -> NoReturn:
    """Raise `LattokError("`name`: expected ..., got .... hint")`."""
    refuse(f"`{name}`", expected, got, hint)


def refuse(place: object, expected: str, got: object, hint: str = "") -> NoReturn:
    """Raise such an error about a file, or a place in one."""
    raise LattokError(refusal(place, expected, got, hint))


def refusal(place: object, expected: str, got: object, hint: str = "") -> str:
    """Return the text of such an error."""
    shown = str(got)
    shown = shown if len(shown) <= LONGEST else f"{shown[:LONGEST]}…"
    return f"{place}: expected {expected}, got {shown}." + (f" {hint}" if hint else "")


@contextmanager
def within_memory(what: str, way_out: str) -> Iterator[None]:
    """Memory that runs out, the machine's or a device's, becomes one line with the way out."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        raise LattokError(f"out of memory: {what} does not fit. {way_out}") from None


def out_of_memory(error: BaseException) -> bool:
    """Return whether memory ran out; on a CPU torch has no class of its own for that."""
    words, said = ("out of memory", "can't allocate memory", "not enough memory"), str(error).lower()
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and any(word in said for word in words))


def first_line(error: BaseException) -> str:
    """Return the message of an exception as one line; its class if it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def is_our_fault(error: BaseException) -> bool:
    """Return whether an error says that lattok's own code is wrong: no damaged file makes that."""
    own, trace = False, error.__traceback__
    while trace is not None:
        own, trace = trace.tb_frame.f_globals.get("__name__", "").startswith("lattok."), trace.tb_next
    ours = LookupError | TypeError | AttributeError | NameError | AssertionError | NotImplementedError
    return own and isinstance(error, ours)


def reason(error: BaseException) -> str:
    """Return the message of an error in one line, with its class unless it is lattok's own."""
    return ("" if isinstance(error, LattokError) else f"{type(error).__name__}: ") + first_line(error)


def is_number(value: object) -> TypeGuard[int | float]:
    """Return whether this is a number; True and False are not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_int(value: object) -> TypeGuard[int]:
    """Return whether this is a whole number; True and False are not."""
    return isinstance(value, int) and not isinstance(value, bool)


def _numbers(expected: str, fits: Callable[[float], bool], /, **values: float) -> None:
    for name, value in values.items():
        if not is_number(value) or not abs(value) <= sys.float_info.max or not fits(value):
            fail(name, expected, f"{value!r:.60}")


positive = partial(_numbers, "a number greater than 0", lambda value: value > 0)
at_least_zero = partial(_numbers, "a number of at least 0", lambda value: value >= 0)
below_one = partial(_numbers, "a number in [0, 1)", lambda value: 0 <= value < 1)


def is_frame_rate(value: object) -> TypeGuard[int | float]:
    """Return whether this is a frame rate between 1e-6 and 1e6 a second."""
    return is_number(value) and 1e-6 < value < 1e6


def frame_rate(**values: float) -> None:
    positive(**values)
    for name, value in values.items():
        if not is_frame_rate(value):
            fail(name, "frames per second between 1e-6 and 1e6", repr(value))


def counts(least: int = 1, most: float = WIDEST, /, **values: int) -> None:
    """Require that every value is a whole number from `least` to `most`."""
    for name, value in values.items():
        if not is_int(value) or value < least:
            fail(name, f"a whole number of at least {least}", f"{value!r:.60}")
        if value > most:
            fail(name, f"at most {most:,}", f"{value!r:.60}")


whole = partial(counts, 0)  # zero or greater, as every seed is


def named(count: int, **names: Sequence[str]) -> None:
    """Require that there are `count` names, one for each dimension, or none."""
    for name, given in names.items():
        if given and len(given) != count:
            fail(name, f"{count} names, one for each dimension, or none", f"{len(given)}")


def divides(whole: int, said: str, /, **values: int) -> None:
    """Require that every value divides `whole`, which errors call `said`, such as "the width 128"."""
    counts(**values)
    for name, value in values.items():
        if whole % value:
            fail(name, f"a divisor of {said}", value)


def one_of(name: str, value: object, options: Iterable[Any]) -> None:
    options = list(options)
    if value not in options:
        meant = did_you_mean(value, options)
        shown = few_of(options, MOST_READ // 3) if len(options) > MOST_READ else ", ".join(map(str, options))
        fail(name, f"one of {shown}", repr(value), meant)


def rank(name: str, array: object, dims: str, hint: str = "") -> None:
    """`array` must have as many axes as `dims` names, e.g. `rank("chunks", x, "B H m")`."""
    got, axes = tuple(getattr(array, "shape", ())), dims.split()
    if len(got) != len(axes):
        single = axes[0] == "B" and len(got) == len(axes) - 1 and name.isidentifier()
        one = f"A batch of one is {name}[None]." if single else ""
        fail(name, f"shape [{', '.join(axes)}]", f"shape {list(got)}", hint or one)


def finite(name: str, values: Any, hint: str = "") -> None:
    """Require that a tensor holds finite numbers alone."""
    if not bool(values.isfinite().all()):
        fail(name, "finite numbers", "NaN or infinity", hint)


def tensor(name: str, value: object) -> None:
    if not hasattr(value, "requires_grad"):  # torch is not imported for a check
        fail(name, "a torch tensor", type(value).__name__, "Use torch.as_tensor(numpy.asarray(...)).")


_PLURAL = re.compile(r"^(?!prefixes)((?:action |latent )?[a-z]{2,})s\b")  # that a size begins with


def size(name: str, axis: str, got: int, expected: int, hint: str = "") -> None:
    if got != expected:
        axis = _PLURAL.sub(r"\1", axis) if expected == 1 else axis
        fail(name, f"{expected} {axis}", f"{got}", hint)


def listed(names: Iterable[Any]) -> str:
    """Names in a message, cut to what can be read: a dataset may have many long ones."""
    text = ", ".join(map(str, names))
    return text if len(text) <= MOST_LISTED else f"{text[:MOST_LISTED]} …"


def few_of(names: Sequence[Any], most: int) -> str:
    """The first names in a message, and how many others there are: "2, 5 and 3 more"."""
    shown = ", ".join(map(str, names[:most]))
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown


def counted(count: int, one: str, many: str = "") -> str:
    """Return how many there are, with their noun: "1 episode", "2 episodes"; `many` is the plural if not `one` + s."""
    return f"{count:,} {one if count == 1 else many or f'{one}s'}"


def known_keys(name: str, given: Iterable[str], known: Sequence[str]) -> None:
    if unknown := sorted(set(given) - set(known)):
        hints = [hint for word in unknown if (hint := did_you_mean(word, known))]
        long = len(known) > MOST_READ and len(hints) == len(unknown)  # what is meant says more
        expected = "known names" if long else f"names among {listed(sorted(known))}"
        fail(name, expected, listed(unknown), " ".join(hints))


# what others call it
ELSEWHERE = {"epochs": "steps", "output_dir": "out", "repo_id": "dataset", "chunk_size": "horizon"}
ELSEWHERE |= {"gradient_accumulation_steps": "accumulate", "mixed_precision": "precision", "max_grad_norm": "clip_norm"}
ELSEWHERE |= {"lr_scheduler": "schedule", "lam": "image_lam", "policy": "vla", "local_dir": "cache_dir"}
ELSEWHERE |= {"torch_dtype": "dtype", "map_location": "device", "device_map": "device", "use_auth_token": "token"}
ELSEWHERE |= {"train_backbone": "backbone_train", "lora_rank": "backbone_lora_rank"}
ELSEWHERE |= {"visualize": "view", "visualise": "view", "viz": "view", "show": "view", "info": "inspect"}
ELSEWHERE |= {"inverse_dynamics": "idm", "latent_action": "image_lam", "rvq": "residual_vq", "tokenizer": "action_vq"}
ELSEWHERE |= {"act": "vla", "diffusion": "vla", "smolvla": "vla", "pi0": "vla", "record": "collect"}
ELSEWHERE |= {"known": "keep", "output": "out", "save_dir": "out", "checkpoint": "model", "ckpt": "model"}
ELSEWHERE |= {"lora_alpha": "backbone_lora_alpha", "patch_size": "backbone_patch_size", "heads": "backbone_heads"}


def did_you_mean(word: object, known: Iterable[Any]) -> str:
    """The hint "Did you mean lr?" for learning_rate, LR, or the like; "" where nothing known resembles the word."""
    meant = nearest(word, known)
    return meant and f"Did you mean {meant}?"


def nearest(word: object, known: Iterable[Any]) -> str:
    """The known name that a word stands for, as above; "" where none resembles it."""
    if not isinstance(word, str) or not word:
        return ""
    names = {_plain(name): name for name in map(str, known)}
    plain = _plain(word)
    close = difflib.get_close_matches(plain, names, n=1, cutoff=0.8 if len(plain) < 5 else 0.7)  # LAPA is not LARA
    short = [name for name in names if "_" in name and _initials(name) == plain]
    reach = 2 if len(plain) == 2 else None  # of two letters, only the first two of a name
    part = [name for name in names if (len(plain) > 1 and plain in name[:reach]) or name in plain.split("_")]
    swapped = [name for name in names if sorted(name) == sorted(plain)]  # such as otu
    for name in (plain, ELSEWHERE.get(plain), *swapped, *close, _initials(plain) * ("_" in plain), *short, *part):
        if name in names:
            return names[name]
    return ""


def _plain(name: str) -> str:
    return name.lower().replace("-", "_")


def _initials(name: str) -> str:
    return "".join(part[0] for part in name.split("_") if part)


_STRIDE = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*(s?)")
MOST_STRIDE, LONGEST_STRIDE = 10**9, 20  # frames, which no episode has; characters


def names(argument: str, given: Sequence[str]) -> None:
    """Require several names: a single text would be read as one name per letter."""
    if isinstance(given, str):
        fail(argument, "a sequence of names", repr(given), f"Write [{given!r}].")


def gap(stride: str | int | None, fps: float | None, own: str) -> int:
    """Frames of a gap in a video at `fps`, which only seconds need; None is the model's `own`."""
    stride = own if stride is None else stride
    if fps is None and isinstance(stride, str) and stride.strip().endswith("s"):
        fail("fps", f"the frame rate of the video, since the stride is {stride!r:.60}", "none", "Such as fps=10.")
    return stride_in_frames(stride, 1.0 if fps is None else fps)


def stride_in_frames(stride: str | int, fps: float, name: str = "stride") -> int:
    """Frames of a gap given as frames (16, "16") or as seconds ("0.2s"), rounded to frames: from 1 to 10^9."""
    frame_rate(fps=fps)
    written = str(stride) if is_int(stride) and abs(stride) <= MOST_STRIDE else stride
    match = _STRIDE.fullmatch(written.strip()) if isinstance(written, str) and len(written) <= LONGEST_STRIDE else None
    if match is None or (not match[2] and not match[1].isdecimal()):
        hint = f"Did you mean {match[1]}s?" if match else "Put spaces between several." if "," in str(stride) else ""
        fail(name, 'a number of frames such as 16, or seconds such as "0.2s"', f"{stride!r:.60}", hint)
    frames = round(float(match[1]) * fps) if match[2] else int(match[1])
    if frames < 1:
        fail(name, "at least one frame", repr(stride), f"One frame is {1 / fps:.4g} s at {fps:g} fps.")
    counts(1, MOST_STRIDE, **{name: frames})
    return frames


def strides(**values: str | int | tuple[str, ...] | list[str]) -> None:
    """Check the form of strides; how many frames they are depends on a dataset's rate."""
    for name, value in values.items():
        for stride in value if isinstance(value, tuple | list) else [value]:
            stride_in_frames(stride, 1000, name)
