"""The Slurm script, read by bash and shellcheck, its options held to lists, and a Slurm of shell scripts to run it with."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

from .commands import check_script
from .places import CLUSTERS, tool

SCRIPT = CLUSTERS / "slurm" / "orchestrator.sbatch"

# The options of sbatch that a script may hold here, and what their values look like.
_SIZE = r"\d+[KMGT]?"
SBATCH = {
    "job-name": r"[\w-]+",
    "nodes": r"\d+(-\d+)?",
    "ntasks-per-node": r"\d+",
    "cpus-per-task": r"\d+",
    "gpus-per-node": r"(\w+:)?\d+",
    "mem": _SIZE,
    "mem-per-cpu": _SIZE,
    "time": r"(\d+-)?\d{1,2}:\d\d:\d\d|\d+",
    "signal": r"(B:)?[A-Z]+[12]?@\d+",
    "requeue": None,
    "exclusive": None,
    "open-mode": r"append|truncate",
    "output": r"\S*%j\S*",
    "partition": r"[\w,-]+",
    "account": r"\w+",
}
SRUN = {"overlap", "nodes", "ntasks", "ntasks-per-node", "cpus-per-task", "nodelist"}
SCONTROL = {("show", "hostnames"), ("requeue",)}


def check_sbatch(text: str) -> list[str]:
    """Returns what is wrong with the Slurm script."""
    for command in (["bash", "-n"], [tool("shellcheck"), "--shell=bash", "--severity=style", "-"]):
        done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=60, check=False)
        if done.returncode:
            return [done.stdout + done.stderr]
    faults = _check_directives(text) + _check_signal(text)
    for line in _logical_lines(text):
        faults += _check_steps(line)
    # The command that each node runs is a string; what is added to it by srun is checked where it stands.
    quoted = re.search(r"^node_command='(.*)'$", text, re.MULTILINE)
    if quoted is None:
        return [*faults, "node_command: missing"]
    body = "\n".join(line for line in text.splitlines() if not line.startswith("node_command="))
    inner = quoted.group(1)
    for role in ("ray-head", "ray-worker"):
        found = re.search(rf"{role} (.*?)&$", re.sub(r"\\\n\s*", " ", body), re.MULTILINE)
        if found is None:
            faults.append(f"{role}: not started")
        else:
            faults += check_script(inner.replace('"$@"', found.group(1)))
    faults += check_script(re.sub(r"<<'WAIT'.*?\nWAIT\n", "\n", body, flags=re.DOTALL))
    shown = re.findall(r"^#\s{3,}sbatch (.*)$", text, re.MULTILINE)
    faults += [fault for usage in shown for fault in check_usage(usage)]
    if not shown:
        faults.append("the header shows no usage")
    return faults


def _check_directives(text: str) -> list[str]:
    faults, seen = [], set()
    for line in re.findall(r"^#\s?SBATCH.*$", text, re.MULTILINE):
        match = re.fullmatch(r"#SBATCH --([a-z-]+)(?:=(\S+))?", line)
        if match is None:
            faults.append(f"{line}: not of the form #SBATCH --option=value")
        elif fault := _check_option(match.group(1), match.group(2)):
            faults.append(fault)
        else:
            seen.add(match.group(1))
    missing = {
        "nodes",
        "ntasks-per-node",
        "cpus-per-task",
        "mem",
        "time",
        "signal",
        "requeue",
        "open-mode",
        "output",
    } - seen
    late = re.search(r"^[^#\n].*\n(.*\n)*#SBATCH", text, re.MULTILINE)
    return (
        faults
        + [f"#SBATCH --{name}: missing" for name in sorted(missing)]
        + (["#SBATCH after a command is not read"] if late else [])
    )


def _check_option(name: str, value: str | None) -> str:
    if name not in SBATCH:
        return f"sbatch --{name}: unknown"
    pattern = SBATCH[name]
    if (pattern is None) != (value is None) or (pattern and not re.fullmatch(pattern, value or "")):
        return f"sbatch --{name}: {value!r}"
    return ""


def _check_signal(text: str) -> list[str]:
    """The signal that Slurm is told to send is one that the script waits for."""
    sent = re.search(r"--signal=B:([A-Z0-9]+)@", text)
    if sent and f"trap 'interrupt {sent.group(1)}' {sent.group(1)}\n" not in text:
        return [f"--signal: nothing is done about {sent.group(1)}"]
    return []


def _check_steps(line: str) -> list[str]:
    faults = []
    if step := re.search(r"(?:^|\(|\s)srun ((?:--\S+ ?|\"[^\"]*\" ?)*)", line):
        options = re.findall(r"(?:^|\s)--([a-z-]+)", step.group(1))
        faults += [f"srun --{name}: unknown" for name in options if name not in SRUN]
        faults += ["srun: without --overlap it would wait for the step that runs"] if "overlap" not in options else []
    if call := re.search(r"(?:^|\()\s*scontrol (\w+)(?: (\w+))?", line):
        faults += [] if {call.groups(), (call.group(1),)} & SCONTROL else [f"scontrol {call.group(1)}: unknown"]
    return faults


def check_usage(usage: str) -> list[str]:
    """Returns what is wrong with the arguments of an `sbatch` that is shown to readers."""
    words = shlex.split(usage.replace("…", "").replace("[", "").replace("]", ""))
    script = next((number for number, word in enumerate(words) if word.endswith(".sbatch")), None)
    if script is None or not (SCRIPT.parents[2] / words[script]).is_file():
        return [f"sbatch {usage}: no such script"]
    given = [word.removeprefix("--").partition("=") for word in words[:script]]
    faults = [_check_option(name, value if sign else None) for name, sign, value in given]
    arguments = [word for word in words[script + 1 :] if word != "a.b=v" or "--set" in words]
    return [fault for fault in faults if fault] + check_script(shlex.join(["orchestrator", "run", *arguments]))


def _logical_lines(text: str) -> list[str]:
    return [line for line in re.sub(r"\\\n\s*", " ", text).splitlines() if not line.lstrip().startswith("#")]


# A Slurm of two nodes on one machine. Each name stands for a loopback address; an unknown option is refused.
SHIMS = {
    "srun": r"""
