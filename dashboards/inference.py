"""What tokens and requests cost, beside how fast they come."""

from __future__ import annotations

from typing import Final

from dashboards.panel import (
    COST,
    WORKLOAD,
    Board,
    Panel,
    Query,
    Row,
    latency,
    quantile,
    rate,
    series,
    share,
    total,
)

_ENGINE: Final = "an engine in `engine_urls`"
_BY: Final = "workload, model, tenant"
_TOKENS: Final = 'token_type!="cached_input"'
_DIRECT: Final = 'category="direct"'


def _latency(title: str, histogram: str, description: str) -> Panel:
    return Panel(
        title,
        description,
        "s",
        tuple(
            Query(quantile(of, histogram, "target, model"), f"p{of * 100:.0f} {{{{model}}}}")
            for of in (0.5, 0.95)
        ),
        needs=_ENGINE,
    )


BOARD: Final = Board(
    "inference",
    "Inference",
    "Cost per million tokens beside latency and batch size, by model and tenant.",
    (
        Row(
            "Cost",
            (
                Panel(
                    "Cost of a million tokens",
                    "Direct cost over tokens, input (cached ones too) and output together.",
                    "short",
                    (
                        Query(
                            "1e6 * "
                            + share(
                                _BY,
                                rate(COST, WORKLOAD, _DIRECT),
                                rate("tokens_total", WORKLOAD, _TOKENS),
                            ),
                            "{{model}} {{tenant}}",
                        ),
                    ),
                ),
                Panel(
                    "Cost of a request",
                    "Direct cost over requests that ended.",
                    "short",
                    (
                        Query(
                            share(
                                _BY,
                                rate(COST, WORKLOAD, _DIRECT),
                                rate("requests_total", WORKLOAD),
                            ),
                            "{{model}} {{tenant}}",
                        ),
                    ),
                ),
                Panel(
                    "Energy of a token",
                    "Joules inside requests over tokens.",
                    "joule",
                    (
                        Query(
                            share(
                                _BY,
                                rate("energy_joules_total", WORKLOAD, _DIRECT),
                                rate("tokens_total", WORKLOAD, _TOKENS),
                            ),
                            "{{model}} {{tenant}}",
                        ),
                    ),
                ),
                Panel(
                    "Cost by tenant",
                    "Cost an hour.",
                    "short",
                    (
                        Query(
                            f"3600 * {total('tenant', rate(COST, WORKLOAD, _DIRECT))}", "{{tenant}}"
                        ),
                    ),
                    "stack",
                ),
                Panel(
                    "Cost by phase",
                    "Cost an hour of prefill, decode and the rest of requests.",
                    "short",
                    (
                        Query(
                            f"3600 * {total('phase', rate('phase_' + COST, WORKLOAD))}", "{{phase}}"
                        ),
                    ),
                    "stack",
                ),
                Panel(
                    "Cost by category",
                    "Cost an hour: how much of it is not inside requests.",
                    "short",
                    (Query(f"3600 * {total('category', rate(COST, WORKLOAD))}", "{{category}}"),),
                    "stack",
                ),
            ),
        ),
        Row(
            "Load",
            (
                Panel(
                    "Requests",
                    "Requests a second that ended, by how.",
                    "reqps",
                    (Query(total("status", rate("requests_total", WORKLOAD)), "{{status}}"),),
                    "stack",
                ),
                Panel(
                    "Tokens",
                    "Tokens a second of requests that ended.",
                    "short",
                    (Query(total("token_type", rate("tokens_total", WORKLOAD)), "{{token_type}}"),),
                ),
                Panel(
                    "At once",
                    "Requests open now: what the batch can be.",
                    "short",
                    (Query(total("workload", series("open_spans", WORKLOAD)), "{{workload}}"),),
                ),
                Panel(
                    "Batch size",
                    "Requests that ran at once, mean of five minutes in which any ran.",
                    "short",
                    (Query(series("batch_size", WORKLOAD), "{{workload}} {{model}} {{instance}}"),),
                ),
                Panel(
                    "Cached input",
                    "Share of input tokens that the prefix cache had.",
                    "percentunit",
                    (
                        Query(
                            share(
                                "workload, model",
                                rate("tokens_total", WORKLOAD, 'token_type="cached_input"'),
                                rate("tokens_total", WORKLOAD, 'token_type="input"'),
                            ),
                            "{{workload}} {{model}}",
                        ),
                    ),
                    needs="requests with cached input tokens",
                ),
                Panel(
                    "Running and waiting",
                    "Requests in the engine.",
                    "short",
                    (
                        Query(series("engine_requests_running"), "running {{model}}"),
                        Query(series("engine_requests_waiting"), "waiting {{model}}"),
                    ),
                    needs=_ENGINE,
                ),
                Panel(
                    "KV cache",
                    "Share of the cache that is in use.",
                    "percentunit",
                    (Query(series("engine_kv_usage_ratio"), "{{target}} {{model}}"),),
                    needs=_ENGINE,
                    highest=1,
                ),
            ),
        ),
        Row(
            "Latency, as the client saw it",
            (
                latency(
                    "Time to first token",
                    "From a request's arrival to its first token.",
                    "time_to_first_token_seconds",
                    "model",
                ),
                latency(
                    "Whole request",
                    "From a request's arrival to its end.",
                    "request_seconds",
                    "model",
                ),
                latency(
                    "Between tokens",
                    "The mean of each request with at least two output tokens.",
                    "inter_token_seconds",
                    "model",
                ),
                latency(
                    "Queue",
                    "From a request's arrival to its admission.",
                    "request_queue_seconds",
                    "model",
                ),
            ),
        ),
        Row(
            "Latency, as the engine counts it",
            (
                _latency(
                    "Time to first token",
                    "engine_time_to_first_token_seconds",
                    "From a request's arrival to its first token.",
                ),
                _latency(
                    "Between tokens",
                    "engine_inter_token_latency_seconds",
                    "Between two output tokens.",
                ),
                _latency(
                    "Whole request",
                    "engine_request_latency_seconds",
                    "From a request's arrival to its end.",
                ),
            ),
        ),
    ),
    by_workload=True,
)
