"""Mutated models and run folders, and what came of them: an error of one line, or a result; nothing else.

A case is a copy of a small model or run, one mutation of one of its files, and one thing to do with it. It runs in a
forked child with a limit on memory and time; a folder beside it is looked at for changes afterwards.
"""

import contextlib
import importlib
import io
import json
import os
import random
import resource
import shutil
import signal
import struct
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import torch

import lattok
from lattok.cli import main
from lattok.evaluation.questions import learnability
from lattok.hub import CONFIG, OWN, PARTS, WEIGHTS
from lattok.image_lam import ImageLAM, ImageLAMConfig, MotoLAM, MotoLAMConfig
from lattok.image_lam.inverse import InverseDynamics, InverseDynamicsConfig, ProprioMap, ProprioMapConfig
from lattok_p2t_policy.released import ReleasedVLA, ReleasedVLAConfig
from tests.action_vq.families import cases as tokenizers
from tests.annotation.fakes import tree
from tests.conftest import CAMERAS, write_dataset
from tests.data.damage import edit_json
from tests.image_lam.clips.fakes import clip_lam
from tests.vla.fakes import policy

MEMORY, LIMIT_S, H = 2 << 30, 20, 4
PATIENCE = 10  # times the limit, on the clock
FAILURES = ("traceback", "crash", "hang", "outside")
ODD: list[Any] = [None, True, -1, 0, 0.5, 1e308, 2**62, 10**9, "", "x", "../../up", "\u202e", [], {}, [[1]], ["a"] * 9]
ODD_TEXT = ["", "[", "[" * 100_000, "null", "3", "[]", '{"a": NaN}', '{"a": "\\ud800"}', '{"a": ' + "9" * 5000 + "}"]
RUN_FILES = ("run/recipe.json", "run/checkpoint.pt", "run/metrics.jsonl")


class Case(NamedTuple):
    """What was mutated, how, and what was done with it."""

    subject: str
    file: str
    mutation: str
    action: str
    seed: int


class Outcome(NamedTuple):
    """What came of it: right, refused, or one of FAILURES; and how many bytes more than before it held at most."""

    case: Case
    verdict: str
    detail: str
    memory: int = 0


IDM = {"image_size": 16, "channels": (8,), "latent_dim": 4, "hidden": 8, "members": 2}
HELD = {f"image_encoder_{name}": size for name, size in (("width", 8), ("depth", 1), ("heads", 2), ("hidden", 16))}


def small_models(dim: int) -> dict[str, Any]:
    """A model of every family, hardly trained, with card and records; `dim` numbers make an action."""
    torch.manual_seed(0)
    sizes = {"image_size": 16, "width": 8, "latent_dim": 8, "heads": 2, "encoder_depth": 1, "decoder_depth": 1}
    lam = ImageLAMConfig.of(cameras=CAMERAS[:1], features="pixels", **sizes)
    chunks = torch.randn(64, H, dim).cumsum(1)
    made: dict[str, Any] = {
        **{
            name: family.fit(chunks, **options)
            for name, (family, options) in tokenizers().items()
            if name == family.type
        },
        "image-lam": ImageLAM(lam),
        "policy": policy(backbone_width=8, backbone_depth=1, backbone_heads=2, head_dim=8, head_heads=2),
        "released": ReleasedVLA(ReleasedVLAConfig(dim=16, blocks=1, heads=2, action_dim=3)),
        "idm": InverseDynamics(InverseDynamicsConfig(CAMERAS[:1], dim, features="pixels", **IDM)),
        "proprio-map": ProprioMap(ProprioMapConfig(dim, state_dim=2)),
        "moto-lam": MotoLAM(MotoLAMConfig.of(CAMERAS[:1], features="held", codebook_size=4, **sizes, **HELD)),
    }
    for model in made.values():
        model.trained_on = {"dataset": "data", "episodes": [[0, 1]], "samples_per_step": 4, "loop": {"steps": 2}}
        verdicts = [{"text": "it holds", "holds": True, "key": ""}]
        model.evaluation = {"headline": "Good.", "verdicts": verdicts, "figures": {"error": 0.5}}
    return made


