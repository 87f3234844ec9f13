"""What the panels are drawn with, in the words of this project instead of Grafana's.

1. Every query goes to the data source ``$datasource`` and to the instances that ``$job`` and ``$instance`` name. In an expression
   ``{@}`` stands for that selector (``{@, outcome="failed"}`` adds to it) and ``[@]`` for ``[$__rate_interval]``.
2. Every panel has a title, a description that says what to think of it, a unit and a legend.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from grafana_foundation_sdk.builders import common as draw
from grafana_foundation_sdk.builders import dashboard as grafana
from grafana_foundation_sdk.builders import heatmap, prometheus, stat, text, timeseries
from grafana_foundation_sdk.models import common, dashboard
from grafana_foundation_sdk.models import heatmap as heatmap_model
from grafana_foundation_sdk.models import prometheus as prometheus_model
from grafana_foundation_sdk.models import text as text_model

__all__ = [
    "BYTES",
    "BYTES_PER_SECOND",
    "COUNT",
    "HANDSHAKES",
    "MESSAGES",
    "PER_SECOND",
    "RUNBOOKS",
    "SECONDS",
    "SHARE",
    "SOURCE",
    "Query",
    "heat",
    "lines",
    "note",
    "number",
    "quantiles",
]

RUNBOOKS = "dashboards/runbooks"
"""Where runbooks are, relative to the project; whoever installs the dashboards replaces this text by an address."""
SECONDS, BYTES, SHARE, COUNT = "s", "bytes", "percentunit", "short"
MESSAGES, HANDSHAKES, PER_SECOND, BYTES_PER_SECOND = "mps", "reqps", "ops", "Bps"

_SELECTOR = 'job=~"$job", instance=~"$instance"'
SOURCE = dashboard.DataSourceRef(type_val="prometheus", uid="${datasource}")
"""The Prometheus that is chosen at the top of a dashboard."""
_PALETTE = grafana.FieldColor().mode(dashboard.FieldColorModeId.PALETTE_CLASSIC)
_BY_THRESHOLD = grafana.FieldColor().mode(dashboard.FieldColorModeId.THRESHOLDS)

Steps = Sequence[tuple[float, str]]
"""Values from which on a panel has another colour; below the first it is green."""


@dataclass(frozen=True)
class Query:
    """One expression and what its series are called."""

    expression: str
    legend: str
    exemplars: bool = False
    """Whether to mark the traces behind the values."""

    def expanded(self) -> str:
        """The expression as Grafana gets it."""
        return self.expression.replace("{@", "{" + _SELECTOR).replace("[@]", "[$__rate_interval]")

    def target(self, ref_id: str, *, form: prometheus_model.PromQueryFormat, instant: bool = False) -> prometheus.Dataquery:
        target = prometheus.Dataquery().ref_id(ref_id).datasource(SOURCE).expr(self.expanded()).legend_format(self.legend)
        target = target.editor_mode(prometheus_model.QueryEditorMode.CODE).format(form).exemplar(self.exemplars)
        return target.instant() if instant else target.range()


def quantiles(metric: str, *, by: str = "", where: str = "", at: Sequence[float] = (0.5, 0.99)) -> list[Query]:
    """Quantiles of a histogram, over all chosen instances or one line per value of the label ``by``."""
    labels = f"{by}, le" if by else "le"
    prefix = f"{{{{{by}}}}} " if by else ""
    return [
        Query(
            f"histogram_quantile({q}, sum by ({labels}) (rate({metric}_bucket{{@{where}}}[@])))",
            f"{prefix}p{q * 100:g}",
            q == max(at),
        )
        for q in at
    ]


def lines(
    title: str,
    description: str,
    unit: str,
    *queries: Query,
    width: int = 8,
    height: int = 8,
    steps: Steps = (),
    stacked: bool = False,
    most: float | None = None,
    alert: str | None = None,
) -> timeseries.Panel:
    """Values over time.

    Args:
        steps: thresholds, drawn as lines.
        stacked: the series are parts of a whole.
        most: the upper end of the axis.
        alert: the alert that watches the same figure; its runbook is linked.
    """
    panel = timeseries.Panel().title(title).description(description).unit(unit).datasource(SOURCE).span(width).height(height)
    panel = panel.min(0).line_width(1.5).fill_opacity(25 if stacked else 8).show_points(common.VisibilityMode.NEVER)
    panel = panel.color_scheme(_PALETTE).thresholds(_thresholds(steps)).legend(_legend()).tooltip(_tooltip())
    if steps:
        panel = panel.thresholds_style(draw.GraphThresholdsStyleConfig().mode(common.GraphThresholdsStyleMode.DASHED))
    if stacked:
        panel = panel.stacking(draw.StackingConfig().mode(common.StackingMode.NORMAL).group("A"))
    if most is not None:
        panel = panel.max(most)
    for at, query in enumerate(queries):
        panel = panel.with_target(query.target(chr(65 + at), form=prometheus_model.PromQueryFormat.TIME_SERIES))
    return panel.links(_runbook(alert))


def number(
    title: str,
    description: str,
    unit: str,
    *queries: Query,
    width: int = 3,
    height: int = 4,
    steps: Steps = (),
    decimals: int | None = None,
    alert: str | None = None,
    below: str = "green",
    instant: bool = False,
) -> stat.Panel:
    """The newest value, large, on a background that says whether it is well; ``below`` is the colour below the first step."""
    panel = stat.Panel().title(title).description(description).unit(unit).datasource(SOURCE).span(width).height(height)
    panel = panel.color_scheme(_BY_THRESHOLD).thresholds(_thresholds(steps, below)).no_value("no data")
    panel = panel.color_mode(common.BigValueColorMode.BACKGROUND if steps else common.BigValueColorMode.VALUE)
    panel = panel.graph_mode(common.BigValueGraphMode.NONE if instant else common.BigValueGraphMode.AREA)
    panel = panel.reduce_options(draw.ReduceDataOptions().calcs(["lastNotNull"]).values(False).fields(""))
    panel = panel.text_mode(common.BigValueTextMode.VALUE_AND_NAME if len(queries) > 1 else common.BigValueTextMode.VALUE)
    if decimals is not None:
        panel = panel.decimals(decimals)
    for at, query in enumerate(queries):
        panel = panel.with_target(query.target(chr(65 + at), form=prometheus_model.PromQueryFormat.TIME_SERIES, instant=instant))
    return panel.links(_runbook(alert))


def heat(
    title: str, description: str, unit: str, metric: str, *, width: int = 12, height: int = 8, alert: str | None = None
) -> heatmap.Panel:
    """How a histogram's values are spread over time; crosses are traces."""
    query = Query(f"sum by (le) (increase({metric}_bucket{{@}}[@]))", "{{le}}", exemplars=True)
    colours = heatmap.HeatmapColorOptions().mode(heatmap_model.HeatmapColorMode.SCHEME).scheme("Oranges").steps(64).exponent(0.5)
    panel = heatmap.Panel().title(title).description(description).unit(unit).datasource(SOURCE).span(width).height(height)
    panel = panel.calculate(False).color(colours).y_axis(heatmap.YAxisConfig().unit(unit)).cell_gap(1).show_legend()
    panel = panel.cell_values(heatmap.CellValues().unit(COUNT)).filter_values(heatmap.FilterValueRange().le(1e-9))
    target = query.target("A", form=prometheus_model.PromQueryFormat.HEATMAP)
    return panel.with_target(target).links(_runbook(alert))


