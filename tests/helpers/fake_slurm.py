"""Slurm's commands as scripts that run a job array on this machine at once; they show what submitit asks for."""

from pathlib import Path

SBATCH = """\
#!/bin/bash
cp "$1" {folder}/submitted.sh
last=$(sed -n 's/^#SBATCH --array=0-\\([0-9]*\\).*/\\1/p' "$1")
for task in $(seq 0 "$last"); do
    SLURM_JOB_ID=$((7 + task)) SLURM_ARRAY_JOB_ID=7 SLURM_ARRAY_TASK_ID=$task SLURM_JOB_NAME=test SLURM_NTASKS=1 \\
        SLURM_JOB_NUM_NODES=1 SLURM_JOB_NODELIST=localhost SLURM_NODEID=0 SLURM_PROCID=0 SLURM_LOCALID=0 \\
        bash "$1" > {folder}/task$task.log 2>&1 &
done
echo Submitted batch job 7
"""
SRUN = """\
#!/bin/bash
while [[ $1 == --* ]]; do
    [[ $1 == --output || $1 == --error ]] && shift
    shift
done
exec "$@"
"""
SACCT = """\
#!/bin/bash
printf 'JobID|State|NodeList\\n7_0|RUNNING|localhost\\n7_1|RUNNING|localhost\\n'
"""


def write_fake_slurm(folder: Path) -> Path:
    """Write the scripts; sbatch leaves there what it was given, as submitted.sh, and a log per task."""
    folder.mkdir()
    for name, text in {"sbatch": SBATCH, "srun": SRUN, "sacct": SACCT}.items():
        path = folder / name
        path.write_text(text.replace("{folder}", str(folder)))
        path.chmod(0o755)
    return folder