def write_originals(root: Path) -> Path:
    """A dataset, a model of every family on it, and an interrupted run."""
    data = write_dataset(root / "data", [14, 12, 13, 12])
    for name, model in small_models(lattok.open_dataset(data).features["action"].shape[0]).items():
        model.save_pretrained(root / name)
    run = lattok.ActionVQRecipe.from_preset(data, root / "run", "quick", horizon=H, steps=2, dim=8, codebook_size=5)
    lattok.train(run)
    clip_lam().save_pretrained(root / "clip-lam")
    return root


def write_canary(root: Path) -> Path:
    """A folder of this machine that no model may open: it could be a model of transformers, diffusers or timm, and its
    script leaves a file behind."""
    root.mkdir()
    for name in ("config.json", "tokenizer_config.json", "processor_config.json", "preprocessor_config.json"):
        codes = {"AutoConfig": "evil.A", "AutoModel": "evil.A", "AutoProcessor": "evil.A"}
        about = {"model_type": "evilnet", "auto_map": codes | {"AutoTokenizer": ["evil.A", None]}}
        (root / name).write_text(json.dumps(about | {"architecture": "vit_tiny_patch16_224", "_class_name": "A"}))
    (root / "evil.py").write_text(f"open({str(root.parent / 'PWNED')!r}, 'w')\nclass A: pass\n")
    safetensors.torch.save_file({"a": torch.zeros(4)}, root / "model.safetensors")
    return root


def cases(count: int, seed: int) -> Iterator[Case]:
    """Spread over subjects, files, mutations and actions."""
    draw = random.Random(seed)
    models = (*tokenizers(variants=False), "image-lam", "idm", "policy", "released")
    names = ("config.json", "config.json", "model.safetensors", "evaluation.json", "training.json", "README.md")
    for number in range(count):
        if number % 5 == 4:
            yield Case("run", draw.choice(RUN_FILES), draw.choice(sorted(MUTATIONS)), "resume", number)
        else:
            actions = ("load", "doctor", "evaluate", "annotate", "card")
            yield Case(
                draw.choice(models), draw.choice(names), draw.choice(sorted(MUTATIONS)), draw.choice(actions), number
            )


def foreign_cases(count: int, seed: int) -> Iterator[Case]:
    """Models that name what is not theirs: folders in every field and form, and links."""
    draw = random.Random(seed)
    for number in range(count):
        subject = draw.choice(("image-lam", "policy", "clip-lam", "fsq", "released"))
        kinds = {name: sorted(FOREIGN) for name in ("image-lam", "policy", "clip-lam")}
        yield Case(
            subject,
            "config.json",
            draw.choice(kinds.get(subject, ["link"])),
            draw.choice(("load", "doctor", "annotate")),
            number,
        )


def _value(path: Path, draw: random.Random) -> None:
    """One value of a JSON file, or a byte of another, becomes something odd or is gone."""
    try:
        edit_json(path, draw, lambda: draw.choice(ODD))
    except (ValueError, TypeError):
        _flip(path, draw)


def _flip(path: Path, draw: random.Random) -> None:
    content = bytearray(path.read_bytes())
    for _ in range(8):
        if content:
            content[draw.randrange(len(content))] = draw.randrange(256)
    path.write_bytes(bytes(content))


