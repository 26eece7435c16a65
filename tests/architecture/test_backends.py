"""Who may know a backend, and who may call it. Each gate is shown to fire on a synthetic offender."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
ROOMS = [
    "config",
    "activity",
    "access",
    "workspaces",
    "approvals",
    "memory",
    "memory_store",
    "templates",
    "uploads",
    "provisioning",
    "a2a",
    "delegations",
    "chat_channels",
    "schedules",
    "orgimport",
    "console",
    "stack",
]
PROVIDER_LIBRARIES = {"docker", "boto3", "botocore", "psutil"}
OBJECT_STORE = "uploads/storage/s3.py"  # no compute: where waiting files lie
MAY_USE_PROCESSES = {"stack"}  # the supervisor's own children
BACKEND_CALLS = {"start", "stop", "ensure_image", "remove_storage", "list_managed"}
# What is said of every backend, and names none.
VOCABULARY = ("provisioning.backends.base.", "provisioning.backends.tiers.")
START_PATHS = {  # verb -> what its source must name
    "provisioning/services/execution.py": {"prepare", "mint_secrets", "dispatch.start"},
    "provisioning/services/restarts.py": {"execute_run", "ledger.queue_run"},
    "provisioning/services/parking.py": {"dispatch.provision_async", "stop_all"},
    "provisioning/services/teardown.py": {"stop_all", "stop_with_retry"},
    "provisioning/services/stops.py": {"stop_with_retry"},
    "workspaces/views.py": {"dispatch.provision_async", "provisioning.teardown"},
}


def sources() -> Iterator[tuple[str, str]]:
    for room in ROOMS:
        for path in sorted((PROJECT / room).rglob("*.py")):
            if "migrations" not in path.parts:
                yield str(path.relative_to(PROJECT)), path.read_text()


def imports(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{name.name}" for name in node.names)


def dotted(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else "?"


def foreign_backend_imports(path: str, source: str) -> list[str]:
    """Imports of a backend outside the room, or of a concrete one outside the dispatcher."""
    found = [name for name in imports(source) if name.startswith("provisioning.backends")]
    if not path.startswith("provisioning/"):
        return found
    if path == "provisioning/dispatch.py" or path.startswith("provisioning/backends/"):
        return []
    return [name for name in found if not name.startswith(VOCABULARY)]


def provider_imports(path: str, source: str) -> list[str]:
    if path.startswith("provisioning/backends/") or path.split("/")[0] in MAY_USE_PROCESSES:
        return []
    if path == OBJECT_STORE:
        return []
    return [name for name in imports(source) if name.split(".")[0] in PROVIDER_LIBRARIES]


def upward_imports_of_a_backend(path: str, source: str) -> list[str]:
    """A backend knows the vocabulary and the foundation, and no rows."""
    if not path.startswith("provisioning/backends/"):
        return []
    allowed = ("provisioning.backends", "config")
    rooms = [name for name in imports(source) if name.split(".")[0] in ROOMS]
    return [name for name in rooms if not name.startswith(allowed)]


def direct_backend_calls(path: str, source: str) -> list[str]:
    """Calls of a backend's verbs on anything but the dispatcher module."""
    if path == "provisioning/dispatch.py" or not path.startswith("provisioning/"):
        return []
    if path.startswith("provisioning/backends/"):  # there, a start is the provider's
        return []
    calls = [node.func for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    named = [dotted(call) for call in calls if isinstance(call, ast.Attribute) and call.attr in BACKEND_CALLS]
    return [name for name in named if name.split(".")[0] not in {"dispatch", "thread"}]


def single_backend_questions(path: str, source: str) -> list[str]:
    """Comparisons that ask for one backend where `has_provisioner()` is meant."""
    if path == "provisioning/dispatch.py":
        return []
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            asked = [dotted(side.func) for side in sides if isinstance(side, ast.Call)]
            asked += [dotted(side) for side in sides]
            found += [name for name in asked if name.endswith(("dispatch.label", "settings.PROVISIONER"))]
        if isinstance(node, ast.Call) and dotted(node.func) == "isinstance":
            found += [
                ast.unparse(arg)
                for arg in node.args[1:]
                if "Backend" in ast.unparse(arg) and "Error" not in ast.unparse(arg)
            ]
    return found


GATES = {
    foreign_backend_imports: [
        ("workspaces/views.py", "from provisioning.backends.base import StartSpec"),
        ("orgimport/services/bundles.py", "from provisioning.backends import docker"),
        ("templates/services.py", "from provisioning.backends.memory import InMemoryBackend"),
        ("provisioning/tasks.py", "from provisioning.backends.process import ProcessBackend"),
    ],
    provider_imports: [
        ("workspaces/services/crud.py", "import boto3"),
        ("orgimport/services/imports.py", "import boto3"),
        ("uploads/services.py", "import boto3"),
        ("provisioning/dispatch.py", "from docker.errors import NotFound"),
    ],
    upward_imports_of_a_backend: [
        ("provisioning/backends/process.py", "from workspaces.models import Workspace"),
        ("provisioning/backends/process.py", "from provisioning.models import ProvisionRun"),
    ],
    direct_backend_calls: [
        ("provisioning/services/restarts.py", "backend.start(spec)"),
        ("provisioning/views.py", "wired().stop(workspace_id)"),
    ],
    single_backend_questions: [
        ("provisioning/views.py", "if dispatch.label() == 'docker': pass"),
        ("workspaces/views.py", "if settings.PROVISIONER != 'none': pass"),
        ("provisioning/services/stops.py", "isinstance(backend, ProcessBackend)"),
    ],
}


@pytest.mark.parametrize("gate", GATES, ids=lambda gate: gate.__name__)
def test_no_source_passes_the_gate_by(gate):
    assert {path: found for path, source in sources() if (found := gate(path, source))} == {}


@pytest.mark.parametrize(
    ("gate", "path", "source"),
    [(gate, path, source) for gate, offenders in GATES.items() for path, source in offenders],
)
def test_the_gate_fires(gate, path, source):
    assert gate(path, source)


@pytest.mark.parametrize("path", START_PATHS)
def test_every_path_that_starts_or_stops_compute_goes_through_the_dispatcher(path):
    source = (PROJECT / path).read_text()
    called = {
        dotted(node) for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Name | ast.Attribute)
    }
    assert START_PATHS[path] <= called


def test_nothing_but_a_run_calls_the_start():
    starters = [path for path, source in sources() if "dispatch.start(" in source]
    assert starters == ["provisioning/services/execution.py"]
