"""The daemon's configuration: one schema for the file, the environment and the flags.

Every key has a default that suits the host. `docs/configuration.md` lists them; how the layers
are read and merged is in `config_layers`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BeforeValidator, Field, model_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from apportion.agent.config_budgets import MOST, Budgets
from apportion.agent.config_checks import BOUNDS_NS, check_keeping, check_period, check_placement
from apportion.agent.config_labels import LabelLimits
from apportion.agent.config_secrets import mask_http_url, mask_url
from apportion.agent.config_values import (
    HOST_PORT,
    ByName,
    Collectors,
    Numbers,
    OptionalPeriod,
    Paths,
    Period,
    Words,
    checked_address,
    checked_postgres,
    listed,
)
from apportion.agent.duration import Duration
from apportion.client.layout import DEFAULT_DIRECTORY, USER_DIRECTORY
from apportion.collectors.registry import DEFAULT

PREFIX: Final = "APPORTION_"
DEFAULT_FILE: Final = Path("/etc/apportion/apportion.yaml")

_CURRENCY: Final = r"^[A-Z]{3}$"
_NAME: Final = r"^[^\s\x00-\x1f\x7f]+$"


class AgentConfig(BaseSettings):
    """What the daemon is told. Build it with `config_layers.load_config`."""

    model_config = SettingsConfigDict(
        extra="forbid",
        frozen=True,
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        env_ignore_empty=True,
        # pydantic names the value in its own message; ours does not, it may hold a password
        hide_input_in_errors=True,
    )

    listen: Annotated[str, BeforeValidator(checked_address)] = Field(
        "127.0.0.1:9477",
        description="Host and port of /metrics, /healthz and /readyz. Port 0 takes a free one.",
    )
    mode: Literal["node", "pod"] = Field(
        "node",
        description="`node` meters all devices of the host; `pod` those that its pod's rings name.",
    )
    devices: Literal["auto", "nvml", "dcgm", "cpu", "simulator"] = Field(
        "auto",
        description="Where devices come from. `auto` takes NVML where sysfs or procfs show a GPU "
        "or its driver, dcgm-exporter where something stands in NVML's way and `dcgm_urls` names "
        "one, and the host's CPU only where there is neither; never the simulator.",
    )
    collectors: Collectors = Field(
        (DEFAULT,),
        description="Sources of facts beside the devices, by name; `default` stands for those "
        "that run without being asked for. Empty: none.",
    )
    dcgm_urls: Words = Field(
        (),
        repr=False,  # they may hold a password
        description="dcgm-exporters: URLs, such as http://$(HOST_IP):9400/metrics, or paths of "
        "recorded texts. Empty: the node's by $HOST_IP or $NODE_IP, else this host's.",
    )
    dcgm_interval: Period = Field(
        Duration(30_000_000_000),
        description="How often the exporter takes new values (its --collect-interval). Settlement "
        "stays two of them behind.",
    )
    engine_urls: Words = Field(
        (),
        repr=False,  # they may hold a password
        description="/metrics of inference engines, as for `dcgm_urls`. Naming any runs the "
        "collector `engines`.",
    )
    otlp_http: Annotated[str | None, BeforeValidator(checked_address)] = Field(
        None,
        description="Where OpenTelemetry spans are taken over HTTP, such as 127.0.0.1:4318.",
    )
    otlp_grpc: Annotated[str | None, BeforeValidator(checked_address)] = Field(
        None, description="The same over gRPC, such as 127.0.0.1:4317."
    )
    otlp_tenant_attribute: str | None = Field(
        None,
        max_length=128,
        description="The attribute of a span, or of its resource, that names the tenant.",
    )
    sglang_logs: Words = Field(
        (),
        description="SGLang servers and their --export-metrics-to-file-dir: SERVICE=DIR.",
    )
    sglang_forward_passes: Words = Field(
        (),
        description="Where those servers publish their forward passes: SERVICE=ipc://PATH.",
    )
    sglang_tenant_label: str | None = Field(
        None,
        max_length=128,
        description="The custom label (`x-custom-labels`) of theirs that names the tenant.",
    )
    service_devices: Words = Field(
        (),
        description="Devices of services that doors tell of: SERVICE=ID+ID. Unset: the only GPU.",
    )
    service_models: ByName = Field(
        default_factory=dict[str, str],
        description="By service the model of such requests that name none.",
    )
    id_key_file: Path | None = Field(
        None,
        description="A file with a key of 16 bytes or more: request ids and tenants of such "
        "requests are kept as hashes by it. Clients hash their own: they have the same variables.",
    )
    hashed_ids: Annotated[
        tuple[Literal["request", "tenant"], ...], NoDecode, BeforeValidator(listed)
    ] = Field((), description="Which ids are hashed: request, tenant. Empty: both.")
    own: Words = Field(
        (),
        description="Ids of the devices to meter, whatever the mode says. Empty: by the mode.",
    )
    prices: Literal["built-in", "none"] | Path = Field(
        "built-in",
        description="The price table. `built-in` are published prices in USD, marked as estimates; "
        "with `none` there are quantities and no amounts.",
    )
    currency: str | None = Field(
        None,
        pattern=_CURRENCY,
        description="The currency that the price table must have. Unset: the table's own.",
    )
    budgets: Budgets = Field(
        (),
        max_length=MOST,
        description="What workloads, runs, tenants or models may cost in a period: a list of "
        "mappings, as JSON outside of the file.",
    )
    placement: ByName = Field(
        default_factory=dict[str, str],
        description="What this node is, for rows of the price table that ask with `match`: cloud, "
        "region, zone, instance_type, capacity (on-demand, spot, reserved, owned), labels.NAME.",
    )
    models: ByName = Field(
        default_factory=dict[str, str],
        description="Facts about models by the name that requests carry: the path of a Hugging "
        "Face config.json, or a known model's name. Known names need none.",
    )
    state_dir: Path = Field(
        Path("/var/lib/apportion"),
        description="What must survive a restart. Default for a plain user: "
        "$XDG_STATE_HOME/apportion, or ~/.local/state/apportion.",
    )
    ledger: str | None = Field(
        None,
        repr=False,  # it may hold a password
        description="The ledger: a path or a SQLAlchemy URL. Unset: `ledger.db` in `state_dir`.",
    )
    shared_ledger: Annotated[str | None, BeforeValidator(checked_postgres)] = Field(
        None,
        repr=False,  # it may hold a password
        description="The PostgreSQL that commits are shipped to, and that other agents share: a "
        "URL. What its query says (sslmode, ...) is for libpq.",
    )
    outbox_bytes: int = Field(
        256 << 20,
        ge=1 << 20,
        description="What may wait for the shared ledger, in bytes of the node's ledger. Beyond "
        "it the agent's rows are copied when it is back.",
    )
    lease: Period = Field(
        Duration(60_000_000_000),
        description="How long a device stays this agent's in the shared ledger without a sign of "
        "life; then another agent may take it.",
    )
    keep_lines: OptionalPeriod = Field(
        None,
        description="How long lines, spans and settlements are kept, such as 90d. Unset: for ever. "
        "Their sums by hour, day and week stay.",
    )
    keep_rollups: OptionalPeriod = Field(
        None,
        description="How long those sums are kept, such as 1825d. Unset: for ever.",
    )
    ring_dir: Path = Field(
        Path(DEFAULT_DIRECTORY),
        description="Where instrumented processes put their rings. Default for a plain user: "
        f"$XDG_RUNTIME_DIR/{USER_DIRECTORY}.",
    )
    ring_gid: int | None = Field(
        None, ge=0, description="The group that may write the ring directory. Unset: the agent's."
    )
    pods_dir: Path | None = Field(
        None,
        description="The kubelet's directory of pods, such as /var/lib/kubelet/pods: rings in the "
        "pods' volumes called apportion-rings are read, too.",
    )
    ring_uids: Numbers = Field(
        (), description="User ids whose rings are read. Empty: any that may write the directory."
    )
    lock_dir: Path = Field(
        Path("/run/apportion/locks"),
        description="Where agents of one host agree on who meters which device. Default for a "
        "plain user: $XDG_RUNTIME_DIR/apportion/locks.",
    )
    cluster: str | None = Field(
        None, pattern=_NAME, max_length=128, description="The cluster's name in the ledger."
    )
    node: str = Field(
        "localhost",
        pattern=_NAME,
        max_length=128,
        description="This node's name in the ledger. Default: the host's name.",
    )
    sample_period: Period = Field(
        Duration(1_000_000_000), description="Time between two readings of a device."
    )
    telemetry_gap: Period = Field(
        Duration(5_000_000_000),
        description="Time of a device without a reading for longer than this is `unattributed`; "
        "three readings at least.",
    )
    tick_period: Period = Field(
        Duration(5_000_000_000), description="Time between two settlements; one transaction each."
    )
    lateness: Period = Field(
        Duration(2_000_000_000), description="How far settlement stays behind now."
    )
    drain: Period = Field(
        Duration(10_000_000_000), description="How long a stop may take before it is forced."
    )
    labels: LabelLimits = Field(
        default_factory=lambda: LabelLimits.model_validate({}),
        description="Bounds of label values on /metrics.",
    )
    kubelet_socket: Path = Field(
        Path("/var/lib/kubelet/pod-resources/kubelet.sock"),
        description="The kubelet's pod-resources socket: which pod was given which device.",
    )
    pod_labels: Words = Field(
        (),
        max_length=20,
        description="Labels of pods to show, by key. Naming any asks the API server for them.",
    )
    kubernetes_url: str | None = Field(
        None,
        repr=False,  # it may hold a password
        description="The API server, or the path of a recorded list of pods. Unset: as a pod "
        "finds it, by $KUBERNETES_SERVICE_HOST.",
    )
    service_account_dir: Path | None = Field(
        None,
        description="Where the service account's `token` and the cluster's `ca.crt` are. Unset: "
        "where a pod has them mounted.",
    )
    job_mapping_dir: Path | None = Field(
        None, description="Where Slurm's prolog writes a file for each GPU, a job id a line."
    )
    nccl_dirs: Paths = Field(
        (),
        description="Where NCCL's Inspector writes its logs, and PyTorch its own Flight Recorder "
        "dumps. The client's dumps, beside the rings, need no key.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="The least severe messages to log."
    )
    proc_root: Path = Field(Path("/proc"), description="The host's procfs.")
    sys_root: Path = Field(Path("/sys"), description="The host's sysfs.")
    kmsg: Path = Field(
        Path("/dev/kmsg"), description="The host's kernel log, for XID errors. It takes root."
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what the caller passes: `config_layers` merges the layers and knows their origin."""
        del settings_cls, env_settings, dotenv_settings, file_secret_settings
        return (init_settings,)

    @model_validator(mode="after")
    def _makes_sense(self) -> AgentConfig:
        for key in BOUNDS_NS:
            check_period(key, getattr(self, key))
        check_keeping(self.keep_lines, self.keep_rollups)
        check_placement(self.placement)
        return self

    @property
    def listen_host(self) -> str:
        """The host part of `listen`, without brackets."""
        match = HOST_PORT.fullmatch(self.listen)
        return "" if match is None else match[1] or match[2]

    @property
    def listen_port(self) -> int:
        """The port part of `listen`."""
        return int(self.listen.rpartition(":")[2])

    @property
    def ledger_location(self) -> str:
        """The path or URL of the ledger. It may hold a password: see `masked_ledger`."""
        return self.ledger if self.ledger is not None else str(self.state_dir / "ledger.db")

    @property
    def masked_ledger(self) -> str:
        """The ledger's path or URL as it may be shown."""
        return mask_url(self.ledger_location)

    def effective(self) -> dict[str, object]:
        """Every key and its value as JSON types, without secrets; nested keys as `labels.x`."""
        values: dict[str, object] = self.model_dump(mode="json", exclude={"labels"})
        limits = self.labels.model_dump(mode="json")
        values.update({f"labels.{key}": limit for key, limit in limits.items()})
        values["ledger"] = self.masked_ledger
        for key in ("dcgm_urls", "engine_urls"):
            values[key] = [mask_http_url(url) for url in getattr(self, key)]
        if self.kubernetes_url is not None:
            values["kubernetes_url"] = mask_http_url(self.kubernetes_url)
        if self.shared_ledger is not None:
            values["shared_ledger"] = mask_url(self.shared_ledger)
        return values
