"""What is told of calls and completions."""

import pytest
from rhapsode_server.metrics import Metrics
from support.series import value


def test_latencies_resolve_from_a_quarter_of_a_millisecond(metrics: Metrics) -> None:
    metrics.observe_request("poems", 3, queue=0.0002, first_token=0.0004, total=200.0)
    assert value(metrics, "queue_time_seconds_bucket", le="0.00025") == 1
    assert value(metrics, "time_to_first_token_seconds_bucket", le="0.00025") == 0
    assert value(metrics, "time_to_first_token_seconds_bucket", le="0.0005") == 1
    assert value(metrics, "request_duration_seconds_bucket", le="131.072") == 0


def test_what_a_request_did_not_reach_is_not_observed(metrics: Metrics) -> None:
    metrics.observe_request("poems", 3, queue=None, first_token=None, total=1.0)
    assert value(metrics, "queue_time_seconds_count") is None
    assert value(metrics, "time_to_first_token_seconds_count") is None
    assert value(metrics, "request_duration_seconds_count") == 1


def test_tokens_that_came_together_share_the_time(metrics: Metrics) -> None:
    metrics.observe_inter_token("poems", 3, 1, 0.003)
    metrics.observe_inter_token("poems", 3, 4, 0.004)
    metrics.observe_inter_token("poems", 3, 0, 9.0)
    assert value(metrics, "inter_token_latency_seconds_bucket", le="0.001") == 4
    assert value(metrics, "inter_token_latency_seconds_bucket", le="0.004") == 5
    assert value(metrics, "inter_token_latency_seconds_bucket", le="+Inf") == 5
    assert value(metrics, "inter_token_latency_seconds_count") == 5
    assert value(metrics, "inter_token_latency_seconds_sum") == pytest.approx(0.007)


def test_calls_are_counted_from_0(metrics: Metrics) -> None:
    metrics.expect_calls(["Generate", "Score"], iter(["ok", "error"]))
    metrics.count_call("Generate", "error")
    calls = {
        (method, outcome): metrics.registry.get_sample_value(
            "rhapsode_calls_total", {"method": method, "outcome": outcome}
        )
        for method in ("Generate", "Score")
        for outcome in ("ok", "error")
    }
    assert calls == {("Generate", "ok"): 0, ("Generate", "error"): 1, ("Score", "ok"): 0, ("Score", "error"): 0}


def test_what_comes_after_the_version_has_gone_counts_without_it(metrics: Metrics) -> None:
    """A slow reader may still take the last tokens of a stream whose engine has ended."""
    metrics.count_generated_tokens("poems", 3, 1)
    metrics.forget("poems", 3)
    metrics.count_generated_tokens("poems", 3, 6)
    metrics.count_request("poems", 3, "ok", "length")
    metrics.observe_inter_token("poems", 3, 5, 0.1)
    metrics.observe_request("poems", 3, queue=0.001, first_token=0.002, total=0.1)
    counts = (
        "generated_tokens_total",
        "inter_token_latency_seconds_count",
        "queue_time_seconds_count",
        "time_to_first_token_seconds_count",
        "request_duration_seconds_count",
    )
    assert [value(metrics, name, version="") for name in counts] == [6, 5, 1, 1, 1]
    assert [value(metrics, name) for name in counts] == [None] * 5
    assert value(metrics, "requests_total", version="", outcome="ok", finish_reason="length") == 1
