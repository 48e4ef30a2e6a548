"""What is wrong with this machine, with models and with datasets, and what to do about it: `lattok doctor`.

Nothing is changed. Whatever is missing or broken becomes a finding: importing this module needs none of the packages
that it looks at, and every probe is guarded.
"""

import importlib
import math
import os
import platform
import shutil
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from lattok.utils import checks, files
from lattok.utils.checks import LattokError, first_line
from lattok.utils.devices import cores, cpu_quota, devices, memory_bytes, module_of
from lattok.utils.findings import ORDER, WIDTH, Finding, Found, by_severity, error, fitted, lines, note, warning
from lattok.version import INSTALL, SIMULATORS, __version__, install_extra, installed, no_wheel

REQUIRED = ("torch", "torchvision", "timm", "av", "pyarrow", "numpy", "huggingface-hub", "accelerate", "google-crc32c")
OPTIONAL = ("transformers", "lerobot", "ray", "h5py", "torchcodec", "vla-eval")
COUNTED = Path(__file__).parents[1] / "assets" / "memory.json"
CARDS = (24, 48, 80)  # GB of common GPUs
SPARE = 1e9  # bytes that a driver and its libraries take
MORE = 1.1  # times what was counted is what torch reserves: up to 1.11 in steps over 1 GB, benchmarks/results/gpu.json
LOW_DISK_GB = 5
LOW_MEMORY_GB = 4
CODECS = {  # that datasets come in, and encoders that make them
    "h264": ("libx264", "libopenh264", "h264"),
    "av1": ("libsvtav1", "libaom-av1"),
    "vp9": ("libvpx-vp9",),
}
Probe = Callable[..., Found]
VARIABLES = ("HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_ENDPOINT")

NOT_INSTALLED = error("{name} is not installed.", INSTALL)
BROKEN = error(
    "{name} {version} is installed but does not work: {reason}.",
    "See `pip check`: it names packages that do not fit together. Install this one again, or remove it.",
)
BROKEN_OPTIONAL = BROKEN._replace(severity="warning")
OTHER_TORCH = BROKEN._replace(advice="It was built for another torch: install both together, from one index.")
NO_FFMPEG = BROKEN_OPTIONAL._replace(
    advice="It needs FFmpeg's libraries on the system and its own torch; lattok decodes with PyAV without it."
)
LOW_MEMORY = warning(
    "There are {memory:.1f} GB of memory.", "Use smaller batches, and --preset tiny or small for models of video."
)
MANY_THREADS = warning(
    "torch would use {threads} threads on {cores} usable cores, which is slower than one.",
    "Set OMP_NUM_THREADS={cores}.",
)
NO_CUDA_DEVICE = note(
    "This torch is built for CUDA {version}, but there is no device it can use.",
    "Without a GPU it works, but takes more disk; with one, see nvidia-smi: the driver may be too old.",
)
BROKEN_DEVICE = error("{device} does not work: {reason}.", "Use --device cpu; check driver and torch.")
TOO_LARGE = warning(
    "Not even one sample fits on {device} in {precision}.",
    "Take a smaller preset, or several GPUs (examples/accelerate/fsdp2.yaml).",
)
NO_ENCODER = warning(
    "PyAV {version} has no encoder for {codec}.",
    "Install PyAV from PyPI (pip install --force-reinstall --no-deps av): its wheels bring FFmpeg with all of them.",
)
PART_OF_SIM = note("{names} of the extra sim is not installed.", "For closed-loop work, install the extra ({install}).")
NOT_IN_THIS_PYTHON = note(
    "{name} cannot be installed: {needed} has no wheel for this Python.", "For its tasks, use {older}."
)
NO_RENDERING = warning("{reason}.", "{advice}")
LITTLE_SPACE = warning(
    "{place} has {free:.1f} GB free.", "Free some, or work elsewhere (--out; HF_HOME moves the cache)."
)
READ_ONLY = warning("{place} cannot be written.", "Give --out another place.")
READ_ONLY_CACHE = READ_ONLY._replace(advice="Set HF_HOME to a folder of your own.")
OFFLINE = note(
    "The Hub is offline: ids work only where they are in the cache.", "Unset HF_HUB_OFFLINE to download others."
)
PROBE_FAILED = error(
    "Looking at {probe} failed: {reason}.", "Install that package again; if it stays, report it with this text."
)
LATTOK_BROKEN = error("lattok's own modules cannot be imported: {reason}.", "Repair the environment first.")


class Topic(NamedTuple):
    """What was found out about one thing."""

    title: str
    facts: tuple[tuple[str, str], ...]
    findings: tuple[Finding, ...]


