"""Blocks and scratch: sizes, reuse, and memory that goes back when a block is dropped."""

import gc

import pytest
import torch

from diffsim.kernels.arrays import context
from diffsim.kernels.memory import LARGE_PAGE, block, scratch


@pytest.mark.parametrize("shape", [(3, 2), (0, 4), (LARGE_PAGE, 2)])
def test_a_block_is_an_ordinary_tensor(shape):
    tensor = block(shape)
    assert tensor.shape == shape and tensor.dtype == context.dtype and tensor.is_contiguous()
    tensor.fill_(1.5)
    assert (tensor == 1.5).all()


def test_scratch_is_found_again_and_grows():
    small = scratch("memory test", (10, 3)).fill_(7.0)
    again = scratch("memory test", (3, 10))
    assert again.data_ptr() == small.data_ptr() and (again == 7.0).all()
    large = scratch("memory test", (5000, 3))
    assert large.shape == (5000, 3)
    assert scratch("another memory test", (10, 3)).data_ptr() != large.data_ptr()
    shrunk = scratch("memory test", (10, 3), torch.int32)  # another type, and far smaller: not the large one
    assert shrunk.dtype == torch.int32 and shrunk.untyped_storage().nbytes() < large.untyped_storage().nbytes()


def test_a_dropped_block_is_given_back():
    def resident():
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * 4096

    size = 64 << 20
    tensor = block((size // context.dtype.itemsize,)).fill_(1.0)
    held = resident()
    part = tensor[:10]
    del tensor
    gc.collect()
    assert resident() > held - size / 2  # a view keeps it
    del part
    assert resident() < held - size / 2
