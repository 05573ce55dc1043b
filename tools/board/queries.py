"""Queries and panels that occur again and again."""

from board.grafana import Panel, Query

MODEL = 'instance=~"$instance", model=~"$model"'
SERVER = 'instance=~"$instance"'
OURS = f"and on (job, instance) rhapsode_build_info{{{SERVER}}}"


def rate(metric: str, *, by: str, where: str = MODEL) -> str:
    return f"sum by ({by}) (rate({metric}{{{where}}}[$__rate_interval]))"


def ratio(part: str, whole: str) -> str:
    return f"{part}\n  / {whole}"


def quantiles(histogram: str, *quantiles: float) -> tuple[Query, ...]:
    return tuple(
        Query(
            expr=f"histogram_quantile({quantile}, {rate(f'{histogram}_bucket', by='model, le')})",
            legend=f"{{{{model}}}} p{quantile * 100:g}",
        )
        for quantile in quantiles
    )


def latency(title: str, histogram: str, description: str) -> Panel:
    return Panel(title=title, description=description, unit="s", queries=quantiles(histogram, 0.5, 0.95, 0.99))


def mean(histogram: str) -> Query:
    by = "model, version"
    expr = ratio(rate(f"{histogram}_sum", by=by), rate(f"{histogram}_count", by=by))
    return Query(expr=expr, legend="{{model}} {{version}}")


def stat(title: str, description: str, expr: str, unit: str = "short", red_above: float | None = None) -> Panel:
    return Panel(
        title=title,
        description=description,
        kind="stat",
        width=4,
        height=4,
        unit=unit,
        red_above=red_above,
        queries=(Query(expr=expr),),
    )