def _header(path: Path, draw: random.Random) -> None:
    lie = json.dumps({"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 4]}}).encode()
    header = draw.choice((lie, b"[" * 1000, b"", json.dumps({"__metadata__": {"a": "b" * 10**6}}).encode()))
    path.write_bytes(struct.pack("<Q", draw.choice((len(header), 2**40))) + header + bytes(4))


def _not_finite(path: Path, draw: random.Random) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] + struct.pack("<f", float("nan")) * (len(content) // 8))


def _device(path: Path, draw: random.Random) -> None:
    path.unlink()
    path.symlink_to(draw.choice(("/dev/zero", "/dev/random", "/nowhere", path.parent)))


def _pipe(path: Path, draw: random.Random) -> None:
    path.unlink()
    os.mkfifo(path)


def _folder(path: Path, draw: random.Random) -> None:
    path.unlink()
    path.mkdir()


MUTATIONS: dict[str, Callable[[Path, random.Random], None]] = {
    "odd value": _value,
    "odd value again": _value,
    "odd text": lambda path, draw: path.write_text(draw.choice(ODD_TEXT)) and None,
    "flipped bytes": _flip,
    "cut": lambda path, draw: os.truncate(path, path.stat().st_size // 2),
    "empty": lambda path, draw: os.truncate(path, 0),
    "not UTF-8": lambda path, draw: path.write_bytes(b"\xff\xfe" + path.read_bytes()) and None,
    "header": _header,
    "NaN": _not_finite,
    "device": _device,
    "pipe": _pipe,
    "folder": _folder,
    "gone": lambda path, draw: path.unlink(),
}


FORMS = ("hf:{}", "timm:local-dir:{}", "timm:LOCAL-DIR:{}", "dc-ae:{}", "t5:{}", "sana:{}", "{}")
FIELDS = ("features", "language", "backbone", "decoder")


GROUPS = ("backbone", "lora", "head", "features", "decoder")  # of options, where a config.json has them as objects


def places(config: dict[str, Any], group: str = "") -> dict[str, tuple[dict[str, Any], str]]:
    """Find by the flat name of each option the object of a config.json that holds it, and its key there."""
    found: dict[str, tuple[dict[str, Any], str]] = {}
    for key, value in config.items():
        name = group if group and key == "name" else f"{group}_{key}".removeprefix("_")
        found[name] = (config, key)
        found |= places(value, name) if key in GROUPS and isinstance(value, dict) else {}
    return found


def edit(path: Path, **changes: Any) -> None:
    """Change options of a config.json, by their flat names."""
    config = json.loads(path.read_text())
    for name, value in changes.items():
        holder, key = places(config).get(name, (config, name))
        holder[key] = value
    path.write_text(json.dumps(config))


def _named(path: Path, draw: random.Random) -> None:
    """A field names the canary: as it is, by `..`, relative to where the command runs, or through a link of its own."""
    canary = path.parents[2] / "canary"
    place = draw.choice((str(canary), f"{path.parent}/../../canary", os.path.relpath(canary), str(path.parent / "in")))
    (path.parent / "in").symlink_to(canary)
    known = [field for field in FIELDS if field in places(json.loads(path.read_text()))]
    field = draw.choice(known or ["features"])
    form = "{}" if field == "backbone" else draw.choice(FORMS)
    more = {"backbone_train": draw.choice(("frozen", "lora"))} if field == "backbone" else {}
    edit(path, **{field: form.format(place)}, **more)


def _linked(path: Path, draw: random.Random) -> None:
    """A file is a link to one of the canary's, or the whole folder `parts` is one."""
    name = draw.choice((*OWN, PARTS))
    (path.parent / name).unlink(missing_ok=True)
    (path.parent / name).symlink_to(path.parents[2] / "canary" / (name if name in (CONFIG, WEIGHTS) else ""))


FOREIGN: dict[str, Callable[[Path, random.Random], None]] = {
    "name": _named,
    "link": _linked,
}


def perform(action: str, model: Path, data: Path, out: Path) -> int:
    """What the case does; the exit code of the command line."""
    if action in ("load", "card"):
        loaded = lattok.load(model)
        if action == "card":
            loaded.save_card(out)
        return 0
    options = {
        "doctor": ["doctor", str(model)],
        "evaluate": ["evaluate", str(model), str(data), "--out", str(out / "report")],
        "annotate": ["annotate", str(data), "--model", str(model), "--out", str(out / "labels")],
        "resume": ["train", "action-vq", str(data), "--out", str(model), "--resume"],
    }
    return main(options[action])


def run(count: int, seed: int, scratch: Path, foreign: bool = False) -> Iterator[Outcome]:
    """All cases, one child after another."""
    originals, canary = write_originals(scratch / "originals"), write_canary(scratch / "canary")
    before = tree(originals)
    for package in ("timm", "transformers", "diffusers", "peft") * foreign:  # once, not in every child
        with contextlib.suppress(ImportError):
            importlib.import_module(package)
    for case in (foreign_cases if foreign else cases)(count, seed):
        place = scratch / "case"
        shutil.rmtree(place, ignore_errors=True)
        (place / "out").mkdir(parents=True)
        model = place / "model"
        shutil.copytree(originals / case.subject, model)
        target = model / case.file
        if target.is_file():
            (MUTATIONS | FOREIGN)[case.mutation](target, random.Random(case.seed))
        untouched = times(canary, forget=True)
        verdict, detail, memory = _in_child(case.action, model, originals / "data", place / "out")
        read = times(canary) != untouched or (place / "opened").exists()
        if tree(originals) != before:
            verdict, detail = "outside", "a file outside of the output changed"
        elif read or (scratch / "PWNED").exists():
            verdict, detail = "outside", f"a file outside was {'read' if read else 'run'}: {detail}"
            (scratch / "PWNED").unlink(missing_ok=True)
        yield Outcome(case, verdict, detail, memory)


def times(folder: Path, forget: bool = False) -> list[tuple[str, float, float]]:
    """When each file of the canary was read and written last, as far as the system notes it."""
    for path in folder.iterdir() if forget else ():
        os.utime(path, (0, path.stat().st_mtime))
    return [(path.name, path.stat().st_atime, path.stat().st_mtime) for path in sorted(folder.iterdir())]


def _in_child(action: str, model: Path, data: Path, out: Path) -> tuple[str, str, int]:
    said = out.parent / "said"
    pid = os.fork()
    if pid == 0:
        _child(action, model, data, out, said)
    _, status = os.waitpid(pid, 0)
    memory = out.parent / "memory"
    return (*_verdict(status, said), int(memory.read_text()) if memory.is_file() else 0)


def resident() -> int:
    """Bytes of memory that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def _verdict(status: int, said: Path) -> tuple[str, str]:
    text = said.read_text(errors="replace") if said.is_file() else ""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        return ("hang" if number in (signal.SIGALRM, signal.SIGPROF) else "crash"), f"signal {number}"
    code = os.waitstatus_to_exitcode(status)
    if code == 3 or "Traceback (most recent call last)" in text:
        return "traceback", text[-2000:]
    return ("refused" if code in (1, 2) else "right"), text[-200:]


def _child(action: str, model: Path, data: Path, out: Path, said: Path) -> None:
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_PROF, LIMIT_S)  # of the CPU: beside others a child waits for it
    signal.alarm(PATIENCE * LIMIT_S)
    held = resident()
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    os.environ["HF_HUB_OFFLINE"] = "1"
    learnability.STEPS = 5  # a report learns codes for a minute
    canary, opened = str(out.parents[1] / "canary"), out.parent / "opened"

    def listen(event: str, args: tuple[Any, ...]) -> None:  # what Python opens; times say it of other code
        where = args[0] if event in ("open", "os.listdir", "os.scandir") and args else None
        if isinstance(where, str | bytes | os.PathLike) and os.path.realpath(os.fsdecode(where)).startswith(canary):
            opened.mkdir(exist_ok=True)

    sys.addaudithook(listen)
    heard, code = io.StringIO(), 3
    with contextlib.redirect_stderr(heard), contextlib.redirect_stdout(heard):
        try:
            code = perform(action, model, data, out)
        except lattok.LattokError as error:
            code = 2 if "\n" not in str(error) else 3
            print(error)
        except BaseException:
            traceback.print_exc()
    said.write_text(heard.getvalue(), errors="replace")
    (out.parent / "memory").write_text(str(1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - held))
    sys.stdout.flush()
    os._exit(code)
