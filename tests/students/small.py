"""A small student, and one whose every parameter matters."""

import torch
from torch import nn

from students import ViTConfig

SMALL = ViTConfig(img_size=32, patch_size=8, embed_dim=24, depth=3, num_heads=3, num_classes=5)


def shaken(model: nn.Module) -> nn.Module:
    """Every parameter moved off its start, so that zero biases and unit norms hide nothing."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model.eval()
