"""Long training in bfloat16."""

import pytest
import torch
from torch.nn import functional as F

import van

SHALLOW, DEEP = {}, {"embed_dims": [16, 32, 40, 64], "depths": [6, 6, 90, 6]}  # the depth of VAN-B6


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("options", [SHALLOW, DEEP])
def test_five_hundred_steps_stay_finite(options):
    torch.manual_seed(0)
    model = van.create_model("van_b0", num_classes=10, drop_path_rate=0.1, **options)
    model = model.to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)
    images = torch.randn(64, 3, 64, 64).contiguous(memory_format=torch.channels_last)
    labels = torch.arange(64) % 10
    losses = []
    for _ in range(500):
        batch = torch.randperm(64)[:8]
        with torch.autocast("cpu", torch.bfloat16):
            loss = F.cross_entropy(model(images[batch]).float(), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        assert all(bool(torch.isfinite(p.grad).all()) for p in model.parameters() if p.grad is not None)
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-20:]) < 0.8 * sum(losses[:20])
