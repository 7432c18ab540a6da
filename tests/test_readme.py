"""The commands and snippets of README, and of the pages that it leads to, do what these say."""

from __future__ import annotations

import builtins
import importlib.util
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cli_programs import Command, Outcome, environment, run_here
from processes import LONG, Program, calm, free_port, until

import rigsync
from rigsync import Auxiliaries, ExpStatus, Rig, events
from rigsync.cli import COMMANDS
from rigsync.doctor.findings import Fault

ROOT = Path(__file__).parents[1]
README, TASK_PAGE, RIG_PAGE, LAB_PAGE, FAULTS, FIGURES, DOCTOR = (
    (ROOT / path).read_text(encoding="utf-8")
    for path in ("README.md", *(f"docs/{page}.md" for page in ("task", "rig", "lab", "faults", "figures", "doctor")))
)


def blocks(page: str, *languages: str) -> list[str]:
    """Return the blocks of a page, all of which have to be in these languages, in this order."""
    found = re.findall(r"```(\w+)\n(.*?)```", page, re.DOTALL)
    assert tuple(language for language, _ in found) == languages
    return [text for _, text in found]


DEMO, TEST, CAMERAS, TASK, AGENT_FILE, AGENT = blocks(README, "sh", "sh", "python", "python", "yaml", "sh")
# The last one runs in tests/test_iblrig_task.py.
PARTIAL, AT_ONE_INSTANT, NOTICES, TASK_ASKS, TASK_CALLS, ON_A_LOOP, _IBLRIG = blocks(TASK_PAGE, *["python"] * 7)
RIG_TELLS, RIG_CALLS, RIG_LACKS, REHEARSES, SIGNALS = blocks(RIG_PAGE, *["python"] * 5)
RIGS, SERVE, LAB, BY_HAND, TAKE_OVER, STOP = blocks(LAB_PAGE, "yaml", *["sh"] * 5)
(LOOK,) = blocks(DOCTOR, "python")
assert not blocks(FAULTS)
assert not blocks(FIGURES)
REFERENCE = "2026-11-20_1_mouse"
TIMEOUT = 60


def commands(block: str) -> list[list[str]]:
    """Return the words of each line of a block."""
    return [shlex.split(line) for line in block.splitlines()]


def run(arguments: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, capture_output=True, text=True, timeout=TIMEOUT, check=False
    )


@pytest.fixture
def ports() -> dict[str, str]:
    return {"11001": str(free_port()), "11002": str(free_port())}


