"""Oracles in worlds with known losses: susceptibilities, learning coefficients and energies in closed form.

Draws of the susceptibility worlds are not random: they are nodes of a Gauss-Hermite rule, carried to the exact posterior by a
map of quantiles. What error remains is that of an expansion, and each test says how it must shrink.
"""

import itertools
from math import factorial, sqrt

import numpy as np
import pytest
import torch
from numpy.polynomial import Polynomial, hermite_e
from scipy import integrate, stats

import toys
from susc_pipeline.sampling import diagnostics, loss_traces
from susc_pipeline.sampling.samplers import SAMPLERS
from susc_pipeline.susceptibility import estimators

N_ROWS = 400_000
"""Draws that a Gauss-Hermite rule is written out as: its weights become whole numbers of rows."""


def mirrored(plus, minus, weights, *, phi, psi, localization):
    """Traces of one chain and its mirror image at the given places (nodes dimensions), with exact gradients.

    Means over rows are means by the weights, which are folded into the slopes; `written_out` is for covariances.

    Args:
        plus: places of the chain.
        minus: places of its mirror image, node by node.
        weights: of the nodes; their sum is one.
        phi: the observable and the loss of the population: a function of places, and its gradient.
        psi: the excess loss of the one token, likewise.
        localization: of the posterior.
    """
    (phi, gradient_of_phi), (psi, gradient_of_psi) = phi, psi
    n_nodes = len(plus)
    w, share = np.concatenate([plus, minus]), n_nodes * np.tile(weights, 2)[:, None]
    gradient, of_excess = gradient_of_phi(w), gradient_of_psi(w)
    v = (share * gradient).mean(axis=0, keepdims=True) / localization
    first, second = gradient.reshape(2, n_nodes, -1)
    own = np.concatenate([first - second, second - first]) / (2 * localization)
    of_phi, of_psi = ([(share * along * field).sum(axis=1) for along in (v, own)] for field in (gradient, of_excess))
    traces = toys.traces_of(
        phi(w),
        np.zeros((2 * n_nodes, 1)),
        n_chains=1,
        mean_slope=of_phi[0],
        mean_own_slope=of_phi[1],
        token_slopes=(of_phi[0] + of_psi[0])[:, None],
        own_slopes=(of_phi[1] + of_psi[1])[:, None],
    )
    return traces._replace(
        token_losses=(psi(w) + phi(w))[:, None],  # float64: covariances of small losses would drown in float32
        mirror=np.repeat([0, 1], n_nodes),
        draw=np.tile(np.arange(n_nodes), 2),
    )


def written_out(traces, weights):
    """The traces with each node as often as its weight says, for estimators that take no weights."""
    counts = np.round(np.tile(weights, 2) * N_ROWS).astype(int)
    return loss_traces.take(traces, np.repeat(np.arange(len(counts)), counts))


def covariance(traces, kind="restricted"):
    """Minus the susceptibility, so that it is compared with Cov[phi, psi]."""
    return float(-estimators.estimate(traces, kind=kind).value[0])


def gauss_hermite(dimension, n_nodes=9):
    """Nodes (nodes dimensions) and weights of a rule for the standard normal distribution."""
    nodes, weights = hermite_e.hermegauss(n_nodes)
    every = np.stack(np.meshgrid(*[np.arange(n_nodes)] * dimension, indexing="ij"), axis=-1).reshape(-1, dimension)
    return nodes[every], np.prod((weights / weights.sum())[every], axis=1)


def transported(z, energy, grid):
    """Places that have the density exp(-energy) when z is standard normal: equal quantiles."""
    density = np.exp(energy.min() - energy)
    cumulative = integrate.cumulative_simpson(density, x=grid, initial=0.0)
    return np.interp(stats.norm.cdf(z), cumulative / cumulative[-1], grid)


# One dimension: cubic losses.


def cubic_covariance(*, curvature, cubic, temperature):
    z, weights = gauss_hermite(1)
    grid = np.linspace(-8.0, 8.0, 20_001) / np.sqrt(curvature * temperature)
    w = transported(z, temperature * (curvature * grid**2 / 2 + cubic * grid**3 / 6), grid)
    square = (lambda w: (w**2)[:, 0], lambda w: 2 * w)
    line = (lambda w: w[:, 0], np.ones_like)
    traces = mirrored(w, w[::-1], weights, phi=square, psi=line, localization=1.0)
    return covariance(written_out(traces, weights))


