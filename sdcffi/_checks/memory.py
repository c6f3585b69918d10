"""Compare the memory that a model and its images need with the free memory."""

from __future__ import annotations

from .._machine.devices import Device
from .._machine.limits import free_memory, free_swap
from .._models.files import Model
from .._models.memory import compute_bytes, weight_bytes
from .._quoting import shown
from .._warnings import warn
from ..errors import OutOfMemoryError
from ..params.context import ContextParams
from ..params.image import ImageParams

__all__ = ["MemoryCheck"]

_MIB = 1 << 20
_ESTIMATE = 1.5  # factor within which the estimate of an image is right


class MemoryCheck:
    """Compares the memory that a model and its images need with the free memory.

    Parameters
    ----------
    mode : str
        ``"warn"``, ``"strict"`` (raise an error) or ``"off"``.
    model : Model
    params : ContextParams
        Options with which the model is loaded. The attribute `params` can be changed later.

    Raises
    ------
    ValueError
        If the mode is not one of these.
    """

    def __init__(self, mode: str, model: Model, params: ContextParams) -> None:
        if mode not in ("warn", "strict", "off"):
            raise ValueError(f"memory_check must be one of warn, strict, off, not {shown(mode)}")
        self._mode = mode
        self._model = model
        self.params = params

    def check_weights(self, device: Device) -> None:
        """Check the memory before the weights are loaded. On a GPU it is checked only if the GPU holds all weights.

        Raises
        ------
        OutOfMemoryError
            If the mode is ``"strict"`` and there is not enough free memory.

        Warns
        -----
        UserWarning
            If the mode is ``"warn"`` and there is not enough free memory.
        """
        params = self.params
        if device.type == "cpu":
            self._compare(weight_bytes(self._model, params), free_memory(), "the weights")
        elif not (params.offload_params_to_cpu or params.max_vram or params.keep_clip_on_cpu):
            self._compare(weight_bytes(self._model, params), device.memory_free or None, "the weights")

    def check_image(self, params: ImageParams, device: Device) -> None:
        """Check the memory before an image is generated. On a GPU nothing is checked: its free memory is not updated.

        Raises and warns like `check_weights`; but what is certain not to fit is an error with ``"warn"`` too.
        """
        if device.type != "cpu":
            return
        free, swap = free_memory(), free_swap()
        most = None if free is None or swap is None else (free + swap) * _ESTIMATE
        self._compare(compute_bytes(self._model, params, self.params), free, "the image", most)

    def _compare(self, needed: int | None, free: int | None, what: str, most: float | None = None) -> None:
        if self._mode == "off" or needed is None or free is None or needed <= free:
            return
        message = (
            f"{what} would need about {needed / _MIB:,.0f} MiB of memory, and {free / _MIB:,.0f} MiB are free; use a"
            " smaller size or weight type, or tiling="
        )
        if most is not None and needed > most:
            raise OutOfMemoryError(f"{message}; or pass memory_check='off' to try it all the same")
        if self._mode == "strict":
            raise OutOfMemoryError(f"{message}, or pass memory_check='warn'")
        warn(message)
