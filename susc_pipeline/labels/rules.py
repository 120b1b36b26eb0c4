"""Rules: conjunctions of at most three conditions on features, learned as paths of small decision trees.

A feature of many values is read by a tree as a rate: the share of the other folds' rows of that value that are members
(target encoding, cross-fitted over documents; Micci-Barreca 2001, Pargent et al. 2022), so that a value seen in one document
promises nothing. A limit of the rate is a set of values. Of all nodes of the trees that one is taken whose rows have the
largest F1 with the members, less PRICE for each condition. Rules are scored in scores.py, on documents that they never saw.
"""

from functools import partial
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Int32

from susc_pipeline.labels.features import FEATURES, VALUES

MAX_CONDITIONS = 3
PRICE = 0.03
"""F1 that a condition must add to be worth reading."""
SMOOTHING = 4.0
"""Rows of the cluster's overall rate that are added to each value's own."""
N_FOLDS = 4
ROWS_OF_A_KIND = 8192
TOKEN = FEATURES.index("token")
ANY = (int(np.iinfo(np.int32).min), int(np.iinfo(np.int32).max))


class Condition(NamedTuple):
    """What a row must fulfil in one feature: to be one of some values, or in a range; `holds_inside` false: not so."""

    feature: int
    values: Int32[np.ndarray, " values"]
    low: int
    high: int
    holds_inside: bool


Rule = tuple[Condition, ...]


class Rows(NamedTuple):
    """Tokens to learn from or to score on; `weight` is how many tokens a row stands for, `document` a document group."""

    features: Int32[np.ndarray, "rows features"]
    cluster: Int32[np.ndarray, " rows"]
    weight: Float[np.ndarray, " rows"]
    document: Int[np.ndarray, " rows"]

    def of(self, chosen: np.ndarray) -> "Rows":
        """Some of the rows."""
        return Rows(self.features[chosen], self.cluster[chosen], self.weight[chosen], self.document[chosen])


class Learned(NamedTuple):
    """The best rule, and two that know the token alone: by cross-fitted rates as the rule is, and by plain rates."""

    rule: Rule
    token_rules: tuple[Rule, Rule]


class _Cut(NamedTuple):
    feature: int
    limit: float
    is_above: bool