@pytest.mark.parametrize(("curvature", "cubic"), [(1.0, 0.5), (2.0, 1.5), (2.0, -1.5)])
def test_a_cubic_loss_couples_the_square_to_the_line(curvature, cubic):
    """L = curvature w^2 / 2 + cubic w^3 / 6 at inverse temperature t: Cov[w^2, w] = -2 cubic / (curvature^3 t^2) + O(t^-3)."""
    errors = []
    for temperature in (100.0, 400.0):
        expected = -2 * cubic / (curvature**3 * temperature**2)
        errors.append(cubic_covariance(curvature=curvature, cubic=cubic, temperature=temperature) / expected - 1)
    assert abs(errors[1]) < 0.02
    assert errors[0] / errors[1] == pytest.approx(4.0, rel=0.25)


# At a minimum, to second order.


class Expansion:
    """Losses to third order around a minimum in d dimensions, with all coefficients drawn at random.

    phi = w'Aw/2 + Phi:www/6, psi = b.w + w'Bw/2, and the posterior is that of n_beta L = n_beta w'Hw/2 + T:www/6.
    """

    def __init__(self, seed, dimension, *, n_beta, localization, scale, curvature=None):
        rng = np.random.default_rng(seed)
        root, self.b = rng.normal(size=(dimension, dimension)), rng.normal(size=dimension)
        hessian = np.eye(dimension) * curvature if curvature else root @ root.T / dimension + np.eye(dimension) / 4
        self.A, self.B = (self._symmetric(rng.normal(size=(dimension,) * 2)) for _ in range(2))
        self.third, cubic = (self._symmetric(rng.normal(size=(dimension,) * 3)) for _ in range(2))
        self.precision = (n_beta * hessian + localization * np.eye(dimension)) / scale
        self.T = n_beta * cubic / scale
        self.localization = localization / scale
        self.root = np.linalg.cholesky(np.linalg.inv(self.precision))

    @staticmethod
    def _symmetric(tensor):
        if tensor.ndim == 2:
            return (tensor + tensor.T) / 2
        return sum(tensor.transpose(order) for order in itertools.permutations(range(3))) / 6

    def phi(self, w):
        return np.einsum("ni,ij,nj->n", w, self.A, w) / 2 + np.einsum("ijk,ni,nj,nk->n", self.third, w, w, w) / 6

    def phi_gradient(self, w):
        return w @ self.A + np.einsum("ijk,nj,nk->ni", self.third, w, w) / 2

    def psi(self, w):
        return w @ self.b + np.einsum("ni,ij,nj->n", w, self.B, w) / 2

    def psi_gradient(self, w):
        return self.b + w @ self.B

    def cubic_energy(self, w):
        return np.einsum("ijk,ni,nj,nk->n", self.T, w, w, w) / 6

    def terms(self):
        """The four terms of Cov[phi, psi], with S = (n_beta H + gamma)^-1 as `spread`."""
        spread = np.linalg.inv(self.precision)
        shift = spread @ self.b
        return np.array(
            [
                np.trace(self.A @ spread @ self.B @ spread) / 2,
                shift @ np.einsum("ijk,jk->i", self.third, spread) / 2,
                -self.b @ spread @ self.A @ spread @ np.einsum("ijk,jk->i", self.T, spread) / 2,
                -shift @ np.einsum("ijk,jk->i", self.T, spread @ self.A @ spread) / 2,
            ]
        )

    def brute_force(self, n_nodes=24):
        """Cov[phi, psi] by a tensor Gauss-Hermite rule of N(0, S), reweighted by the cubic part of the energy."""
        z, weights = gauss_hermite(len(self.b), n_nodes)
        w = z @ self.root.T
        weights = weights * np.exp(-self.cubic_energy(w))
        weights /= weights.sum()
        phi, psi = self.phi(w), self.psi(w)
        return weights @ (phi * psi) - (weights @ phi) * (weights @ psi)

    def places(self, z):
        """Where the posterior in two dimensions has the quantiles of z: of w_1, then of w_2 given w_1 (Rosenblatt 1952)."""
        grid, coarse = np.linspace(-7.0, 7.0, 1401), np.linspace(-7.0, 7.0, 141)

        def energy(first, second):
            pair = np.stack(np.broadcast_arrays(first, second), axis=-1)
            cubic = self.cubic_energy(pair.reshape(-1, 2) @ self.root.T).reshape(pair.shape[:-1])
            return cubic + np.square(pair).sum(axis=-1) / 2

        of_first = -np.log(np.exp(-energy(grid[:, None], coarse)).sum(axis=1))
        first = transported(z[:, 0], of_first, grid)
        second = np.empty_like(first)
        for place in np.unique(first):
            second[first == place] = transported(z[first == place, 1], energy(place, grid), grid)
        return np.stack([first, second], axis=1) @ self.root.T

    def estimate(self, kind):
        """Cov[phi, psi] as the estimator has it, from exact draws and antithetic ones."""
        z, weights = gauss_hermite(2)
        functions = {"phi": (self.phi, self.phi_gradient), "psi": (self.psi, self.psi_gradient)}
        traces = mirrored(self.places(z), self.places(-z), weights, localization=self.localization, **functions)
        return covariance(written_out(traces, weights) if kind == "restricted" else traces, kind)


