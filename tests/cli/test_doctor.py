"""`lattok doctor` says what is wrong and what to do, and never fails over what it looks at."""

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import av
import pytest

from lattok.cli import doctor, main
from lattok.cli.doctor import Diagnosis, diagnose, examine
from lattok.data import sample_dataset_path
from lattok.evaluation.questions import criteria
from lattok.evaluation.wording import NEEDS_TRAINING
from lattok.utils.findings import Finding
from lattok.version import install_extra
from tests.evaluation.worlds import tiny_lam


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny_lam().save_pretrained(tmp_path / "lam")
    return tmp_path / "lam"


@pytest.fixture
def healthy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment is another test's business."""
    monkeypatch.setattr(doctor, "PROBES", ())


def evaluated(folder: Path, **values) -> None:
    (folder / "evaluation.json").write_text(json.dumps({"headline": "Fair.", "figures": {}, **values}))


def about(*subjects: object) -> str:
    text = diagnose([str(subject) for subject in subjects]).render()
    long = [line[8:] for line in text.splitlines() if len(line) > 88]  # after the severity
    assert all(said.startswith("lattok ") or " " not in said for said in long)  # to be copied
    return " ".join(text.split())


def test_the_environment(capsys):
    """Whatever machine this is: a report that fits the terminal, and PyAV from PyPI has all codecs."""
    section = examine("environment", doctor.PROBES)
    facts = dict(fact for fact in section.facts if fact[0])
    assert facts["decoders"].startswith("h264, av1, vp9 (PyAV ")
    assert "torch " in facts["packages"]
    assert not [finding for finding in section.findings if "Looking at" in finding.what]
    assert max(map(len, Diagnosis((section,)).render().splitlines())) <= 88


def test_a_probe_that_fails_is_a_finding_and_the_others_go_on():
    def broken_package():
        yield "fact", "before"
        raise SystemError("initialization of _core failed\nwith a second line")

    def fine():
        yield "fact", "after"

    section = examine("x", [broken_package, fine])
    assert section.facts == (("fact", "before"), ("fact", "after"))
    (finding,) = section.findings
    assert finding.what == "Looking at broken package failed: SystemError: initialization of _core failed."


