"""Alerts: each is told of in the handbook, fires where it should, and speaks of series that exist."""

import re
import subprocess
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml
from support.prometheus import PROMTOOL, needs_promtool
from support.promql import selectors

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "prometheus"
RULES = [
    rule for group in yaml.safe_load((FOLDER / "rules.yml").read_text("utf-8"))["groups"] for rule in group["rules"]
]
ALERTS = {rule["alert"]: rule for rule in RULES if "alert" in rule}
CASE_FILES = ("rules_test.yml", "rules_days_test.yml")
CASES = [case for name in CASE_FILES for case in yaml.safe_load((FOLDER / name).read_text("utf-8"))["tests"]]
HANDBOOK = (ROOT / "docs" / "operations.md").read_text("utf-8")

# What has to raise an alarm, whatever it is called.
PROMISED = {
    "rhapsode_build_info",
    "rhapsode:calls_failed:ratio_rate1h",
    "rhapsode_time_to_first_token_seconds_bucket",
    "rhapsode_requests_waiting",
    "rhapsode_kv_blocks_used",
    "rhapsode_worker_restarts_total",
    "rhapsode_version_state",
    "rhapsode_model_directory_readable",
    "rhapsode_swaps_total",
    "rhapsode_last_decision_timestamp_seconds",
    "kube_job_failed",
}


def handbook_section(alert: str) -> str:
    found = re.search(rf"^### {alert}\n(.*?)(?=^#|\Z)", HANDBOOK, re.MULTILINE | re.DOTALL)
    assert found, f"docs/operations.md has no section {alert}"
    return found[1]


def cases_of(alert: str) -> list[dict[str, Any]]:
    return [check for case in CASES for check in case.get("alert_rule_test", ()) if check["alertname"] == alert]


def promtool(*arguments: str) -> str:
    assert PROMTOOL
    done = subprocess.run([PROMTOOL, *arguments], cwd=FOLDER, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_everything_promised_raises_an_alarm() -> None:
    watched = {name for rule in ALERTS.values() for name, _ in selectors(rule["expr"])}
    assert watched >= PROMISED


def test_no_two_rules_have_one_name() -> None:
    names = [rule.get("alert") or rule["record"] for rule in RULES]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_says_how_bad_it_is_and_where_to_read_on(alert: str) -> None:
    rule = ALERTS[alert]
    assert rule["labels"]["severity"] in {"critical", "warning", "info"}
    assert rule["annotations"]["summary"].endswith(".")
    assert rule["annotations"]["runbook"] == f"docs/operations.md#{alert.lower()}"
    text = handbook_section(alert)
    assert "*Means*: " in text
    assert "*Do*: " in text


def test_the_handbook_tells_of_no_alert_that_is_not_there() -> None:
    assert set(re.findall(r"^### (Rhapsode\w+)$", HANDBOOK, re.MULTILINE)) == set(ALERTS)


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_is_tried_where_it_fires_and_where_it_does_not(alert: str) -> None:
    fires = [bool(case["exp_alerts"]) for case in cases_of(alert)]
    assert set(fires) == {True, False}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.get("alert") or rule["record"])
def test_an_expression_is_valid(rule: dict[str, Any]) -> None:
    assert isinstance(promql_parser.parse(rule["expr"]), promql_parser.Expr)
    recorded = {other["record"] for other in RULES if "record" in other}
    assert {name for name, _ in selectors(rule["expr"]) if ":" in name} <= recorded


@needs_promtool
def test_promtool_has_nothing_to_say() -> None:
    promtool("check", "rules", "--lint=all", "--lint-fatal", "rules.yml")


@needs_promtool
def test_alerts_fire_when_they_should() -> None:
    promtool("test", "rules", *CASE_FILES)
