"""The one place that uses a private attribute of torch: the version counter of a tensor.

torch increments it at each in-place change and documents it in its notes on autograd, but offers no public name for it.
"""

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from torch import Tensor

Value = TypeVar("Value")


class Derived(Generic[Value]):
    """A value computed from tensors, computed again after one of them changed.

    Parameters
    ----------
    sources : sequence of Tensor
    compute : callable
        Computes the value from their current contents.
    """

    def __init__(self, sources: Sequence[Tensor], compute: Callable[[], Value]) -> None:
        self._sources, self._compute = sources, compute
        self._cached: tuple[object, Value] | None = None

    def __call__(self) -> Value:
        key = [(tensor.data_ptr(), tensor._version) for tensor in self._sources]
        if self._cached is None or self._cached[0] != key:
            self._cached = key, self._compute()
        return self._cached[1]

    def forget(self) -> None:
        """Compute the value again at the next call: the sources changed where torch does not notice."""
        self._cached = None
