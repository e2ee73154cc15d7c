"""Types of kernels by name: NCCL of every age is communication."""

from __future__ import annotations

import pytest

from apportion.profiles.kernel_type import KernelType, kernel_type


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ncclKernel_AllReduce_RING_LL_Sum_float(ncclWorkElem)", KernelType.COMMUNICATION),
        ("ncclDevKernel_ReduceScatter_Sum_bf16_RING_LL(...)", KernelType.COMMUNICATION),
        ("ncclDevKernel_Generic_4(...)", KernelType.COMMUNICATION),
        ("NCCL:all_reduce", KernelType.COMMUNICATION),
        ("void ncclKernel<4>(int)", KernelType.COMMUNICATION),
        ("Memcpy DtoH (Device -> Pageable)", KernelType.MEMORY),
        ("Memset (Device)", KernelType.MEMORY),
        ("hipMemcpyAsync", KernelType.MEMORY),
        ("Stream Wait Event", KernelType.OTHER),
        ("cudaDeviceSynchronize", KernelType.OTHER),
        ("ampere_sgemm_128x64_tn", KernelType.COMPUTATION),
        ("", KernelType.COMPUTATION),
    ],
)
def test_types_by_name(name: str, expected: KernelType) -> None:
    """New NCCL's names are no computation, and a copy is none on any vendor's device."""
    assert kernel_type(name) == expected
