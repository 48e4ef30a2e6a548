"""What people type who know timm, transformers and LeRobot: each line works, or ends in one line with a way out."""

import io
import json
import logging
import re

import numpy as np
import PIL.Image
import pytest
import torch

import lattok
from lattok.hub import FAMILIES, read_config
from lattok.utils.options import SavedConfig


@pytest.fixture(scope="module")
def typed():
    """What lines may name: models, a dataset, and frames of both cameras."""
    lam, tok, ds = lattok.load("sample/lam"), lattok.load("sample/tokenizer"), lattok.open_dataset("sample/dataset")
    frames = np.random.default_rng(0).integers(0, 256, (6, 2, 64, 64, 3), np.uint8)
    pictures = [[PIL.Image.fromarray(one) for one in frame] for frame in frames]
    known = {"lam": lam, "tok": tok, "ds": ds, "frames": frames, "pictures": pictures, "policy": "sample/policy"}
    known |= {"pairs": np.stack([frames[:3], frames[3:]], 1), "chunks": ds.actions(0)[None, :8]}
    return known | {"lattok": lattok, "np": np, "io": io, "logging": logging, "DataLoader": torch.utils.data.DataLoader}


WORKS = {  # a line, and what is true of what it gives
    "lattok.list_models()": lambda x: set(x) >= {"sample/lam", "sample/policy", "sample/tokenizer"},
    "lattok.list_models('*lam*')": lambda x: list(x) == ["sample/lam"],
    "lattok.load('sample/fast').decode(lattok.load('sample/fast').encode(chunks)).shape": lambda x: x == (1, 8, 4),
    "repr(lam)": lambda x: len(x.splitlines()) <= 10 and "4 codes of 16" in x,
    "repr(tok)": lambda x: len(x.splitlines()) <= 10 and "8 codes of 256" in x,
    "repr(lattok.load(policy))": lambda x: len(x.splitlines()) <= 10 and "8 actions" in x,
    "lam.config.to_dict()": lambda x: x["tokens"] == 4 and x["loss"]["prediction"] >= 0 and json.dumps(x),
    "lam.num_parameters()": lambda x: x == sum(map(torch.numel, lattok.load("sample/lam").parameters())),
    "lam.push_to_hub('me/it', dry_run=True)": lambda x: "Nothing was sent" in x and "model.safetensors (1," in x,
    "len(ds), ds.num_episodes, ds.num_frames": lambda x: x == (50, 50, sum(e.length for e in lattok_episodes())),
    "ds.actions(3)": lambda x: x.shape == (lattok_episodes()[3].length, 4),
    "repr(ds.episodes)": lambda x: "50 episodes" in x,
    "next(iter(DataLoader(ds, batch_size=None)))['action']": lambda x: x.shape == (lattok_episodes()[0].length, 4),
    "lam.encode(frames[:3], frames[3:]).codes - lam.encode(pairs).codes": lambda x: not x.any(),
    "lam.decode(pairs[:, 0], lam.encode(pairs))": lambda x: isinstance(x, np.ndarray) and np.isfinite(x).all(),
    "lam.label_video(pictures, fps=30).codes.numpy() - lam.label_video(frames, fps=30).codes": lambda x: not x.any(),
    "lam.label_video(list(frames), fps=30).codes.numpy() - lam.label_video(frames, fps=30).codes": lambda x: (
        not x.any()
    ),
    "[len(part) for part in (lam.label_video(frames, 2), lam.encode(pairs), lam.encode(pairs)[0])]": lambda x: (
        x == [6, 3, 1]
    ),
    "lam.label_video(frames, 2).valid.tolist()": lambda x: x == [True] * 4 + [False] * 2,
    "len(lam.label_video(frames, fps=30)[0.1:])": lambda x: x == 3,
    "repr(lam.label_video(frames, fps=30))": lambda x: len(x.splitlines()) == 2 and "0 to 0.167 s" in x,
    "tok.encode(chunks.tolist()).numpy() - tok.encode(chunks)": lambda x: not x.any(),
    "logging.getLogger('lattok')": lambda x: not x.propagate and x.isEnabledFor(logging.INFO),
}
ENDS = {  # a line, and what its error says
    "lattok.load('sample/lamm')": "got 'sample/lamm'. Did you mean sample/lam?",
    "lattok.load('sample')": "expected one of sample/lam, sample/idm, sample/policy, sample/tokenizer, sample/fast, ",
    "lattok.ImageLAM()": 'got none. Train one: lattok.train("image-lam", DATASET, out=FOLDER).',
    "lattok.ImageLAM(latent_dim=8)": "expected ImageLAMConfig(...), got latent_dim. Train one",
    "lattok.LatentVLA()": 'Train one: lattok.train("vla", DATASET, out=FOLDER)',
    "lattok.FAST()": "got none. Fit one to chunks [N, H, m]: FAST.fit(chunks)",
    "lattok.FSQ({})": "got dict. Fit one",
    "lattok.AutoModel": "Did you mean load?",
    "lattok.create_model": "Did you mean load?",
    "lattok.load_dataset": "Did you mean open_dataset?",
    "lattok.inspect(ds)": "Did you mean data.inspect_dataset?",
    "lattok.label('x.mp4')": "Did you mean load(MODEL).label_video?",
    "lattok.hide(ds, 'x', keep=2)": 'expected their numbers, such as [2], or "2 per task", got 2.',
    "ds[:3]": "`place`: expected the place of an episode, such as 0 or -1, got slice",
    "ds.to_pandas()": "Did you mean columns?",
    "lam.label": "Did you mean label_video?",
    "lam.image_size": "Did you mean config.image_size?",
    "lam.label_video(frames, 2).embedding": "Did you mean latents?",
    "lattok.LeRobotDataset": "Did you mean open_dataset?",
    "next(iter(DataLoader(ds, batch_size=2)))": "got a batch of 2. DataLoader(dataset, batch_size=None)",
    "ds.actions(0, 'actions')": "Did you mean action?",
    "lam.label_video('x.mp4')": "`frames`: expected 2 video files, one for each camera: ",
    "lam.label_video(['x.mp4', 'y.mp4'])": "`frames`: expected a video file, got x.mp4, which is none",
    "lam.label_video(['.', '.'])": "a folder. Videos in a folder are a dataset: lattok.annotate(",
    "lam.label_video(io.BytesIO(), fps=30)": "got BytesIO. A video file is given by its path",
    "lam.label_video(frames, fps=30)['first']": "expected a number, frames such as [10:20]",
    "lam.label_video(frames, 2)[0.5:2.0]": "got seconds slice(0.5, 2.0, None). Give label_video fps=.",
    "lam.label_video(None, fps=30)": "got NoneType",
    "lam.label_video(pictures[0], fps=30)": "expected shape [T, V, H, W, 3], got shape [64, 64, 3]",
    "lam.label_video([frames[0], frames[1, :, :32]], fps=30)": "expected frames of one size",
    "lam.label_video(frames[:, 0], fps=30)": "got shape [6, 64, 64, 3]. V are its cameras: ",
    "lam.label_video(frames / 255, fps=30)": "expected uint8 pixels 0..255, got dtype torch.float64. For LeRobot's",
    "lam.label_video(np.moveaxis(frames, -1, -3), fps=30)": "channels last",
    "lam.encode(pairs / 255)": "expected uint8 pixels",
    "lam.encode(frames[:3], frames[:2])": "expected frames of shape [3, 2, 64, 64, 3]",
    "lam.encode(frames, frames / 255)": "expected torch.uint8",
    "lam.encode('a.png')": "got str",
    "lam.decode(pairs[:, 0], lam.encode(pairs).codes)": "expected what `encode` or `label_video` gives, got ndarray",
    "lam(pairs)": "Call lam.encode(frames)",
    "tok(chunks)": "Call tokenizer.encode(chunks)",
    "tok.encode(chunks[0])": "expected shape [B, H, m], got shape [8, 4]. A batch of one is chunks[None].",
    "lam.encode(frames[0], frames[3])": "A batch of one: encode(frames[None], later[None]).",
    "lattok.train('image-lamm', ds, out='x')": "got 'image-lamm'. Did you mean image-lam?",
    "lattok.train('fast', ds)": '`out`: expected a new folder for the model, got none. Such as lattok.train("fast"',
    "lattok.train(lattok.ImageLAMRecipe)": "Make one: lattok.ImageLAMRecipe.from_preset(DATASET, FOLDER)",
    "lattok.train('fast', ds, out='x', learning_rate=1)": "`options`",
    "lattok.load(policy).predict(frames)": "no attribute 'predict'. Did you mean select_action?",
    "lattok.load(policy).predict_action_chunk": "Did you mean predict_chunk?",
    "lattok.load('sample/idm').predict": "Did you mean infer_actions?",
    "tok.transform(chunks)": "Did you mean encode?",
    "tok.inverse_transform": "Did you mean decode?",
    "tok.encoder_": "Did you mean encode?",
    "lam.save": "Did you mean save_pretrained?",
    "lam.fit(ds)": 'Train one: lattok.train("image-lam", DATASET, out=FOLDER).',
    "lam.evaluate(ds)": "Did you mean lattok.evaluate?",
    "lam.label_vidoe": "Did you mean label_video?",
    "lam.label_video(frames, 2).plot()": "lattok label VIDEO --model MODEL",
    "lam.label_video(frames, 2).tokens": "Did you mean codes?",
    "lam.encode(pairs).latent": "Did you mean latents?",
    "ds.plot()": "lattok view DATASET --out FILE.html",
    "ds.total_episodes": "Did you mean num_episodes?",
    "ds.episode": "Did you mean episodes?",
    "ds.hf_dataset": "Did you mean columns?",
    "lam.save_pretrained('x', push_to_hub=True, dry_run=True)": "model.push_to_hub(repo_id, dry_run=True)",
}