class Learner:
    """Rows prepared once for the rules of many clusters."""

    def __init__(self, rows: Rows) -> None:
        """Take the rows of the documents to learn from; whole documents make the folds."""
        self.rows, self.fold = rows, rows.document % N_FOLDS
        self.codes = rows.features[:, : len(VALUES)] + 1  # missing is -1
        self.n_values = [int(column.max(initial=0)) + 1 for column in self.codes.T]
        every = np.arange(len(rows.cluster))
        self.totals = [self._by_value(feature, every) for feature in range(len(VALUES))]

    def _by_value(self, feature: int, chosen: Int[np.ndarray, " chosen"]) -> Float[np.ndarray, "folds values"]:
        n_values = self.n_values[feature]
        cells = self.fold[chosen] * n_values + self.codes[chosen, feature]
        weighed = np.bincount(cells, weights=self.rows.weight[chosen], minlength=N_FOLDS * n_values)
        return weighed.reshape(N_FOLDS, n_values)

    def learn(self, cluster: int, rng: np.random.Generator) -> Learned:
        """The rules of a cluster that has members among the rows."""
        members = np.flatnonzero(self.rows.cluster == cluster)
        prior = self.rows.weight[members].sum() / self.rows.weight.sum()
        inside = [self._by_value(feature, members) for feature in range(len(VALUES))]
        chosen, weight = self._sample(members, rng)
        encoded = self._encoded(chosen, inside, prior)
        is_member = self.rows.cluster[chosen] == cluster
        by_token = best_token_cut(encoded[:, TOKEN], is_member, weight)
        best = _best_cuts(encoded, is_member, weight, by_token)
        rates = [_rates(inside[f].sum(0), self.totals[f].sum(0), prior) for f in range(len(VALUES))]
        plainly = best_token_cut(rates[TOKEN][self.codes[chosen, TOKEN]], is_member, weight)
        return Learned(_rule(best, rates), (_rule([by_token], rates), _rule([plainly], rates)))

    def _sample(self, members: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Members, tokens of the same text, and others, of each kind no more than some thousands, and their weights."""
        tokens = np.zeros(self.n_values[TOKEN], bool)
        tokens[self.codes[members, TOKEN]] = True
        kind = tokens[self.codes[:, TOKEN]].astype(np.int8)
        kind[members] = 2
        parts, weights = [], []
        for number in range(3):
            found = np.flatnonzero(kind == number)
            kept = found if len(found) <= ROWS_OF_A_KIND else rng.choice(found, ROWS_OF_A_KIND, replace=False)
            parts.append(kept)
            whole, part = self.rows.weight[found].sum(), self.rows.weight[kept].sum()
            weights.append(self.rows.weight[kept] * (whole / part if part else 1.0))
        return np.concatenate(parts), np.concatenate(weights)

    def _encoded(self, chosen: np.ndarray, inside: list[np.ndarray], prior: float) -> np.ndarray:
        encoded = self.rows.features[chosen].astype(np.float32)
        for feature, counts in enumerate(inside):
            members, rows = (each.sum(0) - each for each in (counts, self.totals[feature]))  # of the other folds
            encoded[:, feature] = _rates(members, rows, prior)[self.fold[chosen], self.codes[chosen, feature]]
        return encoded


def _rates(members: np.ndarray, rows: np.ndarray, prior: float) -> np.ndarray:
    """Smoothed share of members by value; what is no better than the cluster's share of all tokens is all the same."""
    return np.maximum((members + SMOOTHING * prior) / (rows + SMOOTHING), prior)


def best_token_cut(
    rate: Float[np.ndarray, " rows"], is_member: Bool[np.ndarray, " rows"], weight: Float[np.ndarray, " rows"]
) -> _Cut:
    """The limit of the token's rate above which the rows have the largest F1 with the members."""
    order = np.argsort(-rate, kind="stable")
    hit = np.cumsum(weight[order] * is_member[order])
    taken = np.cumsum(weight[order])
    f1 = 2 * hit / (taken + hit[-1])
    is_last = np.append(rate[order][1:] < rate[order][:-1], False)  # of equal rates; to take all would be no rule
    if not is_last.any():
        return _Cut(TOKEN, float(rate.max(initial=0.0)), True)
    place = int(np.argmax(np.where(is_last, f1, -1)))
    return _Cut(TOKEN, float(rate[order][place] + rate[order][place + 1]) / 2, True)


def _best_cuts(encoded: np.ndarray, is_member: np.ndarray, weight: np.ndarray, by_token: _Cut) -> list[_Cut]:
    candidates = [[by_token]]
    balanced = np.where(is_member, weight / weight[is_member].sum(), weight / max(weight[~is_member].sum(), 1.0))
    of_token = _holds(by_token, encoded)
    candidates += _paths(encoded, is_member, balanced, MAX_CONDITIONS)
    candidates += _paths(encoded, is_member, weight, MAX_CONDITIONS)
    if of_token.any():
        inner = _paths(encoded[of_token], is_member[of_token], weight[of_token], MAX_CONDITIONS - 1)
        candidates += [[by_token, *path] for path in inner if all(cut.feature != TOKEN for cut in path)]
    worth = partial(_worth, encoded=encoded, is_member=is_member, weight=weight)
    best = max(candidates, key=worth)
    while len(best) > 1:
        shorter = max((best[:k] + best[k + 1 :] for k in range(len(best))), key=worth)
        if worth(shorter) < worth(best):
            break
        best = shorter
    return best


def _paths(encoded: np.ndarray, is_member: np.ndarray, weight: np.ndarray, depth: int) -> list[list[_Cut]]:
    """The way to each node of a decision tree, as cuts; of two cuts on one side of a feature the narrower."""
    from sklearn.tree import DecisionTreeClassifier  # here: it is slow to load

    tree = DecisionTreeClassifier(max_depth=depth, min_samples_leaf=5, random_state=0)
    found = tree.fit(encoded, is_member, sample_weight=weight).tree_
    paths, open_nodes = [], [(0, {})]
    while open_nodes:
        node, cuts = open_nodes.pop()
        # Values of a middling rate, neither those of the cluster nor the others, are nothing that one could say in words.
        is_said = not any((feature, False) in cuts and (feature, True) in cuts for feature in range(len(VALUES)))
        paths += [list(cuts.values())] * (bool(cuts) and is_said)
        if found.children_left[node] != found.children_right[node]:
            feature, limit = int(found.feature[node]), float(found.threshold[node])
            for child, above in ((found.children_left[node], False), (found.children_right[node], True)):
                open_nodes.append((child, cuts | {(feature, above): _Cut(feature, limit, above)}))
    return paths


def _holds(cut: _Cut, encoded: np.ndarray) -> np.ndarray:
    return (encoded[:, cut.feature] > cut.limit) == cut.is_above


def _worth(cuts: list[_Cut], encoded: np.ndarray, is_member: np.ndarray, weight: np.ndarray) -> float:
    taken = np.logical_and.reduce([_holds(cut, encoded) for cut in cuts])
    hit = weight[taken & is_member].sum()
    return 2 * hit / (weight[taken].sum() + weight[is_member].sum()) - PRICE * len(cuts)


def _rule(cuts: list[_Cut], rates: list[np.ndarray]) -> Rule:
    """The cuts as conditions on features; a limit of rates as the set of values above it."""
    conditions, ranges = [], {}
    for cut in sorted(cuts, key=lambda cut: (cut.feature, cut.is_above)):
        if cut.feature < len(VALUES):
            values = (np.flatnonzero(rates[cut.feature] > cut.limit) - 1).astype(np.int32)
            if len(values) or cut.is_above:  # else it holds everywhere
                conditions.append(Condition(cut.feature, values, *ANY, cut.is_above))
        else:
            low, high = ranges.get(cut.feature, ANY)
            limit = int(np.floor(cut.limit))
            ranges[cut.feature] = (max(low, limit + 1), high) if cut.is_above else (low, min(high, limit))
    none = np.zeros(0, np.int32)
    return (*conditions, *(Condition(feature, none, low, high, True) for feature, (low, high) in ranges.items()))


def fulfilled(rule: Rule, features: Int32[np.ndarray, "rows features"]) -> Bool[np.ndarray, " rows"]:
    """The rows in which every condition holds."""
    taken = np.ones(len(features), bool)
    for condition in rule:
        column = features[:, condition.feature]
        if condition.feature < len(VALUES):
            inside = np.isin(column, condition.values)
        else:
            inside = (column >= condition.low) & (column <= condition.high)
        taken &= inside == condition.holds_inside
    return taken
