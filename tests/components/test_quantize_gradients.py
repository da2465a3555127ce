"""Every loss term on the way it takes in training: value, gradient, and what the gradient reaches.

B batch, D latent size, L levels.
"""

from dataclasses import replace

import pytest
import torch

from components.quantize import objective, quantizer_losses, quantizer_training
from components.quantize.spec import Settings
from tests.planted import CPU, normal, planted, settled, untrained, without

ITEMS = 14
NOISE = 1e9 * torch.finfo(torch.float64).eps
"""The gradient of something that is reached: 2e-7, a billion times what rounding leaves."""

BASE = Settings(
    codebook_size=6, levels=3, latent_dim=4, hidden=(6,), codebook_init="normal",
    codebook_update="gradient", contrastive_weights=(0.2, 0.3, 0.5), align_gradient="codebooks",
    align_weight=0.9, rq_weight=0.7, temperature=0.3, epochs=1, batch_size=ITEMS,
)  # fmt: skip

# What each term reaches: encoder e E, decoder d D, head h H (text in lower case, image in upper
# case), codebooks of text t0 t1 t2 and of image I0 I1 I2.
PAPER = {
    "text_reconstruction": "e d", "image_reconstruction": "E D",
    "text_rq": "e t0 t1 t2", "image_rq": "E I0 I1 I2",
    "text_contrastive_0": "e", "text_contrastive_1": "e", "text_contrastive_2": "e",
    "image_contrastive_0": "E", "image_contrastive_1": "E", "image_contrastive_2": "E",
    "align": "t0 t1 t2 I0 I1 I2",
}  # fmt: skip
NAMES = {
    "e": "text.encoder", "E": "image.encoder", "d": "text.decoder", "D": "image.decoder",
    "h": "heads.text", "H": "heads.image",
    **{f"{m}{n}": f"{name}.codebooks.{n}"
       for m, name in (("t", "text"), ("I", "image")) for n in range(3)},
}  # fmt: skip
TEXT_ALONE = {f"image_contrastive_{level}": None for level in range(3)}
IMAGE_ALONE = {f"text_contrastive_{level}": None for level in range(3)}
FIXED = {"text_rq": "e", "image_rq": "E", "align": "e E"}
EVERYTHING = "e E t0 t1 t2 I0 I1 I2"

# Settings, and in which terms they differ from the paper; None is a term that is not there.
CASES = {
    "paper": ({}, {}),
    "align_encoder": ({"align_gradient": "encoder"}, {"align": "e E"}),
    "align_both": ({"align_gradient": "both"}, {"align": EVERYTHING}),
    "align_levels": ({"align_levels": 1}, {"align": "t0 I0"}),
    "align_levels_both": ({"align_levels": 2, "align_gradient": "both"},
                          {"align": "e E t0 t1 I0 I1"}),
    "align_head": ({"align_head": 3}, {"align": "t0 t1 t2 I0 I1 I2 h H"}),
    "align_head_encoder": ({"align_head": 3, "align_gradient": "encoder"},
                           {"align": "e E h H"}),
    "cancelled": ({"residual_gradient": "cancelled"},
                  {f"{m}_contrastive_{n}": "" for m in ("text", "image") for n in (1, 2)}),
    "contrastive_text": ({"contrastive_side": "text"}, TEXT_ALONE),
    "contrastive_image": ({"contrastive_side": "image"}, IMAGE_ALONE),
    "contrastive_last": ({"contrastive_weights": (0.5,)},
                         {f"{m}_contrastive_{n}": None for m in ("text", "image") for n in (0, 1)}),
    "positives_one": ({"contrastive_positives": "one"}, {}),
    "positives_self": ({"contrastive_positives": "self"}, {}),
    "shared_levels": ({"shared_levels": 2}, {}),
    "rotation": ({"gradient_estimator": "rotation"}, {}),
    "sinkhorn": ({"sinkhorn_epsilons": (0.05, 0.05, 0.05)}, {}),
    "summed_squares": ({"squared_error": "sum"}, {}),
    "ema": ({"codebook_update": "ema", "align_gradient": "both"}, FIXED),
    "fsq": ({"tokenizer": "fsq", "fsq_levels": (3, 2), "align_gradient": "both"},
            FIXED | {"text_rq": None, "image_rq": None}),
    "no_rq": ({"rq_weight": 0.0}, {"text_rq": None, "image_rq": None}),
    "no_align": ({"align_weight": 0.0}, {"align": None}),
    "text_only": ({"modalities": "text"},
                  {term: None for term in PAPER if term.startswith("image") or term == "align"}
                  | IMAGE_ALONE),
}  # fmt: skip