def test_without_torch_and_av_there_is_still_a_diagnosis():
    """A broken import of anything heavy must not be a traceback."""
    code = """if True:
        import sys
        class Broken:
            def find_spec(name, path=None, target=None):
                if name in ("torch", "av", "numpy", "pyarrow"):
                    raise OSError(f"lib{name}.so: cannot open shared object file")
        sys.meta_path.insert(0, Broken)
        from lattok.cli import main
        sys.exit(main(["doctor", "some/folder"]))
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "Traceback" not in done.stdout + done.stderr
    assert "torch " in done.stdout
    assert "lattok's own modules cannot be imported" in " ".join(done.stdout.split())


def test_packages_that_are_missing_or_do_not_load(monkeypatch):
    """Whether versions fit together is for `pip check` to say, which a package that does not load points to."""
    monkeypatch.setattr(doctor, "installed", lambda names: {"numpy": "2.1.0", "h5py": "3.0"})
    monkeypatch.setitem(sys.modules, "h5py", None)
    found = [f for probe in (doctor.versions, doctor.imports) for f in probe() if isinstance(f, Finding)]
    assert "pyarrow is not installed." in [finding.what for finding in found]
    (broken,) = [finding for finding in found if finding.what.startswith("h5py 3.0 is installed but does not work")]
    assert (broken.severity, "pip check" in broken.advice) == ("warning", True)


def test_container_limits(monkeypatch, tmp_path):
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    monkeypatch.setattr("lattok.utils.devices.CPU_LIMIT", tmp_path / "cpu.max")
    monkeypatch.setattr("torch.get_num_threads", lambda: 8)
    found = list(doctor.processors())
    assert any("0.5" in text for label, text in found if label == "cpu")
    assert any("Set OMP_NUM_THREADS=1." in f.advice for f in found if isinstance(f, Finding))
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert doctor.cpu_quota() is None


def test_full_disks_and_offline_hubs(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "not" / "there"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(doctor, "LOW_DISK_GB", 1e9)
    text = " ".join(f.what for f in (*doctor.disks(), *doctor.hub_variables()) if isinstance(f, Finding))
    assert f"{tmp_path / 'not' / 'there' / 'hub'} has " in text
    assert "The Hub is offline" in text


def test_simulators_that_are_missing_or_do_not_render(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("sys.version_info", (3, 12, 0))
        patch.setattr(doctor, "installed", lambda names: {})
        assert list(doctor.simulation()) == [("simulator", "not there (extra sim)")]
        patch.setattr(doctor, "installed", lambda names: {"mujoco": "3.3.0", "metaworld": "3.1.1"})
        fact, finding = doctor.simulation()
        assert fact == ("simulator", "mujoco 3.3.0, metaworld 3.1.1")
        assert finding[:3] == ("note", "gymnasium, ogbench of the extra sim is not installed.", SIM)
        patch.setattr("sys.version_info", (3, 14, 0))
        patch.setattr(doctor, "installed", lambda names: {"gymnasium": "1.1", "mujoco": "4.0.0"})
        _, *found = doctor.simulation()
        assert [finding.what.split()[0] for finding in found] == ["metaworld", "ogbench"]
        assert found[1].what.endswith("labmaze, which its dm-control needs, has no wheel for this Python.")
        assert found[1].advice == "For its tasks, use Python 3.12."
    pytest.importorskip("metaworld")
    from lattok.sim import rendering

    monkeypatch.setattr(rendering, "NO_IMAGES", "no library for MUJOCO_GL=egl")
    (finding,) = (each for each in list(doctor.simulation())[1:] if "OpenGL" in each.what)
    assert finding.severity == "warning"
    assert "OpenGL, which does not start here (no library for MUJOCO_GL=egl)." in finding.what
    assert "apt-get install libegl1" in finding.advice


SIM = f"For closed-loop work, install the extra ({install_extra('sim')})."


def test_a_missing_encoder(monkeypatch):
    monkeypatch.setitem(doctor.CODECS, "h264", ("no such encoder",))
    assert [f.what for f in doctor.media() if isinstance(f, Finding)] == [
        f"PyAV {av.__version__} has no encoder for h264."
    ]


@pytest.mark.usefixtures("healthy")
def test_a_healthy_model_and_dataset(folder: Path, capsys):
    assert main(["doctor", str(folder), str(sample_dataset_path())]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "parameters, all there" in text
    assert "It was never evaluated. Run: lattok evaluate" in text
    assert "50 episodes, 4,059 frames" in text
    (folder / "training.json").write_text('{"dataset": "x"}')  # all entries may be missing
    assert "training x note" in about(folder)
    assert "0 errors, 0 warnings" in text


@pytest.mark.usefixtures("healthy")
def test_errors_make_exit_code_1(tmp_path: Path, capsys):
    assert main(["doctor", str(tmp_path / "nothing")]) == 1
    assert "1 error," in capsys.readouterr().out


@pytest.mark.usefixtures("healthy")
def test_models_that_do_not_load(folder: Path):
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(b"\0" * 64)
    assert "error" in about(folder)
    (folder / "model.safetensors").write_bytes(weights)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "features": "timm:local-dir:/no/such/folder"}))
    assert "Its image features cannot be reached" in about(folder)
    (folder / "config.json").write_text("[]")
    assert "expected a JSON object" in about(folder)


@pytest.mark.usefixtures("healthy")
def test_every_verdict_is_repeated_with_what_to_do(folder: Path):
    evaluated(folder)
    assert "holds no verdicts" in about(folder)
    verdicts = [
        {"text": "Codes fine", "holds": True, "key": "codes_in_use"},
        {"text": "No better", "holds": False, "key": "latents_against_controls"},
        {"text": f"Labels alone: {NEEDS_TRAINING}", "holds": None, "key": "trained_controls"},
    ]
    evaluated(folder, verdicts=verdicts)
    text = about(folder)
    assert "evaluated Fair. holds Codes fine" in text
    assert f"warning Falls short: No better. {criteria()['latents_against_controls'].elsewhere}" in text
    assert f"Train the controls too: lattok evaluate {folder} DATASET --controls trained" in text
    (folder / "run").mkdir()
    for written, name in (('{"dataset": "my data"}', "'my data'"), ('{"dataset": 3}', "DATASET"), ("{", "DATASET")):
        (folder / "run/recipe.json").write_text(written)
        assert f"Train the controls too: lattok evaluate {folder} {name} --controls trained" in about(folder)
    (folder / "run/recipe.json").write_text('{"dataset": "data", "options": {"action_key": "expert_action"}}')
    assert (
        f"Train the controls too: lattok evaluate {folder} data --action-key expert_action --controls trained"
        in about(folder)
    )
    assert "1 holds up, 1 falls short, 1 is unclear." in text


@pytest.mark.usefixtures("healthy")
def test_a_run_that_waits_for_data_is_told_so(tmp_path: Path):
    metrics = tmp_path / "run" / "metrics.jsonl"
    metrics.parent.mkdir()
    metrics.write_text('{"step": 50, "data_wait": 0.5}\n{"step": 100, "data_wait": 0.3}\n')
    text = about(tmp_path)
    assert "data wait 40.0% of the time until step 100" in text
    assert "Its steps waited for data 40% of the time. Give it more cores" in text
    metrics.write_text('{"step": 50, "data_wait": 0.01}\n')
    assert "waited for data" not in about(tmp_path)
    metrics.write_text("")  # stopped before anything was logged
    assert "metrics.jsonl" not in about(tmp_path)


def test_a_run_without_a_model_is_told_how_it_goes_on(make_dataset: Callable, tmp_path: Path, monkeypatch, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    data, run = make_dataset([12, 15, 11, 14]).root, tmp_path / "my run"
    words = ["train", "action-vq", str(data), "--out", str(run), "--preset", "quick", "--steps", "2", "--horizon", "2"]
    with monkeypatch.context() as stopped:
        stopped.setattr("lattok.recipes.action_vq.fit", interrupted)
        assert main([*words, "--device", "cpu"]) == 130
    capsys.readouterr()
    text = about(run)
    assert "run action-vq, preset quick, on " in text
    (command,) = re.findall("Continue it, if it does not run now: lattok (train action-vq --out .* --resume)", text)
    assert main(shlex.split(command)) == 0
    assert "not finished" not in about(run)


@pytest.mark.usefixtures("healthy")
def test_findings_of_a_dataset_and_its_labels(make_dataset: Callable):
    dataset = make_dataset([20, 30])
    entry = {
        "model": {"type": "image-lam", "model": "my-lam", "weights_sha256": "ab" * 32},
        "columns": {"latent.codes": {"dtype": "int64", "shape": [4]}},
        "dataset": {"name": "arm", "episodes": 3},
        "unlabelled": [{"episodes": [1], "reason": "its video is truncated"}],
        "unreadable": [{"file": "data/x.parquet", "first": 20, "last": 50, "column": "reward"}],
        "versions": {"lattok": "0.1.0", "torch": "2.15.0"},
    }
    (dataset.root / "meta" / "lattok.json").write_text(json.dumps({"latent": entry, "other": 5}))
    dataset.data_file(0).write_bytes(b"")
    text = about(dataset.root)
    assert "is no complete Parquet file" in text
    assert "declares columns that do not exist: latent.codes." in text
    assert "`latent`: 1 episode has no labels (1): its video is truncated" in text
    assert "`reward` of data/x.parquet could not be copied for rows 20 to 50" in text
    assert "made with lattok 0.1.0, torch 2.15.0" in text
    assert "made for 3 episodes, the dataset has 2" in text
    assert "`other` declares no model and columns" in text
    (dataset.root / "meta" / "lattok.json").write_text(json.dumps({"latent": {**entry, "unlabelled": [7]}}))
    assert "latent.unlabelled[0]` in" in about(dataset.root)


@pytest.mark.usefixtures("healthy")
def test_labels_beside_a_dataset(tmp_path: Path):
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta" / "lattok.json").write_text("{}")
    assert "labels holds no parquet file." in about(tmp_path)
