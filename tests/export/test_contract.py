"""A network of one's own: exported, or refused with what to change."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import streamseg
from streamseg.errors import ExportError
from streamseg.export import StepModel, export_bundle
from streamseg.export.parity import moving_pattern
from tests.export import own_networks


@pytest.mark.parametrize("kind", [own_networks.ConvGRU, own_networks.TwoStates])
def test_network_streams_as_a_plain_loop_over_frames_computes(
    kind: type[StepModel], tmp_path: Path
) -> None:
    model = own_networks.seeded(kind)
    export_bundle(model, tmp_path / "bundle", size=own_networks.SIZE, logits=True)
    state = model.initial_state(own_networks.SIZE)
    with streamseg.open(tmp_path / "bundle") as stream, torch.no_grad():
        for frame in moving_pattern(own_networks.SIZE, 6):
            logits, *state = model(torch.from_numpy(frame)[None], *state)
            result = stream.step(frame)
            np.testing.assert_allclose(result.logits, logits[0].numpy(), atol=1e-4)
            assert (result.labels == logits[0].numpy().argmax(0)).mean() > 0.99


@pytest.mark.parametrize("kind", own_networks.FAULTY, ids=lambda kind: kind.__name__)
def test_faulty_network_is_refused_with_what_to_change(
    kind: type[StepModel], tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match=own_networks.FAULTY[kind]):
        export_bundle(own_networks.seeded(kind), tmp_path / "bundle", size=own_networks.SIZE)
    assert not (tmp_path / "bundle").exists()
