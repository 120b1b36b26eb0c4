"""What the explorer is asked to hold."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ExplorerSettings:
    """What the site holds."""

    max_map_points: int = 40_000
    """Tokens on the map; of more, a random sample is drawn."""
    n_layout_epochs: int = 200
    """Passes over the map's edges."""
    n_neighbors: int = 50
    """Neighbours listed for each token: its strongest edges in the k-NN graph."""
    compare_with: tuple[str, ...] = ()
    """Experiments of the same store whose clusters are compared with these, where they share tokens."""

    def __post_init__(self) -> None:
        """Check the values."""
        if self.max_map_points < 10:
            raise ValueError(f"explorer.max_map_points must be at least 10, got {self.max_map_points}; raise it")
        for name in ("n_layout_epochs", "n_neighbors"):
            if getattr(self, name) < 1:
                raise ValueError(f"explorer.{name} must be at least 1, got {getattr(self, name)}; raise it")
