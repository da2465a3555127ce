"""A report that has everything, and a parser of its page."""

import base64
from collections.abc import Iterator
from html.parser import HTMLParser

from macrec.report import contents as r

PIXEL = "data:image/png;base64," + base64.b64encode(b"\x89PNG" + bytes(60)).decode()


VOID = {"meta", "img", "br", "hr", "col"}


class Page(HTMLParser):
    """Every tag with its attributes, the text, and a check that tags nest."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.comments: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.words.append(data)

    def handle_comment(self, data: str) -> None:
        self.comments.append(data)

    @property
    def text(self) -> str:
        return " ".join(self.words)

    def named(self, tag: str) -> Iterator[dict[str, str]]:
        return (attributes for name, attributes in self.tags if name == tag)


def scores(base: float) -> dict[str, r.Score]:
    names = [f"{metric}@{k}" for metric in r.METRICS for k in r.CUTOFFS]
    values = [base + k / 1000 for k in range(len(names))]
    return {
        name: r.Score(value=value, low=value - 0.002, high=value + 0.002)
        for name, value in zip(names, values, strict=True)
    }


def panel(*series: r.Series, mark: r.Mark | None = None) -> r.Panel:
    return r.Panel(title="Loss", x_label="epoch", y_label="nats", series=series, mark=mark)


def line(*y: float | None, name: str = "text", role: r.Role = "text") -> r.Series:
    return r.Series(name=name, x=tuple(float(k) for k in range(len(y))), y=y, role=role)


def full(text: str = "", picture: str | None = PIXEL) -> r.Report:
    item = r.Item(title=f"Item {text}", thumbnail=picture)
    example = r.Example(
        user_id=f"user {text}",
        history=(item, item),
        recommended=(
            r.Recommendation(item=item, proposed_by="text"),
            r.Recommendation(item=item, proposed_by="both", hit=True),
        ),
        target=item,
    )
    return r.Report(
        title=f"Catalogue {text}",
        subtitle=f"Subtitle {text}",
        facts=(r.Fact(label=f"Items {text}", value=18618, note=f"note {text}"),),
        systems=(
            r.System(name=f"Most popular {text}", role="baseline", scores=scores(0.0312)),
            r.System(name="Text only", role="text", scores=scores(0.0561)),
            r.System(name="Image only", role="image", scores=scores(0.0447)),
            r.System(name="Fused", role="fused", scores=scores(0.0648)),
        ),
        users=2371,
        quantizer_panels=(panel(line(3.0, 2.0, 1.0), mark=r.Mark(x=1, label=f"kept {text}")),),
        generator_panels=(panel(line(0.5, 0.4, name=f"loss {text}"), line(0.1, 0.2)),),
        codebooks=(
            r.CodebookLevel(modality="text", level=0, counts=(4, 4, 0, 0)),
            r.CodebookLevel(modality="image", level=0, counts=(5, 1, 1, 1)),
        ),
        collisions=(
            r.Collisions(
                modality="text",
                rate_before=0.0384,
                rate_after=0.0,
                moved=14,
                group_sizes={2: 11, 3: 2},
            ),
        ),
        fusion_panels=(panel(line(0.3, 0.5, 0.4, role="fused")),),
        examples=(example,),
        parameters={f"train.epochs{text}": f"40 {text}", "seed": "7"},
        artifacts=(r.ArtifactDigest(name=f"items {text}", digest=f"sha256:ab {text}", rows=704),),
        stage_seconds={f"train {text}": 1324.0},
        notes=(f"A note {text}",),
    )
