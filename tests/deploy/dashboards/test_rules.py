"""Recording rules and alerts, judged by promtool: they are well-formed, fire when they should, and are silent when they should."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.needs import need

from .catalogues import ALERTS, FOLDER, RULES, Rule, title

UNIT_TESTS = sorted((RULES / "tests").glob("*.yaml"))
CHECKS = [
    check
    for path in UNIT_TESTS
    for test in yaml.safe_load(path.read_text(encoding="utf-8"))["tests"]
    for check in test["alert_rule_test"]
]
SECTIONS = ["## Meaning", "## Impact", "## Diagnosis", "## Mitigation"]


def test_promtool_accepts_the_rules() -> None:
    """`promtool check rules` finds nothing wrong with either file."""
    command = [need("promtool"), "check", "rules", str(RULES / "recording.yaml"), str(RULES / "alerts.yaml")]
    checked = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.parametrize("path", UNIT_TESTS, ids=lambda path: path.stem)
def test_alerts_fire_and_are_silent_as_described(path: Path) -> None:
    """`promtool test rules`: each case says what happens and which alerts are to fire, with their texts."""
    tested = subprocess.run([need("promtool"), "test", "rules", str(path)], capture_output=True, text=True, timeout=100)
    assert tested.returncode == 0, tested.stdout + tested.stderr


@pytest.mark.parametrize("alert", ALERTS, ids=title)
def test_every_alert_has_a_case_in_which_it_fires_and_one_in_which_it_is_silent(alert: Rule) -> None:
    """Of every severity and window."""
    cases = [check["exp_alerts"] for check in CHECKS if check["alertname"] == alert.name]
    assert [] in cases
    fired = [labels for case in cases for labels in (one["exp_labels"] for one in case)]
    assert any(alert.labels.items() <= labels.items() for labels in fired)


@pytest.mark.parametrize("alert", ALERTS, ids=title)
def test_every_alert_says_what_is_the_matter_and_what_to_do(alert: Rule) -> None:
    """A severity, a summary that fits in a message, a description, and a runbook that exists under its name."""
    assert alert.labels["severity"] in {"critical", "warning"}
    assert alert.labels["service"] == "tidegate"
    assert 10 < len(alert.annotations["summary"]) < 120
    assert len(alert.annotations["description"]) > len(alert.annotations["summary"])
    assert alert.annotations["runbook_url"] == f"dashboards/runbooks/{alert.name}.md"
    assert (FOLDER / "runbooks" / f"{alert.name}.md").is_file()


@pytest.mark.parametrize("path", sorted((FOLDER / "runbooks").glob("*.md")), ids=lambda path: path.stem)
def test_every_runbook_is_for_an_alert_and_complete(path: Path) -> None:
    """Meaning, impact, diagnosis and mitigation, in this order, with at least one command or query to try."""
    assert path.stem in {alert.name for alert in ALERTS}
    text = path.read_text(encoding="utf-8")
    assert text.startswith(f"# {path.stem}\n")
    assert [line for line in text.splitlines() if line.startswith("## ")] == SECTIONS
    assert "```" in text


def test_the_documentation_lists_every_alert() -> None:
    """With a link to its runbook, and with no alert that is no more."""
    page = (FOLDER.parent / "docs" / "observability.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| \[`(\w+)`\]\(\.\./dashboards/runbooks/(\w+)\.md\)", page, re.MULTILINE)
    assert all(name == runbook for name, runbook in listed)
    assert {name for name, _ in listed} == {alert.name for alert in ALERTS}