def note(title: str, markdown: str, *, width: int = 24, height: int = 4) -> text.Panel:
    """Words for whoever looks at the board for the first time."""
    panel = (
        text.Panel().title(title).description("What this dashboard answers, and where to go from here.").span(width).height(height)
    )
    return panel.mode(text_model.TextMode.MARKDOWN).content(markdown)


def _thresholds(steps: Steps, below: str = "green") -> grafana.ThresholdsConfig:
    all_steps = [dashboard.Threshold(None, below), *(dashboard.Threshold(value, colour) for value, colour in steps)]
    return grafana.ThresholdsConfig().mode(dashboard.ThresholdsMode.ABSOLUTE).steps(all_steps)


def _legend() -> draw.VizLegendOptions:
    legend = draw.VizLegendOptions().display_mode(common.LegendDisplayMode.TABLE).placement(common.LegendPlacement.BOTTOM)
    return legend.show_legend(True).calcs(["lastNotNull", "max"])


def _tooltip() -> draw.VizTooltipOptions:
    return draw.VizTooltipOptions().mode(common.TooltipDisplayMode.MULTI).sort(common.SortOrder.DESCENDING)


def _runbook(alert: str | None) -> list[Any]:
    if alert is None:
        return []
    link = grafana.DashboardLink(f"Runbook: {alert}").type(dashboard.DashboardLinkType.LINK).icon("doc")
    return [link.url(f"{RUNBOOKS}/{alert}.md").tooltip(f"{RUNBOOKS}/{alert}.md in the project").target_blank(True)]
