"""The scale plan: the page is what the script prints, and its sizes are those of the models."""

from pathlib import Path

import pytest

from benchmarks.scale import scale_plan
from benchmarks.scale.scale_plan import BYTES, CPU_STAGES, GPU_STAGES, Plan, gpu_hours
from components.quantize.spec import Settings as Quantizer
from components.run_form import preset_values, stage_values
from components.stages import TRAIN
from components.train.spec import Settings as Generator
from macrec.core.settings import build
from macrec.generator.model import build_model
from macrec.generator.tokens import Vocabulary
from pipelines.dag.tasks import HOURS, TIMEOUT

PAGE = Path(__file__).parent.parent.parent / "docs" / "scale.md"


def test_the_page_is_what_the_script_prints():
    tables = PAGE.read_text().partition("<!-- scale_plan -->\n")[2].partition("<!-- end -->")[0]
    assert tables.splitlines() == list(scale_plan.lines(Plan())), "paste what it prints"


def test_the_generator_is_the_default_one():
    sizes = stage_values(preset_values("medium"), TRAIN)
    model = build_model(Vocabulary(levels=4, codebook_size=256), build(Generator, sizes).model_size)
    products = {
        part: sum(w.numel() for name, w in model.named_parameters() if name.startswith(part))
        - sum(
            w.numel()
            for name, w in model.named_parameters()
            if name.startswith(part) and ("norm" in name or "bias" in name or "embed" in name)
        )
        for part in ("encoder", "decoder")
    }
    assert products == {"encoder": scale_plan.ENCODER, "decoder": scale_plan.DECODER}


def test_the_quantizer_is_the_default_one():
    config = Quantizer()
    sizes = preset_values("medium")  # what the plan counts for large catalogues
    assert (config.hidden, config.latent_dim) == ((256, 128), 32)
    assert sizes["quantize.codebook_size"] == 256
    assert (config.epochs, Generator().epochs) == (200, 40)


def test_a_task_may_take_as_long_as_the_plan_says():
    assert scale_plan.DAY * HOURS == TIMEOUT


def test_what_is_known_comes_out():
    plan = Plan()
    vectors = BYTES["text and image vectors, float32"](plan, 1_000_000)
    assert vectors == 1_000_000 * 2048 * 4
    embedding, _ = GPU_STAGES["embed_text"]
    assert embedding(plan, 1) == 2 * 0.6e9 * 64
    # 1e6 items of 7.68e10 operations at 40 % of 989e12 a second: 194 s
    assert gpu_hours(plan, "embed_text", 1_000_000) == pytest.approx(194.1 / 3600, rel=1e-3)
    assert CPU_STAGES["resolve_collisions"](plan, 1_000_000) == pytest.approx(10 / 3600)
    assert gpu_hours(Plan(gpu_tflops=989 / 2), "train", 1e6) == pytest.approx(
        2 * gpu_hours(plan, "train", 1e6)
    )
