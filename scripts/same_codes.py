"""Do models that are saved here give the same codes elsewhere? One of each family and bottleneck, and published ones.

    python scripts/same_codes.py ENVIRONMENT/bin/python ...

Each is loaded, from this clone, by every Python that is named, in whose environment lattok's dependencies are. A table
says which codes of all chunks of the sample, or of images, are equal there, or why a model is refused. Exit code 1
where more codes of a model that loads differ than rounding explains. Twenty seconds, and as many for each Python.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
PACKAGES = ("torch", "torchvision", "numpy", "tokenizers", "safetensors", "timm")
H = 8  # steps of a chunk
ROUNDING = 2e-3  # share of codes of chunks at the edge of a cell; another meaning changes most


def made() -> dict[str, Any]:
    """A model of each family, tokenizers a little trained on the sample, of each bottleneck, and published models."""
    import torch

    from lattok.image_lam import ImageLAM, ImageLAMConfig, MotoLAM, MotoLAMConfig
    from lattok.image_lam.base.bottlenecks import BOTTLENECKS, CodebookConfig
    from lattok.image_lam.inverse import InverseDynamics, InverseDynamicsConfig
    from tests.action_vq.families import cases, learning
    from tests.fuzz_artefacts import HELD, IDM

    torch.manual_seed(0)
    data, models = chunks(), dict[str, Any]()
    for name, (family, _) in cases().items():
        options = learning(family)
        few = {"steps": min(20, options["steps"])} if "steps" in options else {}
        models[name] = family.fit(data, **options | few)
    sizes: dict[str, Any] = {"image_size": 16, "width": 8, "latent_dim": 8, "heads": 2, "features": "pixels"}
    sizes |= {"encoder_depth": 1, "decoder_depth": 1, "codebook_update": "ema"}
    for kind in BOTTLENECKS:
        models[f"image-lam {kind}"] = ImageLAM(ImageLAMConfig.of(cameras=("front",), quantizer=kind, **sizes))
        inverse = IDM | {"quantizer": kind, "tokens": 2, "codebook": CodebookConfig(16, "ema", "normal")}
        models[f"idm {kind}"] = InverseDynamics(InverseDynamicsConfig(("front",), 4, features="pixels", **inverse))
    moto = {**sizes, **HELD, "features": "held", "codebook_size": 16}
    models["moto-lam"] = MotoLAM(MotoLAMConfig.of(("front",), **moto))
    return {name: model.eval() for name, model in (models | published()).items()}


def published() -> dict[str, Any]:
    """Small models of published classes, converted from the fixtures of the tests."""
    from lattok.convert import adaworld_lam, lapa_laq, lawam_lam, villax_lam

    folder, weights = ROOT / "tests" / "parity", "weights.safetensors"
    settings = json.loads((folder / "lawam_lam_a" / "config.json").read_text())["model"]
    return {
        "lapa-laq": lapa_laq(folder / "lapa_laq_a" / "weights.pt"),
        "villax-lam": villax_lam(folder / "villax_lam_b" / weights),
        "lawam-lam": lawam_lam(folder / "lawam_lam_a" / weights, settings),
        "adaworld-lam": adaworld_lam(folder / "adaworld_lam_a" / weights, image_size=48),
    }


def chunks() -> Any:
    """Chunks [n, H, m] of the sample's actions, from every other step of every episode."""
    import numpy as np

    import lattok

    data = lattok.open_dataset("sample/dataset")
    series = [data.columns(episode, ["action"])["action"] for episode in range(len(data.episodes))]
    cut = [each[start : start + H] for each in series for start in range(0, len(each) - H, 2)]
    return np.stack(cut).astype(np.float32)


def codes_of(model: Any) -> Any:
    """What a model makes of the sample, or of fixed images: codes, or latents where it has none."""
    import torch

    from tests import golden

    if model.label_source == "actions":
        return torch.as_tensor(model.encode(chunks()))
    video = ((golden.wave(40, 1, 20, 28, 3) + 1) * 127).to(torch.uint8)
    labels = model.label_video(video.numpy(), model.stride_frames(10))
    return torch.as_tensor(labels.codes if labels.codes.shape[1] else labels.latents)


def save(folder: Path) -> None:
    from safetensors.torch import save_file

    for name, model in made().items():
        model.save_pretrained(folder / name)
        save_file({"codes": codes_of(model)}, folder / name / "expected.safetensors")


def compare(folder: Path) -> dict[str, Any]:
    """Return versions, and by model which share of the codes is equal here, or why it is refused."""
    import torch
    from safetensors.torch import load_file

    import lattok
    from lattok.version import installed

    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    for path in sorted(folder.iterdir()):
        expected = load_file(path / "expected.safetensors")["codes"]
        try:
            codes = codes_of(lattok.load(path))
        except lattok.LattokError as error:
            found[path.name] = str(error)
            continue
        if codes.shape != expected.shape:
            found[path.name] = 0.0
        elif expected.is_floating_point():
            found[path.name] = float(torch.isclose(codes, expected, atol=1e-4, rtol=1e-4).double().mean())
        else:
            found[path.name] = float((codes == expected).double().mean())
    python = ".".join(map(str, sys.version_info[:3]))
    return {"versions": {"python": python, **installed(PACKAGES)}, "equal": found}


def elsewhere(python: str, folder: Path) -> dict[str, Any]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    command = [python, str(Path(__file__).resolve()), "--compare", str(folder)]
    said = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout
    return json.loads(said.splitlines()[-1])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pythons", nargs="*", metavar="PYTHON", help="interpreters of other environments")
    parser.add_argument("--compare", type=Path, metavar="FOLDER", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.compare is not None:
        print(json.dumps(compare(given.compare)))
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        with contextlib.redirect_stdout(sys.stderr):
            save(folder)
        columns = [elsewhere(python, folder) for python in (sys.executable, *given.pythons)]
    for name in columns[0]["versions"]:
        print(f"{name:24}", *(f"{column['versions'].get(name, '-'):>14}" for column in columns))
    print()
    wrong = False
    for name in columns[0]["equal"]:
        shares = [column["equal"][name] for column in columns]
        print(f"{name:24}", *(f"{'refused' if isinstance(share, str) else f'{share:.3%}':>14}" for share in shares))
        wrong |= any(not isinstance(share, str) and share < 1 - ROUNDING for share in shares)
        for share in shares:
            if isinstance(share, str):
                print(f"    {share}")
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main())
