"""Job mappings as a prolog writes them, and whose a process is by its control group."""

from __future__ import annotations

from pathlib import Path

import pytest

from apportion.collectors.process_owner import process_owner
from apportion.collectors.slurm import Slurm
from apportion.core.allocation import Allocation
from apportion.core.errors import CollectorError, NoData
from apportion.core.ids import DeviceId

GPU = "GPU-aaaaaaaa-0000-0000-0000-000000000001"
UID = "0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9"


def test_a_file_for_each_gpu(tmp_path: Path) -> None:
    """By index or UUID, a job a line; an empty file is a GPU that nobody has."""
    (tmp_path / "0").write_text("1234\n")
    (tmp_path / GPU).write_text("77\n78_3\n77\n")
    (tmp_path / "1").write_text("")
    batch = Slurm(tmp_path).collect()
    assert batch.allocations == (
        Allocation(DeviceId("0"), "slurm:1234"),
        Allocation(DeviceId(GPU), "slurm:77"),
        Allocation(DeviceId(GPU), "slurm:78_3"),
    )
    assert batch.samples is not None
    assert [sample.value for sample in batch.samples] == [1, 0.5, 0.5]


def test_what_is_no_mapping_is_left_out(tmp_path: Path) -> None:
    """Anybody's file in the directory does not become a label."""
    (tmp_path / "README").write_text("password=hunter2\n")
    (tmp_path / "0").write_text("12;34\n" + "x" * 100 + "\n$(id)\n# sbatch --export hunter2\n")
    (tmp_path / "1").mkdir()
    assert Slurm(tmp_path).collect().allocations == ()


def test_without_a_directory_there_is_no_data() -> None:
    """Most nodes have no Slurm; a directory that somebody has named must be there."""
    with pytest.raises(NoData, match="set `job_mapping_dir`"):
        Slurm(None).collect()
    with pytest.raises(CollectorError, match="/nonexistent: No such file") as caught:
        Slurm(Path("/nonexistent")).collect()
    assert not isinstance(caught.value, NoData)


def test_a_directory_of_other_things_is_none_of_jobs(tmp_path: Path) -> None:
    """It never had a mapping; an empty one, or one that has lost its last, is a node at rest."""
    slurm = Slurm(tmp_path)
    assert slurm.collect().allocations == ()
    (tmp_path / "passwd").write_text("1234\n")
    with pytest.raises(NoData, match="none of 1 files in it is called by a GPU's index or UUID"):
        slurm.collect()
    (tmp_path / "0").write_text("1234\n")
    assert len(slurm.collect().allocations or ()) == 1
    (tmp_path / "0").unlink()
    assert slurm.collect().allocations == ()


@pytest.mark.parametrize(
    ("text", "owner"),
    [
        (f"0::/kubepods/burstable/pod{UID}/0123abcd\n", f"pod:{UID}"),
        (
            f"0::/kubepods.slice/kubepods-pod{UID.replace('-', '_')}.slice/cri-0123.scope\n",
            f"pod:{UID}",
        ),
        (f"11:memory:/kubepods/pod{UID}/abc\n10:cpu:/kubepods/pod{UID}/abc\n", f"pod:{UID}"),
        (f"0::/kubepods/burstable/pod{'ab' * 16}/c\n", f"pod:{'ab' * 16}"),
        ("0::/system.slice/slurmstepd.scope/job_7/step_0/user/task_0\n", "slurm:7"),
        ("5:devices:/slurm/uid_1000/job_812/step_batch\n", "slurm:812"),
        ("0::/user.slice/user-1000.slice/session-2.scope\n", None),
        ("0::/my_project/job_7/x\n", None),
        ("0::/\n", None),
    ],
)
def test_owner_by_control_group(tmp_path: Path, text: str, owner: str | None) -> None:
    """The forms of both cgroup drivers, both versions, and Slurm's; others are nobody's."""
    (tmp_path / "42").mkdir()
    (tmp_path / "42" / "cgroup").write_text(text)
    assert process_owner(42, tmp_path) == owner


def test_a_process_that_is_gone_has_no_owner(tmp_path: Path) -> None:
    """It ended between two looks."""
    assert process_owner(42, tmp_path) is None
