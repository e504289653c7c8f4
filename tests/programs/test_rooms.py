"""Which way imports run: from the top of the house down, never up, never in a circle."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from training_cases import ROOT

# Each may import from those before it, and from itself.
PIPELINE = (
    "settings", "run_files", "tiff", "storage", "data", "pcam", "dataset", "sources", "batches", "open", "synthetic",
    "convert",
)  # fmt: skip
HOUSE = ("system", "pipeline", "models", "training", "report", "bench")
MAY_IMPORT = {
    "system": {"system"},
    "pipeline": {"system", "pipeline"},
    "models": {"system", "models"},
    "training": {"system", "pipeline", "models", "training"},
    "report": {"system", "pipeline", "models", "report"},
    "bench": {"system", "pipeline", "models", "training", "report", "bench"},
}
MOST_FILES = 8


def imported(path: Path) -> Iterator[str]:
    """Modules that a file imports, at its top or later."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def at_run_time(tree: ast.Module) -> Iterator[ast.AST]:
    """All nodes but those under ``if TYPE_CHECKING``."""
    for node in ast.iter_child_nodes(tree):
        if not (isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"):
            yield from ast.walk(node)


@pytest.mark.parametrize("package", HOUSE)
def test_a_package_imports_only_what_lies_below_it(package: str) -> None:
    for path in (ROOT / package).rglob("*.py"):
        tops = {name.split(".")[0] for name in imported(path)} & set(HOUSE)
        assert tops <= MAY_IMPORT[package], path


@pytest.mark.parametrize("room", PIPELINE)
def test_a_room_of_pipeline_imports_only_from_those_below_it(room: str) -> None:
    allowed = set(PIPELINE[: PIPELINE.index(room) + 1])
    place = ROOT / "pipeline" / room
    for path in place.rglob("*.py") if place.is_dir() else [place.with_suffix(".py")]:
        rooms = {name.split(".")[1] for name in imported(path) if name.startswith("pipeline.")} & set(PIPELINE)
        assert rooms <= allowed, path


@pytest.mark.parametrize("package", HOUSE)
def test_modules_of_a_package_import_one_another_in_no_circle(package: str) -> None:
    """At their tops and within functions; what only a type checker imports does not count."""
    modules = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in (ROOT / package).rglob("*.py")}
    needs = {
        name: {
            target
            for node in at_run_time(ast.parse(path.read_text()))
            if isinstance(node, ast.ImportFrom) and node.module
            for target in (node.module, *(f"{node.module}.{alias.name}" for alias in node.names))
            if target in modules and target != name
        }
        for name, path in modules.items()
    }
    while leaves := {name for name, below in needs.items() if not below}:
        needs = {name: below - leaves for name, below in needs.items() if name not in leaves}
    assert not needs


def test_rooms_are_small_and_have_a_face() -> None:
    for room in [ROOT / "system", *(ROOT / "pipeline").iterdir()]:
        if room.is_dir() and room.name != "__pycache__":
            files = {path.stem for path in room.glob("*.py")} - {"__init__"}
            assert len(files) <= MOST_FILES, room
            face = ast.get_docstring(ast.parse((room / "__init__.py").read_text())) or ""
            assert [name for name in files if f"``{name}``" not in face] == [], room
