"""`lattok convert` and `lattok push`: published checkpoints become lattok models, and models are published."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

import lattok
from lattok.cli.flags import File, Names, Out, Text, Verb, of_function, text_of
from lattok.utils import checks
from lattok.utils.output import Output


def convert_verb(name: str) -> Verb | None:
    """Return the verb `lattok convert NAME`, if there is one: its options are the keywords of the importer."""
    from lattok.hub import OWN
    from lattok.hub.importers import IMPORTERS
    from lattok.hub.networks import way_in

    if name not in IMPORTERS:
        return None
    importer = IMPORTERS[name]
    read = importer.read
    about, _, rest = (inspect.getdoc(read) or "").partition("\n")
    options = of_function(read)
    example = rest.partition("Example: ")[2].partition("\n")[0]

    def verb(file: File, out: Out, model: Any = options) -> None:
        for argument, place in {"out": out, **model}.items():
            if argument in ("out", "features_out") and place is not None:
                Output(Path(place).expanduser(), argument).check_new()
        converted = read(file, **model)
        given = [f"{option} {text_of(value)}" for option, value in model.items() if value not in (None, ())]
        print(f"Found: {converted.summary()}; taken as given: {', '.join(given)}.")
        if importer.mind:
            print(importer.mind.replace("`", ""))
        with Output(Path(out).expanduser()).filled(OWN):
            converted.save_pretrained(Path(out).expanduser())
        print(f"Saved in {out}. {converted.next_step(out)}{way_in(converted.config)}")

    return Verb(verb, text=f"{about}\n\nExample: {example}")


def push(
    folder: Annotated[Positional[str], arg(metavar="DIR")],
    repo_id: Annotated[Positional[str], arg(metavar="ORG/NAME")],
    private: bool = False,
    license: Text = None,
    message: Text = None,
    revision: Text = None,
    create_pr: bool = False,
    include: Names = (),
) -> None:
    """Publish a model or an annotated dataset on the Hub, with its card. Log in before (`hf auth login`).

    Example: lattok push my-lam my-name/my-lam --license apache-2.0

    Args:
        folder: Folder of a model, of a LeRobot dataset, or of labels that annotate wrote for another dataset.
        repo_id: Name on the Hub.
        private: Make the repository private.
        license: Short name of a licence for the card, such as apache-2.0.
        message: Message of the commit.
        revision: Branch; it is made where it is not there.
        create_pr: Open a pull request instead.
        include: Further files of a dataset's folder, by their paths in it; nothing else goes up but the dataset.
    """
    from lattok.labels.sharing import listing

    options: dict[str, Any] = {"license": license, "commit_message": message, "revision": revision}
    options |= {"create_pr": create_pr, "private": private or None}
    if (Path(folder) / "report.json").is_file():
        hint = "Push the model: its card says what its last evaluation gave."
        checks.fail("folder", "that of a model, a dataset or labels", f"{folder}, which holds a report", hint)
    if (Path(folder) / "meta").is_dir():
        print(listing(folder, include).report(), flush=True)  # before anything is sent
        print(lattok.push_dataset(folder, repo_id, include=include, **options))
    elif include:
        checks.fail("include", "to be left out: a model goes up with its own files", " ".join(include))
    else:
        print(lattok.load(folder).push_to_hub(repo_id, **options))
