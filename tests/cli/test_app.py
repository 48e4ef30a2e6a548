"""The command line as a person uses it: help, the verbs in a row, one-line errors, Ctrl-C in a real process."""

import errno
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Literal, Optional
from xml.etree import ElementTree

import pytest

import lattok
from lattok.cli import VERBS, flags, main
from lattok.cli.flags import STORED, Verb
from lattok.hub.checkpoint import IMPORTERS
from lattok.hub.client import SAMPLES
from lattok.utils import signals
from lattok.utils.log import say
from scripts import make_help
from scripts.kill_runs import next_words
from tests.process_jobs import forked, typed

TRAINED = ("action-vq", "fast", "residual-vq", "fsq", "uniform-bins", "image-lam")
READERS = (["inspect"], ["view"], *(["train", name] for name in TRAINED), ["evaluate"], ["annotate"])
PUBLISHED = tuple(IMPORTERS)
COMMANDS = (
    ["demo"],
    ["repair"],
    *READERS,
    ["compare"],
    ["doctor"],
    ["presets"],
    ["push"],
    *(["convert", name] for name in PUBLISHED),
)
QUICK = ["--preset", "quick", "--device", "cpu", "--dim", "16", "--codebook-size", "8", "--hidden", "16"]


@pytest.fixture
def dataset(make_dataset):
    return str(make_dataset([12, 15, 11, 14]).root)


