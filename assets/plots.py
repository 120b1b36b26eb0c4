"""Pictures and tables for the metadata of a materialization. Numbers are computed in the core, drawn here."""

import base64
import io
from typing import TYPE_CHECKING

import dagster as dg
import numpy as np
import polars as pl

from susc_pipeline.clustering import membership
from susc_pipeline.representation.auxiliary_training import History

if TYPE_CHECKING:
    from matplotlib import figure as figures  # slow to load

BLUE, ORANGE, GREY = "#0072b2", "#d55e00", "#777777"
BAR_WIDTH, GLANCE_HEIGHT, N_BARS = 8, 48, 64  # a Markdown value of 1,000 characters is no longer shown in its place
N_BEST = 10
N_EXAMPLES = 4
N_ROWS = 100  # of a table in the UI; the file has all


def _figure(width: float, height: float) -> "figures.Figure":
    """An empty figure of so many inches."""
    import matplotlib
    from matplotlib import figure  # here: it is slow to load

    matplotlib.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    return figure.Figure(figsize=(width, height), layout="constrained")


def _png(figure: "figures.Figure") -> dg.MarkdownMetadataValue:
    """The figure on white, which is legible in both themes of the UI."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100, facecolor="white", bbox_inches="tight")
    return dg.MetadataValue.md(f"![plot](data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()})")


def glance(values: np.ndarray) -> dg.MarkdownMetadataValue:
    """Bars from 0 to 1, a bar for each value: so small that the UI shows it in its place, where others are behind a link."""
    heights = np.rint(np.clip(np.nan_to_num(values[:N_BARS]), 0, 1) * GLANCE_HEIGHT).astype(int)
    filled = np.arange(GLANCE_HEIGHT, 0, -1)[:, None] <= np.repeat(heights, BAR_WIDTH)
    filled[:, BAR_WIDTH - 1 :: BAR_WIDTH] = False
    filled[-1] = True  # the axis, under bars of no height
    from matplotlib import image  # here: it is slow to load

    buffer = io.BytesIO()
    shades = np.where(filled[..., None], np.uint8([0, 114, 178]), np.uint8(236))
    image.imsave(buffer, shades, format="png", metadata={"Software": None}, pil_kwargs={"optimize": True})
    encoded = base64.b64encode(buffer.getvalue()).decode()
    return dg.MetadataValue.md(f"![bars from 0 to 1](data:image/png;base64,{encoded})")


def signal_and_error(names: list[str], signal: np.ndarray, error: np.ndarray) -> dg.MarkdownMetadataValue:
    """Spread over tokens of each component's susceptibility, beside its mean standard error."""
    figure = _figure(max(5, 0.28 * len(names)), 2.6)
    panel = figure.subplots()
    panel.semilogy(signal, "o", color=BLUE, markersize=4, label="standard deviation over tokens")
    panel.semilogy(error, "_", color=ORANGE, markersize=8, label="mean standard error")
    panel.set(xlabel="component", ylabel="susceptibility (nats²)")
    panel.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
    panel.legend(frameon=False)
    return _png(figure)


def explained_variance(ratio: np.ndarray) -> dg.MarkdownMetadataValue:
    """Share of variance of each principal component, and cumulated."""
    figure = _figure(5, 2.6)
    panel = figure.subplots()
    pcs = np.arange(1, len(ratio) + 1)
    panel.bar(pcs, ratio, color=BLUE)
    panel.plot(pcs, np.cumsum(ratio), color=ORANGE, label="cumulated")
    panel.set(xlabel="principal component", ylabel="share of variance", ylim=(0, 1.02))
    panel.legend(frameon=False)
    return _png(figure)


def variance(values: np.ndarray) -> dg.MarkdownMetadataValue:
    """Variance of the predicted scores along each direction kept."""
    figure = _figure(5, 2.4)
    panel = figure.subplots()
    panel.semilogy(np.arange(1, len(values) + 1), values, "o-", color=BLUE, markersize=3)
    panel.set(xlabel="direction", ylabel="variance of predicted scores")
    return _png(figure)


def reliability(frame: pl.DataFrame) -> dg.MarkdownMetadataValue:
    """Split-half reliability of each component and PC."""
    figure = _figure(max(6, 0.16 * frame.height), 2.8)
    panel = figure.subplots()
    values = frame["reliability"].to_numpy()
    for kind, colour, label in (("component", BLUE, "component"), ("pc", ORANGE, "principal component")):
        places = np.flatnonzero(frame["kind"].to_numpy() == kind)
        panel.bar(places, values[places], color=colour, label=label)
    panel.set_xticks(range(frame.height), frame["name"].to_list(), rotation=90, fontsize=6)
    panel.set(ylabel="split-half reliability", ylim=(min(0, values.min()), 1))
    figure.legend(frameon=False, fontsize=7, ncols=2, loc="outside upper center")
    return _png(figure)


