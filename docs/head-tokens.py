# %% [markdown]
# # From a text to a picture of a head's tokens
#
# Which tokens of a text does one attention head express, and which does it suppress? This notebook measures head 2 of
# layer 1 of the model that comes with the project. It needs no finished run. Start it in the folder of the clone, with
# the Python of `.venv`. `python -m resources.notebook` writes it from `docs/head-tokens.py`.

# %%
from pathlib import Path

import matplotlib.pyplot as plt
import polars as pl
from matplotlib.colors import TwoSlopeNorm

from susc_pipeline import quickstart
from susc_pipeline.model import pretrained

loaded = pretrained.load(pretrained.EMBEDDED)
text = '''def mean(numbers):
    """Return the mean of the numbers."""
    total = sum(numbers)
    return total / len(numbers)


def median(numbers):
    """Return the middle one of the numbers."""
    ordered = sorted(numbers)
    return ordered[len(numbers) // 2]
'''

# %% [markdown]
# The background stands for the text on which the model was trained. Noise on the head's weights raises the mean loss of
# the background. The susceptibility says how the loss of each token moves along with it, in nats squared.

# %%
background = Path("susc_pipeline/config.py").read_text() + Path("susc_pipeline/corpus.py").read_text()
table = quickstart.susceptibilities(loaded, text, background=background, component_names=["L1H2"])
table = table.with_columns(z=pl.col("susceptibility") / pl.col("standard_error"))
print(table.sort("susceptibility").select("position", "token", "loss", "susceptibility", "standard_error").head(8))

# %% [markdown]
# Each token in its place. Red tokens are expressed: the noise hurts them more than the mean token. Blue tokens are
# suppressed. The colour ends at five standard errors; pale tokens are not sure. The first token has no loss and no colour.


# %%
def draw(table, text, title):
    """The text, one character a cell, each token over a box in the colour of its value in standard errors."""
    lines = text.splitlines()
    figure, axes = plt.subplots(figsize=(0.13 * max(map(len, lines)), 0.26 * len(lines) + 0.6), dpi=110)
    colour = plt.get_cmap("RdBu")
    scale = TwoSlopeNorm(vcenter=0, vmin=-5, vmax=5)
    place = len(text) - len("".join(table["token"]))  # the first token is not in the table
    for token, z in table.select("token", "z").iter_rows():
        for character in token:
            row, column = text.count("\n", 0, place), place - (text.rfind("\n", 0, place) + 1)
            if character != "\n":
                axes.add_patch(plt.Rectangle((column, row), 1, 1, color=colour(scale(max(-5, min(5, z))))))
                ink = "white" if abs(z) > 3 else "black"
                options = {"ha": "center", "va": "center", "family": "monospace", "parse_math": False, "color": ink}
                axes.text(column + 0.5, row + 0.55, character, **options)
            place += 1
    axes.text(
        0, 0.55, text[: len(text) - len("".join(table["token"]))], va="center", family="monospace", parse_math=False
    )
    axes.set(xlim=(0, max(map(len, lines))), ylim=(len(lines), 0), title=title)
    axes.axis("off")
    return figure


draw(table, text, "L1H2: expressed (red), suppressed (blue)")
plt.show()