@pytest.mark.parametrize("seed", range(4))
def test_covariance_at_a_minimum_to_second_order(seed):
    """All four terms, in three dimensions; the error is of third order, so it falls as the posterior's variance."""
    errors = []
    for scale in (1e-3, 5e-4):
        world = Expansion(seed, 3, n_beta=1.0, localization=0.5, scale=scale)
        expected = world.terms()
        errors.append((world.brute_force() - expected.sum()) / np.abs(expected).max())
        assert np.abs(expected).min() > 1e-3 * np.abs(expected).max()  # no term is idle
    assert abs(errors[1]) < 0.02
    assert errors[0] / errors[1] == pytest.approx(2.0, rel=0.15)


@pytest.mark.parametrize("seed", range(3))
def test_restricted_finds_the_covariance_at_a_minimum(seed):
    world = Expansion(seed, 2, n_beta=1.0, localization=0.5, scale=1e-3)
    found = world.estimate("restricted")
    largest = np.abs(world.terms()).max()
    assert found == pytest.approx(world.brute_force(), abs=1e-3 * largest)
    assert found == pytest.approx(world.terms().sum(), abs=0.05 * largest)


@pytest.mark.parametrize("seed", range(3))
def test_second_order_tends_to_the_covariance_as_the_loss_weighs_less_than_the_localization(seed):
    errors = []
    for ratio in (0.02, 0.01, 0.0):
        world = Expansion(seed, 2, n_beta=ratio, localization=1.0, scale=1e-3)
        errors.append(world.estimate("second_order") / world.terms().sum() - 1)
    assert errors[2] == pytest.approx(0.0, abs=1e-3)  # a Gaussian posterior, and losses without a third Hermite term
    assert errors[0] / errors[1] == pytest.approx(2.0, rel=0.1)


@pytest.mark.parametrize("ratio", [0.1, 0.5, 2.0])
def test_second_order_is_too_large_by_one_plus_the_stiffness(ratio):
    """On quadratic losses the factor is 1 + n_beta lambda / localization: 1 / localization stands where S should."""
    world = Expansion(5, 2, n_beta=ratio, localization=1.0, scale=1e-3, curvature=1.0)
    world.T, world.third = 0 * world.T, 0 * world.third
    truth = world.terms().sum()
    assert world.estimate("restricted") == pytest.approx(truth, rel=1e-3)
    assert world.estimate("second_order") == pytest.approx((1 + ratio) * truth, rel=1e-3)


@pytest.mark.parametrize("ratio", [0.5, 2.0])
def test_a_direction_divided_by_the_precision_is_exact_along_a_stiff_weight_that_soft_ones_push(ratio):
    """phi = L = k w0^2/2 + c w0 w1^2/2, psi = w0: the noise of w1 pushes w0, which the loss holds.

    Divided by localization alone v is too long by 1 + n_beta k / localization; sampling/precision.py divides by both.
    """
    scale, cubic = 1e-3, 0.3
    world = Expansion(0, 2, n_beta=ratio, localization=1.0, scale=scale)
    stiff, third = np.diag([1.0, 0.0]), np.zeros((2, 2, 2))
    third[0, 1, 1] = third[1, 0, 1] = third[1, 1, 0] = cubic
    world.A, world.third, world.b, world.B = stiff, third, np.array([1.0, 0.0]), np.zeros((2, 2))
    world.T, world.precision = ratio * third / scale, (ratio * stiff + np.eye(2)) / scale
    world.root = np.linalg.cholesky(np.linalg.inv(world.precision))
    truth = world.brute_force()
    assert world.terms().sum() == pytest.approx(truth, rel=0.01)
    by_prior = world.estimate("first_order")
    assert by_prior == pytest.approx((1 + ratio) * truth, rel=0.01)
    direction = by_prior * world.localization / world.precision[0, 0]  # only w0 is pushed
    assert direction == pytest.approx(truth, rel=0.01)


