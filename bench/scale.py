"""`python -m bench.scale RESULTS.json`: bench/SCALE.md, what larger boxes and many of them would do, computed from what
was measured on one small box.

A step of n rows reads the weights once and computes n tokens, whichever takes longer, and has a rest that no machine
makes shorter (sampling, frames, threads that wait for each other):

    step(n) = max(bytes of a token / bandwidth, n / tokens that the cores compute in a second) + rest

Bandwidth and cores of a box are assumptions, stated in the table; everything else is measured. Nothing here is a
measurement of a larger box.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import psutil

from bench.client import BenchError
from bench.proof.judge import bandwidth, form_of
from bench.proof.record import Record, load
from bench.servers import ROOT

#: Of those measured here, that a GPU with some 80 TFLOP/s of matrices in 16 bits is worth in prefill.
GPU_CORES = 2000
OUT = ROOT / "bench" / "SCALE.md"


@dataclass(frozen=True)
class Measured:
    """Of one box and model. token_bytes: weights that a token reads; computed_s: tokens that all its cores compute in a
    second where weights do not wait for memory (prefill); decode_s, eight_s: tokens a second of one stream and of
    eight; daemon_us: CPU of the daemon for a token; kv_bytes: of a token; worker_mib: a worker with its model."""

    cores: int
    parameters: float
    token_bytes: float
    bandwidth: float
    computed_s: float
    decode_s: float
    eight_s: float
    daemon_us: float
    kv_bytes: float
    worker_mib: float
    load_ms: float
    series: float
    metrics_bytes: float

    @property
    def rest_s(self) -> float:
        """Of a step of one row, what reading the weights does not explain."""
        return max(0.0, 1 / self.decode_s - self.token_bytes / self.bandwidth)


@dataclass(frozen=True)
class Box:
    """bandwidth: bytes a second. compute: of the measured box's tokens a second in prefill, this many times."""

    name: str
    bandwidth: float
    compute: float
    memory_bytes: float


@dataclass(frozen=True)
class Model:
    name: str
    parameters: float
    token_bytes: float
    kv_bytes: float


def boxes(measured: Measured) -> list[Box]:
    """The measured one and those of the question. A core of a larger box is taken to compute what a core here does."""
    def cores(count: int) -> float:
        return count / measured.cores

    return [
        Box(f"{measured.cores} cores, measured here", measured.bandwidth, 1, 24e9),
        Box("8 cores, two channels of DDR5", 60e9, cores(8), 32e9),
        Box("32 cores, eight channels", 250e9, cores(32), 128e9),
        Box("128 cores, twelve channels", 450e9, cores(128), 512e9),
        Box("a GPU of 24 GB", 900e9, cores(GPU_CORES), 24e9),
    ]


def models(measured: Measured) -> list[Model]:
    return [
        Model("135M, as measured", measured.parameters, measured.token_bytes, measured.kv_bytes),
        Model("8B in 4 bits", 8e9, 4.7e9, 131_072),
    ]


def step_s(measured: Measured, box: Box, model: Model, rows: int) -> float:
    read_s = model.token_bytes / box.bandwidth
    compute_s = rows / (measured.computed_s * box.compute * measured.parameters / model.parameters)
    return max(read_s, compute_s) + measured.rest_s


def rate(measured: Measured, box: Box, model: Model, rows: int) -> float:
    """Tokens a second of all rows."""
    return rows / step_s(measured, box, model, rows)


def full_rows(measured: Measured, box: Box, model: Model) -> int:
    """From here on cores are the limit, not memory's speed."""
    compute_s = 1 / (measured.computed_s * box.compute * measured.parameters / model.parameters)
    return max(1, round(model.token_bytes / box.bandwidth / compute_s))


def contexts(box: Box, model: Model, tokens: int = 4096) -> int:
    """Rows of so many tokens that KV has memory for, beside the weights and a fifth that stays free."""
    return max(0, int((0.8 * box.memory_bytes - model.token_bytes) / (model.kv_bytes * tokens)))


def gather(record: Record) -> Measured:
    """Raises BenchError where a scene is missing that the computation needs."""
    def figure(scene: str, side: str, name: str) -> float:
        found = record.scenes[scene].series(side, name).values() if scene in record.scenes else ()
        if not found:
            raise BenchError(f"the results hold no {name} of {side} in {scene}: run `python -m bench --only {scene}`")
        return median(found)

    form, most = form_of(record, "edged"), bandwidth(record)
    if form is None or most is None:
        raise BenchError("the results hold no bandwidth, or no form of edged's own choice")
    return Measured(
        cores=psutil.cpu_count(logical=False) or 1, parameters=134_515_008, token_bytes=form.bytes_of_token,
        bandwidth=most, computed_s=figure("single", "edged", "prefill"), decode_s=figure("single", "edged", "decode"),
        eight_s=figure("streams", "edged", "rate"), daemon_us=figure("daemon", "edged-fake", "daemon-us"),
        kv_bytes=46_080 if form.engine == "ort" else 17_640, worker_mib=figure("streams", "edged", "pss-mib"),
        load_ms=figure("rotation", "edged-many", "load-ms"), series=figure("daemon", "edged-fake", "series"),
        metrics_bytes=figure("daemon", "edged-fake", "metrics-bytes"))