def training(history: History) -> dg.MarkdownMetadataValue:
    """Training and stopping loss by epoch."""
    figure = _figure(5, 2.4)
    panel = figure.subplots()
    panel.plot(history.training_loss, color=BLUE, label="training")
    panel.plot(history.stopping_loss, color=ORANGE, label="withheld documents")
    panel.axvline(history.best_epoch, color=GREY, linewidth=1)
    panel.set(xlabel="epoch", ylabel="loss / target variance")
    panel.legend(frameon=False)
    return _png(figure)


def correlation(frame: pl.DataFrame) -> dg.MarkdownMetadataValue:
    """Correlation of predicted with measured scores per PC, the noise ceiling, the null, and ridge regression."""
    figure = _figure(6, 3)
    panel = figure.subplots()
    pc, r = frame["pc"].to_numpy(), frame["r"].to_numpy()
    error = np.maximum(np.stack([r - frame["low"].to_numpy(), frame["high"].to_numpy() - r]), 0)
    panel.bar(pc, r, yerr=error, color=BLUE, error_kw={"linewidth": 1}, label="auxiliary model, 95 % interval")
    panel.plot(
        pc, frame["ceiling"].to_numpy(), "_", color=ORANGE, markersize=10, markeredgewidth=2, label="noise ceiling"
    )
    panel.plot(pc, frame["null_95"].to_numpy(), ":", color=GREY, label="95 % of permutations")
    panel.plot(pc, frame["ridge_r"].to_numpy(), "x", color="black", markersize=4, label="ridge regression")
    panel.set(xlabel="principal component", ylabel="Pearson r, withheld documents", ylim=(min(0, r.min()), 1.05))
    figure.legend(frameon=False, fontsize=7, ncols=4, loc="outside upper center")
    return _png(figure)


def calibration(table: pl.DataFrame) -> dg.MarkdownMetadataValue:
    """Verdicts by component: step size and n_beta down, localization across; a number is the rise's reliability."""
    names = table["component"].unique(maintain_order=True).to_list()
    columns = table["localization"].unique().sort().to_list()
    rows = table.select("step_size", "n_beta").unique().sort("step_size", "n_beta").rows()
    figure = _figure(2.6 * len(names) + 1, 0.32 * len(rows) + 1.2)
    panels = np.atleast_1d(figure.subplots(1, len(names), sharey=True))
    for panel, name in zip(panels, names, strict=True):
        for row in table.filter(component=name).iter_rows(named=True):
            x, y = columns.index(row["localization"]), rows.index((row["step_size"], row["n_beta"]))
            good = row["verdict"] == "good"
            text = f"{row['rise_reliability']:.2f}" if good else row["verdict"]
            panel.text(x, y, text, ha="center", va="center", fontsize=7, color=BLUE if good else ORANGE)
        panel.set(xlim=(-0.6, len(columns) - 0.4), ylim=(len(rows) - 0.4, -0.6), title=name, xlabel="localization")
        panel.set_xticks(range(len(columns)), [f"{value:g}" for value in columns])
    panels[0].set_yticks(range(len(rows)), [f"step {step:g}, n_beta {n_beta:g}" for step, n_beta in rows], fontsize=7)
    return _png(figure)


def leakage(frame: pl.DataFrame) -> dg.MarkdownMetadataValue:
    """CKA and Jaccard by layer with 95 % intervals over documents, for ground truth and predictions, beside chance."""
    figure = _figure(7, 2.6)
    for panel, measure in zip(figure.subplots(1, 2), ("cka", "jaccard"), strict=True):
        for colour, (name,) in zip(
            (BLUE, ORANGE), frame.select("space").unique(maintain_order=True).iter_rows(), strict=False
        ):
            one = frame.filter(space=name)
            error = [one[measure] - one[f"{measure}_low"], one[f"{measure}_high"] - one[measure]]
            panel.errorbar(one["layer"], one[measure], error, fmt="o-", color=colour, label=name.replace("_", " "))
        panel.plot(one["layer"], one[f"{measure}_chance"], ":", color=GREY, label="chance")
        panel.set(xlabel="layer of the activations", ylabel=measure, ylim=(0, None))
        panel.legend(frameon=False)
    return _png(figure)


