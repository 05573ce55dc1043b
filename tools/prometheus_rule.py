"""Writes the alert rules of deploy/prometheus/rules.yml as a PrometheusRule for deploy/kubernetes; --check compares."""

import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
RULES = ROOT / "deploy" / "prometheus" / "rules.yml"
RESOURCE = ROOT / "deploy" / "kubernetes" / "components" / "monitoring" / "rules.yaml"


def prometheus_rule(rules: str) -> str:
    """The resource that holds the groups of a file of rules."""
    resource = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "rhapsode"},
        "spec": yaml.safe_load(rules),
    }
    text = yaml.safe_dump(resource, sort_keys=False, width=1000, allow_unicode=True)
    return f"# Generated from deploy/prometheus/rules.yml by tools/prometheus_rule.py.\n{text}"


def main(arguments: list[str]) -> int:
    """Exit codes: 0, or 1 where --check finds a difference."""
    wanted = prometheus_rule(RULES.read_text(encoding="utf-8"))
    if "--check" not in arguments:
        RESOURCE.write_text(wanted, encoding="utf-8")
    elif not RESOURCE.exists() or RESOURCE.read_text(encoding="utf-8") != wanted:
        print(
            f"{RESOURCE.relative_to(ROOT)} is not that of the rules: python tools/prometheus_rule.py", file=sys.stderr
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