def help_of(words, capsys, asked="--help-all"):
    assert main([*words, asked]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("verb", COMMANDS, ids=" ".join)
def test_every_verb_has_help_with_an_example(verb, capsys):
    text = help_of(verb, capsys)
    assert f"Example: lattok {' '.join(verb)}" in text
    assert max(map(len, text.splitlines())) < 130


UNUSABLE = {  # flags of verbs like them
    "inspect": ["--batch-size", "--device", "--config"],
    "evaluate": ["--batch-size", "--horizon", "--config"],
    "annotate": ["--batch-size", "--stride", "--horizon", "--episodes", "--state-key", "--config"],
    "train action-vq": ["--cameras", "--state-key", "--stride", "--features", "--study", "--stage", "--crop"],
    "train residual-vq": ["--cameras", "--batch-size", "--device", "--schedule", "--study"],
    "train image-lam": ["--state-key", "--horizon", "--study", "--strategy", "--mean"],
    "train vla": ["--stride", "--stage", "--action-dim", "--codes"],
}


@pytest.mark.parametrize("verb", UNUSABLE)
def test_a_flag_that_a_verb_cannot_use_is_not_in_its_help_and_is_refused(verb, capsys):
    text = help_of(verb.split(), capsys)
    assert [flag for flag in UNUSABLE[verb] if re.search(rf"{flag}\b(?!-)", text)] == []
    for flag in UNUSABLE[verb]:
        assert main([*verb.split(), "a", "b", flag, "1"]) == 2
        error = capsys.readouterr().err
        assert re.fullmatch(rf"lattok {verb} has no {flag}\.[^\n]* See lattok {verb} --help\.\n", error), error


def test_presets_are_shown_with_what_they_set(capsys):
    assert main(["presets"]) == 0
    listed = capsys.readouterr().out
    assert re.search(r"action-vq +p2t, libero, robotwin, jaka, quick, context, p2t_code\n", listed)
    assert main(["presets", "image-lam"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert (
        "tiny --image-size 64 --interpolation bilinear --features pixels --optimizer adamw --weight-decay 0.01" in text
    )
    assert text.endswith("Default: small+robust+flow")
    assert main(["presets", "image-lm"]) == 2
    assert "Did you mean image-lam?" in capsys.readouterr().err


def test_what_is_logged_names_options_as_they_are_typed(monkeypatch, capsys):
    def look(dataset: str, cache_gb: float = 0.0) -> None:
        """Look."""
        say(f"{dataset}, {cache_gb}: try cache_gb=2.")

    monkeypatch.setitem(VERBS, "inspect", Verb(look, "lattok.data"))
    assert main(["inspect", "--dataset", "d"]) == 0
    say("later: cache_gb=2.")
    assert capsys.readouterr().err == "d, 0.0: try --cache-gb 2.\nlater: cache_gb=2.\n"


def test_overview_lists_the_verbs(capsys):
    text = help_of([], capsys)
    assert all(
        verb in text for verb in ("demo", "inspect", "train", "evaluate", "annotate", "doctor", "push", "convert")
    )
    assert all(name in text for name in SAMPLES)
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"lattok {lattok.__version__}\n"


def test_train_evaluate_annotate_in_a_row(dataset, tmp_path, capsys):
    tokenizer, report, annotated = (str(tmp_path / name) for name in ("tok", "report", "annotated"))
    assert main(["train", "action-vq", dataset, "--out", tokenizer, "--steps", "5", "--horizon", "4", *QUICK]) == 0
    assert "Evaluate it: lattok evaluate" in capsys.readouterr().out
    assert main(["evaluate", tokenizer, dataset, "--out", report]) == 0
    assert "report.html" in capsys.readouterr().out
    assert json.loads((tmp_path / "report/report.json").read_text())
    card = (tmp_path / "tok/README.md").read_text()
    assert "Not evaluated yet" not in card
    assert "![Pictures of the evaluation](evaluation.svg)" in card
    picture = ElementTree.parse(tmp_path / "tok/evaluation.svg").getroot()
    assert len(picture.findall("{http://www.w3.org/2000/svg}svg")) == 1  # the chart
    titles = [text.text or "" for text in picture.findall("{http://www.w3.org/2000/svg}text")]
    assert titles == []  # they stand in the pictures
    assert json.loads((tmp_path / "tok/evaluation.json").read_text())["dataset"] == Path(dataset).name
    assert main(["annotate", dataset, "--model", tokenizer, "--out", annotated]) == 0
    assert f"Annotated dataset: {annotated}" in capsys.readouterr().out
    assert lattok.open_dataset(annotated).columns(0, ["latent.codes"])["latent.codes"].shape == (12, 4)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["inspect", "nowhere/at/all"], "nowhere/at/all"),
        (["train", "action-vq", "DATASET", "--out", "OUT", "--horizon", "0"], "`horizon`: expected"),
        (["train", "action-vq", "DATASET", "--out", "OUT", "--preset", "huge"], "`preset`: expected one of"),
        (["train", "action-vq", "DATASET", "--out", "OUT", "--resume"], "`out`: expected a run to resume"),
        (["train", "image-lam", "DATASET", "--out", "OUT", "--stride", "0"], "`stride`: expected at least one frame"),
        (["train", "image-lam", "DATASET", "--out", "OUT", "--cameras", "top", "--features", "pixels"], "`cameras`"),
        (["train", "image-lam", "DATASET", "--out", "OUT", "--stage", "2"], "`env_codebook`: expected a stage-1 model"),
        (["train", "image-lam", "DATASET", "--out", "OUT", "--colour", "1"], "lattok train image-lam has no --colour."),
        (["train", "image-lam", "DATASET", "--out", "OUT", "--interpolation", "foo"], "`interpolation`"),
        (["train", "action-vq", "DATASET", "--out", "/dev/null/x", "--preset", "quick"], "cannot write into"),
        (["try", "few-actions", "DATASET", "--out", "/dev/null/x"], "cannot write into /dev/null/x"),
        (["label", "x.mp4", "--model", "sample/lam", "--out", "/dev/null/x.html"], "cannot write into /dev/null: "),
        (["train", "fsq", "DATASET", "--out", "OUT", "--config", "CONFIG"], "`episodes`: expected a value of type"),
        (["train", "fsq", "DATASET", "--out", "OUT", "--config", "TOML"], 'line 1 column 1 (char 0)). Write {"steps":'),
        (["train", "action-vq", "DATASET", "--out", "OUT", "--config", "KEYS"], "expected known names, got stepz. Did"),
        (["train", "action-vq", "DATASET", "--out", "OUT", "--config", "RECIPE"], "expected options of action-vq"),
        (["train", "action-vq", "DATASET", "--out", "OUT", "--device", "xpu:7"], "`device`: expected a device of this"),
        (["evaluate", "OUT", "DATASET"], "`model`: expected a folder with config.json"),
        (["annotate", "DATASET", "--model", "OUT", "--out", "OUT2"], "`model`: expected a folder with config.json"),
    ],
)
def test_bad_input_is_one_line_and_code_2(words, text, dataset, tmp_path, capsys):
    places = {"DATASET": dataset, "OUT": str(tmp_path / "out"), "OUT2": str(tmp_path / "out2")}
    places["CONFIG"] = str(tmp_path / "config.json")
    (tmp_path / "config.json").write_text('{"episodes": [1.5]}')
    written = {
        "TOML": "steps = 1",
        "KEYS": '{"stepz": 1, "batch-size": 4}',
        "RECIPE": '{"kind": "image-lam", "options": {}}',
    }
    for name, content in written.items():
        places[name] = str(tmp_path / name)
        (tmp_path / name).write_text(content)
    assert main([places.get(word, word) for word in words]) == 2
    error = capsys.readouterr().err
    assert re.fullmatch(r"lattok[: ][^\n]*\n", error), error
    assert text in error
    assert not (tmp_path / "out").exists()


