"""Train an image latent action model on my videos, and find out whether it knows anything about actions.

python examples/train_and_judge_lam.py --dataset path/to/lerobot_v3 --features timm:vit_base_patch14_reg4_dinov2.lvd142m
"""

import argparse
from pathlib import Path

import torch

import lattok


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", default=str(lattok.sample_dataset_path()), help="folder or Hub id")
    parser.add_argument("--out", type=Path, default=Path("my-lam"))
    parser.add_argument("--features", default="pixels", help="pixels, or timm:MODEL")
    parser.add_argument("--preset", default="tiny+robust", help="tiny, small or full, joined with robust or p2t")
    parser.add_argument("--steps", type=int, default=1200)
    args = parser.parse_args()

    # 1. Train: what changes within 0.2 s, as 4 codes of 16; 5 % of the pairs may show their action.
    recipe = lattok.ImageLAMRecipe.from_preset(
        args.dataset,
        args.out,
        args.preset,
        features=args.features,
        steps=args.steps,
    )
    lattok.train(recipe)

    # 2. Use: frames are uint8 pixels of any size; the model owns resizing and normalisation.
    lam = lattok.load(args.out)
    dataset = lattok.open_dataset(args.dataset)
    video = dataset.frames(0, lam.cameras)  # [T, V, H, W, 3]
    pair = torch.from_numpy(video[[0, 16]])[None]  # [1, 2, V, H, W, 3]
    print("codes of frames 0 and 16:", lam.encode(pair).codes[0].tolist())

    # 3. Judge: probes and predictions on held-out episodes, each with the control that would make it look bad.
    report = lattok.evaluate(lam, dataset, out=args.out / "report")
    print(report.to_text())
    print("Report:", args.out / "report" / "report.html")


if __name__ == "__main__":
    main()