@pytest.fixture
def cameras(tmp_path: Path, ports: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """Run cameras.py of README, on a free port."""
    script = tmp_path / "cameras.py"
    script.write_text(with_ports(CAMERAS, ports), encoding="utf-8")
    with subprocess.Popen([sys.executable, "-u", str(script)], stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.terminate()
            process.wait(TIMEOUT)


def with_ports(script: str, ports: dict[str, str]) -> str:
    for port, free in ports.items():
        script = script.replace(port, free)
    return script


def test_first_script_starts_and_stops_the_rig(
    cameras: subprocess.Popen[str], ports: dict[str, str], tmp_path: Path
) -> None:
    task = tmp_path / "task.py"
    task.write_text(with_ports(TASK, ports), encoding="utf-8")
    done = run([str(task)], tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "2026-11-20_1_mouse 20 ['2026-11-20_1_mouse/left.mp4']\n"
    assert f"prints\n`{done.stdout.strip()}`" in README
    assert cameras.stdout
    assert [cameras.stdout.readline() for _ in range(2)] == ["recording 2026-11-20_1_mouse\n", "stopped\n"]


def test_the_script_on_an_event_loop(serve: Callable[..., Any], tmp_path: Path) -> None:
    rig = serve("cameras")
    script = tmp_path / "task.py"
    script.write_text(ON_A_LOOP.replace("udp://127.0.0.1:11001", rig.uri), encoding="utf-8")
    done = run(["-W", "error", str(script)], tmp_path)
    assert (done.returncode, calm(done.stderr)) == (0, "")
    assert done.stdout == "records: True\ncameras answers\n['cameras']\n"


def test_partial_failure_script_prints_what_readme_says(
    cameras: subprocess.Popen[str], ports: dict[str, str], tmp_path: Path
) -> None:
    task = tmp_path / "task.py"
    task.write_text(with_ports(PARTIAL, ports), encoding="utf-8")
    done = run([str(task)], tmp_path)
    printed = done.stdout.strip()
    assert printed, done.stderr
    assert f"this prints `{printed}`" in TASK_PAGE


def test_first_script_interrupts_the_rigs_that_did_initialise(
    cameras: subprocess.Popen[str], ports: dict[str, str], tmp_path: Path, serve: Callable[..., Any]
) -> None:
    def fail() -> None:
        raise OSError("no disk")

    clients = '{"cameras": "udp://127.0.0.1:11001"'
    assert clients in TASK
    script = TASK.replace(clients, f'{clients}, "ephys": "{serve("ephys", {"EXPINIT": fail}).uri}"')
    task = tmp_path / "task.py"
    task.write_text(with_ports(script, ports), encoding="utf-8")
    done = run([str(task)], tmp_path)
    assert "ExperimentError: experiment 2026-11-20_1_mouse failed at EXPINIT on 1 of 2 rigs" in done.stderr
    assert "ephys: EXPINIT failed: OSError: no disk" in done.stderr
    # It is not waited for where another one has failed first.
    assert re.search("cameras: (initialised|EXPINIT called off); then interrupted and cleaned up", done.stderr)
    assert cameras.stdout
    assert cameras.stdout.readline() == "stopped\n"


def test_first_script_started_twice_leaves_the_experiment_of_the_first_alone(
    serve: Callable[..., Any], connect: Callable[..., Any], tmp_path: Path
) -> None:
    rig = serve("cameras")
    first = connect(rig)
    first.request("EXPINIT", {"exp_ref": REFERENCE})
    first.request("EXPSTART", REFERENCE)
    task = tmp_path / "task.py"
    task.write_text(TASK.replace("udp://127.0.0.1:11001", rig.uri), encoding="utf-8")
    done = run([str(task)], tmp_path)
    assert f"cameras: it records {REFERENCE} already" in done.stderr
    assert rig.status is ExpStatus.RUNNING


def test_a_second_rig_at_the_same_port_says_so_without_the_tracebacks_of_the_system(
    cameras: subprocess.Popen[str], ports: dict[str, str], tmp_path: Path
) -> None:
    with Auxiliaries({"cameras": f"udp://127.0.0.1:{ports['11001']}"}) as aux:
        aux.wait_for("cameras", timeout=TIMEOUT)
    done = run([str(tmp_path / "cameras.py")], tmp_path)
    assert f"port {ports['11001']} is in use" in done.stderr.splitlines()[-1]
    assert done.stderr.count("Traceback") == 1


def test_rigs_begin_at_one_instant(
    serve: Callable[..., Any], connect: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    aux = connect(serve("cameras"), serve("ephys"))
    aux.request("EXPINIT", {"exp_ref": REFERENCE})
    exec(AT_ONE_INSTANT, {"aux": aux})
    told = capsys.readouterr().out.splitlines()
    assert [re.sub(r"[+-]\d+\.\d\d ms", "", line) for line in told] == [
        f"{rig} began  from the instant" for rig in ("cameras", "ephys")
    ]


def test_notices_are_told(
    serve: Callable[..., Any], connect: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    rig = serve("cameras")
    aux = connect(rig)
    told = ""

    def says(text: str) -> bool:
        nonlocal told
        told += capsys.readouterr().out
        return text in told

    for line in reversed(NOTICES.splitlines()):  # who listens has to be first; they are two programs there
        exec(line, {"rig": rig, "aux": aux})
    until(lambda: says("cameras focus left {'score': 0.8}\n"))
    aux.request("EXPINIT", {"exp_ref": REFERENCE})
    until(lambda: says("cameras status None {'status': 'INITIALIZED'"))


def test_progress_streams_and_commands(
    serve: Callable[..., Any], connect: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    rig = serve("cameras")
    aux = connect(rig)
    exec(RIG_TELLS, {"rig": rig})
    exec(RIG_LACKS, {"rig": rig})
    assert list(aux.call("cameras", "rigsync.check")) == ["problems"]
    until(lambda: aux.services["cameras"].streams == {"left": {"camera": "FLIR 3"}})
    exec(TASK_ASKS, {"aux": aux})
    told = capsys.readouterr().out
    assert "{'z': 3}\n" in told
    rig.progress("left.mp4", 1201, total=3600)

    def says() -> bool:
        nonlocal told
        told += capsys.readouterr().out
        return "cameras left.mp4 1201 of 3600\n" in told

    until(says)


def test_calls_between_peers(
    serve: Callable[..., Any], connect: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    rig = serve("cameras")
    aux = connect(rig)
    rig.command("move")(lambda axis, by: [axis, by])
    exec(RIG_CALLS, {"rig": rig})
    exec(TASK_CALLS, {"aux": aux})
    aux.request("EXPINIT", REFERENCE)
    aux.request("EXPSTART", REFERENCE)
    told = capsys.readouterr().out.splitlines()
    assert told == ["[['x', 0.5], ['y', 0.5], ['z', 0.5]]", "3", "{'cameras': ['heard']}", "3 ul given"]


def test_a_rig_rehearses(connect: Callable[..., Any]) -> None:
    rig = Rig("cameras", "udp://127.0.0.1:0")
    paths: list[Path] = []
    exec(REHEARSES, {"rig": rig, "camera": SimpleNamespace(record_to=lambda path: paths.append(Path(path)))})
    rig.on("EXPEND")(lambda: paths[0].write_bytes(b"x") and None)
    with rig:
        assert connect(rig).rehearse(seconds=0.1).succeeded
    assert not paths[0].parent.exists()


OWN_PROGRAM = """
from pathlib import Path
from types import SimpleNamespace
from time import sleep
from rigsync import Auxiliaries, Rig

rig = Rig("cameras", "udp://127.0.0.1:0")
rig.on("EXPINTERRUPT")(lambda data: Path("reason").write_text(data["reason"]))
def serve():
    aux = Auxiliaries({{"cameras": rig.uri}}, leave_running=True)
    aux.request("EXPINIT", {{"exp_ref": "{reference}"}})
    aux.request("EXPSTART", "{reference}")
    print("records", flush=True)
    while True:
        sleep(0.1)  # one long sleep can miss a signal at its start
{way}
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no POSIX signals on Windows")
@pytest.mark.parametrize("way", ["with rig:\n    serve()", "rig.start()\nserve()"], ids=["with", "start"])
@pytest.mark.parametrize(("name", "status"), [("SIGTERM", 143), ("SIGHUP", 129)])
def test_a_program_of_ones_own_ends_the_experiment_at_sigterm_and_sighup(
    way: str, name: str, status: int, tmp_path: Path
) -> None:
    program = SIGNALS + OWN_PROGRAM.format(reference=REFERENCE, way=way)
    with subprocess.Popen([sys.executable, "-c", program], cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "records\n"
        process.send_signal(getattr(signal, name))
        assert process.wait(TIMEOUT) == status
    assert (tmp_path / "reason").read_text() == "the rig's program is being closed"


@pytest.mark.skipif(not shutil.which("ffmpeg"), reason="no ffmpeg here")
def test_the_rig_that_needs_no_code_records(tmp_path: Path, connect: Callable[..., Any]) -> None:
    text = AGENT_FILE.replace("0.0.0.0:11001", "127.0.0.1:0").replace("1 GB", "1 MB")
    (tmp_path / "left.yaml").write_text(text, encoding="utf-8")
    check, serving = commands(AGENT)
    assert rigsync_command(check, tmp_path).status == 0
    with Command([*serving[1:], "--json"], tmp_path, environment(tmp_path)) as agent:
        aux = connect({"left": json.loads(agent.line('{"rig"'))["listening"]})
        with aux.experiment(REFERENCE) as session:
            video = tmp_path / "recordings" / REFERENCE / "left.mp4"
            until(lambda: "ffmpeg frames" in aux.services["left"].progress and video.stat().st_size > 1000)
            session.check()
        agent.interrupt()
        assert agent.outcome().status == 0


def test_the_lease_of_a_rig_can_be_chosen() -> None:
    (call,) = re.findall(r"`(Rig\(.*?lease=.*?\))`", RIG_PAGE)
    assert eval(call, {"Rig": Rig, "uri": "udp://127.0.0.1:0"})._lease == 60


def test_set_up_commands_are_tasks_of_run_py() -> None:
    tasks = run_py().TASKS
    assert commands(DEMO + TEST) == [["python3", "run.py", task] for task in ("demo", "test")]
    assert tasks["test"][:2] == ["-m", "pytest"]
    assert tasks["demo"] == ["-m", "rigsync", "demo"]


def test_demo_command_succeeds(tmp_path: Path) -> None:
    done = run(run_py().TASKS["demo"], tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def rigsync_command(command: list[str], folder: Path) -> Outcome:
    program, *arguments = command
    assert program == "rigsync"
    return run_here(arguments, folder, environment(folder))


def test_commands_succeed_one_after_the_other_with_the_rig_of_another_terminal(
    ports: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "rigs.yaml").write_text(with_ports(RIGS, ports), encoding="utf-8")
    (serving,) = commands(with_ports(SERVE, ports))
    with Command(serving[1:], tmp_path, environment(tmp_path), lasts=9 * LONG) as rig:
        assert "listens on" in rig.error_line()
        for command in [*commands(LAB), *commands(BY_HAND)]:
            done = rigsync_command(command, tmp_path)
            assert done.status == 0, done
            assert "cameras" in done.out
        with Auxiliaries.from_file(tmp_path / "rigs.yaml") as aux:
            assert aux.request("EXPSTATUS")["cameras"] == [0]


@pytest.fixture
def orphan(tmp_path: Path) -> Iterator[Rig]:
    """Give a rig that records for a task that was killed, and write rigs.yaml."""
    with Rig("cameras", "udp://127.0.0.1:0") as rig:
        (tmp_path / "rigs.yaml").write_text(f"cameras: {rig.uri}\n", encoding="utf-8")
        with Program("coordinate", rigs={"cameras": rig.uri}) as task:
            task.wait_for("connected")
            for message in ("EXPINIT", "EXPSTART"):
                task.tell("push", message, REFERENCE)
                task.wait_for("result", message)
            task.kill()
        yield rig


def test_an_experiment_goes_on_when_its_task_has_crashed(orphan: Rig) -> None:
    (call,) = re.findall(r"`(aux\.request\(.*?takeover.*?\))`", LAB_PAGE)
    with Auxiliaries({"cameras": orphan.uri}) as aux:
        with pytest.raises(rigsync.PushError, match="is in charge of"):
            aux.request("EXPEND")
        eval(call, {"aux": aux})
        assert orphan.status is ExpStatus.RUNNING
        aux.request("EXPEND")


def test_an_experiment_is_ended_by_hand_when_its_task_has_crashed(orphan: Rig, tmp_path: Path) -> None:
    for command in commands(TAKE_OVER):
        done = rigsync_command(command, tmp_path)
        assert done.status == 0, done
    assert orphan.status is ExpStatus.STOPPED


def test_an_experiment_is_stopped_when_its_task_has_crashed(orphan: Rig, tmp_path: Path) -> None:
    interrupt, clean_up = commands(STOP)
    assert rigsync_command(interrupt, tmp_path).status == 0
    assert orphan.status is ExpStatus.STOPPED
    until(lambda: rigsync_command(clean_up, tmp_path).status == 0)
    assert orphan.status is ExpStatus.CONNECTED


def test_the_doctor_in_python(serve: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "rigs.yaml").write_text(f"cameras: {serve('cameras').uri}\n", encoding="utf-8")
    (tmp_path / "look.py").write_text(LOOK, encoding="utf-8")
    done = run([str(tmp_path / "look.py")], tmp_path)
    assert done.stdout == "cameras []\n", done.stderr
    (imported,) = re.findall(r"`(from rigsync\S* import \w+)`", LAB_PAGE)
    assert imported in LOOK


def test_errors_that_the_page_of_faults_names_exist() -> None:
    named = {name for name in re.findall(r"`([A-Z]\w+)[.`]", FAULTS) if not name.startswith("EXP")}
    assert named
    assert named <= {*rigsync.__all__, *vars(events), *vars(builtins), "StateError", "UnknownCommand"}


def test_faults_that_the_table_names_are_those_of_the_doctor() -> None:
    rows = re.findall(r"^\| ((?:`[a-z-]+`(?:, )?)+) \|", DOCTOR, re.MULTILINE)
    assert sorted(fault for row in rows for fault in re.findall(r"`([a-z-]+)`", row)) == sorted(Fault)


def test_the_page_of_the_lab_lists_all_commands() -> None:
    assert set(re.findall(r"^\| `rigsync (\w+)` \|", LAB_PAGE, re.MULTILINE)) == set(COMMANDS)


def test_readme_is_short() -> None:
    lines = README.splitlines()
    assert len(lines) <= 150
    assert [line for line in lines if len(line) > 120] == []


def test_readme_leads_to_each_page() -> None:
    targets = {target.partition("#")[0] for target in re.findall(r"\]\(([^)]+)\)", README)}
    pages = {f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")}
    assert targets == pages | {"docs/decisions/README.md", "examples/README.md", "rigs.example.yaml", "CHANGELOG.md"}


def test_figures_of_readme_are_among_all_figures() -> None:
    rows = [line for line in README.partition("## Figures")[2].splitlines() if line.startswith("|")]
    assert len(rows) > 5
    assert set(rows) <= set(FIGURES.splitlines())


@pytest.mark.parametrize("arguments", [[], ["nonsense"]])
def test_run_py_says_how_it_is_used(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run_py().main(arguments) == 2
    assert "usage: python3 run.py" in capsys.readouterr().err


def test_run_py_shows_what_a_command_says_only_where_it_fails(capfd: pytest.CaptureFixture[str]) -> None:
    program = "import sys; print('WARNING: ignored'); print('noise', file=sys.stderr); sys.exit(int(sys.argv[1]))"
    run_py().run_quietly([sys.executable, "-c", program, "0"])
    assert capfd.readouterr() == ("", "")
    with pytest.raises(subprocess.CalledProcessError):
        run_py().run_quietly([sys.executable, "-c", program, "3"])
    assert {"WARNING: ignored", "noise"} <= set(capfd.readouterr().err.splitlines())


def test_what_run_py_runs_keeps_what_python_has_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_py()
    monkeypatch.setattr(run, "environment", lambda kind: Path(sys.executable))
    monkeypatch.setitem(run.TASKS, "demo", ["-c", "import sys; sys.exit(sys.dont_write_bytecode)"])
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    assert run.main(["demo"]) == 0


def test_run_py_has_the_tests_compiled_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    run = run_py()
    monkeypatch.setattr(run, "HERE", tmp_path)
    environ = {
        name: value
        for name, value in os.environ.items()
        if name not in ("PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX")
    }
    cache = tmp_path / "tests" / "__pycache__"
    cache.parent.mkdir()
    (cache.parent / "conftest.py").touch()
    (cache.parent / "test_one.py").write_text("def test_one() -> None:\n    assert True\n", encoding="utf-8")
    run.compile_tests(Path(sys.executable), environ)
    (compiled,) = cache.glob("test_one.*-pytest-*.pyc")
    compiled.unlink()
    run.compile_tests(Path(sys.executable), environ)
    assert not compiled.exists()


def run_py() -> Any:
    spec = importlib.util.spec_from_file_location("run", ROOT / "run.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_lowest_releases_are_those_of_the_project_s_file() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    bounds = run_py().lower_bounds(project)
    assert [bound.partition("==")[0] for bound in bounds] == ["iblutil", "pyyaml", "click", "rich"]
    assert all(bound.replace("==", ">=") in project for bound in bounds)
