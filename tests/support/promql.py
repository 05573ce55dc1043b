"""What PromQL expressions ask for."""

import promql_parser


def grafana_query(expr: str, rate_interval: str = "1m") -> str:
    """`expr` as Grafana sends it with every variable at All."""
    return expr.replace("$__rate_interval", rate_interval).replace("$instance", ".*").replace("$model", ".*")


def selectors(expr: str) -> list[tuple[str, set[str]]]:
    """The name of every series that it reads, with the labels that it asks for."""
    found: list[tuple[str, set[str]]] = []

    def note(node: promql_parser.Expr) -> None:
        if isinstance(node, promql_parser.VectorSelector):
            assert node.name, f"a selector without a name: {expr}"
            found.append((node.name, {matcher.name for matcher in node.matchers.matchers}))

    promql_parser.walk(promql_parser.parse(expr), note)
    return found
