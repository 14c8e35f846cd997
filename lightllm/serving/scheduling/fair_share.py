"""Fair shares among tenants: next is the oldest request of the tenant that was served least.

Service is counted in tokens, those of output twice. Admission charges the output that is expected; the end puts that
right. A tenant that comes, or comes back, begins at the service of the one that was admitted last: it gets its share
from now on, and no credit for the time it was away.
Source: the virtual token counter with length prediction, arXiv:2401.00588; where one begins, start-time fair queueing.
"""

from dataclasses import dataclass, field

from lightllm.serving.scheduling.keyed_heap import KeyedHeap
from lightllm.serving.scheduling.request import Request

_OUTPUT_WEIGHT = 2


@dataclass(slots=True, eq=False)
class _Tenant:
    order: int  # of its coming
    name: int
    service: float  # tokens
    waiting: KeyedHeap[Request] = field(default_factory=KeyedHeap)
    work: int = 0  # tokens that wait
    num_running: int = 0  # requests that began and did not end

    @property
    def is_idle(self) -> bool:
        return not len(self.waiting) and not self.num_running


class FairShare:
    """A tenant is remembered while it has requests, and after that as long as it was served more than the others."""

    def __init__(self) -> None:
        self._tenants: dict[int, _Tenant] = {}
        self._num_tenants = 0  # that ever came
        self._preempted: KeyedHeap[Request] = KeyedHeap()
        self._waiting: KeyedHeap[_Tenant] = KeyedHeap()  # by service, then by the oldest request
        self._idle: KeyedHeap[_Tenant] = KeyedHeap()  # by service
        self._work = 0
        self._now = 0.0  # service at which a tenant begins: what the one that was admitted last had at its admission

    @property
    def head(self) -> Request | None:
        if (preempted := self._preempted.head) is not None:
            return preempted
        tenant = self._waiting.head
        return None if tenant is None else tenant.waiting.head

    def add(self, request: Request) -> None:
        if request.has_started:
            self._preempted.add(request)
            return
        tenant = self._tenant(request.tenant)
        if not len(tenant.waiting):
            tenant.service = max(tenant.service, self._now)
        tenant.waiting.add(request)
        tenant.work += request.work
        self._work += request.work
        self._place(tenant)

    def discard(self, request: Request) -> None:
        self._preempted.discard(request)
        tenant = self._tenants.get(request.tenant)
        if tenant is not None and request in tenant.waiting:
            tenant.waiting.discard(request)
            tenant.work -= request.work
            self._work -= request.work
            self._place(tenant)

    def admit(self, request: Request) -> None:
        if not request.has_started:
            tenant = self._tenants[request.tenant]
            self._now = max(self._now, tenant.service)
            tenant.num_running += 1
            tenant.service += request.prompt_length + _OUTPUT_WEIGHT * request.expected_tokens
        self.discard(request)
        if not len(self._waiting) and (served := self._tenants.get(request.tenant)) is not None:
            # Nobody had to wait for it, so whoever comes next is no further behind.
            self._now = max(self._now, served.service)

    def end(self, request: Request, num_output: int) -> None:
        tenant = self._tenants[request.tenant]
        tenant.num_running -= 1
        tenant.service += _OUTPUT_WEIGHT * (num_output - request.expected_tokens)
        self._place(tenant)

    def work_before(self, request: Request) -> int:
        """Tenants are served in turn until this one's older requests have been."""
        tenant = self._tenants.get(request.tenant)
        mine = request.work if tenant is None else request.work + tenant.work
        return min(self._work, mine * len(self._waiting))

    def _tenant(self, name: int) -> _Tenant:
        if name not in self._tenants:
            self._tenants[name] = _Tenant(self._num_tenants, name, self._now)
            self._num_tenants += 1
        return self._tenants[name]

    def _place(self, tenant: _Tenant) -> None:
        """After a change of one tenant: puts it where it belongs, and forgets those of whom nothing need be known."""
        if (head := tenant.waiting.head) is not None:
            self._waiting.add(tenant, (tenant.service, head.order))
        else:
            self._waiting.discard(tenant)
        if tenant.is_idle:
            self._idle.add(tenant, tenant.service)
        else:
            self._idle.discard(tenant)
        while (idle := self._idle.head) is not None and idle.service <= self._now:
            self._idle.discard(idle)
            del self._tenants[idle.name]