class Diagnosis(NamedTuple):
    """All sections, in the order in which they were asked for."""

    sections: tuple[Topic, ...]

    @property
    def healthy(self) -> bool:
        """Return whether there are no errors; warnings and notes do not count."""
        return not any(finding.severity == "error" for section in self.sections for finding in section.findings)

    def render(self) -> str:
        """Return plain text, at most 88 columns wide."""
        text: list[str] = []
        for section in self.sections:
            text += [section.title[:WIDTH], *(fitted(label, fact) for label, fact in section.facts)]
            text += ["", *(lines(section.findings) if section.findings else ["Nothing to repair."]), ""]
        counts = Counter(finding.severity for section in self.sections for finding in section.findings)
        plural = ", ".join(f"{checks.counted(counts[kind], kind)}" for kind in ORDER)
        return "\n".join([*text, f"{plural}."])


def diagnose(subjects: Sequence[str] = (), revision: str | None = None, preset: str | None = None) -> Diagnosis:
    """Examine the environment, then what training takes with `preset`, a recipe's name and the preset's, if given; then
    each of `subjects`: a model or a dataset, in a folder or on the Hub."""
    about = [] if preset is None else [examine(f"preset {preset}", (training_fits,), preset)]
    about += [examine(subject, _probes_of(subject), subject, revision) for subject in subjects]
    return Diagnosis((examine("environment", PROBES), *about))


def examine(title: str, probes: Sequence[Probe], *subject: Any) -> Topic:
    """Run the probes of a subject in turn; a probe that fails becomes a finding, and the others still run."""
    facts: list[tuple[str, str]] = []
    findings: list[Finding] = []
    for probe in probes:
        try:
            for found in probe(*subject):
                if isinstance(found, Finding):
                    findings.append(found)
                else:
                    facts.append(found)
        except LattokError as error:
            findings.append(Finding("error", str(error), ""))
        except Exception as error:  # a broken package may raise anything: a diagnosis must not fail over it
            name = getattr(probe, "__name__", "it").replace("_", " ").strip()
            findings.append(PROBE_FAILED.finding(probe=name, reason=_why(error)))
    return Topic(title, tuple(facts), by_severity(findings))


def _probes_of(subject: str) -> Sequence[Probe]:
    """Choose what to look at, if lattok's own modules can be imported."""
    try:
        from lattok.cli import subjects
    except Exception as error:
        broken = LATTOK_BROKEN.finding(reason=_why(error))
        return [lambda *_: iter([broken])]
    return subjects.probes_of(subject)


def _why(error: Exception) -> str:
    return f"{type(error).__name__}: {first_line(error).rstrip('.')}"


def versions() -> Found:
    """List installed versions; `pip check` says whether they fit together."""
    there = installed((*REQUIRED, *OPTIONAL))
    yield "python", f"{platform.python_version()} on {platform.platform(terse=True)}, lattok {__version__}"
    names = [f"{name} {found}" for name, found in there.items()]
    for i in range(0, len(names), 4):
        yield "packages" if i == 0 else "", ", ".join(names[i : i + 4])
    missing = ", ".join(name for name in OPTIONAL if name not in there)
    yield "optional", f"not installed: {missing}" if missing else "all installed"
    for name in REQUIRED:
        if name not in there:
            yield NOT_INSTALLED.finding(name=name)


def imports() -> Found:
    """Every package that is there must also load; torchvision's operators must fit torch."""
    found = installed((*REQUIRED, *OPTIONAL))
    modules = {name: name.replace("-", "_") for name in found}
    modules.pop("lerobot", None)  # importing it takes long and starts much
    for name, module in modules.items():
        try:
            with _quiet():
                loaded = importlib.import_module(module)
                if name == "torchvision":
                    import torch

                    loaded.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
                if name == "torchcodec":
                    importlib.import_module("torchcodec.decoders")
        except Exception as error:
            problem = BROKEN if name in REQUIRED else BROKEN_OPTIONAL
            problem = {"torchvision": OTHER_TORCH, "torchcodec": NO_FFMPEG}.get(name, problem)
            yield problem.finding(name=name, version=found[name], reason=first_line(error)[:200].rstrip(".:"))


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence warnings and what C code writes to stderr: what matters becomes a finding."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def processors() -> Found:
    """Compare cores and memory with the limits of a container."""
    quota, memory, usable = cpu_quota(), memory_bytes() / 1e9, cores()
    limit = "" if quota is None else f" ({quota:g} is the limit of this container)"
    yield "cpu", f"{checks.counted(os.cpu_count() or 1, 'core')}, {usable} for this process{limit}"
    if memory < math.inf:
        yield "memory", f"{memory:.1f} GB"
        if memory < LOW_MEMORY_GB:
            yield LOW_MEMORY.finding(memory=memory)
    import torch

    if torch.get_num_threads() > usable:
        yield MANY_THREADS.finding(threads=torch.get_num_threads(), cores=usable)


