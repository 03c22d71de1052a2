"""Means of the updates' scalars, also of agents with other scalars than this project's."""

import pytest
import torch

from algd.errors import UsageError
from algd.run.metrics import Means
from tests.run.test_divergence import signs


def test_each_update_has_the_same_scalars() -> None:
    means = Means()
    means.add({"loss": torch.tensor(1.0), "lam": torch.tensor(4.0)})
    means.add({"loss": torch.tensor(3.0), "lam": torch.tensor(8.0)})
    with pytest.raises(UsageError, match="scalars are loss, those of the update before loss, lam: an agent has to"):
        means.add({"loss": torch.tensor(3.0)})
    assert means.take() == {"loss": 2, "lam": 6}
    means.add({"other": torch.tensor(1.0)})
    assert means.take() == {"other": 1}


def test_without_the_usual_losses_there_are_no_signs_of_divergence() -> None:
    assert signs().after_updates(100, {"own_loss": 1e30}, 1.0) == []
