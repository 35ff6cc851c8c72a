"""What is known of a machine: frozen values, no I/O. `probe` fills them in; `fit` and `choose` decide by them."""

from __future__ import annotations

from msgspec import Struct


class Cpu(Struct, frozen=True, kw_only=True):
    """physical: cores of the machine. usable: logical processors this
    process may run on, by affinity and cgroup quota. fast: cores of the fastest kind, where the machine has two kinds.
    features: of those that matter to inference, as the kernel names them (`avx2`, `avx512_vnni`, `asimddp`, `i8mm`)."""

    model: str
    physical: int
    logical: int
    usable: int
    fast: int
    features: frozenset[str] = frozenset()

    @property
    def threads(self) -> int:
        """Threads that compute well together: one for each fast core this process may use."""
        return max(1, min(self.fast, self.usable))


class Memory(Struct, frozen=True, kw_only=True):
    """Bytes. limit: the tightest one of the process's cgroups, if below total. available: what could be taken now
    without swapping, within the limit."""

    total: int
    available: int
    limit: int | None = None


class Gpu(Struct, frozen=True, kw_only=True):
    """vendor: nvidia, amd, intel, qualcomm, apple, broadcom, arm, or the PCI vendor id. memory_bytes: its own memory,
    None where it does not tell. integrated: it computes in the machine's memory, whatever part of it is set aside."""

    vendor: str
    name: str
    node: str | None = None
    memory_bytes: int | None = None
    driver: str | None = None
    integrated: bool = False


class Accelerator(Struct, frozen=True, kw_only=True):
    """An NPU. vendor as of a Gpu, or what the node is called; node: below /dev."""

    vendor: str
    node: str
    driver: str | None = None


class Software(Struct, frozen=True, kw_only=True):
    """What is installed, by distribution metadata and files; nothing of it was imported. versions: by distribution.
    llama_backends: ggml backends that the build ships (`cpu`, `cuda`, `vulkan`). ort_providers: execution providers
    whose libraries are there (`CPU`, `CUDA`, `OpenVINO`): a library there may still fail to load."""

    versions: dict[str, str] = {}
    llama_backends: tuple[str, ...] = ()
    ort_providers: tuple[str, ...] = ()

    def runs(self, engine: str) -> bool:
        installed = {
            "llama": bool(self.llama_backends), "ort": bool(self.ort_providers), "fake": True,
            "genai": any(name.startswith("onnxruntime-genai") for name in self.versions),
        }
        return installed.get(engine, False)


class Facts(Struct, frozen=True, kw_only=True):
    """system, architecture: as `uname` names them. board: as the firmware names it, where it does (`Raspberry Pi 5
    Model B Rev 1.0`). software: of the interpreter that edged runs under; environments: of the engine environments
    beside it, by name."""

    system: str
    architecture: str
    cpu: Cpu
    memory: Memory
    board: str | None = None
    gpus: tuple[Gpu, ...] = ()
    accelerators: tuple[Accelerator, ...] = ()
    software: Software = Software()
    environments: dict[str, Software] = {}