def lattok_episodes():
    return lattok.open_dataset("sample/dataset").episodes


@pytest.mark.parametrize("line", WORKS)
def test_works(typed, line):
    assert WORKS[line](eval(line, dict(typed)))


@pytest.mark.parametrize("line", ENDS)
def test_ends_in_one_line_with_a_way_out(typed, line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((lattok.LattokError, AttributeError), match=re.escape(ENDS[line])) as raised:
        eval(line, dict(typed))
    assert (len(str(raised.value).splitlines()), [*tmp_path.iterdir()]) == (1, [])


def test_a_kind_is_trained_as_on_the_command_line(tmp_path, capfd):
    logger, said = logging.getLogger("lattok"), []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    logger.addHandler(handler)
    try:
        model = lattok.train("uniform-bins", "sample/dataset", out=tmp_path / "a", episodes="0:4", horizon=4)
        logger.setLevel("WARNING")
        lattok.train(
            "uniform_bins", lattok.open_dataset("sample/dataset"), out=tmp_path / "b", episodes="0:4", horizon=4
        )
    finally:
        logger.removeHandler(handler)
        logger.setLevel("INFO")
    told = [line for line in said if line.startswith("uniform-bins: ")]
    assert (len(told), capfd.readouterr().err.count("uniform-bins: ")) == (1, 1)
    assert (type(model), model.horizon) == (lattok.UniformBins, 4)
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in "ab"]
    assert weights[0] == weights[1]
    assert read_config(tmp_path / "a") == read_config(tmp_path / "b")


OWN = sorted(kind for kind in FAMILIES if FAMILIES[kind].__module__.startswith("lattok."))  # tests have some, too


@pytest.mark.parametrize("kind", OWN)
def test_every_family_says_how_it_is_made(kind):
    family = FAMILIES[kind]
    assert issubclass(family.config_class, SavedConfig)
    with pytest.raises(lattok.LattokError, match=r"`config`: expected \w+\(\.\.\.\), got none\. .*lattok"):
        family()  # pyright: ignore[reportCallIssue]
