"""What is told of the engines."""

from rhapsode_server.metrics import Metrics
from support.series import Queue, a_step, value


def test_a_step_sets_the_gauges_and_counts_the_forward(metrics: Metrics) -> None:
    a_step(metrics)
    assert (value(metrics, "kv_blocks_used"), value(metrics, "kv_blocks")) == (7, 100)
    assert value(metrics, "kv_blocks_retained") == 9
    assert value(metrics, "model_forwards_total") == 1
    assert (value(metrics, "batch_size_bucket", le="4.0"), value(metrics, "batch_size_bucket", le="8.0")) == (0, 1)
    assert value(metrics, "batch_tokens_sum") == 60
    assert value(metrics, "step_duration_seconds_sum") == 0.004


def test_a_step_that_ran_nothing_is_no_forward(metrics: Metrics) -> None:
    a_step(metrics, rows=0)
    assert value(metrics, "kv_blocks_used") == 7
    assert not value(metrics, "model_forwards_total")
    assert not value(metrics, "batch_size_count")


def test_the_queue_is_asked_at_every_scrape(metrics: Metrics) -> None:
    queue = Queue(num_waiting=3, num_running=7)
    metrics.follow_queue("poems", 3, lambda: queue)
    assert (value(metrics, "requests_waiting"), value(metrics, "requests_running")) == (3, 7)
    queue.num_waiting = 0
    assert value(metrics, "requests_waiting") == 0
    metrics.forget("poems", 3)
    assert value(metrics, "requests_waiting") is None


def test_the_hit_rate_is_cached_over_prompt_tokens(metrics: Metrics) -> None:
    for _ in range(2):
        metrics.count_prompt_tokens("poems", 3, 40)
        a_step(metrics)
    cached, asked = value(metrics, "cached_tokens_total"), value(metrics, "prompt_tokens_total")
    assert cached is not None
    assert asked is not None
    assert cached / asked == 0.8
