"""The command line as a person uses it: help, the verbs in a row, one-line errors, Ctrl-C in a real process."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

import lattok
from lattok import cli, command_hints, signals
from lattok.cli import main

TRAINED = ("action-vq", "fast", "residual-vq", "fsq", "uniform-bins", "image-lam")
READERS = (["inspect"], *(["train", name] for name in TRAINED), ["evaluate"], ["annotate"])
PUBLISHED = ("p2t-action-vq", "p2t-image-lam", "p2t-vla", "univla-lam")
VERBS = (["demo"], *READERS, ["doctor"], ["push"], *(["convert", name] for name in PUBLISHED))
QUICK = ["--preset", "quick", "--device", "cpu", "--set", "dim=16", "--set", "codebook_size=8", "--set", "hidden=16"]


@pytest.fixture
def dataset(make_dataset):
    return str(make_dataset([12, 15, 11, 14]).root)


def help_of(words, capsys):
    with pytest.raises(SystemExit) as stop:
        main([*words, "--help"])
    assert stop.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_every_verb_has_help_with_an_example(verb, capsys):
    text = help_of(verb, capsys)
    assert f"Example: lattok {' '.join(verb)}" in text
    assert max(map(len, text.splitlines())) < 130


READING = [
    "--action-key",
    "--state-key",
    "--cameras",
    "--episodes",
    "--stride",
    "--horizon",
    "--batch-size",
    "--device",
    "--config",
]


@pytest.mark.parametrize("verb", READERS, ids=" ".join)
def test_every_verb_that_reads_data_takes_the_same_flags(verb, capsys):
    text = help_of(verb, capsys)
    assert [flag for flag in READING if flag not in text] == []


def test_overview_lists_the_verbs(capsys):
    text = help_of([], capsys)
    assert all(
        verb in text for verb in ("demo", "inspect", "train", "evaluate", "annotate", "doctor", "push", "convert")
    )
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"lattok {lattok.__version__}\n"


def test_train_evaluate_annotate_in_a_row(dataset, tmp_path, capsys):
    tokenizer, report, annotated = (str(tmp_path / name) for name in ("tok", "report", "annotated"))
    assert main(["train", "action-vq", dataset, "--out", tokenizer, "--steps", "5", "--horizon", "4", *QUICK]) == 0
    assert "Judge it: lattok evaluate" in capsys.readouterr().out
    assert main(["evaluate", tokenizer, dataset, "--out", report]) == 0
    assert "report.html" in capsys.readouterr().out
    assert json.loads((tmp_path / "report/report.json").read_text())
    assert "Not evaluated yet" not in (tmp_path / "tok/README.md").read_text()
    assert main(["annotate", dataset, "--model", tokenizer, "--out", annotated]) == 0
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
        (["train", "image-lam", "DATASET", "--out", "OUT", "--set", "colour=1"], "`options`: expected names among"),
        (["train", "image-lam", "DATASET", "--out", "OUT", "--set", "interpolation=foo"], "`interpolation`"),
        (
            ["train", "action-vq", "DATASET", "--out", "/dev/null/x", "--preset", "quick"],
            "cannot write into /dev/null/x",
        ),
        (["inspect", "DATASET", "--config", "CONFIG"], "`episodes`: expected a value of type"),
        (
            ["annotate", "DATASET", "--model", "OUT", "--out", "OUT2", "--episodes", "0:2"],
            "`episodes` cannot be chosen",
        ),
        (["evaluate", "OUT", "DATASET"], "`model`: expected a folder with config.json"),
        (["annotate", "DATASET", "--model", "OUT", "--out", "OUT2"], "`model`: expected a folder with config.json"),
    ],
)
def test_bad_input_is_one_line_and_code_2(words, text, dataset, tmp_path, capsys):
    places = {"DATASET": dataset, "OUT": str(tmp_path / "out"), "OUT2": str(tmp_path / "out2")}
    places["CONFIG"] = str(tmp_path / "config.json")
    (tmp_path / "config.json").write_text('{"episodes": [1.5]}')
    assert main([places.get(word, word) for word in words]) == 2
    error = capsys.readouterr().err
    assert re.fullmatch(r"lattok: [^\n]*\n", error), error
    assert text in error
    assert not (tmp_path / "out").exists()


def test_flags_that_contradict_the_model_are_refused(dataset, tmp_path, capsys):
    tokenizer = str(tmp_path / "tok")
    assert main(["train", "action-vq", dataset, "--out", tokenizer, "--steps", "2", "--horizon", "4", *QUICK]) == 0
    assert main(["evaluate", tokenizer, dataset, "--horizon", "8"]) == 2
    assert "`horizon`: expected 4, which the tokenizer was trained with, got 8" in capsys.readouterr().err


def test_flags_without_effect_are_mentioned_not_refused(dataset, tmp_path, capsys):
    words = ["train", "action-vq", dataset, "--out", str(tmp_path / "tok"), "--steps", "2", "--horizon", "4"]
    assert main([*words, *QUICK, "--features", "pixels", "--cameras", "front", "--state-key", "reward"]) == 0
    notes = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: ")]
    assert notes == [f"note: --{flag} has no effect here" for flag in ("cameras", "features", "state-key")]


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


def test_flags_win_over_the_config_file(dataset, tmp_path):
    path = tmp_path / "options.json"
    path.write_text(json.dumps({"steps": 50, "horizon": 3}))
    words = ["train", "action-vq", dataset, "--out", str(tmp_path / "tok"), "--steps", "2", "--config", str(path)]
    assert main([*words, *QUICK]) == 0
    assert lattok.load(tmp_path / "tok").horizon == 3
    assert json.loads((tmp_path / "tok/run/recipe.json").read_text())["options"]["steps"] == 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_every_verb_hears_requests_to_stop(number, monkeypatch, capsys):
    before = [signal.getsignal(each) for each in signals.ASKING]

    def stopped(*_):
        os.kill(os.getpid(), number)
        time.sleep(5)

    monkeypatch.setattr("lattok.recipes.verbs.evaluate_verb", stopped)
    assert main(["evaluate", "model", "data"]) == 128 + number
    assert capsys.readouterr().err == "\nlattok: interrupted; run the same command again\n"
    assert [signal.getsignal(each) for each in signals.ASKING] == before


def test_memory_that_runs_out_is_one_line(monkeypatch, capsys):
    for error in (MemoryError(), RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")):
        monkeypatch.setattr("lattok.recipes.verbs.evaluate_verb", lambda *_, e=error: (_ for _ in ()).throw(e))
        assert main(["evaluate", "model", "data"]) == 2
        assert capsys.readouterr().err.startswith("lattok: out of memory. ")


def test_a_request_to_stop_saves_says_how_to_continue_and_the_result_is_the_same(dataset, tmp_path):
    def command(out, *more):
        words = [sys.executable, "-m", "lattok", "train", "action-vq", dataset, "--out", str(tmp_path / out), *more]
        return [*words, "--device", "cpu"]

    options = ["--steps", "120", *QUICK[:-8], "--set", "log_every=10", *QUICK[-6:]]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(command("whole", *options), check=True, capture_output=True, env=environment)
    words, metrics = command("parts", *options), tmp_path / "parts/run/metrics.jsonl"
    for number, logged in ((signal.SIGTERM, 2), (signal.SIGINT, 4)):
        process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=environment)
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and not (metrics.exists() and metrics.read_text().count("\n") >= logged):
            time.sleep(0.02)
        process.send_signal(number)
        errors = process.communicate(timeout=60)[1]
        if process.returncode == 0:  # it may have finished first on a fast machine; then there is nothing to resume
            break
        assert process.returncode == 128 + number, errors
        line = errors.strip().splitlines()[-1]
        again = re.search(r"Saved at step \d+ of 120 .*Continue with: lattok (.*)", line).group(1).split()
        words = [sys.executable, "-m", "lattok", *again]
    else:
        done = subprocess.run(words, capture_output=True, text=True, env=environment, check=True)
        assert "Saved in" in done.stdout
    hashes = [lattok.load(tmp_path / out).describe()["weights_sha256"] for out in ("whole", "parts")]
    assert hashes[0] == hashes[1]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["trian", "action-vq"], "lattok has no `trian`. Did you mean train? See lattok --help."),
        (["frobnicate"], "lattok has no `frobnicate`. There are demo, inspect, train,"),
        (["train"], "lattok train needs one of action-vq, fast,"),
        (["convert"], "lattok convert needs one of p2t-action-vq,"),
        (["train", "image-lm", "D"], "lattok train has no `image-lm`. Did you mean image-lam?"),
        (["convert", "univla"], "lattok convert has no `univla`. Did you mean univla-lam?"),
        (["train", "action-vq", "D", "--out", "x", "--lr", "1e-3"], "--set NAME=VALUE: --set lr=1e-3"),
        (["train", "action-vq", "D", "--out", "x", "--lr=1e-3"], "--set lr=1e-3"),
        (["train", "action-vq", "D", "--out", "x", "--learning_rate", "1e-3"], "--set lr=1e-3"),
        (["train", "action_vq", "D", "--out", "x", "--codebook-size=8"], "--set codebook_size=8"),
        (["train", "image-lam", "D", "--out", "x", "--epochs", "3"], "Did you mean --steps?"),
        (["train", "fast", "D", "--output_dir", "x"], "Did you mean --out?"),
        (["train", "action-vq", "--dataset.repo_id=foo", "--out", "x"], "lattok train action-vq DATASET --out DIR"),
        (["train", "vla", "D", "--out", "x", "--frobnicate"], "See lattok train vla --help; other options: --set"),
        (["inspect", "caf\udce9"], "expected text in UTF-8, got other bytes"),
    ],
)
def test_what_is_nearly_right_gets_one_line_that_says_so(words, says, capsys):
    assert main(words) == 2
    error = capsys.readouterr().err
    assert re.fullmatch(r"lattok: [^\n]*\n", error), error
    assert says in error


def test_every_verb_is_known_to_the_hints(capsys):
    listed = help_of([], capsys)
    assert [verb for verb in command_hints.VERBS if not re.search(rf"\b{verb}\b", listed)] == []
    assert [verb for verb in command_hints.CONVERT if verb not in help_of(["convert"], capsys)] == []
    for verbs in (command_hints.VERBS, command_hints.CONVERT):
        assert len(set(verbs)) == len(verbs)
    assert set(re.search(r"\{([a-z,-]+)\}", listed)[1].split(",")) == set(command_hints.VERBS)
    for words in (["train", "--help"], ["convert", "-h"], ["train", "fast", "--help"]):
        assert command_hints.hint_for(words, {"fast": ["out"]}, lambda verb: ()) == ""


def test_flags_of_every_train_verb_pass(capsys):
    for verb, names in cli._train_flags().items():
        words = [part for name in names for part in (f"--{name.replace('_', '-')}", "1")]
        assert command_hints.hint_for(["train", verb, "D", *words], cli._train_flags(), lambda verb: ()) == ""


def lattok_process(words, **options):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **options.pop("env", {})}
    return subprocess.run(
        [sys.executable, "-m", "lattok", *words], stderr=subprocess.PIPE, text=True, env=environment, **options
    )


def test_a_terminal_that_knows_only_ascii_is_no_reason_to_fail(make_dataset):
    dataset = make_dataset([12, 15], tasks=("öffne die Tür", "drück den Knopf"))
    done = lattok_process(["inspect", str(dataset.root)], env={"PYTHONIOENCODING": "ascii"}, stdout=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (0, "")
    assert "?ffne die T?r" in done.stdout


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_output_that_cannot_be_written_is_said_without_advice_about_folders(dataset):
    with open("/dev/full", "w") as full:
        done = lattok_process(["inspect", dataset], stdout=full)
    assert done.returncode == 2
    assert done.stderr == "lattok: cannot write what there is to say: No space left on device.\n"