def test_a_read_only_model_folder_still_gets_a_report(dataset, tmp_path, capsys, monkeypatch):
    tokenizer = str(tmp_path / "tok")
    assert main(["train", "action-vq", dataset, "--out", tokenizer, "--steps", "2", "--horizon", "4", *QUICK]) == 0

    def read_only(self, folder, name=None):
        raise OSError(30, "Read-only file system", str(folder))

    monkeypatch.setattr(lattok.P2TActionVQ, "save_card", read_only)
    assert main(["evaluate", tokenizer, dataset, "--out", str(tmp_path / "report")]) == 0
    captured = capsys.readouterr()
    assert "report.html" in captured.out
    assert "the model card in" in captured.err


def test_names_of_files_that_a_system_refuses_are_shown_as_text(dataset, tmp_path, capsys, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.EIO, "Input/output error", "\x1b]0;owned\x07.parquet")

    monkeypatch.setattr("lattok.data.inspect_dataset", refuse)
    assert main(["inspect", dataset]) == 2
    assert capsys.readouterr().err == "lattok: �]0;owned�.parquet: Input/output error.\n"


def test_flags_win_over_the_config_file(dataset, tmp_path):
    path = tmp_path / "options.json"
    path.write_text(json.dumps({"steps": 50, "horizon": 3}))
    words = ["train", "action-vq", dataset, "--out", str(tmp_path / "tok"), "--steps", "2", "--config", str(path)]
    assert main([*words, *QUICK]) == 0
    assert lattok.load(tmp_path / "tok").horizon == 3
    assert json.loads((tmp_path / "tok/run/recipe.json").read_text())["options"]["steps"] == 2