class Point:
    """The model of a configuration before its first step, in float64, and a batch for it."""

    def __init__(self, settings):
        self.config = settled(replace(BASE, **settings))
        catalogue = without(without(planted(ITEMS), "image", 0, 9), "text", 3)
        catalogue["image"].label_N[5] = -1
        if self.config.modalities != "both":
            catalogue = {self.config.modalities: catalogue[self.config.modalities]}
        trainer = untrained(catalogue, self.config)
        self.model, self.heads = trainer.model.double(), trainer.heads.double()
        self.batch = {
            name: data._replace(
                embedding_NE=data.embedding_NE.double().where(data.present_N[:, None], torch.nan)
            )
            for name, data in catalogue.items()
        }
        self.passes = objective.forward(self.model, self.batch, self.config)
        self.pairs = {
            name: quantizer_losses.find_pairs(
                objective.other_labels(self.batch, name), self.config.contrastive_positives
            )
            for name in self.batch
            if len(self.batch) == 2
        }

    def parameters(self):
        heads = {f"heads.{name}": value for name, value in self.heads.named_parameters()}
        found = {**dict(self.model.named_parameters()), **heads}
        return {name: value for name, value in found.items() if value.requires_grad}

    def terms(self, passes=None, config=None):
        return objective.loss_terms(
            self.model, self.heads, passes or self.passes, self.pairs, config or self.config
        )

    def gradients(self, loss):
        """By parameter; None where the loss does not reach."""
        parameters = self.parameters()
        if not loss.requires_grad:
            return dict.fromkeys(parameters)
        found = torch.autograd.grad(
            loss, list(parameters.values()), allow_unused=True, retain_graph=True
        )
        return dict(zip(parameters, found, strict=True))

    def reach(self, loss):
        """What a loss reaches, by the names of the table, with the largest gradient there."""
        size = {}
        for name, gradient in self.gradients(loss).items():
            group = name if "codebooks" in name else ".".join(name.split(".")[:2])
            if gradient is not None and gradient.any():
                size[group] = max(size.get(group, 0.0), float(gradient.abs().max()))
        return size


def groups(letters):
    return {NAMES[letter] for letter in letters.split()}


@pytest.mark.parametrize("case", CASES)
def test_each_term_reaches_what_the_table_names_and_nothing_else(case):
    settings, differences = CASES[case]
    point = Point(settings)
    expected = {t: groups(v) for t, v in (PAPER | differences).items() if v is not None}
    found = {term: point.reach(loss) for term, loss in point.terms().items()}
    assert {term: set(size) for term, size in found.items()} == expected
    small = {t: size for t, size in found.items() if size and min(size.values()) < NOISE}
    assert not small


@pytest.mark.parametrize("modality", ["text", "image"])
@pytest.mark.parametrize("level", range(3))
@pytest.mark.parametrize("residual_gradient", ["live", "cancelled"])
def test_each_level_of_rq_reaches_its_codebook_and_by_commitment_the_encoder(
    modality, level, residual_gradient
):
    point = Point({"residual_gradient": residual_gradient})
    done = point.passes[modality]
    alone = done.quantized._replace(
        residuals=[done.quantized.residuals[level]], codewords=[done.quantized.codewords[level]]
    )
    passes = {**point.passes, modality: done._replace(quantized=alone)}
    codebook, both = (
        point.terms(passes, replace(point.config, commitment=weight))[f"{modality}_rq"]
        for weight in (0.0, 1.0)
    )
    dead = residual_gradient == "cancelled" and level > 0
    for loss, expected in (
        (codebook, {f"{modality}.codebooks.{level}"}),
        (both - codebook, set() if dead else {f"{modality}.encoder"}),
    ):
        size = point.reach(loss)
        assert set(size) == expected
        assert min(size.values(), default=1.0) > NOISE


