"""The kernel language, imported from one place: ``from diffsim.kernels.lang import ti``.

Taichi is the default; ``DIFFSIM_KERNEL_LANGUAGE=quadrants`` takes its maintained, API-compatible fork instead.
"""

import os

LANGUAGE = os.environ.get("DIFFSIM_KERNEL_LANGUAGE", "taichi")
os.environ.setdefault("ENABLE_TAICHI_HEADER_PRINT", "0")  # the banner would end up in every program's output
os.environ.setdefault("ENABLE_QUADRANTS_HEADER_PRINT", "0")

if LANGUAGE == "taichi":
    import taichi as ti
    from taichi.lang.ast.ast_transformer_utils import ASTTransformerContext

    def _place(self, node):
        """File, line and source of a node, for messages; Taichi's own takes half of the time to build a kernel."""
        line = f'File "{self.file}", line {node.lineno + self.lineno_offset}, in {self.func.func.__name__}:'
        return f"{line}\n{self.src[node.lineno - 1].rstrip()}\n"

    if hasattr(ASTTransformerContext, "get_pos_info"):
        ASTTransformerContext.get_pos_info = _place
elif LANGUAGE == "quadrants":
    try:
        import quadrants as ti
    except ImportError as error:
        raise ImportError("DIFFSIM_KERNEL_LANGUAGE=quadrants needs: pip install 'diffsim[quadrants]'") from error
else:
    raise ImportError(f"DIFFSIM_KERNEL_LANGUAGE={LANGUAGE!r} is not known; use 'taichi' or 'quadrants'")

__all__ = ["LANGUAGE", "ti"]
