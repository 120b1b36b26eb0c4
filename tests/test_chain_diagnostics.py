"""The table of chain diagnostics: arviz-stats and closed forms say the same, and what few draws cannot say is missing."""

import numpy as np
import polars as pl
import pytest
from arviz_stats.base import array_stats

from susc_pipeline import schema
from susc_pipeline.sampling import convergence, diagnostics, loss_traces
from susc_pipeline.susceptibility import chain_diagnostics


@pytest.mark.parametrize("shape", [(2, 4), (4, 40), (7, 100)])
def test_split_r_hat_is_that_of_arviz(shape):
    trace = np.random.default_rng(0).normal(size=shape) + np.arange(shape[0])[:, None] / 4
    by_arviz = array_stats.rhat(trace, chain_axis=0, draw_axis=1, method="split")
    assert diagnostics.r_hat(trace) == pytest.approx(float(by_arviz), rel=1e-12)


def test_bulk_effective_sample_size_of_an_autoregression_is_the_closed_form_whatever_the_scale():
    rng, kept, trace = np.random.default_rng(1), 0.6, np.zeros((4, 4000))
    for draw in range(1, trace.shape[1]):
        trace[:, draw] = kept * trace[:, draw - 1] + rng.normal(size=4)
    found = convergence.bulk_effective_sample_size(trace)
    assert found == pytest.approx(trace.size * (1 - kept) / (1 + kept), rel=0.15)
    assert convergence.bulk_effective_sample_size(np.exp(3 * trace)) == pytest.approx(
        found, rel=1e-9
    )  # ranks alone count
    assert convergence.bulk_effective_sample_size(trace + 3 * np.arange(4)[:, None]) < found / 20


def test_a_row_says_what_its_chains_say_and_too_few_draws_leave_convergence_missing():
    rise = np.array([[0.1, 0.2, 0.3, 0.2], [0.3, 0.2, 0.1, 0.4]])
    long, short = (chain_diagnostics.row("L0H0", "s", rise[:, :n], n_beta=30.0) for n in (4, 3))
    table = chain_diagnostics.table([long, short, chain_diagnostics.row("L0H0", None, rise, n_beta=0.0)])
    assert dict(table.schema) == schema.CHAIN_DIAGNOSTICS
    means = 30 * rise.mean(axis=1)
    assert table["llc"][0] == pytest.approx(means.mean()) and table["llc_error"][0] == pytest.approx(
        abs(means @ [-0.5, 0.5])
    )
    convergent = ["r_hat", "r_hat_limit", "bulk_ess"]
    assert table.select(convergent).null_count().row(0) == (1, 1, 1) and table["r_hat"][1] is None
    assert table["llc"].to_list()[2] is None and table["llc_error"].to_list()[2] is None
    assert table["direction_reliability"].null_count() == 3


def test_rises_are_means_over_mirror_images_in_order_of_chain_and_draw():
    rng, rows = np.random.default_rng(2), []
    expected = rng.normal(size=(3, 5))
    for chain, draw, mirror in np.ndindex(3, 5, 2):
        rise = expected[chain, draw] + (0.25 if mirror else -0.25)
        rows.append({"chain": chain, "draw": draw, "mean_loss": 2 + rise, "rest_loss": 2.0})
    shuffled = pl.DataFrame(rows).sample(fraction=1, shuffle=True, seed=0)
    np.testing.assert_allclose(loss_traces.rises(shuffled), expected, atol=1e-12)