@pytest.fixture
def heard():
    """Requests to stop are heard, also where the tests run in the background or under nohup, which ignore some."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in signals.ASKING}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_every_verb_hears_requests_to_stop(number, heard, monkeypatch, capsys):
    before = [signal.getsignal(each) for each in signals.ASKING]

    def stopped(*_):
        os.kill(os.getpid(), number)
        time.sleep(5)

    monkeypatch.setattr(lattok, "load", stopped)
    assert main(["evaluate", "model", "data"]) == 128 + number
    assert capsys.readouterr().err == "\nlattok: interrupted; run the same command again\n"
    assert [signal.getsignal(each) for each in signals.ASKING] == before


def test_memory_that_runs_out_is_one_line(monkeypatch, capsys):
    for error in (MemoryError(), RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")):
        monkeypatch.setattr(lattok, "load", lambda *_, e=error: (_ for _ in ()).throw(e))
        assert main(["evaluate", "model", "data"]) == 2
        assert capsys.readouterr().err.startswith("lattok: out of memory. ")


def test_the_same_command_again_says_how_to_continue(dataset, tmp_path, capsys):
    """As after a power cut; scripts/kill_runs.py does what it says."""
    words = ["train", "action-vq", dataset, "--out", str(tmp_path / "out"), *QUICK, "--steps", "2"]
    assert main(words) == 0
    assert main(words) == 2
    said = capsys.readouterr().err
    assert said.endswith("which holds a trained model. Choose another, or add --resume to see what comes next.\n")
    assert next_words(words, said) == [*words, "--resume"]


@pytest.mark.ci
def test_a_request_to_stop_saves_says_how_to_continue_and_the_result_is_the_same(dataset, tmp_path):
    def command(out):
        words = ["train", "action-vq", dataset, "--out", str(tmp_path / out), *QUICK]
        return [*words, "--steps", "120", "--log-every", "10"]

    assert main(command("whole")) == 0
    words, metrics = command("parts"), tmp_path / "parts/run/metrics.jsonl"
    for number, logged in ((signal.SIGTERM, 2), (signal.SIGINT, 4)):
        with forked(typed, words, tmp_path / "said") as process:
            while process.is_alive() and not (metrics.exists() and metrics.read_text().count("\n") >= logged):
                time.sleep(0.01)
            os.kill(process.pid, number)
            process.join()
        if process.exitcode == 0:  # it may have finished first on a fast machine; then there is nothing to resume
            break
        said = (tmp_path / "said").read_text()
        assert process.exitcode == 128 + number, said
        line = said.strip().splitlines()[-1]
        words = re.search(r"Saved at step \d+ of 120 .*Continue with: lattok (.*)", line).group(1).split()
    else:
        assert main(words) == 0
    hashes = [lattok.load(tmp_path / out).describe()["weights_sha256"] for out in ("whole", "parts")]
    assert hashes[0] == hashes[1]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["trian", "action-vq"], "lattok has no `trian`. Did you mean train? See lattok --help."),
        (["frobnicate"], "lattok has no `frobnicate`. There are demo, inspect, repair, view, train,"),
        (["train"], "lattok train needs one of action-vq, beast, clip-lam, fast,"),
        (["convert"], "lattok convert needs one of adaworld-lam,"),
        (["train", "image-lm", "D"], "lattok train has no `image-lm`. Did you mean image-lam?"),
        (["convert", "univla"], "lattok convert has no `univla`. Did you mean univla-lam?"),
        (["train", "action-vq", "D", "--out", "x", "--learning_rate", "1e-3"], "Did you mean --lr?"),
        (["train", "action_vq", "D", "--out", "x", "--code-book-size=8"], "Did you mean --codebook-size?"),
        (["train", "image-lam", "D", "--out", "x", "--epochs", "3"], "Did you mean --steps?"),
        (["train", "fast", "D", "--output_dir", "x"], "Did you mean --out?"),
        (["train", "fast", "D", "--otu", "x"], "Did you mean --out?"),
        (["train", "fast", "--help-al"], "Did you mean --help-all?"),
        (["hide", "D", "--known", "2 per task"], "Did you mean --keep?"),
        (
            ["train", "vla", "sample/dataset", "--out", "x", "--backbone", "sratch"],
            "got 'sratch'. Did you mean scratch?",
        ),
        (
            ["annotate", "sample/dataset", "--model", "sample/idm", "--as", "actions", "--out", "x"],
            "Without --as actions",
        ),
        (["train", "vla", "D", "--out", "x", "--no-propio"], "Did you mean --no-proprio?"),
        (["annotate", "D", "--models", "x"], "lattok annotate has no --models. Did you mean --model? See lattok"),
        (["convert", "univla-lam", "f", "o", "--strid=3"], "Did you mean --stride? See lattok convert univla-lam"),
        (["train", "action-vq", "--dataset.repo_id=foo", "--out", "x"], "Put the dataset after the verb: lattok"),
        (["train", "vla", "D", "--out", "x", "--frobnicate"], "has no --frobnicate. See lattok train vla --help."),
        (["train", "vla", "D"], "lattok train vla needs --out DIR New folder for the model and its run. See"),
        (["train", "fsq", "D", "--out", "x", "--lr", "fast"], "--lr: expected a number, got 'fast'. See"),
        (["train", "fsq", "D", "--out", "x", "--lr", "inf"], "--lr: expected a number, got 'inf'. It must be"),
        (["inspect", "D", "--horizon", "8.0"], "lattok inspect: --horizon: expected a whole number, got '8.0'. See"),
        (["inspect", "D", "--horizon", "1_0"], "--horizon: expected a whole number, got '1_0'. See"),
        (["train", "action-vq", "D", "--out", "x", "--dilations", "1,2"], "a whole number, got '1,2'. Put spaces"),
        (["export", "D", "--out", "x", "--size", "64x64"], "--size needs 2 values with spaces between them."),
        (["annotate", "--model", "a", "D", "--out", "x"], "(*.json). --model took a D: put DATASET first. See"),
        (["train", "image-lam", "--cameras", "top", "D", "--out", "x"], "lattok train image-lam needs DATASET."),
        (["train", "vla", "--mix", "a:1", "b:1", "--out", "x"], "`dataset`: expected a folder, a description file"),
        (["train", "--out", "x", "image-lam", "D"], "vqbet right behind it."),
        (["evaluate", "M", "D", "--ep", "3"], "Did you mean --episodes?"),
        (["inspect", "sample/dataset", "--cameras", "corne2"], "got 'corne2'. Did you mean corner2?"),
        (["inspect", "sample/dataset", "--cameras", "corner2,gripperPOV"], "Put spaces between names."),
        (["inspect", "sample/dataset", "--stride", "0.2"], "got '0.2'. Did you mean 0.2s?"),
        (["train", "image-lam", "sample/dataset", "--out", "x", "--extra-strides", "1,2"], "got '1,2'. Put spaces"),
        (["train", "image-lam", "sample/dataset", "--out", "x", "--preset", "tiny, robust"], "got 'tiny, robust'."),
        (
            ["train", "image-lam", "sample/dataset", "--out", "x", "--preset", "tiny+robust", "--features", "pixel"],
            "got 'pixel'. Did you mean pixels?",
        ),
        (["annotate", "sample/dataset", "--model", "a", "--out", "x", "--workers", "2"], "ray, got 2. Set --engine"),
        (["rollout", "sample/lam"], "`model`: expected a policy"),
        (["annotate", "sample/dataset", "--model", "a", "--model", "b", "--out", "x"], "--model is given twice. It"),
        (["train", "fast", "sample/dataset", "--out="], "lattok train fast: --out needs a value. See"),
        (["evaluate", "sample/lam", ""], "lattok evaluate: DATASET needs a value. See"),
        (["inspect"], "lattok inspect needs DATASET "),
        (["inspect", "D", "E"], ": there is no place for E. It takes DATASET. See lattok inspect --help. Example: "),
        (["hide", "sample/dataset", "--keep", "0:50", "--out", "x"], 'two of each task are "2 per task".'),
        (["annotate", "D", "M"], "no place for M. It takes DATASET, --model MODEL ..., --out DIR. See"),
        (["inspect", "DATASET"], "which is neither. DATASET stands for your own: put its folder there."),
        (["evaluate", "MODEL", "DATASET"], "which is neither. MODEL stands for your own: put its folder there."),
        (["inspect", "path/to/dataset"], "which is neither. path/to/dataset stands for your own"),
        (["inspect", f"{Path(__file__).parent}/test_ap.py"], f"Did you mean {__file__}?"),
        (["inspect", "no/such/folder"], "which is neither. There is no folder no."),
        (["inspect", "D", "--fps", "5"], 'no --fps. Write {"dataset": "DATASET", "fps": 10} into a file, such'),
        (["visualize", "D"], "Did you mean view?"),
        (["train", "act", "D"], "Did you mean vla?"),
        (["inspect", "zzzz"], "One to try things with: sample/dataset."),
        (["inspect", f"~{'z' * 300}"], "which is neither."),
        (["inspect", "caf\udce9"], "expected text in UTF-8, got other bytes"),
        (["train", "lam", "D"], "lattok train has no `lam`. Did you mean image-lam?"),
        (["train", "policy", "D"], "lattok train has no `policy`. Did you mean vla?"),
        (["train", "p2t", "D"], "lattok train action-vq path/to/dataset --out my-model --preset p2t"),
        (["train", "la-align", "D"], "lattok train vla path/to/dataset --out my-model --strategy la_align"),
        (["train", "lapa", "D"], "lattok convert lapa-laq FILE my-model"),
        (["inspect", "sample"], "expected one of sample/dataset, or"),
        (["inspect", "sample/lam"], "models/lam, which holds a model."),
        (["evaluate", "sample/dataset", "sample/lam"], "dataset: lattok evaluate sample/lam sample/dataset. See"),
        (["annotate", "sample/dataset", "--model", "sample/dataset", "--out", "x"], "without it. It holds a dataset"),
        (["annotate", "sample/dataset", "--model", "a", "--out", "x", "--cpus-per-worker", "7"], "`cpus_per_worker`"),
        (["annotate", "sample/dataset", "--model", "a", "b", "--out", "x"], "such as --prefix latent tokens, got 0."),
        (["train", "fast", "sample/dataset", "--out", __file__], "expected a new or empty folder, got the file "),
    ],
)
def test_what_is_nearly_right_gets_one_line_that_says_so(words, says, capsys):
    assert main(words) == 2
    error = capsys.readouterr().err
    error = error[error.startswith("note: ") and error.index("\n") + 1 :]
    assert re.fullmatch(r"lattok[: ][^\n]*\n", error), error
    assert says in error


def test_an_empty_folder_is_told_without_all_formats(tmp_path, capsys):
    assert main(["inspect", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"lattok: `dataset`: expected a dataset, got {tmp_path} with nothing in it.")
    assert len(error) < 200 + len(str(tmp_path))


def test_verbs_of_other_packages_get_values_of_the_types_they_name():
    def verb(path: Path, names: list[str], sizes: list[int] | None = None, pair: tuple[float, float] = (0, 1)):
        return path, names, sizes, pair

    words = ["--path", "a b", "--names", "x", "y", "--sizes", "3", "--pair", "1", "2.5"]
    values = flags.read("verb", Verb(verb).words, words)
    assert flags.call(verb, values) == (Path("a b"), ["x", "y"], [3], (1.0, 2.5))


def test_two_dashes_end_a_list(capsys):
    assert main(["inspect", "--cameras", "corner2", "--", "sample/dataset"]) == 0
    assert main(["inspect", "--", "--cameras_of.name"]) == 2
    assert "--cameras_of.name" in capsys.readouterr().err  # as it was typed


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "lattok train needs one of action-vq,"),
        (["image_lam", "d", "--out", "x", "--foo", "1"], "lattok train image-lam has no --foo."),
        (["image-lm", "d"], "Did you mean image-lam?"),
        (["vla", "d"], "lattok train vla needs --out DIR"),
        (["image-lam", "--out", "x", "--cameras", "a", "b", "--compile", "no", "--no-mix"], "has no --no-mix."),
    ],
)
def test_training_refuses_flags_before_it_imports_torch(words, said):
    code = f"import sys; from lattok.cli import main; print(main({['train', *words]}), 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "2 False\n"
    assert said in done.stderr


def test_help_of_training_shows_the_common_options_and_all_where_they_are_asked_for(capsys):
    short, whole = (help_of(["train", "image-lam"], capsys, asked) for asked in ("--help", "--help-all"))
    assert len(re.findall(r"^  --", short, re.MULTILINE)) < 25 < 80 < len(re.findall(r"^  --", whole, re.MULTILINE))
    more = len(re.findall(r"^  --", whole, re.MULTILINE)) - len(re.findall(r"^  --", short, re.MULTILINE))
    assert short.endswith(f"\n{more} more options: lattok train image-lam --help-all\n")
    assert "libero = robotwin = jaka" in whole
    assert "--codebook-size N" in help_of(["train", "image-lam", "--preset", "tiny"], capsys, "--help")


def test_marks_of_what_is_none_by_default_are_read_as_python_3_10_gives_them():
    for hint in (flags.MaybeDataset, Optional[flags.MaybeDataset]):  # noqa: UP045
        assert flags.word_of("dataset", hint, "", None).positional


def test_stored_help_is_what_the_recipes_say():
    assert STORED.read_text(encoding="utf-8") == make_help.text(), "run python scripts/make_help.py"


@pytest.mark.parametrize(("words", "said"), [(["vla"], "--strategy {baseline,"), ([], "Train a latent action model")])
def test_help_of_training_imports_no_torch_and_says_the_same(words, said, capsys):
    words = ["train", *words, "--help"]
    code = f"import sys; from lattok.cli import main; main({words}); print('torch' in sys.modules)"
    known = dict(os.environ)  # without it readline's own COLUMNS, which is not in os.environ, is passed on as well
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=known)
    assert said in done.stdout
    assert done.stdout.splitlines()[-1] == "False"
    assert done.stdout.rpartition("False\n")[0] == help_of(words[:-1], capsys, "--help")


def test_flags_win_whatever_way_they_are_written(dataset, tmp_path):
    out = tmp_path / "tok"
    words = [
        "--steps=2",
        "--batch_size",
        "8",
        "--dilations",
        "1",
        "2",
        "--no-fft",
        "--mask-weight",
        "0.2",
        "--lr",
        "1e-3",
    ]
    assert main(["train", "action_vq", dataset, "--out", str(out), "--horizon", "4", *QUICK, *words]) == 0
    config, loop = lattok.load(out).config, lattok.load(out).trained_on["loop"]
    assert (config.dilations, config.fft, config.mask_weight) == ((1, 2), False, 0.2)
    assert (loop["steps"], loop["batch_size"], loop["lr"]) == (2, 8, 1e-3)


class Full(io.StringIO):
    """A stream onto a disk that is full."""

    def write(self, text):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_output_that_cannot_be_written_is_said_without_advice_about_folders(dataset, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdout", Full())
    assert main(["inspect", dataset]) == 2
    assert capsys.readouterr().err == "lattok: cannot write the output: No space left on device.\n"


def test_options_that_errors_name_are_those_that_are_typed():
    words = [flags.word_of(name, hint, "", None) for name, hint in (("from_", str), ("head", str), ("resume", bool))]
    assert flags.as_typed("proprio=False.", [flags.word_of("proprio", bool, "", True)]) == "--no-proprio."
    said = "from_='video' goes with head=flow (resume=True), not with xhead=1"
    assert flags.as_typed(said, words) == "--from 'video' goes with --head flow (--resume), not with xhead=1"
    assert flags.word_of("stages", Literal["a", "b", "a,b"], "", "a").shown == "--stages {a|b|a,b}"
