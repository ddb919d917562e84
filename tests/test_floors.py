"""The design's floors: a room imports only rooms below it, and no file is long. Read from the
source, not by import."""

import ast
from collections import Counter
from pathlib import Path

import lfpc_jax

ROOT = Path(lfpc_jax.__file__).parent
FLOORS = (
    ("arrays", "regular", "stopping"),
    ("jsonfile", "shapes", "trajectory"),
    ("distributed", "processing", "remote"),
    ("model",),
    ("checkpoint", "data", "rewards"),
    ("rollout",),
    ("grpo", "infogap", "evaluation"),
    ("cropvlm", "report"),
    ("run",),
    ("plan", "serve"),
    ("cli",),
)
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}


def imports(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: import by the full name"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def rooms() -> dict[Path, str]:
    above = (ROOT / "__init__.py", ROOT / "__main__.py")
    files = [path for path in ROOT.rglob("*.py") if path not in above]
    return {path: path.relative_to(ROOT).parts[0].removesuffix(".py") for path in files}


def broken(path: Path, room: str, names: set[str]) -> list[str]:
    found = []
    for name in names:
        if not name.startswith("lfpc_jax."):
            continue
        other = name.split(".")[1]
        if other != room and FLOOR[other] >= FLOOR[room]:
            found.append(f"{path}: {room} (floor {FLOOR[room]}) imports {other} ({FLOOR[other]})")
    return found


def test_every_module_lives_in_a_known_room():
    assert len(rooms()) > 20
    assert set(rooms().values()) <= set(FLOOR)


def test_imports_point_only_to_lower_floors():
    wrong = [line for path, room in rooms().items() for line in broken(path, room, imports(path))]
    assert not wrong, "\n".join(wrong)


def test_updates_know_nothing_of_the_engine():
    """What they learn from is a `trajectory.Group`, whoever made it."""
    for path, room in rooms().items():
        if room == "grpo":
            assert not {name for name in imports(path) if name.startswith("lfpc_jax.rollout")}, path


def test_a_public_class_has_a_name_of_its_own():
    names = Counter(
        node.name
        for path in ROOT.rglob("*.py")
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )
    assert not [name for name, count in names.items() if count > 1]


def test_an_upward_import_would_be_found(tmp_path):
    source = tmp_path / "vision.py"
    source.write_text("def f():\n    from lfpc_jax.cli import convert\n")
    assert broken(source, "model", imports(source))
    source.write_text("from lfpc_jax.distributed.mesh import make_mesh\n")
    assert not broken(source, "model", imports(source))


def test_processing_needs_no_device_and_only_the_parity_check_needs_torch():
    for path, room in rooms().items():
        roots = {name.split(".")[0] for name in imports(path)}
        if room == "processing":
            assert not roots & {"jax", "torch", "torchvision"}, path
        if path.name != "parity.py":
            assert "torch" not in roots, path


def test_files_are_under_450_lines():
    checkout = Path(__file__).parents[1]
    folders = ("bench", "configs", "launch", "lfpc_jax", "tests")
    files = [path for folder in folders for path in (checkout / folder).rglob("*.py")]
    lengths = {path: path.read_text().count("\n") for path in files}
    assert len(files) > 500
    assert not {str(path): n for path, n in lengths.items() if n >= 450}
