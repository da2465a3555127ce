"""Writes the results of `macrec bench` into README.md and docs/results.md, and draws their charts.

    macrec bench --dataset OUT --models all --seeds 5 --out BENCH
    PYTHONPATH=src:. python -m benchmarks.bench_page --add BENCH/bench.json --name scientific \\
        --device "x86_64 CPU, one thread each, two at once"
    PYTHONPATH=src:. python -m benchmarks.bench_page

The first call of this script stores a result as benchmarks/results/DATE-bench-NAME.json, with date
and commit. Then it updates the pages, which is all that the second call does. The pages show the
newest file of each data set. Only the text between the two markers of each page is replaced.
"""

import argparse
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from benchmarks import machine
from benchmarks.bench_chart import Point, chart
from benchmarks.bench_summary import summary
from benchmarks.curve_chart import curves
from pipelines.bench.recipes import RECIPES
from pipelines.bench.table import markdown

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
README = ROOT / "README.md"
PAGE = ROOT / "docs" / "results.md"
IMAGES = ROOT / "docs" / "images"
BEGIN: Final = "<!-- written by `python -m benchmarks.bench_page`; do not edit -->"
END: Final = "<!-- as far as here -->"
SUMMED_UP: Final = ("scientific", "boxart")
"""Comparisons of all systems. The README has one row per system."""
ABLATIONS: Final = ("scientific-ablations", "boxart-ablations")
"""Ablations of the generator. The page has one row per ablation."""
CURVES: Final = {
    "two hours": "2026-11-29-instruments-text-two-hours.json",
    "37 minutes": "2026-11-28-instruments-text-8-epochs.json",
    "11 minutes": "2026-11-28-instruments-text-2-epochs.json",
}
"""Training runs on Instruments whose learning curves share one chart."""
SHORTEST: Final = 1e-3
"""Smallest time in a chart, in seconds, because a logarithmic axis has no zero."""


def newest() -> dict[str, Path]:
    """Return the newest result of each data set, starting with the comparisons of all systems."""
    known = {
        path.stem.split("-bench-", 1)[1]: path for path in sorted(RESULTS.glob("*-bench-*.json"))
    }
    leading = (*SUMMED_UP, *ABLATIONS)
    rest = sorted(known.keys() - set(leading))
    return {name: known[name] for name in (*leading, *rest) if name in known}


def readme() -> str:
    """Return README.md with an updated table of all systems."""
    return _between_marks(README, [*_summed_up(SUMMED_UP), ""])


def page() -> str:
    """Return docs/results.md with updated comparisons."""
    return _between_marks(PAGE, _sections())


def _summed_up(names: Iterable[str]) -> Iterator[str]:
    known = newest()
    return summary({name: json.loads(known[name].read_bytes()) for name in names if name in known})


def _between_marks(path: Path, lines: Iterable[str]) -> str:
    before, _, rest = path.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    return f"{before}{BEGIN}\n\n" + "\n".join(lines) + f"\n{END}{after}"


def pictures() -> dict[str, str]:
    """Return the SVG files by name."""
    charts = (chart for dataset, path in newest().items() for chart in _charts(dataset, path))
    return dict(charts) | {"instruments-curves.svg": _learning_curves()}


def _learning_curves() -> str:
    runs = {name: json.loads((RESULTS / file).read_bytes()) for name, file in CURVES.items()}
    told = {name: run["curve"] for name, run in runs.items()}
    return curves(told, "Instruments, text codes alone: validation over minutes of training")


def _sections() -> Iterator[str]:
    yield from _summed_up(ABLATIONS)
    yield ""
    yield from ("### The tables", "A data set each, from the JSON that `macrec bench` leaves.", "")
    for dataset, path in newest().items():
        told = json.loads(path.read_bytes())
        yield f"### {dataset}"
        yield ""
        yield f"`benchmarks/results/{path.name}`: " + "".join(_made(told))
        yield ""
        yield from markdown(told)
        yield ""
        for name, _ in _charts(dataset, path):
            yield f"![Quality against time on {dataset}](images/{name})"
            yield ""


def _made(told: dict[str, Any]) -> Iterator[str]:
    """Yield the date, the commit, the device and the extent of the search."""
    yield f"{told['date']}, commit {told['commit']}, {told['device']}; "
    searched = f"{told['trials']} trials or {told['minutes']:g} minutes a model"
    if earlier := told.get("searched"):
        kept = "{date}, commit {commit}" if "commit" in earlier else "{file}"
        searched += ", that of " + kept.format(**earlier)
    none = "no search: every model has its defaults, or what the command set."
    yield f"search: {searched}." if told["trials"] else none


def _charts(dataset: str, path: Path) -> Iterator[tuple[str, str]]:
    systems: dict[str, Any] = json.loads(path.read_bytes())["systems"]
    times = {
        "training": ("seconds of training", lambda mean: mean.get("train_seconds")),
        "inference": (
            "milliseconds a user",
            lambda mean: 1e3 / rate if (rate := mean.get("users_per_second")) else None,
        ),
    }
    for what, (label, time_of) in times.items():
        points = [
            Point(
                system["title"],
                max(seconds, SHORTEST),
                system["mean"]["ndcg_10"],
                system["interval"]["ndcg_10"]["low"],
                system["interval"]["ndcg_10"]["high"],
                name in RECIPES or name.startswith("run_"),
            )
            for name, system in systems.items()
            if (seconds := time_of(system["mean"])) is not None
        ]
        title = f"{dataset}: quality against time, {what}"
        svg = chart(points, title, f"{label} (logarithmic)", "NDCG@10")
        yield f"bench-{dataset}-{what}.svg", svg


def add(bench: Path, name: str, device: str) -> Path:
    """Store the result of a bench together with the date, the commit and the device."""
    told = json.loads(bench.read_bytes())
    about = machine.about("cpu")
    kept = {
        "benchmark": "bench",
        "date": about["date"],
        "commit": about["commit"],
        "clean": about["clean"],
        "device": device,
        **told,
    }
    path = RESULTS / f"{about['date']}-bench-{name}.json"
    path.write_text(json.dumps(kept, indent=1) + "\n")
    return path


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--add", type=Path, help="bench.json of a bench to be kept")
    parser.add_argument("--name", help="of its data set")
    parser.add_argument("--device", help="where it ran, and beside what")
    options = parser.parse_args()
    if options.add:
        if not (options.name and options.device):
            parser.error("--add needs --name and --device")
        add(options.add, options.name, options.device)
    for name, svg in pictures().items():
        (IMAGES / name).write_text(svg + "\n")
    README.write_text(readme())
    PAGE.write_text(page())
    wrote = [str(README), str(PAGE)]
    print(json.dumps({"benchmark": "bench_page", "wrote": wrote, "datasets": [*newest()]}))


if __name__ == "__main__":
    main()
