"""What is wrong with this machine, with models and with datasets, and what to do about it: `lattok doctor`.

Nothing is changed. Whatever is missing or broken becomes a finding: importing this package needs none of the packages
that it looks at, and every probe is guarded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from lattok.utils.checks import LattokError, first_line
from lattok.utils.findings import ORDER, WIDTH, Finding, Found, by_severity, fitted, lines

Probe = Callable[..., Found]


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
        """Tell whether there are no errors; warnings and notes may be."""
        return not any(finding.severity == "error" for section in self.sections for finding in section.findings)

    def render(self) -> str:
        """Return plain text, at most 88 columns wide."""
        text: list[str] = []
        counts = dict.fromkeys(ORDER, 0)
        for section in self.sections:
            text += [section.title[:WIDTH], *(fitted(label, fact) for label, fact in section.facts)]
            text += ["", *lines(section.findings), ""] if section.findings else ["", "Nothing to repair.", ""]
            for finding in section.findings:
                counts[finding.severity] += 1
        plural = ", ".join(f"{count} {kind}{'s' * (count != 1)}" for kind, count in counts.items())
        return "\n".join([*text, f"{plural}."])


def diagnose(subjects: Sequence[str] = (), revision: str | None = None) -> Diagnosis:
    """Examine the environment, then each of `subjects`: a model or a dataset, in a folder or on the Hub."""
    from lattok.cli.doctor import environment

    about = [examine(subject, _probes_of(subject), subject, revision) for subject in subjects]
    return Diagnosis((examine("environment", environment.PROBES), *about))


def examine(title: str, probes: Sequence[Probe], *subject: Any) -> Topic:
    """Run probes of a subject one after the other; one that fails is a finding, and the others go on."""
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
            what = f"Looking at {getattr(probe, '__name__', 'it').replace('_', ' ').strip()} failed: {_why(error)}."
            advice = "Install that package again; if it stays, report it with this text."
            findings.append(Finding("error", what, advice))
    return Topic(title, tuple(facts), by_severity(findings))


def _probes_of(subject: str) -> Sequence[Probe]:
    """Choose what to look at, if lattok's own modules can be imported."""
    try:
        from lattok.cli.doctor import subjects
    except Exception as error:
        what = f"lattok's own modules cannot be imported: {_why(error)}."
        return [lambda *_: iter([Finding("error", what, "Repair the environment first.")])]
    return subjects.probes_of(subject)


def _why(error: Exception) -> str:
    return f"{type(error).__name__}: {first_line(error).rstrip('.')}"
