"""Compare what a model and its images take with the memory that is free."""

from __future__ import annotations

from .._machine.devices import Device
from .._machine.limits import free_memory
from .._models.files import Model
from .._models.memory import compute_bytes, weight_bytes
from .._warnings import warn
from ..errors import OutOfMemoryError
from ..params.context import ContextParams
from ..params.image import ImageParams

__all__ = ["MemoryCheck"]

_MIB = 1 << 20


class MemoryCheck:
    """Compares what a model and its pictures take with what is free.

    Parameters
    ----------
    mode : str
        ``"warn"``, ``"strict"`` (raise) or ``"off"``.
    model : Model
    params : ContextParams
        What the model is loaded with; can be set anew.

    Raises
    ------
    ValueError
        For another mode.
    """

    def __init__(self, mode: str, model: Model, params: ContextParams) -> None:
        if mode not in ("warn", "strict", "off"):
            raise ValueError(f"memory_check must be one of warn, strict, off, not {mode!r}")
        self._mode = mode
        self._model = model
        self.params = params

    def check_weights(self, device: Device) -> None:
        """Check before the weights are loaded, on a GPU only where it is to hold them all.

        Raises
        ------
        OutOfMemoryError
            If the mode is ``"strict"`` and less is free than needed.

        Warns
        -----
        UserWarning
            If the mode is ``"warn"`` and less is free than needed.
        """
        params = self.params
        if device.type == "cpu":
            self._compare(weight_bytes(self._model, params), free_memory(), "the weights")
        elif not (params.offload_params_to_cpu or params.max_vram or params.keep_clip_on_cpu):
            self._compare(weight_bytes(self._model, params), device.memory_free or None, "the weights")

    def check_picture(self, params: ImageParams, device: Device) -> None:
        """Check before a picture is drawn, as `check_weights`; on the CPU, where free memory is told at any time."""
        if device.type == "cpu":
            self._compare(compute_bytes(self._model, params, self.params), free_memory(), "the picture")

    def _compare(self, needed: int | None, free: int | None, what: str) -> None:
        if self._mode == "off" or needed is None or free is None or needed <= free:
            return
        message = f"{what} would take about {needed / _MIB:,.0f} MiB of memory, and {free / _MIB:,.0f} MiB are free"
        if self._mode == "strict":
            raise OutOfMemoryError(f"{message}; take a smaller size or weight type, tiling=, or memory_check='warn'")
        warn(message)
