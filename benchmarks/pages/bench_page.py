"""Writes the results of `macrec bench` into README.md and docs/results.md, and draws their charts.

    macrec bench --dataset OUT --models all --seeds 5 --out BENCH
    PYTHONPATH=src:. python -m benchmarks.pages.bench_page --add BENCH/bench.json \\
        --name scientific --device "x86_64 CPU, one thread each, two at once"
    PYTHONPATH=src:. python -m benchmarks.pages.bench_page

The first call of this script stores a result as benchmarks/results/DATE-bench-NAME.json, with date
and commit. Then it updates the pages, which is all that the second call does. The pages show the
newest file of each data set. Only the text between the two markers of each page is replaced.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from benchmarks import shared
from benchmarks.pages.bench_chart import Point, chart
from benchmarks.pages.bench_summary import summary
from benchmarks.pages.curve_chart import curves
from benchmarks.shared import RESULTS, ROOT
from pipelines.bench.recipes import RECIPES
from pipelines.bench.table import markdown

README = ROOT / "README.md"
PAGE = ROOT / "docs" / "results.md"
IMAGES = ROOT / "docs" / "images"
BEGIN: Final = "<!-- written by `python -m benchmarks.pages.bench_page`; do not edit -->"
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
ORIGIN: Final = ("date", "commit", "clean")
SHORTEST: Final = 1e-3
"""Smallest time in a chart, in seconds, because a logarithmic axis has no zero."""


def newest() -> dict[str, Path]:
    """Return the newest result of each data set, starting with the comparisons of all systems."""
    results = {
        path.stem.split("-bench-", 1)[1]: path for path in sorted(RESULTS.glob("*-bench-*.json"))
    }
    leading = (*SUMMED_UP, *ABLATIONS)
    rest = sorted(results.keys() - set(leading))
    return {name: results[name] for name in (*leading, *rest) if name in results}


def readme() -> str:
    """Return README.md with an updated table of all systems."""
    return _between_marks(README, [*_summed_up(SUMMED_UP), ""])


def page() -> str:
    """Return docs/results.md with updated comparisons."""
    return _between_marks(PAGE, _sections())


def _summed_up(names: Iterable[str]) -> Iterator[str]:
    files = newest()
    return summary({name: json.loads(files[name].read_bytes()) for name in names if name in files})


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
    rows = {name: run["curve"] for name, run in runs.items()}
    return curves(rows, "Instruments, text codes alone: validation over minutes of training")


def _sections() -> Iterator[str]:
    yield from _summed_up(ABLATIONS)
    yield ""
    yield from ("### The tables", "One section for each result of `macrec bench`.", "")
    for dataset, path in newest().items():
        result = json.loads(path.read_bytes())
        yield f"### {dataset}"
        yield ""
        yield f"`benchmarks/results/{path.name}`: " + "".join(_origin(result))
        yield ""
        yield from markdown(result)
        yield ""
        for name, _ in _charts(dataset, path):
            yield f"![Quality against time on {dataset}](images/{name})"
            yield ""


def _origin(result: dict[str, Any]) -> Iterator[str]:
    """Yield the date, the commit, the device and the extent of the search."""
    yield f"{result['date']}, commit {result['commit']}, {result['device']}; "
    if not result["trials"]:
        yield "no search: the models have their defaults and the settings of the command."
        return
    yield f"search: {result['trials']} trials or {result['minutes']:g} minutes per model"
    if earlier := result.get("searched"):
        name = "{date}, commit {commit}" if "commit" in earlier else "{file}"
        yield ", from the bench of " + name.format(**earlier)
    yield "."


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
    origin = {n: v for n, v in shared.describe_origin().items() if n in ORIGIN}
    result = {"benchmark": "bench", **origin, "device": device, **json.loads(bench.read_bytes())}
    path = RESULTS / f"{origin['date']}-bench-{name}.json"
    shared.write_result(path, result)
    return path


def main() -> None:
    parser = shared.make_parser(__doc__)
    parser.add_argument("--add", type=Path, help="bench.json of a bench to store")
    parser.add_argument("--name", help="name of its data set")
    parser.add_argument("--device", help="description of the machine and its load")
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
    shared.print_line({"benchmark": "bench_page", "wrote": wrote, "datasets": [*newest()]})


if __name__ == "__main__":
    main()
