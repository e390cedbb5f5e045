"""Launches without Taichi's handling of each argument in Python, which for 22 arrays takes longer than a small substep.

``Direct(kernel)`` lets Taichi compile a kernel for every new combination of template arguments and element shapes, and
from then on hands pointers to the compiled code itself: 0.1 ms instead of 0.5 ms. It uses functions of Taichi 1.7 that
are not public, so other versions, the other kernel language and other backends take the ordinary way.
"""

import threading
from functools import cache

import torch

from diffsim.kernels.lang import LANGUAGE, ti

AVAILABLE = LANGUAGE == "taichi" and ti.__version__ == (1, 7, 4)


@cache
def direct(kernel):
    """The ``Direct`` of a kernel."""
    return Direct(kernel)


class Direct:
    """A kernel with arguments of the types in arrays.py, templates, ``int`` and ``float``, and no result."""

    def __init__(self, kernel):
        self.kernel, self.primal = kernel, kernel._primal
        annotations = [argument.annotation for argument in self.primal.arguments]
        templates = [i for i, annotation in enumerate(annotations) if isinstance(annotation, ti.template)]
        # position among the call's arguments and the compiled kernel's, axes within an element and outside, integer
        self.arrays, self.floats, self.integers = [], [], []
        slot = 0
        for i, annotation in enumerate(annotations):
            if i in templates:
                continue
            if isinstance(annotation, ti.types.ndarray):
                axes = getattr(annotation.dtype, "ndim", 0)
                self.arrays.append((i, slot, axes, annotation.ndim, annotation.dtype is ti.i32))
            elif annotation in (float, ti.f32, ti.f64):
                self.floats.append((i, slot))
            else:
                self.integers.append((i, slot))
            slot += 1
        self.templates = templates
        self.elements = [(i, axes) for i, _slot, axes, *_ in self.arrays if axes]
        self.compiled, self.contexts = {}, threading.local()

    def __call__(self, arguments):
        key = (*[arguments[i] for i in self.templates], *[arguments[i].shape[-axes:] for i, axes in self.elements])
        found = self.compiled.get(key)
        if found is None:
            found = self.compiled[key] = self.compile(arguments)
        program, kernel, code = found
        # an argument costs more to set than to compare, and most are those of the last call: contexts are kept, one for
        # each thread, since another may come between two arguments; not into the launch, which holds Python's lock
        contexts = self.contexts.__dict__.setdefault("kept", {})
        call, last = contexts.get(key) or contexts.setdefault(key, (kernel.make_launch_context(), {}))
        for i, slot, axes, ndim, integer in self.arrays:
            tensor = arguments[i]
            seen = (tensor.data_ptr(), tensor.shape, tensor.dtype)
            if last.get(i) == seen:
                continue
            shape = tuple(tensor.shape)
            if len(shape) != axes + ndim or (tensor.dtype is torch.int32) != integer:
                kind = "integers" if integer else "floats"
                raise TypeError(
                    f"{self.kernel.__name__}: argument {i} is a tensor of {tensor.dtype} with {len(shape)} axes; "
                    f"the kernel takes {kind} with {axes + ndim} axes"
                )
            outer = shape[:ndim] if axes else shape
            call.set_arg_external_array_with_shape((slot,), tensor.data_ptr(), tensor.nbytes, outer, 0)
            last[i] = seen
        for i, slot in self.floats:
            if last.get(i) != (value := float(arguments[i])):
                call.set_arg_float((slot,), value)
                last[i] = value
        for i, slot in self.integers:
            if last.get(i) != (value := int(arguments[i])):
                call.set_arg_int((slot,), value)
                last[i] = value
        program.launch_kernel(code, call)

    def compile(self, arguments):
        """The program, and the kernel for these arguments before and after code generation."""
        primal, examples = self.primal, list(arguments)
        # Taichi's syntax trees hold what they are compiled for until the next garbage collection: not whole states
        for i, _slot, axes, *_ in self.arrays:
            tensor = arguments[i]
            examples[i] = tensor.new_empty((*[0] * (tensor.ndim - axes), *tensor.shape[tensor.ndim - axes :]))
        kernel = primal.compiled_kernels[primal.ensure_compiled(*examples)]
        program = ti.lang.impl.get_runtime().prog
        return program, kernel, program.compile_kernel(program.config(), program.get_device_caps(), kernel)
