"""Engines, the versions that they run, and the processes in which they do."""

from board.grafana import Panel, Query, Row
from board.queries import MODEL, OURS, SERVER, mean, quantiles, rate, ratio

ENGINE = Row(
    title="Engine",
    panels=(
        Panel(
            title="Running and waiting",
            description="Requests in the engines and before them.",
            queries=(
                Query(expr=f"sum by (model) (rhapsode_requests_running{{{MODEL}}})", legend="{{model}} running"),
                Query(expr=f"sum by (model) (rhapsode_requests_waiting{{{MODEL}}})", legend="{{model}} waiting"),
            ),
        ),
        Panel(
            title="KV cache",
            description="Share of its blocks that requests hold, and that are kept for prompts which begin alike.",
            unit="percentunit",
            maximum=1,
            queries=tuple(
                Query(
                    expr=ratio(
                        f"sum by (model, version) (rhapsode_kv_blocks_{state}{{{MODEL}}})",
                        f"sum by (model, version) (rhapsode_kv_blocks{{{MODEL}}})",
                    ),
                    legend=f"{{{{model}}}} {{{{version}}}} {state}",
                )
                for state in ("used", "retained")
            ),
        ),
        Panel(
            title="Requests in a step",
            description="How many requests one step of an engine computes, on average.",
            queries=(mean("rhapsode_batch_size"),),
        ),
        Panel(
            title="Time of a step",
            description="Of an engine, median and 95th percentile.",
            unit="s",
            queries=quantiles("rhapsode_step_duration_seconds", 0.5, 0.95),
        ),
        Panel(
            title="Prompt tokens taken over",
            description="Share of prompt tokens that were not computed but taken over from other requests.",
            unit="percentunit",
            maximum=1,
            queries=(
                Query(
                    expr=ratio(
                        rate("rhapsode_cached_tokens_total", by="model"),
                        rate("rhapsode_prompt_tokens_total", by="model"),
                    ),
                    legend="{{model}}",
                ),
            ),
        ),
        Panel(
            title="Tokens in a step",
            description="How many tokens one step of an engine computes, on average.",
            queries=(mean("rhapsode_batch_tokens"),),
        ),
    ),
)

VERSIONS = Row(
    title="Versions",
    panels=(
        Panel(
            title="Requests by version",
            description="Completions that reached a version and ended, a second.",
            unit="reqps",
            is_stacked=True,
            queries=(
                Query(
                    expr=rate("rhapsode_requests_total", by="model, version", where=f'{MODEL}, version!=""'),
                    legend="{{model}} {{version}}",
                ),
            ),
        ),
        Panel(
            title="States",
            description="Where each version stands on each server.",
            kind="table",
            queries=(Query(expr=f"max by (instance, model, version, state) (rhapsode_version_state{{{MODEL}}})"),),
        ),
        Panel(
            title="Traffic weights",
            description="By which versions share the requests of their model, on average over servers.",
            is_stacked=True,
            queries=(
                Query(
                    expr=f"avg by (model, version) (rhapsode_traffic_weight{{{MODEL}}})",
                    legend="{{model}} {{version}}",
                ),
            ),
        ),
        Panel(
            title="Swaps and quarantines",
            description="Since the servers started.",
            queries=(
                Query(expr=f"sum by (model, result) (rhapsode_swaps_total{{{MODEL}}})", legend="{{model}} {{result}}"),
                Query(
                    expr=f"sum by (model, reason) (rhapsode_quarantines_total{{{MODEL}}})",
                    legend="{{model}} quarantined: {{reason}}",
                ),
            ),
        ),
        Panel(
            title="Time of a swap",
            description="From the decision for a version to its first token, on average since the servers started.",
            unit="s",
            queries=(
                Query(
                    expr=ratio(
                        f"sum by (model, start) (rhapsode_swap_seconds_sum{{{MODEL}}})",
                        f"sum by (model, start) (rhapsode_swap_seconds_count{{{MODEL}}})",
                    ),
                    legend="{{model}} {{start}}",
                ),
            ),
        ),
        Panel(
            title="Out of the ordinary",
            description="1 where an operator overrides the fleet, where the model directory cannot be read, and where"
            " no process stands by.",
            maximum=1,
            queries=(
                Query(
                    expr=f"max by (instance, model) (rhapsode_traffic_override{{{MODEL}}})",
                    legend="{{instance}} {{model}} overridden",
                ),
                Query(
                    expr=f"1 - rhapsode_model_directory_readable{{{SERVER}}}",
                    legend="{{instance}} directory unreadable",
                ),
                Query(expr=f"1 - rhapsode_standby_ready{{{SERVER}}}", legend="{{instance}} no standby"),
            ),
        ),
    ),
)

PROCESSES = Row(
    title="Processes",
    panels=(
        Panel(
            title="Engine processes that ended",
            description="By reason, and how many were started again after a loss, since the servers started.",
            queries=(
                Query(
                    expr=f"sum by (model, reason) (rhapsode_worker_exits_total{{{MODEL}}})",
                    legend="{{model}} {{reason}}",
                ),
                Query(
                    expr=f"sum by (model) (rhapsode_worker_restarts_total{{{MODEL}}})",
                    legend="{{model}} started again",
                ),
            ),
        ),
        Panel(
            title="Memory of engine processes",
            description="Resident memory, by version.",
            unit="bytes",
            is_stacked=True,
            queries=(
                Query(
                    expr=f"sum by (model, version) (rhapsode_worker_memory_bytes{{{MODEL}}})",
                    legend="{{model}} {{version}}",
                ),
            ),
        ),
        Panel(
            title="Memory of the front-end",
            description="Resident memory; engine processes have their own.",
            unit="bytes",
            width=8,
            queries=(Query(expr=f"process_resident_memory_bytes {OURS}", legend="{{instance}}"),),
        ),
        Panel(
            title="CPU of the front-end",
            description="Cores in use; from 1 on it is the front-end that limits the server.",
            width=8,
            queries=(Query(expr=f"rate(process_cpu_seconds_total[$__rate_interval]) {OURS}", legend="{{instance}}"),),
        ),
        Panel(
            title="Open files of the front-end",
            description="Connections among them.",
            width=8,
            queries=(Query(expr=f"process_open_fds {OURS}", legend="{{instance}}"),),
        ),
        Panel(
            title="Memory of GPUs",
            description="Share that is taken, by whatever program.",
            unit="percentunit",
            maximum=1,
            needs="a GPU",
            queries=(
                Query(
                    expr=f"rhapsode_device_memory_used_bytes{{{SERVER}}} / rhapsode_device_memory_bytes{{{SERVER}}}",
                    legend="{{instance}} {{device}}",
                ),
            ),
        ),
        Panel(
            title="Utilisation of GPUs",
            description="Part of the time in which they computed.",
            unit="percentunit",
            maximum=1,
            needs="a GPU that is not divided by MIG",
            queries=(Query(expr=f"rhapsode_device_utilization_ratio{{{SERVER}}}", legend="{{instance}} {{device}}"),),
        ),
    ),
)
