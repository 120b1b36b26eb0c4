"""Figures of the patterning benchmark: predicted beside measured changes, a permutation null, and the lines that are printed."""

import numpy as np

ARMS = ("patterning", "opposite", "shuffled", "similarity", "of_packages")
N_PERMUTATIONS = 10_000


def summary(content: dict) -> dict:
    """Correlation, slope and permutation null of predicted and measured changes, and how well each arm meets the change."""
    changes = np.array(content["changes"])
    measured = {
        arm: np.array([rows[arm] for rows in content["measured"]]) for arm in ARMS
    }  # seeds, changes, asked or held out, packages
    predicted = {arm: np.array(content["predicted"][arm]) for arm in ARMS}
    found: dict = {}
    for rank, documents in enumerate(("asked", "held_out")):
        of_arm = {arm: values[:, :, rank].mean(axis=0) for arm, values in measured.items()}
        part = fit(predicted["patterning"], of_arm["patterning"])
        part["r_of_all_arms"] = fit(*(np.concatenate(list(v.values())) for v in (predicted, of_arm)))["r"]
        part["arms"] = {arm: against(changes, values) for arm, values in of_arm.items()}
        odd = (of_arm["patterning"] - of_arm["opposite"]) / 2
        part["odd"] = fit(predicted["patterning"], odd)
        seeds_apart = measured["patterning"][:, :, rank]
        if len(seeds_apart) > 1:
            part["r_between_seeds"] = float(np.corrcoef(seeds_apart[0].ravel(), seeds_apart[1].ravel())[0, 1])
        found[documents] = part
    errors = np.array(content["predicted_errors"])
    asked = measured["patterning"][:, :, 0].mean(axis=0)
    found["covered"] = float((np.abs(asked - predicted["patterning"]) < 1.96 * errors).mean())
    return found


def fit(predicted: np.ndarray, measured: np.ndarray) -> dict:
    """R and slope of measured on predicted, over changes and packages; the null deals the changes' results out at random."""
    rng = np.random.default_rng(0)

    def r(values: np.ndarray) -> float:
        return float(np.corrcoef(predicted.ravel(), values.ravel())[0, 1])

    null = np.array([r(measured[rng.permutation(len(measured))]) for _ in range(N_PERMUTATIONS)])
    x, y = predicted - predicted.mean(), measured - measured.mean()
    whole = r(measured)
    p = (1 + (null >= whole).sum()) / (1 + N_PERMUTATIONS)
    return {"r": whole, "slope": float((x * y).sum() / (x**2).sum()), "null_95": float(np.quantile(null, 0.95)), "p": p}


def against(changes: np.ndarray, measured: np.ndarray) -> dict:
    """Of one arm: changes along the wanted ones, and their cosine, means over the wanted changes."""
    along = (changes * measured).sum(axis=1)
    cosine = along / np.maximum(np.linalg.norm(measured, axis=1), np.finfo(np.float64).tiny)
    return {"along_nats": float(along.mean()), "share_right": float((along > 0).mean()), "cosine": float(cosine.mean())}


def lines(content: dict) -> list[str]:
    """The figures."""
    found = []
    for documents in ("asked", "held_out"):
        part = content["patterning"]["summary"][documents]
        figures = f"slope {part['slope']:.2f}, null {part['null_95']:.3f} at 95 %, p = {part['p']:.4f}"
        found.append(f"patterning_r={part['r']:.3f} on {documents} documents, {figures}")
        for arm, row in part["arms"].items():
            found.append(
                f"  {arm}: along the wanted change {row['along_nats']:+.5f} nats, right sign {row['share_right']:.2f}, "
                f"cosine {row['cosine']:.2f}"
            )
    for name, row in content.get("lds", {}).get("lds", {}).items():
        found.append(f"lds={row['estimate']:.3f} ({row['low']:.3f} to {row['high']:.3f}) by {name}")
    return found
