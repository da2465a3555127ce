"""What the docs name exists."""

import re
from pathlib import Path

import yaml

from components.run_form import FORMS, RECOMMENDER, current_name, flatten, preset_values, resolve
from components.stages import BASELINES
from pipelines.cli.contract import SCHEMAS

ROOT = Path(__file__).parent.parent


def test_every_test_that_the_method_page_names_exists():
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs" / "method.md").read_text()))
    defined = {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", path.read_text(), re.MULTILINE)
    }
    assert len(named) > 25 and named <= defined, named - defined


def test_the_graph_of_the_readme_is_the_dag():
    tasks = yaml.safe_load_all((ROOT / "pipeline.yaml").read_text())
    dag = {
        (artifact["taskOutputArtifact"]["producerTask"].replace("-", "_"), name.replace("-", "_"))
        for name, task in next(tasks)["root"]["dag"]["tasks"].items()
        for artifact in task["inputs"].get("artifacts", {}).values()
    }
    drawn = {
        (source.strip(), target.strip())
        for sources, targets in re.findall(
            r"^  ([\w &]+) -- [^>]+--> ([\w &]+)$", (ROOT / "README.md").read_text(), re.MULTILINE
        )
        for source in sources.split("&")
        for target in targets.split("&")
    }
    assert len(drawn) > 8 and drawn <= dag, drawn - dag


def test_links_between_the_documents_lead_somewhere():
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target, section in re.findall(r"\]\(([^)#]*)(?:#([^)]+))?\)", page.read_text()):
            if "://" not in target:
                path = page.parent / target if target else page
                assert path.exists(), f"{page.name}: {target}"
                assert not section or section in _sections(path), f"{page.name}: {target}#{section}"


def _sections(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_settings_that_the_docs_name_exist():
    known = {name for form in FORMS.values() for name in (*form.settings, *form.fields)}
    known |= {f"baselines.{p.name}" for p in BASELINES.parameters}
    stages = {name.partition(".")[0] for name in known if "." in name}
    found = 0
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for name in re.findall(r"`([a-z_]+(?:\.[a-z_0-9]+)?)(?:=[^`]*)?`", page.read_text()):
            if name.partition(".")[0] in stages and "." in name and not name.endswith(".py"):
                assert name in known, f"{page.name}: {name}"
                found += 1
            if name not in SCHEMAS:  # an artifact may have the name of an earlier setting
                assert current_name(name) in (name, "run_previous"), f"{page.name}: {name}"
    assert found > 50


def test_the_configurations_name_known_settings():
    required = {"catalog_items": "a", "catalog_interactions": "b"}
    for path in (ROOT / "configs").glob("*.yaml"):
        resolve({**required, **flatten(yaml.safe_load(path.read_text()))})


def test_the_preset_macrec_writes_out_the_defaults():
    written = preset_values("macrec")
    for name, value in written.items():
        default = RECOMMENDER.settings[name].default
        assert value == (list(default) if isinstance(default, tuple) else default), name
    assert len(written) > 15
