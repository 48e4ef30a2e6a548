"""Annotate a dataset with latent actions and read it back, through LeRobot where it is installed.

python examples/annotate_and_read_back.py --dataset path/to/lerobot_v3 --model my-tokenizer --out annotated
"""

import argparse
import importlib.util
import os
from pathlib import Path

import lattok


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", default=str(lattok.sample_dataset_path()), help="folder or Hub id")
    parser.add_argument(
        "--model", type=Path, help="tokenizer or latent action model; default: a tokenizer trained here"
    )
    parser.add_argument("--out", type=Path, default=Path("annotated"))
    parser.add_argument("--steps", type=int, default=300, help="steps of the tokenizer trained here")
    args = parser.parse_args()

    model_folder = args.model or args.out.with_name(args.out.name + "-tokenizer")
    if args.model is None:
        recipe = lattok.ActionVQRecipe.from_preset(args.dataset, model_folder, "quick", steps=args.steps)
        lattok.train(recipe)

    # Old columns and videos stay as they are; latent.* columns and meta/lattok.json are added.
    model = lattok.load(model_folder)
    lattok.annotate(lattok.open_dataset(args.dataset), {"latent": model}, args.out)

    if importlib.util.find_spec("lerobot") is None:
        print("LeRobot is not installed; reading back with lattok.")
        columns = lattok.open_dataset(args.out).columns(0, ["latent.codes", "latent.valid"])
        print("codes of frame 0:", columns["latent.codes"][0].tolist(), "valid:", bool(columns["latent.valid"][0]))
        return
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    dataset = LeRobotDataset("local/annotated", root=args.out, video_backend="pyav")
    frame = dataset[0]
    print("codes of frame 0:", frame["latent.codes"].tolist(), "valid:", bool(frame["latent.valid"]))
    print("what a VLA would be trained with:", {key: tuple(value.shape) for key, value in frame.items() if "." in key})


if __name__ == "__main__":
    main()