stopped= pids=()
trap 'stopped=yes; [[ ${#pids[@]} -eq 0 ]] || kill -TERM "${pids[@]}" 2> /dev/null' TERM
nodes=1 list=()
while [[ $1 == --* ]]; do
  case $1 in
    --overlap | --ntasks=* | --ntasks-per-node=* | --cpus-per-task=*) ;;
    --nodes=*) nodes=${1#*=} ;;
    --nodelist=*) IFS=, read -ra list <<< "${1#*=}" ;;
    *) echo "srun: unrecognized option '$1'" >&2; exit 1 ;;
  esac
  shift
done
if [[ ${#list[@]} -gt 0 && ${#list[@]} -ne $nodes ]]; then
  echo "srun: $nodes nodes, but ${#list[@]} names" >&2
  exit 1
fi
for ((number = 0; number < nodes; number++)); do
  [[ -z $stopped ]] || break
  SHIM_NODE=${list[number]:-node1} SLURM_GPUS_ON_NODE=0 "$@" &
  pids+=($!)
  [[ -z $stopped ]] || kill -TERM "${pids[@]}" 2> /dev/null
done
code=0
for pid in "${pids[@]}"; do
  while true; do
    wait "$pid" || code=$?
    kill -0 "$pid" 2> /dev/null || break
  done
done
exit $code
""",
    "scontrol": r"""
case "$1 ${2:-}" in
  "show hostnames") tr , '\n' <<< "$3" ;;
  requeue\ *) echo "$2" >> "$SHIM_LOG/requeued" ;;
  *) echo "scontrol: invalid: $*" >&2; exit 1 ;;
esac
""",
    "hostname": r"""
[[ $1 == --all-ip-addresses ]] || exit 1
echo "127.0.0.2 "
""",
}

# Stand-ins for the programs that the script starts, for everything about the script itself.
FAKES = {
    "ray": r"""
if [[ $1 == health-check ]]; then
  [[ -f $SHIM_LOG/up ]]
  exit
fi
[[ -z ${SHIM_HEAD_FAILS:-} ]] || exit 1
stat --format=%a "$RAY_AUTH_TOKEN_PATH" > "$SHIM_LOG/token-mode"
wc --bytes < "$RAY_AUTH_TOKEN_PATH" > "$SHIM_LOG/token-bytes"
trap 'echo "$SHIM_NODE" >> "$SHIM_LOG/ended"; exit 0' TERM
[[ "$*" != *"--head"* ]] || touch "$SHIM_LOG/up"
echo "$SHIM_NODE $*" >> "$SHIM_LOG/ray"
while true; do sleep 0.05; done
""",
    "python": r"""
cat > /dev/null
[[ -z ${SHIM_WAIT_FAILS:-} ]] || exit 1
until [[ $(wc --lines < "$SHIM_LOG/ray") -ge $3 ]]; do sleep 0.02; done
""",
    "orchestrator": r"""
echo "$*" >> "$SHIM_LOG/orchestrator"
if [[ -n ${SHIM_RUNS:-} ]]; then
  trap 'exit 130' TERM
  touch "$SHIM_LOG/running"
  while true; do sleep 0.05; done
fi
exit "${SHIM_CODE:-0}"
""",
}


def install(folder: Path, scripts: dict[str, str]) -> None:
    """Writes shell scripts into a folder, to be put in front of PATH."""
    folder.mkdir(exist_ok=True)
    for name, body in scripts.items():
        path = folder / name
        path.write_text("#!/usr/bin/env bash\nset -u\n" + body, encoding="utf-8")
        path.chmod(0o755)


def environment(folder: Path, job: int, **extra: str) -> dict[str, str]:
    """Returns the environment in which Slurm would start the script, with the shims of `folder/bin` in front."""
    (folder / "log").mkdir(exist_ok=True)
    own = Path(sys.executable).parent
    return {
        **{name: os.environ[name] for name in ("HOME", "LANG", "TMPDIR") if name in os.environ},
        "PATH": f"{folder / 'bin'}:{own}:/usr/bin:/bin",
        "SLURM_JOB_ID": str(job),
        "SLURM_JOB_NODELIST": "node1,node2",
        "SLURM_SUBMIT_DIR": str(folder),
        "SLURM_CPUS_PER_TASK": "1",
        "SHIM_LOG": str(folder / "log"),
        **extra,
    }