@pytest.mark.parametrize("ratio", [0.1, 0.3])
def test_second_order_overstates_the_response_to_the_cubic_part_twice_as_much_where_phi_is_the_loss(ratio):
    """L = w^2/2 + w^3/6 = phi, psi = w: the factor is (1 + r)/(1 - r), with r = n_beta lambda / localization.

    The cubic part shifts the posterior's mean, which lowers the covariance twice, by the third term of the expansion and
    by the fourth. The estimate has only the third, in E[grad phi].
    """
    localization = 1e4
    n_beta = ratio * localization
    z, weights = gauss_hermite(1)
    grid = np.linspace(-8.0, 8.0, 20_001) / np.sqrt(n_beta + localization)
    w = transported(z, n_beta * (grid**2 / 2 + grid**3 / 6) + localization * grid**2 / 2, grid)
    loss = (lambda w: (w**2 / 2 + w**3 / 6)[:, 0], lambda w: w + w**2 / 2)
    traces = mirrored(w, w[::-1], weights, phi=loss, psi=(lambda w: w[:, 0], np.ones_like), localization=localization)
    truth = (1 - ratio) / (1 + ratio) ** 3 / (2 * localization**2)
    assert covariance(written_out(traces, weights)) == pytest.approx(truth, rel=0.01)
    assert covariance(traces, "second_order") == pytest.approx(truth * (1 + ratio) / (1 - ratio), rel=0.01)


# A Gaussian posterior: Hermite terms.


def hermite_terms(phi, psi, *, localization, n_terms=5):
    """f_k = E[phi^(k)] E[psi^(k)] / (k! localization^k), under N(0, 1 / localization); their sum is the covariance."""
    z, weights = gauss_hermite(1)
    means = [[weights @ f.deriv(k)(z[:, 0] / sqrt(localization)) for f in (phi, psi)] for k in range(1, n_terms + 1)]
    return [a * b / (factorial(k) * localization**k) for k, (a, b) in enumerate(means, start=1)]


@pytest.mark.parametrize("of_phi", [1, 2, 3, 4])
@pytest.mark.parametrize("of_psi", [1, 2, 3, 4])
def test_first_order_holds_the_first_hermite_term_and_gauss_newton_the_second_and_second_order_twice_the_fourth(
    of_phi, of_psi
):
    localization = 3.0
    rng = np.random.default_rng((of_phi, of_psi))
    phi, psi = (Polynomial(rng.normal(size=degree + 1)) for degree in (of_phi, of_psi))
    f1, f2, f3, f4, f5 = hermite_terms(phi, psi, localization=localization)
    z, weights = gauss_hermite(1)
    w = z / sqrt(localization)
    functions = ((lambda w, f=f: f(w)[:, 0], f.deriv()) for f in (phi, psi))
    traces = mirrored(w, -w, weights, **dict(zip(("phi", "psi"), functions, strict=True)), localization=localization)
    assert covariance(traces, "first_order") == pytest.approx(f1, rel=1e-9)
    assert covariance(traces, "second_order") == pytest.approx(f1 + f2 + 2 * f4, rel=1e-9)
    # Scores come from draws of another chain: on average their square is the mean curvature of phi, whatever the draw.
    curvature = (
        (weights @ phi.deriv(2)(w)).item()
        * len(weights)
        * np.tile(weights, 2)
        * psi.deriv(2)(np.concatenate([w, -w])[:, 0])
    )
    bent = traces._replace(
        responses=traces.token_slopes + curvature[:, None] / (2 * localization**2), mean_response=traces.mean_slope
    )
    assert covariance(bent, "gauss_newton") == pytest.approx(f1 + f2, rel=1e-9)
    exact = weights @ (phi(w) * psi(w)) - (weights @ phi(w)) * (weights @ psi(w))
    assert f1 + f2 + f3 + f4 == pytest.approx(exact.item(), rel=1e-9)
    assert f5 == pytest.approx(0.0, abs=1e-12)
    if min(of_phi, of_psi) <= 2:  # then there is no third or fourth term
        assert covariance(traces, "second_order") == pytest.approx(exact.item(), rel=1e-9)


# Learning coefficients and energies.