def clusters(table: pl.DataFrame) -> dg.MarkdownMetadataValue:
    """Histograms of cluster size and conductance."""
    figure = _figure(7, 2.6)
    left, right = figure.subplots(1, 2)
    if table.height:
        left.hist(np.log10(table["size"].to_numpy()), bins=30, color=BLUE)
        right.hist(table["conductance"].to_numpy(), bins=30, color=BLUE)
    left.set(xlabel="log10 of size (tokens)", ylabel="clusters")
    right.set(xlabel="conductance", ylabel="clusters")
    return _png(figure)


def best_clusters(
    clusters: pl.DataFrame, members: pl.DataFrame, contexts: pl.DataFrame, texts: list[str]
) -> dg.TableMetadataValue:
    """The clusters of least conductance, a row for each of their most central tokens, which stands between ⟦ and ⟧."""
    rows = []
    for row in clusters.head(N_BEST).select("cluster", "size", "conductance").iter_rows(named=True):
        found = membership.examples(members, contexts, texts, cluster=row["cluster"], n_examples=N_EXAMPLES)
        shown = [f"{e.before}⟦{e.token}⟧{e.after}" for e in found]
        rows += [{"cluster": row["cluster"], "token in context": text, **row} for text in shown]
    return table(pl.DataFrame(rows, infer_schema_length=None))


def controls(table: pl.DataFrame) -> dg.MarkdownMetadataValue:
    """Share of the clusters that each control finds, with its 95 % interval, beside chance."""
    figure = _figure(6, 0.3 * table.height + 1)
    panel = figure.subplots()
    places, matched = np.arange(table.height)[::-1], table["matched"].fill_null(0).to_numpy()
    ends = [table[f"matched_{end}"].fill_null(pl.Series(matched)).to_numpy() for end in ("low", "high")]
    error = np.maximum(np.stack([matched - ends[0], ends[1] - matched]), 0)
    colours = [ORANGE if knows == "susceptibilities" else BLUE for knows in table["knows"]]
    panel.barh(places, matched, xerr=error, color=colours, error_kw={"linewidth": 1})
    panel.plot(table["matched_by_chance"].to_numpy(), places, "|", color=GREY, markersize=10, label="chance")
    panel.set_yticks(places, table["control"].to_list())
    panel.set(xlabel="share of the clusters that it finds (blue: without susceptibilities)", xlim=(0, 1))
    panel.legend(frameon=False)
    return _png(figure)


def interventions(table: pl.DataFrame) -> dg.MarkdownMetadataValue:
    """For each intervention a point a cluster: difference of the responses, and of the loss changes with its error."""
    names = table["intervention"].unique(maintain_order=True).to_list()
    figure = _figure(3 * max(1, len(names)), 3)
    for panel, name in zip(figure.subplots(1, max(1, len(names)), squeeze=False)[0], names):
        rows = table.filter(intervention=name).drop_nulls("loss_change_difference_z")
        x, y = rows["response_difference"].to_numpy(), rows["loss_change_difference_z"].to_numpy()
        panel.axhline(0, color=GREY, linewidth=0.5)
        panel.axvline(0, color=GREY, linewidth=0.5)
        panel.errorbar(x, y, rows["loss_change_error_z"].to_numpy(), fmt="o", color=BLUE, markersize=3, elinewidth=0.7)
        panel.set_title(name, fontsize=9)
        panel.set_xlabel("response, members less others (sd)")
    figure.supylabel("change of loss, the same (sd)", fontsize=9)
    return _png(figure)


def table(frame: pl.DataFrame) -> dg.TableMetadataValue:
    """The first rows of a frame as a table of the UI: numbers with three digits, text on one line and never interpreted."""
    shown = frame.head(N_ROWS)
    columns = [dg.TableColumn(name, "float" if kind.is_numeric() else "string") for name, kind in shown.schema.items()]
    records = [dg.TableRecord({name: _cell(cell) for name, cell in row.items()}) for row in shown.iter_rows(named=True)]
    return dg.MetadataValue.table(records, dg.TableSchema(columns))


def _cell(value: object) -> str | int | float | bool | None:
    if isinstance(value, float):  # JSON has no nan
        return float(f"{value:.3g}") if np.isfinite(value) else None
    return value if isinstance(value, bool | int | None) else _line(str(value))


def _line(text: str) -> str:
    """Text from a corpus on one line, without characters that have no shape of their own or turn others round."""
    visible = text.replace("\n", "⏎").replace("\t", "⇥").replace("\r", "␍")
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in visible)
