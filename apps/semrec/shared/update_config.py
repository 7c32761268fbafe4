"""The settings of an update, in addition to the configuration of the run."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

from semrec.shared.configuration import check_at_least, load_config


@dataclass(frozen=True, kw_only=True)
class Update:
    """The budget of an update and of its comparison: the table `[update]` of a TOML file.

    Attributes:
        train: Whether training continues; otherwise the models are only extended by new items.
        epochs_one: Epochs of PRORec's stage I, or of the one training of CoCoRec and TSSR.
        epochs_two: Epochs of PRORec's stage II.
        rate: The learning rate of both, as a share of the run's.
        old_share: Old samples that are drawn for each new one, at most as many as there are.
        test_users: Most users of the comparison, drawn from those with new interactions.
        refit_above: The drift of new items above which a new run is advised.
    """

    train: bool = True
    epochs_one: int = 2
    epochs_two: int = 1
    rate: float = 1.0
    old_share: float = 1.0
    test_users: int = 2000
    refit_above: float = 1.5

    def __post_init__(self) -> None:
        check_at_least(1, self, "epochs_one", "epochs_two", "test_users")
        check_at_least(0, self, "old_share")
        if not 0 < self.rate <= 1:
            raise ValueError(f"rate must be in (0, 1], got {self.rate}")
        if not self.refit_above > 0:
            raise ValueError(f"refit_above must be above 0, got {self.refit_above}")


@dataclass(frozen=True, kw_only=True)
class UpdateFile:
    """The TOML file of an update: one table."""

    update: Update = field(default_factory=Update)


def load_update(path: Path | None, *, train: bool) -> Update:
    """Reads the settings of an update from a TOML file.

    Args:
        path: The file; None for the defaults.
        train: Whether the command line allows training.

    Raises:
        ExperimentError: The file is not TOML, or a key or value in it is wrong.
    """
    update = load_config(UpdateFile, path).update
    return update if train else dataclasses.replace(update, train=False)
