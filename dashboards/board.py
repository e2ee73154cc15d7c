"""From a `Board` to Grafana's own objects, by the builders of its Foundation SDK."""

from __future__ import annotations

from typing import Final

from grafana_foundation_sdk.builders import common as common_builder
from grafana_foundation_sdk.builders import dashboard as builder
from grafana_foundation_sdk.builders import prometheus, stat, table, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common, dashboard
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from dashboards.layout import HEIGHTS
from dashboards.panel import Board, Panel, Query

Picture = timeseries.Panel | stat.Panel | table.Panel

TAG: Final = "apportion"
_SOURCE: Final = dashboard.DataSourceRef(type_val="prometheus", uid="${datasource}")
_ALL: Final = ".*"
_SOME: Final = ".+"
"""Every name, and not those without."""
FLAME_GRAPHS: Final = "${agent_url}/profiles"

EVENTS: Final = {
    "Restarts": (
        "orange",
        'time() - apportion_agent_start_timestamp_seconds{instance=~"$instance"} < 60',
    ),
    "Lost work": (
        "purple",
        'increase(apportion_lost_device_seconds_total{instance=~"$instance"}[1m]) > 0',
    ),
    "XID errors": (
        "red",
        'time() - apportion_device_xid_last_timestamp_seconds{instance=~"$instance"} < 60',
    ),
    "Prices applied": (
        "light-blue",
        'time() - apportion_prices_applied_timestamp_seconds{instance=~"$instance"} < 60',
    ),
    "Price changes": (
        "blue",
        'changes(apportion_device_rate_${currency}_per_hour{instance=~"$instance"}[1m]) > 0',
    ),
}
"""Annotations of each dashboard: colour and query."""


def text(board: Board) -> str:
    """The dashboard as Grafana's JSON, the same text for the same board."""
    encoded = JSONEncoder(indent=2, sort_keys=True, ensure_ascii=False).encode(_built(board))
    return f"{encoded}\n"


def _built(board: Board) -> dashboard.Dashboard:
    made = (
        builder.Dashboard(f"apportion / {board.title}")
        .uid(f"apportion-{board.name}")
        .description(board.description)
        .tags([TAG])
        .timezone("browser")
        .readonly()
        .tooltip(dashboard.DashboardCursorSync.CROSSHAIR)
        .time("now-1h", "now")
        .refresh("30s")
        .link(
            builder.DashboardLink("apportion")
            .type(dashboard.DashboardLinkType.DASHBOARDS)
            .tags([TAG])
            .as_dropdown(as_dropdown=True)
            .include_vars(include_vars=True)
            .keep_time(keep_time=True)
        )
        .link(
            builder.DashboardLink("Flame graphs")
            .type(dashboard.DashboardLinkType.LINK)
            .url(FLAME_GRAPHS)
            .tooltip("Profiles of the agent that $agent_url names")
            .target_blank(target_blank=True)
        )
        .with_variable(
            builder.DatasourceVariable("datasource").label("Prometheus").type("prometheus")
        )
        .with_variable(
            _variable(
                "currency",
                "Currency",
                'label_values({__name__=~"apportion_cost_.+_total"}, __name__)',
            ).regex("/apportion_cost_(.+)_total/")
        )
        .with_variable(
            _several(_variable("instance", "Agent", "label_values(apportion_build_info, instance)"))
        )
    )
    made.with_variable(
        builder.TextBoxVariable("agent_url")
        .label("URL of an agent")
        .default_value("http://localhost:9477")
    )
    if board.by_workload:
        query = 'label_values(apportion_device_seconds_total{instance=~"$instance"}, workload)'
        made.with_variable(_several(_variable("workload", "Workload", query)))
    if board.by_run:
        query = 'label_values(apportion_device_seconds_total{workload=~"$workload"}, run)'
        made.with_variable(_several(_variable("run", "Run", query), _SOME))
    for name, (colour, expression) in EVENTS.items():
        made.annotation(
            builder.AnnotationQuery()
            .name(name)
            .datasource(_SOURCE)
            .enable(enable=True)
            .icon_color(colour)
            .expr(expression)
        )
    number = 0
    for row in board.rows:
        number += 1
        made.with_row(builder.Row(row.title).id(number))
        for panel in row.panels:
            number += 1
            made.with_panel(_panel(panel).id(number))
    return made.build()


def _variable(name: str, label: str, query: str) -> builder.QueryVariable:
    return (
        builder.QueryVariable(name)
        .label(label)
        .datasource(_SOURCE)
        .query(query)
        .refresh(dashboard.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(dashboard.VariableSort.ALPHABETICAL_ASC)
    )


def _several(variable: builder.QueryVariable, every: str = _ALL) -> builder.QueryVariable:
    return variable.multi(multi=True).include_all(include_all=True).all_value(every)


def _panel(panel: Panel) -> Picture:
    picture: Picture
    if panel.kind == "number":
        picture = _number()
    elif panel.kind == "table":
        # Said, because without any word of it the SDK writes `null` in place of options.
        picture = table.Panel().show_header(show_header=True)
    else:
        picture = _graph(stacked=panel.kind == "stack")
    needs = f" Needs {panel.needs}." if panel.needs else ""
    picture.title(panel.title).description(panel.description + needs).datasource(_SOURCE)
    picture.unit(panel.unit).span(panel.span).height(HEIGHTS[panel.kind])
    if panel.highest is not None:
        picture.max(panel.highest).min(0)
    if panel.steps:
        (_, lowest), *higher = panel.steps
        steps = [dashboard.Threshold(None, lowest)]
        steps += [dashboard.Threshold(value, colour) for value, colour in higher]
        picture.thresholds(
            builder.ThresholdsConfig().mode(dashboard.ThresholdsMode.ABSOLUTE).steps(steps)
        )
    if panel.link:
        picture.data_links([builder.DashboardLink("Open").url(panel.link)])
    instant = panel.kind == "table"
    for number, query in enumerate(panel.queries):
        picture.with_target(_query(query, chr(ord("A") + number), instant=instant))
    return picture


def _graph(*, stacked: bool) -> timeseries.Panel:
    legend = common_builder.VizLegendOptions().display_mode(common.LegendDisplayMode.LIST)
    made = timeseries.Panel().legend(
        legend.placement(common.LegendPlacement.BOTTOM).show_legend(show_legend=True)
    )
    if stacked:
        made.stacking(common_builder.StackingConfig().mode(common.StackingMode.NORMAL))
        made.fill_opacity(40)
    return made


def _number() -> stat.Panel:
    last = common_builder.ReduceDataOptions().calcs(["lastNotNull"]).values(values=False)
    return stat.Panel().reduce_options(last).graph_mode(common.BigValueGraphMode.AREA)


def _query(query: Query, reference: str, *, instant: bool) -> prometheus.Dataquery:
    made = prometheus.Dataquery().ref_id(reference).expr(query.expr).datasource(_SOURCE)
    if instant:
        return made.instant().format(PromQueryFormat.TABLE)
    if query.exemplars:
        made.exemplar(exemplar=True)
    return made.range().legend_format(query.legend or "__auto")