# ---------------------------------------------------------------- the equations, item by item


class Equations:
    """The loss terms as sums over items, written without the code under test.

    Codes, and every value that a detach holds, stay as they are at the point; so finite differences
    of these functions are the gradients that training must have.
    """

    def __init__(self, point):
        self.point, self.config = point, point.config
        self.held = {
            name: (
                done.latent_BD.detach().clone(),
                done.quantized.codes_BL,
                [codeword_BD.detach().clone() for codeword_BD in done.quantized.codewords],
            )
            for name, done in point.passes.items()
        }

    def terms(self):
        found, views = {}, {}
        for name in self.point.batch:
            views[name] = self.modality(name, found)
        if len(views) == 2 and self.config.align_weight:
            found["align"] = self.align(*views.values())
        return found

    def modality(self, name, found):
        config, part = self.config, self.point.model.modality(name)
        data = self.point.batch[name]
        rows = data.present_N.nonzero()[:, 0]
        target = (data.embedding_NE[rows] - part.mean_E) / part.scale
        z = torch.zeros(ITEMS, part.latent_dim, dtype=torch.float64)
        z = z.index_put((rows,), part.encoder(target))
        held_z, codes, held_e = self.held[name]
        e = [book[codes[:, level]] for level, book in enumerate(part.codebooks)]
        r = [z - sum(held_e[:level]) for level in range(3)]
        held_r = [held_z - sum(held_e[:level]) for level in range(3)]
        if config.residual_gradient == "cancelled":
            r = [r[0], *held_r[1:]]
        held_sum = sum(held_e)

        def error(a, b):
            squares = [(a[i] - b[i]).square().sum() for i in rows.tolist()]
            size = 1 if config.squared_error == "sum" else a.shape[1]
            return sum(squares) / len(squares) / size

        passed = [
            turn(held_z[i], held_sum[i]) @ z[i]
            if config.gradient_estimator == "rotation"
            else z[i] - held_z[i] + held_sum[i]
            for i in range(ITEMS)
        ]
        full = torch.zeros(ITEMS, target.shape[1], dtype=torch.float64)
        full[rows] = target
        found[f"{name}_reconstruction"] = error(part.decoder(torch.stack(passed)), full)
        if config.tokenizer == "rqvae" and config.rq_weight:
            found[f"{name}_rq"] = sum(
                error(held_r[n], e[n]) + config.commitment * error(r[n], held_e[n])
                for n in range(3)
            )
        if len(self.point.batch) == 2 and config.contrastive_side in ("both", name):
            for level in range(3 - len(config.contrastive_weights), 3):
                found[f"{name}_contrastive_{level}"] = self.contrastive(name, r[level])
        first = config.align_levels or 3
        view = {
            "codebooks": sum(e[:first]),
            "encoder": z - held_z + sum(held_e[:first]),
            "both": sum(e[:first]) + z - held_z,
        }[config.align_gradient]
        return self.point.heads[name](view) if config.align_head else view

    def contrastive(self, name, r):
        other = {"text": "image", "image": "text"}[name]
        mine, label = self.point.batch[name].present_N, self.point.batch[other].label_N.tolist()
        known = [i for i in range(ITEMS) if mine[i] and label[i] >= 0]
        unit = r / r.norm(dim=1, keepdim=True)
        s = (unit @ unit.T) / self.config.temperature
        per_anchor = []
        for i in known:
            same = [j for j in known if label[j] == label[i]]
            positives = [j for j in same if j != i]
            negatives = [j for j in known if label[j] != label[i]]
            if self.config.contrastive_positives == "one":
                positives = [([j for j in same if j > i] + same)[0]]
                positives = [j for j in positives if j != i]
            elif self.config.contrastive_positives == "self":
                positives, negatives = [i], [j for j in known if j != i]
            against = s[i, negatives].exp().sum()
            logs = [-torch.log(s[i, p].exp() / (s[i, p].exp() + against)) for p in positives]
            per_anchor += [sum(logs) / len(logs)] if logs else []
        assert len(per_anchor) > 5
        return sum(per_anchor) / len(per_anchor)

    def align(self, a, b):
        both = torch.stack([data.present_N for data in self.point.batch.values()]).all(0)
        rows = both.nonzero()[:, 0].tolist()
        unit_a, unit_b = (v / v.norm(dim=1, keepdim=True) for v in (a, b))
        e = ((unit_a @ unit_b.T) / self.config.temperature).exp()
        own = [-torch.log(e[i, i] / e[i, rows].sum()) for i in rows]
        back = [-torch.log(e[i, i] / e[rows, i].sum()) for i in rows]
        return (sum(own) + sum(back)) / len(rows)


