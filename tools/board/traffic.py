"""Calls and how long they take."""

from board.grafana import Panel, Query, Row
from board.queries import MODEL, SERVER, latency, rate, ratio, stat

_ALL = f"sum(rate(rhapsode_calls_total{{{SERVER}}}[$__rate_interval]))"
_FAILED = f"""sum(rate(rhapsode_calls_total{{{SERVER}, outcome=~"error|unavailable"}}[$__rate_interval]))"""

_OUTCOMES = {
    "ok": "green",
    "cancelled": "blue",
    "deadline": "purple",
    "invalid": "light-blue",
    "unauthenticated": "light-purple",
    "denied": "light-purple",
    "limited": "yellow",
    "overloaded": "orange",
    "unavailable": "dark-red",
    "error": "red",
}

NOW = Row(
    title="Now",
    panels=(
        stat("Servers", "Servers that are scraped.", f"count(rhapsode_build_info{{{SERVER}}})"),
        stat(
            "Calls",
            "Calls of all methods that ended, a second.",
            _ALL,
            "reqps",
        ),
        stat(
            "Failed calls",
            "Share of calls that failed for reasons that are not the caller's; a full queue does not count.",
            ratio(_FAILED, _ALL),
            "percentunit",
            red_above=0.01,
        ),
        stat(
            "Generated tokens",
            "Tokens generated, a second.",
            f"sum(rate(rhapsode_generated_tokens_total{{{MODEL}}}[$__rate_interval]))",
        ),
        stat(
            "First token, p95",
            "Nineteen of twenty requests had their first token sooner.",
            f"histogram_quantile(0.95, {rate('rhapsode_time_to_first_token_seconds_bucket', by='le')})",
            "s",
            red_above=2,
        ),
        stat(
            "KV cache",
            "Share of the fullest KV cache that running requests hold.",
            f"max(rhapsode_kv_blocks_used{{{MODEL}}} / rhapsode_kv_blocks{{{MODEL}}})",
            "percentunit",
            red_above=0.95,
        ),
    ),
)

CALLS = Row(
    title="Calls",
    panels=(
        Panel(
            title="Calls by outcome",
            description="Calls of all methods that ended, a second.",
            unit="reqps",
            is_stacked=True,
            colours=_OUTCOMES,
            queries=(
                Query(expr=rate("rhapsode_calls_total", by="outcome", where=SERVER) + " > 0", legend="{{outcome}}"),
            ),
        ),
        Panel(
            title="Calls by method",
            description="Calls that ended, a second.",
            unit="reqps",
            is_stacked=True,
            queries=(
                Query(expr=rate("rhapsode_calls_total", by="method", where=SERVER) + " > 0", legend="{{method}}"),
            ),
        ),
        Panel(
            title="Tokens a second",
            description="Of prompts, computed or taken over from other requests, and of completions.",
            is_stacked=True,
            queries=(
                Query(
                    expr=rate("rhapsode_prompt_tokens_total", by="model")
                    + "\n  - "
                    + rate("rhapsode_cached_tokens_total", by="model"),
                    legend="{{model}} prompt, computed",
                ),
                Query(expr=rate("rhapsode_cached_tokens_total", by="model"), legend="{{model}} prompt, taken over"),
                Query(expr=rate("rhapsode_generated_tokens_total", by="model"), legend="{{model}} generated"),
            ),
        ),
        Panel(
            title="Why completions end",
            description="Completions that were answered, a second.",
            unit="reqps",
            is_stacked=True,
            queries=(
                Query(
                    expr=rate("rhapsode_requests_total", by="finish_reason", where=f'{MODEL}, outcome="ok"'),
                    legend="{{finish_reason}}",
                ),
            ),
        ),
    ),
)

LATENCY = Row(
    title="Latency",
    panels=(
        latency(
            "Time to first token",
            "rhapsode_time_to_first_token_seconds",
            "From the arrival of a call to its first token, the queue included.",
        ),
        latency(
            "Time between tokens",
            "rhapsode_inter_token_latency_seconds",
            "Between two tokens of a request.",
        ),
        latency("Time in the queue", "rhapsode_queue_time_seconds", "From the arrival of a call to its start."),
        latency("Whole request", "rhapsode_request_duration_seconds", "From the arrival of a call to its end."),
    ),
)
