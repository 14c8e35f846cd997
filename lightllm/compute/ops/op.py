"""Ops: an op is declared by its reference; faster implementations register against it and one is chosen once."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Generic, ParamSpec, TypeVar

import torch

from lightllm.base.errors import ConfigError

P = ParamSpec("P")
R = TypeVar("R")

TOLERANCE = MappingProxyType({torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2})


@dataclass(frozen=True)
class Facts:
    """What is known when implementations are chosen: where and in which dtype the model computes."""

    device: torch.device
    dtype: torch.dtype


@dataclass(frozen=True)
class Implementation(Generic[P, R]):
    """One way to compute an op. `why_not` gives the reason it cannot, or None if it can; `pays`: see Op.pays."""

    name: str
    function: Callable[P, R]
    why_not: Callable[[Facts], str | None]
    pays: Callable[..., bool] = lambda *sizes: True


@dataclass(frozen=True)
class Choice:
    """Which implementation an op runs, and why some others cannot."""

    op: str
    implementation: str
    reasons: Mapping[str, str]


@dataclass
class Op(Generic[P, R]):
    """Callable. Runs the chosen implementation; until `choose` is called that is the reference."""

    name: str
    reference: Callable[P, R]
    cases: Callable[[Facts], Iterable[tuple[Any, ...]]]  # argument tuples, for parity tests and benchmarks
    tolerance: Mapping[torch.dtype, float]
    implementations: list[Implementation[P, R]] = field(default_factory=list)
    function: Callable[P, R] = field(init=False)
    is_fast: bool = field(init=False, default=False)  # whether something other than the reference was chosen

    def __post_init__(self):
        self.function = self.reference

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.function(*args, **kwargs)

    def pays(self, *sizes: int) -> bool:
        """Whether what was chosen is faster at these sizes than ops that do the same apart. References never are."""
        return any(one.function is self.function and one.pays(*sizes) for one in self.implementations)

    def implementation(
        self,
        name: str,
        why_not: Callable[[Facts], str | None] = lambda facts: None,
        pays: Callable[..., bool] = lambda *sizes: True,
    ):
        """Register another way to compute this op; those registered first are preferred."""

        def register(function: Callable[P, R]) -> Callable[P, R]:
            self.implementations.append(Implementation(name, function, why_not, pays))
            return function

        return register

    def choose(self, facts: Facts, *, allow_reference: bool = True) -> Choice:
        """Run the first implementation that has nothing against `facts` from now on, else the reference.

        Where the reference is not allowed, calls raise ConfigError: what is never called needs no implementation.
        """
        verdicts = [(one, one.why_not(facts)) for one in self.implementations]
        reasons = {one.name: reason for one, reason in verdicts if reason is not None}
        able = [one for one, reason in verdicts if reason is None]
        self.is_fast = bool(able)
        if able:
            self.function = able[0].function
        else:
            self.function = self.reference if allow_reference else self._refusal(facts, reasons)
        return Choice(self.name, able[0].name if able else "reference", reasons)

    def _refusal(self, facts: Facts, reasons: Mapping[str, str]) -> Callable[P, R]:
        why = "; ".join(f"{name} {reason}" for name, reason in reasons.items()) or "it has no kernel yet"

        def refuse(*args: P.args, **kwargs: P.kwargs) -> R:
            raise ConfigError(
                f"op {self.name} can only run as its slow reference on {facts.device.type} ({why}); "
                "set --allow_reference_ops to let it"
            )

        return refuse


ALL: dict[str, Op[..., Any]] = {}


def op(
    *,
    cases: Callable[[Facts], Iterable[tuple[Any, ...]]],
    tolerance: Mapping[torch.dtype, float] = TOLERANCE,
) -> Callable[[Callable[P, R]], Op[P, R]]:
    """Declare an op. The decorated function is the specification: pure torch, any device, never fast."""

    def declare(reference: Callable[P, R]) -> Op[P, R]:
        name = reference.__name__
        assert name not in ALL, f"op {name} is declared twice"
        declared = Op(name, reference, cases, tolerance)
        ALL[name] = declared
        return declared

    return declare
