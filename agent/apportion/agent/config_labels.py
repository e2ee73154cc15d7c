"""What the configuration says of labels on /metrics."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from apportion.agent.config_values import Words
from apportion.agent.metrics.labels import MAX_SERIES, LabelFolder


class LabelLimits(BaseModel):
    """How many values of each label keep their own series; the rest become `other`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_workloads: int = Field(100, ge=1, le=10_000, description="Values of `workload`.")
    max_runs: int = Field(200, ge=1, le=10_000, description="Values of `run`.")
    max_tenants: int = Field(200, ge=1, le=10_000, description="Values of `tenant`.")
    max_models: int = Field(50, ge=1, le=10_000, description="Values of `model`.")
    max_pods: int = Field(200, ge=1, le=10_000, description="Values of `pod`, with its namespace.")
    workloads: Words = Field((), description="Values of `workload` that are never folded.")
    runs: Words = Field((), description="Values of `run` that are never folded.")
    tenants: Words = Field((), description="Values of `tenant` that are never folded.")
    models: Words = Field((), description="Values of `model` that are never folded.")
    max_series: int = Field(
        MAX_SERIES,
        ge=1_000,
        le=1_000_000,
        description="Series of all counters by these labels together.",
    )

    def folder(self) -> LabelFolder:
        """What keeps the settlement's counters within these bounds."""
        limits = {
            "workload": self.max_workloads,
            "run": self.max_runs,
            "tenant": self.max_tenants,
            "model": self.max_models,
            "pod": self.max_pods,
        }
        always = {
            "workload": self.workloads,
            "run": self.runs,
            "tenant": self.tenants,
            "model": self.models,
        }
        return LabelFolder(limits, always, most_series=self.max_series)