def page(record: Record, measured: Measured) -> str:
    cap = 1e6 / measured.daemon_us
    here, small = boxes(measured)[0], models(measured)[0]
    lines = [
        "# Scale on paper", "",
        f"Written by `python -m bench.scale` from the run of {record.when}, commit {record.commit}"
        f"{', QUICK: figures that say nothing' if record.quick else ''}. Larger boxes were not measured: this is "
        "arithmetic from one small box and stated assumptions.", "",
        "| measured here | |", "|---|---|",
        f"| weights that a token reads | {measured.token_bytes / 1e6:.1f} MB |",
        f"| memory bandwidth, {measured.cores} cores | {measured.bandwidth / 1e9:.1f} GB/s |",
        f"| prefill | {measured.computed_s:.0f} tokens/s |",
        f"| decode, one stream / eight, short prompts | {measured.decode_s:.0f} / {measured.eight_s:.0f} tokens/s |",
        f"| rest of a step of one row | {measured.rest_s * 1e3:.2f} ms |",
        f"| daemon's CPU | {measured.daemon_us:.0f} µs a token |",
        f"| KV | {measured.kv_bytes / 1024:.0f} KiB a token |",
        f"| daemon and worker with the model, eight rows | {measured.worker_mib:.0f} MiB |",
        f"| load and first answer | {measured.load_ms:.0f} ms |", "",
        f"`step(n) = max(bytes / bandwidth, n / computed) + rest`. For eight rows here it says "
        f"{rate(measured, here, small, 8):.0f} tokens/s, measured {measured.eight_s:.0f} with their prefill: "
        "trust the table no further than that. One stream is measured with drafts, of which several share one "
        "reading of the weights.", "",
        "## A box", "",
        "| model | box (assumed bandwidth) | 1 stream | 8 | 64 | cores are the limit from | rows of 4,096 by KV | "
        "what gives first |", "|---|---|---|---|---|---|---|---|",
    ]
    for model in models(measured):
        for box in boxes(measured):
            one, eight, many = (rate(measured, box, model, rows) for rows in (1, 8, 64))
            lines.append(
                f"| {model.name} | {box.name} ({box.bandwidth / 1e9:.0f} GB/s) | {one:.0f} | {eight:.0f} | {many:.0f} "
                f"| {full_rows(measured, box, model)} rows | {contexts(box, model)} | {_first(measured, box, model)} |")
    lines += [
        "", "Rates in tokens a second, before the daemon's own limit: one process at "
        f"{measured.daemon_us:.0f} µs a token relays {cap:,.0f} tokens/s on one core, whatever the box has (Amdahl). "
        "Beyond that the design needs several daemons behind one port (`SO_REUSEPORT`), which it has not.",
        "The rest of a step is taken as it is here. On many cores threads wait longer for each other, so single "
        "streams of a small model gain less than the table says; two sockets would have to hold the weights twice, "
        f"which edged does not do. A GPU is taken to compute what {GPU_CORES:,} cores here would; its engine is its "
        "provider's.",
        "",
        "Sockets: one a stream. A daemon started by hand may open 1,024 files, so some 1,000 streams; the systemd unit "
        "should say more where a box has them. Queues are bounded (`max_queue`), the rest gets 429.", "",
        "## A fleet of 1,000 boxes", "",
    ]
    lines += _fleet(measured)
    return "\n".join([*lines, ""])


def _first(measured: Measured, box: Box, model: Model) -> str:
    cap = 1e6 / measured.daemon_us
    if model.token_bytes > 0.8 * box.memory_bytes:
        return "memory: the weights do not fit"
    limits = {
        "the daemon's one process": cap,
        "cores": measured.computed_s * box.compute * measured.parameters / model.parameters,
        "KV memory": rate(measured, box, model, max(1, contexts(box, model))),
    }
    least = min(limits, key=lambda name: limits[name])
    return f"{least}, at {limits[least]:,.0f} tokens/s"


def _fleet(measured: Measured) -> list[str]:
    boxes_count, gigabit = 1000, 125e6
    big, small = 4.7e9, 131.5e6
    lines = [
        "Boxes know nothing of each other: no coordinator, nothing that grows with their number but what all ask.", "",
        "| what | how much | where it gives |", "|---|---|---|",
    ]
    for said, size in (("a new 135M version", small), ("a new 8B version", big)):
        hours = boxes_count * size / gigabit / 3600
        lines.append(
            f"| {said} to all, each from one hub behind 1 Gbit/s | {boxes_count * size / 1e12:.2f} TB, {hours:.1f} h "
            "| the hub's line: a mirror a site (`hf_endpoint`), or folders carried to the box |")
    daily = boxes_count * measured.metrics_bytes * 86_400 / 15
    lines += [
        f"| metrics, read every 15 s | {boxes_count * measured.series:,.0f} series, {daily / 1e9:.0f} GB a day "
        "uncompressed | one Prometheus server holds that many in some GB; labels of models multiply them |",
        f"| power back at all boxes at once | {measured.load_ms / 1000:.1f} s a model and box, nothing shared "
        "| nowhere: no box waits for another |",
        "| a bad version | kept off by the gate and by each box's own comparison (candidates, share) "
        "| a stop for the whole fleet is the operator's: edged has no control plane |",
    ]
    return lines


def main() -> None:
    record = load(Path(sys.argv[1]))
    try:
        text = page(record, gather(record))
    except BenchError as error:
        sys.exit(f"bench.scale: {error}")
    OUT.write_text(text, encoding="utf-8")
    print(f"wrote {OUT.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
