"""What a student drops: the promised shares, and the same for an image wherever and with whomever it is seen."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from students import ViTConfig
from students.draws import BITS, at, drop, hashed, image_seeds, kept, path_factors

RATES: dict[str, Any] = {
    "drop_path_rate": 0.4,
    "pos_drop_rate": 0.2,
    "proj_drop_rate": 0.3,
    "attn_drop_rate": 0.4,
    "drop_rate": 0.3,
}
CONFIG = ViTConfig(img_size=16, patch_size=8, embed_dim=16, depth=4, num_heads=2, num_classes=5, distilled=True)


def test_hash_of_small_numbers_by_python_integers() -> None:
    def by_hand(x: int) -> int:
        for shift, factor in ((16, 0x21F0AAAD), (15, 0x735A2D97)):
            x = (x ^ x >> shift) * factor & BITS
        return x ^ x >> 15

    numbers = [0, 1, 2, 4095, 1 << 31, BITS]
    assert hashed(torch.tensor(numbers)).tolist() == [by_hand(x) for x in numbers]
    assert len(hashed(torch.arange(100_000)).unique()) == 100_000


def test_seeds_of_a_part_are_those_of_the_whole() -> None:
    seed = (1 << 62) + 12345
    whole = image_seeds(seed, 0, 24)
    assert torch.equal(torch.cat([image_seeds(seed, first, 8) for first in (0, 8, 16)]), whole)
    assert not (image_seeds(seed + 1, 0, 24) == whole).any()
    assert not (image_seeds(seed + (1 << 40), 0, 24) == whole).any()  # the upper half counts


def test_shares_of_what_is_kept() -> None:
    keeps = kept(image_seeds(7, 0, 200), (20, 50), 0.3).float()
    assert keeps.mean().item() == pytest.approx(0.7, abs=0.005)  # its deviation is 0.001
    # Neither images nor elements go together: the means deviate as those of independent draws, by 0.0145 and 0.0324.
    assert keeps.flatten(1).mean(1).std().item() == pytest.approx((0.21 / 1000) ** 0.5, rel=0.2)
    assert keeps.flatten(1).mean(0).std().item() == pytest.approx((0.21 / 200) ** 0.5, rel=0.1)
    x = torch.ones(200, 1000)
    assert drop(x, 0.3, image_seeds(7, 0, 200)).unique().tolist() == pytest.approx([0, 1 / 0.7])


def test_factors_of_the_paths() -> None:
    rates = torch.tensor([0.0, 0.25, 0.5])
    factors = path_factors(image_seeds(3, 0, 20_000), rates).squeeze(-1).squeeze(-1)  # [3, 2, B]
    assert (factors[0] == 1).all()
    assert factors[1].unique().tolist() == pytest.approx([0, 4 / 3])
    for layer, rate in enumerate(rates.tolist()):
        shares = (factors[layer] == 0).float().mean(1).tolist()
        assert shares == pytest.approx([rate] * 2, abs=0.012)  # the deviation is 0.0035 at most
    both = ((factors[1] == 0).all(0) | (factors[2] == 0).all(0)).float().mean().item()
    assert both == pytest.approx(1 - (1 - 0.25**2) * (1 - 0.5**2), abs=0.012)  # so the branches are independent


@pytest.mark.parametrize("option", RATES)
def test_what_is_dropped_of_an_image_is_the_same_in_any_company(option: str) -> None:
    model = CONFIG.override(**{option: RATES[option]}).build().train()
    torch.nn.init.normal_(model.get_parameter("head.weight"))
    images = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    seeds = image_seeds(5, 0, 8)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    whole = model.outputs(images, [3], seeds)
    parts = [model.outputs(images[rows], [3], seeds[rows]) for rows in (slice(0, 2), slice(2, 8))]
    assert torch.equal(torch.get_rng_state(), state)  # nobody else's numbers are touched
    torch.testing.assert_close(torch.cat([part.logits for part in parts]), whole.logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(torch.cat([part.grids[3] for part in parts]), whole.grids[3], atol=1e-5, rtol=1e-5)
    other = model.outputs(images, [3], image_seeds(6, 0, 8))
    assert not torch.allclose(other.logits, whole.logits, atol=1e-3)
    same, calm = model.eval().outputs(images, seeds=seeds), model.outputs(images)
    assert torch.equal(same.logits, calm.logits)


def test_addressed_attention_equals_torchs_where_nothing_is_dropped() -> None:
    model = CONFIG.override(attn_drop_rate=1e-12, qk_scale=0.3).build()
    images = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    addressed = model.train().outputs(images, seeds=image_seeds(0, 0, 4)).logits
    torch.testing.assert_close(addressed, model.eval().outputs(images).logits)


def test_dropouts_of_one_image_are_drawn_apart() -> None:
    seeds = image_seeds(0, 0, 1000)
    one, other = (kept(at(seeds, site), (), 0.5) for site in (1, 2))
    assert (one == other).float().mean().item() == pytest.approx(0.5, abs=0.06)  # its deviation is 0.016
