"""The requests that run: their rows, their slots, and what they have in the prefix tree."""

import numpy as np

from lightllm.serving.scheduling.beam_search import Step
from lightllm.serving.scheduling.output import OutputWriter
from lightllm.serving.scheduling.plan import Chunk, PlanDraft, StepLimits
from lightllm.serving.scheduling.pool import Pool
from lightllm.serving.scheduling.prefix_tree import num_equal
from lightllm.serving.scheduling.request import Request
from lightllm.serving.scheduling.rows import Rows


class Running:
    """Moves requests through their rows: seat, run chunks and decodes, and leave."""

    def __init__(self, output: OutputWriter, pool: Pool, limits: StepLimits, *, max_length: int):
        self._output, self._limits, self.pool = output, limits, pool
        self.rows = Rows(limits.rows, min(max_length, pool.pool_tokens))

    def __len__(self) -> int:
        return int(np.count_nonzero(self.rows.takes_part))

    def seat(self, request: Request) -> None:
        """Gives a waiting request that knows its tokens a row, and what the tree has of them."""
        row = self.rows.seat(request)
        if self.pool.tree.has_many_roots:
            self.pool.tree.drop_roots(but=self.rows.node)
        self.rows.node[row] = self.pool.root(request.salt)
        self.find_more(row)
        if self.pool.sharing:
            self._join_family(row)

    def num_output(self, rows: np.ndarray) -> np.ndarray:
        """Tokens that have been generated for each of these rows, before and after preemptions."""
        known, index = self.rows.goal[rows] - self.rows.prompt_length[rows], self.rows.index[rows]
        return np.where(self.rows.is_beam[rows], known, self._output.num_tokens(index))

    def leave(self, request: Request) -> None:
        """The request ends: its slots and its row are free, what it computed stays in the tree."""
        self.give_back_slots(request)
        self.rows.leave(request)

    def fork(self, beams: list[Request], steps: list[Step]) -> list[Request]:
        """Has beams go on as `steps` say, and returns them in this order. Those that are too many leave.

        The first that continues a beam has its row, and others the rows of beams that nobody continues: they find what
        they continue in the tree.
        """
        known = [np.append(_tokens(beams[parent]), np.int32(token)) for parent, token in steps]
        first = {parent: at for at, (parent, _) in reversed(list(enumerate(steps)))}
        stays = {at: beams[parent] for parent, at in first.items()}
        spare = [beam for at, beam in enumerate(beams) if at not in first]
        told = {beam: self.rows.slots[beam.row, : self.rows.told[beam.row]].copy() for beam in spare}
        for beam in spare:
            self.give_back_slots(beam)
        following = [stays[at] if at in stays else spare.pop() for at in range(len(steps))]
        for beam, tokens in zip(following, known, strict=True):
            beam.tokens = tokens
            self.rows.goal[beam.row] = self.rows.limit[beam.row] = len(tokens)
        for at, beam in enumerate(following):
            if at not in stays and self.rows.takes_part[beam.row]:
                self._go_on_from_tree(beam, told[beam])
        for beam in spare:
            self.rows.leave(beam)
        return following

    def _go_on_from_tree(self, beam: Request, told: np.ndarray) -> None:
        """Gives a beam what the tree has of its tokens. `told`: its line of the slot table as workers know it."""
        rows, row = self.rows, beam.row
        rows.node[row] = self.pool.root(beam.salt)
        self.find_more(row)
        line = rows.slots[row, : rows.length[row]]
        if len(told) and len(line):
            rows.told[row] = num_equal(told, line)

    def give_back_slots(self, request: Request) -> None:
        """What the request computed stays in the tree, unheld; its other slots are free.

        The last known token is left out: it may be a wasted step's, or none has computed it.
        """
        rows, row = self.rows, request.row
        first, length = int(rows.in_tree[row]), int(rows.length[row])
        known = self.known_tokens(request)
        tokens = known[first : max(first, min(length, len(known) - 1))]
        self.pool.give_back(int(rows.node[row]), tokens, rows.slots[row, first:length].copy())
        rows.forget_slots(row)

    def known_tokens(self, request: Request) -> np.ndarray:
        """Prompt and output of a request that has begun."""
        assert request.tokens is not None, "what has begun has tokens"
        output = self._output.tokens(request.index, len(request.tokens) - request.prompt_length)
        return np.concatenate([request.tokens, output])

    def run_decodes(self, draft: PlanDraft) -> None:
        """Every row that can takes the slot for the token it sampled last."""
        rows = self.rows
        decoding = rows.decoding()
        if not len(decoding):
            return
        starts = rows.length[decoding]
        rows.slots[decoding, starts] = self.pool.take_after(rows.slots[decoding, starts - 1])
        rows.length[decoding] = rows.told[decoding] = starts + 1
        draft.add_decodes(decoding, starts)

    def run_chunk(self, row: int, draft: PlanDraft) -> bool:
        """Adds the next known tokens of this row to the step, as many as fit. False: the step has no room for any."""
        rows = self.rows
        known = self.find_more(row)
        start, told, count = int(rows.length[row]), int(rows.told[row]), self.room_for(row, draft)
        if count:
            tokens = known[start : start + count]
            self._take(row, tokens)
            chunk = Chunk(row, start, tokens, samples=start + count == len(known), told=told, begins=told == 0)
            _ask_for_scores(chunk, _request(rows, row), known)
            draft.add(chunk, _request(rows, row))
            rows.told[row] = start + count
        return count > 0

    def room_for(self, row: int, draft: PlanDraft) -> int:
        """How many of its next known tokens this row can run in the step."""
        rows = self.rows
        if rows.told[row] == 0 and not draft.can_tell_of(_request(rows, row)):
            return 0
        length = int(rows.length[row])
        room = min(draft.tokens_left, self.pool.num_available, draft.update_slots_left - length + int(rows.told[row]))
        return max(0, min(int(rows.goal[row]) - length, self._limits.chunk, room))

    def find_more(self, row: int) -> np.ndarray:
        """Gives a row that prefills what the tree has by now of its next tokens. Returns all its known tokens."""
        rows, request, start = self.rows, _request(self.rows, row), int(self.rows.length[row])
        known = _tokens(request)
        if rows.in_tree[row] < start:  # it has computed again what the tree had, and goes on apart
            return known
        node, found = self.pool.find(int(rows.node[row]), known[start : request.num_findable])
        rows.slots[row, start : start + len(found)] = found
        rows.node[row] = node
        if len(found):
            rows.length[row] = rows.in_tree[row] = start + len(found)
        return known

    def _join_family(self, row: int) -> None:
        """Looks for a row that has as much in the tree as this one, and whose next tokens begin with the same ones.

        What they have in common one of them will run and the other find, so admission counts it once. Of a family only
        one is looked at: two others may have more in common than is noticed, and then that is counted for both.
        """
        rows, start = self.rows, int(self.rows.length[row])
        beside = rows.takes_part & (rows.node == rows.node[row]) & (rows.length == start) & (rows.goal > start + 1)
        beside &= ~rows.scores
        if not beside[row]:
            return
        beside[row] = False
        best, mine = start, _tokens(_request(rows, row))[start:-1]
        for other in _one_of_each_family(np.flatnonzero(beside), rows.family):
            same = start + num_equal(mine, _tokens(_request(rows, other))[start:-1])
            if same > best:
                best = same
                rows.family[row], common = rows.found_family(other)
                rows.common[row] = min(same, common)

    def _take(self, row: int, tokens: np.ndarray) -> None:
        """Slots for this row's next tokens; they enter the tree at once, so that others share them from now on."""
        rows = self.rows
        start = int(rows.length[row])
        slots = self.pool.take(len(tokens))
        rows.slots[row, start : start + len(tokens)] = slots
        rows.length[row] = start + len(tokens)
        if rows.in_tree[row] < start:
            return
        node = self.pool.enter(int(rows.node[row]), tokens, slots)
        if node is not None:
            rows.node[row], rows.in_tree[row] = node, start + len(tokens)


def _ask_for_scores(chunk: Chunk, request: Request, known: np.ndarray) -> None:
    """Has the chunk's tokens scored that have a successor in the prompt, unless they were before a preemption."""
    if request.num_prompt_logprobs < 0:
        return
    first = max(chunk.start, request.num_scored)
    end = min(chunk.start + len(chunk.tokens), request.prompt_length - 1)
    if first < end:
        chunk.scored, chunk.successors = first, known[first + 1 : end + 1]
        chunk.num_score_logprobs = request.num_prompt_logprobs
        request.num_scored = end


def _request(rows: Rows, row: int) -> Request:
    request = rows.requests[row]
    assert request is not None, "a row that prefills has a request"
    return request


def _tokens(request: Request) -> np.ndarray:
    assert request.tokens is not None, "who has a row knows its tokens"
    return request.tokens


def _one_of_each_family(rows: np.ndarray, family: np.ndarray) -> list[int]:
    """Those without a family, and of each family one."""
    names = family[rows]
    _, firsts = np.unique(names, return_index=True)
    return rows[names < 0].tolist() + rows[firsts[names[firsts] >= 0]].tolist()
