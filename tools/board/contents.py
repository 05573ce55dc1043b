"""What the dashboard shows: its queries are checked against what a running server exports."""

from board.engines import ENGINE, PROCESSES, VERSIONS
from board.grafana import Dashboard, Query, Variable
from board.queries import MODEL
from board.traffic import CALLS, LATENCY, NOW

DASHBOARD = Dashboard(
    title="Rhapsode",
    uid="rhapsode",
    description="Servers of language models: calls, latency, engines, versions.",
    variables=(
        Variable(name="instance", metric="rhapsode_build_info"),
        Variable(name="model", metric="rhapsode_version_state"),
    ),
    marks={
        "Swaps": Query(
            expr=f"sum by (model, result) (changes(rhapsode_swaps_total{{{MODEL}}}[1m])) > 0",
            legend="{{model}}: {{result}}",
        ),
    },
    rows=(NOW, CALLS, LATENCY, ENGINE, VERSIONS, PROCESSES),
)