CURVATURES = np.array([0.1, 1.0, 10.0, 100.0])
N_BETA, LOCALIZATION = 30.0, 300.0
LOCALIZED = N_BETA * CURVATURES / (N_BETA * CURVATURES + LOCALIZATION)


def quadratic_losses(rng, *, shape=(16, 20_000)):
    """Losses sum lambda w^2 / 2 of exact draws of the posterior."""
    w = rng.normal(size=(*shape, len(CURVATURES))) / np.sqrt(N_BETA * CURVATURES + LOCALIZATION)
    return (w**2 @ CURVATURES) / 2


def test_localized_learning_coefficient_of_a_quadratic_loss():
    """Half of sum n_beta lambda / (n_beta lambda + localization): the directions that the loss controls, not all four."""
    found = diagnostics.local_learning_coefficient(
        quadratic_losses(np.random.default_rng(0)) + 2.5, init_loss=2.5, n_beta=N_BETA
    )
    assert abs(found.value - LOCALIZED.sum() / 2) < 4 * found.standard_error
    assert found.standard_error < 0.01


def test_euler_steps_inflate_each_term_of_the_learning_coefficient():
    """sgld with step size e: each direction's term is divided by 1 - e (n_beta lambda + localization) / 4."""
    step_size, n_chains, n_copies = 4e-4, 8, 4000
    inflation = 1 / (1 - step_size * (N_BETA * CURVATURES + LOCALIZATION) / 4)
    generator = torch.Generator().manual_seed(0)
    curvature = torch.tensor(CURVATURES).repeat_interleave(n_copies)
    sampler = SAMPLERS["sgld"]

    def noise():
        return torch.randn(n_chains, len(curvature), generator=generator, dtype=torch.float64)

    state = sampler.init(noise(), localization=LOCALIZATION)
    for _ in range(150):  # the slowest variance forgets its start by exp(-150 e 303) = 1e-8
        force = {"step_size": step_size, "n_beta": N_BETA, "localization": LOCALIZATION}
        state = sampler.step(state, curvature * state.delta, noise(), **force)
    squares = (state.delta.numpy() ** 2).reshape(n_chains, len(CURVATURES), n_copies)
    for number, (curvature, term) in enumerate(zip(CURVATURES, LOCALIZED * inflation / 2, strict=True)):
        losses = curvature * squares[:, number] / 2
        found = diagnostics.local_learning_coefficient(losses, init_loss=0.0, n_beta=N_BETA)
        assert abs(found.value - term) < 5 * found.standard_error
        assert found.standard_error < 0.02 * term
    assert inflation[-1] > 1.4  # the power: without it the last term would be far off


def test_energies_are_a_sum_of_gamma_variables():
    """n_beta (L - L*) is a sum of Gamma(1/2, rate (n_beta lambda + localization) / (n_beta lambda))."""
    rng = np.random.default_rng(1)
    energy = N_BETA * quadratic_losses(rng, shape=(1, 50_000)).ravel()
    gammas = (rng.gamma(0.5, size=(50_000, len(CURVATURES))) * LOCALIZED).sum(axis=1)
    assert stats.ks_2samp(energy, gammas).pvalue > 1e-3
    assert energy.var() == pytest.approx((LOCALIZED**2).sum() / 2, rel=0.05)
    assert stats.ks_2samp(energy, rng.gamma(LOCALIZED.sum() / 2, size=50_000)).pvalue < 1e-6  # not one Gamma variable


@pytest.mark.parametrize("powers", [(2,), (4,), (6,), (2, 4), (2, 4, 8)])
def test_learning_coefficient_of_a_sum_of_powers(powers):
    """L = sum |w_i|^p_i has learning coefficient sum 1 / p_i, whatever n_beta, once the localization is tiny."""
    n_beta, levels = 1e4, (np.arange(20_000) + 0.5) / 20_000
    losses = []
    for p in powers:
        grid = np.linspace(-5.0, 5.0, 200_001) * n_beta ** (-1 / p)
        energy = n_beta * np.abs(grid) ** p + 1e-6 * grid**2 / 2
        losses.append(np.abs(transported(stats.norm.ppf(levels), energy, grid)) ** p)
    trace = np.stack(losses).sum(axis=0)[None].repeat(2, axis=0)
    found = diagnostics.local_learning_coefficient(trace, init_loss=0.0, n_beta=n_beta)
    assert found.value == pytest.approx(sum(1 / p for p in powers), rel=2e-3)
