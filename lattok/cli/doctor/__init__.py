"""What is wrong with this machine, with models and with datasets, and what to do about it: `lattok doctor`.

Nothing is changed. Whatever is missing or broken becomes a finding: importing this package needs none of the packages
that it looks at, and every probe is guarded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from lattok.checks import LattokError
from lattok.files import first_line
from lattok.findings import Finding, by_severity, fitted, lines

Probe = Callable[[], Iterator[tuple[str, str] | Finding]]  # facts (label, text) and findings, as they come


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
        """Whether there are no errors; warnings and notes may be."""
        return not any(finding.severity == "error" for section in self.sections for finding in section.findings)

    def render(self) -> str:
        """Plain text, at most 88 columns wide."""
        counts = {"error": 0, "warning": 0, "note": 0}
        text: list[str] = []
        for section in self.sections:
            text += [section.title[:88], *(fitted(label, fact) for label, fact in section.facts)]
            text += ["", *lines(section.findings), ""] if section.findings else ["", "Nothing to repair.", ""]
            for finding in section.findings:
                counts[finding.severity] += 1
        plural = ", ".join(f"{count} {kind}{'s' * (count != 1)}" for kind, count in counts.items())
        return "\n".join([*text, f"{plural}."])


def diagnose(subjects: Sequence[str] = (), revision: str | None = None) -> Diagnosis:
    """The environment, then each of `subjects`: a model or a dataset, in a folder or on the Hub."""
    from lattok.cli.doctor import environment

    sections = [examine("environment", *environment.PROBES)]
    for subject in subjects:
        sections.append(examine(subject, *_probes_of(subject, revision)))
    return Diagnosis(tuple(sections))


def examine(title: str, *probes: Probe) -> Topic:
    """Run probes one after the other; one that fails is a finding, and the others go on."""
    facts: list[tuple[str, str]] = []
    findings: list[Finding] = []
    for probe in probes:
        try:
            for found in probe():
                if isinstance(found, Finding):
                    findings.append(found)
                else:
                    facts.append(found)
        except LattokError as error:
            findings.append(Finding("error", str(error), ""))
        except Exception as error:  # a broken package may raise anything: a diagnosis must not fail over it
            what = f"Looking at {getattr(probe, '__name__', 'it').replace('_', ' ').strip()} failed: "
            advice = "Install that package again; if it stays, report it with this text."
            findings.append(Finding("error", f"{what}{type(error).__name__}: {first_line(error).rstrip('.')}.", advice))
    return Topic(title, tuple(facts), by_severity(findings))


def _probes_of(subject: str, revision: str | None) -> list[Probe]:
    def named(function: Callable[..., Iterator[tuple[str, str] | Finding]]) -> Probe:
        def probe() -> Iterator[tuple[str, str] | Finding]:
            return function(subject, revision)

        probe.__name__ = function.__name__
        return probe

    def unusable() -> Iterator[tuple[str, str] | Finding]:
        yield Finding("error", f"lattok's own modules cannot be imported: {reason}.", "Mend the environment first.")

    try:
        from lattok.cli.doctor import subjects
    except Exception as error:
        reason = f"{type(error).__name__}: {first_line(error).rstrip('.')}"
        return [unusable]
    return [named(probe) for probe in subjects.probes_of(subject)]
