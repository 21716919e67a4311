"""What breaks when private interfaces of torch change: the utilisation in records, and bfloat16 on CPUs."""

import torch
from torch.nn.functional import scaled_dot_product_attention

from orca_ray.torch_private import flop_counter, has_bfloat16_units


def test_fused_attention_on_a_cpu_is_counted() -> None:
    query, key, value = (torch.ones(2, 3, 16, 8, requires_grad=True) for _ in range(3))
    with flop_counter() as counter:
        scaled_dot_product_attention(query, key, value).sum().backward()  # type: ignore[no-untyped-call]
    product = 2 * 2 * 3 * 16 * 16 * 8
    assert counter.get_total_flops() == 7 * product  # two forward; backward, the scores again and four gradients


def test_the_units_of_a_cpu_are_asked_for() -> None:
    assert torch.cpu._is_amx_tile_supported() in (True, False)
    assert torch.cpu._is_avx512_bf16_supported() in (True, False)
    assert not has_bfloat16_units(torch.device("mps"))
