"""What the LoRAs of a call do to the model that is loaded: the plans that the session gets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .._models.lora_file import read_lora
from .._models.lora_names import Names
from .._models.lora_plan import plan_lora
from .._warnings import warn
from ..errors import LoraWarning
from .lora_policy import describe_other_base

if TYPE_CHECKING:
    from .._bindings.requests import NativeTensor
    from .._process.calls import Call, Calls
    from ..params.lora import Lora
    from ..params.lora_plan import LoraPlan

__all__ = ["Planner"]


class Planner:
    """Plans LoRAs for one model, whose weights it asks for once."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._weights: dict[str, NativeTensor] | None = None
        self._names: dict[bool, Names] = {}

    def plans(self, call: Call, loras: Sequence[Lora]) -> list[LoraPlan]:
        """Return the plan of each LoRA.

        Raises
        ------
        LoraError
            If a file cannot be used.
        ValueError
            If the weights of a LoRA's blocks do not fit it or the model.

        Warns
        -----
        LoraWarning
            If a LoRA was made for another family of models.
        """
        return [self._plan(call, lora) for lora in loras]

    def _plan(self, call: Call, lora: Lora) -> LoraPlan:
        file, names = read_lora(Path(lora.path)), self._named(call, lora.is_high_noise)
        plan = plan_lora(file, names, lora)
        message = describe_other_base(file, names.family.name if names.family else None)
        if message and plan.modules:
            warn(message, LoraWarning)
        return plan

    def _named(self, call: Call, is_high_noise: bool) -> Names:
        if self._weights is None:
            self._weights = self._calls.run(call, "weights")
        if is_high_noise not in self._names:
            shapes = {name: tensor.shape for name, tensor in self._weights.items()}
            self._names[is_high_noise] = Names(shapes, is_high_noise)
        return self._names[is_high_noise]