def turn(z, q):
    """(|q|/|z|) R: R turns in the plane of z and q, and leaves what is orthogonal to it."""
    one = z / z.norm()
    two = q - (q @ one) * one
    two = two / two.norm()
    cosine = q @ one / q.norm()
    sine = q @ two / q.norm()
    plane = (cosine - 1) * (torch.outer(one, one) + torch.outer(two, two))
    turned = plane + sine * (torch.outer(two, one) - torch.outer(one, two))
    return (torch.eye(len(z), dtype=torch.float64) + turned) * (q.norm() / z.norm())


@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_are_those_of_the_equations(case):
    point = Point(CASES[case][0])
    equations = Equations(point)
    real = point.terms()
    expected = equations.terms()
    assert real.keys() == expected.keys()
    for term in real:
        torch.testing.assert_close(real[term], expected[term], rtol=1e-10, atol=0)
    gradients = {term: point.gradients(loss) for term, loss in real.items()}
    step = 1e-6
    for seed, (name, parameter) in enumerate(point.parameters().items()):
        direction = normal(*parameter.shape, seed=seed)
        sides = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter += sign * step * direction
                sides.append(equations.terms())
                parameter -= sign * step * direction
        for term in real:
            slope = float((sides[0][term] - sides[1][term]) / (2 * step))
            gradient = gradients[term][name]
            along = 0.0 if gradient is None else float((gradient * direction).sum())
            assert along == pytest.approx(slope, rel=1e-5, abs=1e-8), (term, name)


def test_a_step_follows_the_sum_of_the_terms_each_weighted_once(monkeypatch):
    taken = []

    def step(self, closure=None):
        taken.append([p.grad.clone() for group in self.param_groups for p in group["params"]])

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    catalogue = planted(ITEMS)
    config = replace(BASE, reseed_dead=False, contrastive_weights=(0.2, 0.3, 0.5))
    model = quantizer_training.train(catalogue, config, CPU).model  # one step that moves nothing
    passes = objective.forward(model, catalogue, config)
    pairs = {
        name: quantizer_losses.find_pairs(objective.other_labels(catalogue, name))
        for name in catalogue
    }
    terms = objective.loss_terms(model, torch.nn.ModuleDict(), passes, pairs, config)
    model.zero_grad()
    total = terms["text_reconstruction"] + terms["image_reconstruction"] + 0.9 * terms["align"]
    for name in catalogue:
        total = total + 0.7 * terms[f"{name}_rq"]
        for level, weight in enumerate((0.2, 0.3, 0.5)):
            total = total + weight * terms[f"{name}_contrastive_{level}"]
    total.backward()
    (step_taken,) = taken
    for given, parameter in zip(step_taken, model.parameters(), strict=True):
        torch.testing.assert_close(given, parameter.grad, rtol=1e-4, atol=1e-6)
