"""Hostile requests to a whole server with the bundled model: nothing of them is left in any process."""

from pathlib import Path

from tests.end_to_end.serving import Server, eventually
from tests.end_to_end.workload import MODEL
from tests.fuzzing_http.campaign import Campaign

NUM_REQUESTS = 300
MOST_GROWTH = 32 << 20  # bytes, of any process


def resident_bytes(server: Server) -> dict[int, int]:
    pids = [pid for pids in server.children().values() for pid in pids]
    return {pid: int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096 for pid in pids}


def test_hostile_requests_leave_no_slot_and_no_memory():
    limits = ("--max_total_token_num", "2000", "--max_req_total_len", "64", "--max_request_bytes", "1000000")
    with Server(*limits) as server, Campaign(server.url, 5, model=MODEL) as campaign:
        campaign.at_random(NUM_REQUESTS // 2)
        before = resident_bytes(server)
        campaign.at_random(NUM_REQUESTS // 2)
        assert campaign.counts[200] > NUM_REQUESTS // 50
        for gauge in ("batch_current_size", "queue_size", "kv_slots_used"):
            assert eventually(lambda gauge=gauge: server.metric(gauge) == 0), gauge
        after = resident_bytes(server)
        assert after.keys() == before.keys(), "no process has died"
        assert max(after[pid] - before[pid] for pid in after) < MOST_GROWTH
        assert not any(word in server.output for word in ("ERROR", "Traceback"))