def accelerators() -> Found:
    """Try every device but the CPU: each must multiply two matrices."""
    import torch

    with _quiet():  # a driver that is too old is reported below
        there = devices()[:-1]
    if not there:
        yield "devices", "cpu only"
    if torch.version.cuda and not any(device.type == "cuda" for device in there):
        yield NO_CUDA_DEVICE.finding(version=torch.version.cuda)
    for device in there:
        facts = None if (module := module_of(device)) is None else module.get_device_properties(device)
        yield "device", f"{device} {facts.name}, {facts.total_memory / 1e9:.1f} GB" if facts else str(device)
        try:
            square = torch.ones(8, 8, device=device)
            reason = "" if float((square @ square).sum()) == 512 else "a product of matrices came out wrong"
        except Exception as error:
            reason = first_line(error).rstrip(".")
        if reason:
            yield BROKEN_DEVICE.finding(device=device, reason=reason)


def parts_that_fit(entry: dict[str, Any], precision: str, room: float) -> int | None:
    """Return the least number of parts of a preset's batch that fit into `room` bytes; None if one sample does not."""
    most = ((room - SPARE) / MORE - entry[precision]["fixed"]) // entry[precision]["sample"]
    batch = entry["batch"]
    return next((n for n in range(1, batch + 1) if batch % n == 0 and batch // n <= most), None)


def training_fits(preset: str) -> Found:
    """Compare the counted bytes of a step (`benchmarks/speed/memory.py`) with the memory of this machine's devices and
    of common ones."""
    table = files.read_json(COUNTED)
    checks.one_of("preset", preset, table)
    batch = table[preset]["batch"]
    modules = {str(device): module_of(device) for device in devices()}
    memory = {n: memory_bytes() if m is None else m.get_device_properties(n).total_memory for n, m in modules.items()}
    for precision, name in (("no", "float32"), ("bf16", "bf16")):
        fixed, each, work = (table[preset][precision][part] for part in ("fixed", "sample", "flop"))
        whole = f"{(fixed + batch * each) / 1e9:.1f} GB, {batch * work / 1e12:,.2f} TFLOP at batch {batch}"
        yield name, f"{whole}: {fixed / 1e9:.2f} GB and {each / 1e9:.3f} GB for each sample"
        for device, room in (memory | {f"{size} GB": size * 1e9 for size in CARDS}).items():
            parts = parts_that_fit(table[preset], precision, room)
            if parts is None and device in memory:
                yield TOO_LARGE.finding(device=device, precision=name)
            else:
                yield device, {None: "too small", 1: "fits"}.get(parts, f"fits with --accumulate {parts}")


def media() -> Found:
    """Name the video codecs that PyAV brings."""
    import av

    there = {codec: [name for name in names if name in av.codecs_available] for codec, names in CODECS.items()}
    yield "decoders", f"{', '.join(codec for codec in there if codec in av.codecs_available)} (PyAV {av.__version__})"
    yield "encoders", ", ".join(names[0] for names in there.values() if names) or "none"
    for codec, names in there.items():
        if not names:
            yield NO_ENCODER.finding(version=av.__version__, codec=codec)


def simulation() -> Found:
    """List simulators, and try to render with one."""
    there = installed(SIMULATORS)
    barred = {name: why for name in SIMULATORS if name not in there and (why := no_wheel(name))}
    missing = [name for name in SIMULATORS if name not in there and name not in barred]
    yield "simulator", ", ".join(f"{name} {found}" for name, found in there.items()) or "not there (extra sim)"
    for name, (needed, older) in barred.items() if there else ():
        yield NOT_IN_THIS_PYTHON.finding(name=name, needed=needed, older=older)
    if missing and there:
        yield PART_OF_SIM.finding(names=", ".join(missing), install=install_extra("sim"))
    if missing or "metaworld" in barred:
        return
    try:
        with _quiet():
            from lattok.sim import make

            with closing(make("metaworld-pairs/drawer-open")) as env:
                env.start(0)
                env.render()
        yield "rendering", "works (Meta-World)"
    except LattokError as error:
        what, _, advice = str(error).partition(". ")
        yield NO_RENDERING.finding(reason=what[0].upper() + what[1:], advice=advice or BROKEN.advice)


def disks() -> Found:
    """Measure free space where datasets are downloaded to and where results go."""
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    cache = Path(os.environ.get("HF_HUB_CACHE") or Path(home) / "hub").expanduser()  # the Hub's client downloads there
    for name, place in {"here": Path.cwd(), "hub cache": cache}.items():
        there = next(path for path in (place, *place.parents) if path.exists())
        free = shutil.disk_usage(there).free / 1e9
        yield name, f"{place}, {free:,.1f} GB free"
        if free < LOW_DISK_GB:
            yield LITTLE_SPACE.finding(place=place, free=free)
        if not os.access(there, os.W_OK):
            yield (READ_ONLY if name == "here" else READ_ONLY_CACHE).finding(place=place)


def hub_variables() -> Found:
    """Show environment variables of the Hub's client, but no tokens."""
    given = [f"{name}={os.environ[name]}" for name in VARIABLES if os.environ.get(name)]
    yield "hub", ", ".join(given) or "no variables set"
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON"):
        yield OFFLINE.finding()


PROBES = (versions, imports, processors, accelerators, media, simulation, disks, hub_variables)
