"""The ledger on models that are none of the book's."""

import json
import re
from dataclasses import replace

import pytest
import torch

from helpers import ReaderError
from helpers.claims.__main__ import main
from helpers.claims.ledger import CLAIMS, Evidence
from helpers.claims.models import Models
from helpers.claims.others import Others, ask, asked_of, kind_of, load_others, reads_text
from helpers.files import DATA
from helpers.lens import load_either, save_lens
from helpers.model import ModelConfig
from helpers.standard import StandardConfig, StandardTransformer
from helpers.training import RECIPES
from helpers.weights import load_book_model, save_model

SIZES = ModelConfig(n_layers=2, n_heads=2, d_model=16, d_head=4, d_vocab=150, n_ctx=210)


def their_model(**sizes):
    return replace(SIZES, **sizes).build(seed=3).requires_grad_(False).eval()


def with_parts():
    sizes = {"n_layers": 2, "n_heads": 2, "d_model": 16, "d_head": 4, "d_vocab": 150, "n_ctx": 210}
    return StandardConfig(**sizes, layer_norm=True, mlp=True).build(seed=3).requires_grad_(False).eval()


def asked(slug: str, **others) -> Evidence | str:
    return ask(CLAIMS[slug], Others(**({"model": their_model()} | others)))


@pytest.mark.parametrize("form", ["book", "standard", "shortformer"])
def test_a_folder_of_either_form_is_the_same_model(tmp_path, form):
    model = their_model()
    save_model(model, tmp_path) if form == "book" else save_lens(model, tmp_path, form)
    tokens = torch.arange(20)[None]
    torch.testing.assert_close(load_either(tmp_path)(tokens), model(tokens), atol=2e-3, rtol=2e-3)


def test_no_model_at_all_is_an_error_that_says_so(tmp_path):
    with pytest.raises(ReaderError, match=r"config\.json"):
        load_either(tmp_path)


def test_identities_hold_for_any_model_and_are_off_for_a_wrong_one(monkeypatch):
    assert asked("eq-heads-additive").value.value < 1e-12
    monkeypatch.setattr("helpers.claims.chapter_01.sum_of_outputs", lambda model, tokens: (model.W_E[0, 0] ** 2).item())
    assert asked("eq-heads-additive").value.value > 1e-12  # it is their model that is asked


@pytest.mark.parametrize("slug", ["S-take", "fig3-virtual-weights", "eq-virtual-head", "fig18-QK-2L"])
def test_identities_of_two_layers_hold_of_three(slug):
    assert asked(slug, model=their_model(n_layers=3)).value.value < 1e-12


@pytest.mark.parametrize("slug", ["cl-pca-embed", "cl-not-circular"])
def test_the_book_s_own_model_gets_the_ledger_s_own_numbers(slug):
    found = ask(CLAIMS[slug], load_others(DATA / "models" / "two_layer"))
    assert found.value == CLAIMS[slug].measured(Models(0)).value


@pytest.mark.parametrize("slug", ["standard-fold", "neuron-expansion"])
def test_a_model_with_all_parts_is_asked_what_is_about_them(slug):
    found = ask(CLAIMS[slug], load_others(DATA / "models" / "laptop_standard"))
    assert found.value == CLAIMS[slug].measured(Models(0)).value


def test_a_finding_is_held_against_an_untrained_model_of_the_same_sizes():
    others = Others(model=load_book_model("laptop"))
    found = ask(CLAIMS["cl-pca-embed"], others)
    assert found.value.value < found.control.value
    assert others.untrained.model.config == others.model.config
    assert not torch.equal(others.untrained.model.W_E, others.model.W_E)


def test_positions_that_are_no_sinusoids_leave_a_control():
    model = their_model()
    model.config = replace(model.config, positional_amplitude=float("nan"))
    assert Others(model=model).untrained.model.W_pos.isfinite().all()


def test_asking_leaves_the_model_as_it_is():
    others = Others(model=their_model())
    before = others.model.W_E.clone()
    ask(CLAIMS["S-take"], others)
    assert others.model.W_E.dtype == torch.float32 and torch.equal(others.model.W_E, before)


@pytest.mark.parametrize(
    ("slug", "others", "reason"),
    [
        ("eq-0L", {}, "a model of 0 layers, and this one has 2 layers"),
        ("S-take", {"model": with_parts()}, "a model of 2 layers, and this one has 2 layers with LayerNorm and MLPs"),
        ("standard-fold", {}, "a model of 2 layers with LayerNorm, biases and MLPs, and this one has 2 layers"),
        ("standard-fold", {"model": load_book_model("laptop_standard", kind=StandardTransformer)}, "in 512 tokens"),
        ("cl-pca-embed", {"model": their_model(n_layers=3)}, "a model of 2 layers, and this one has 3"),
        ("S-2L", {}, "a model of 1 layer,"),  # its control is another model
        ("tab-term-order", {}, "another vocabulary"),
        ("cl-bandwidth", {}, "another vocabulary"),
        ("scrub-naive", {"reads_the_shelf": True}, "no head|No head"),
        ("int-random", {"model": their_model(n_ctx=20)}, "do not fit"),
        ("icl-window", {}, "about trainings"),
        ("markov-bayes", {}, "Markov chains"),
        ("dictionary-recovers", {}, "another vocabulary|dictionary"),
        ("dictionary-named", {"model": load_book_model("two_layer"), "reads_the_shelf": True}, "(?i)dictionary"),
    ],
)
def test_what_cannot_be_asked_says_why(slug, others, reason):
    assert re.search(reason, asked(slug, **others))


@pytest.mark.parametrize(
    ("slug", "reads"), [("S-0L", True), ("list-other", True), ("cl-QK-norm", True), ("cl-3reasons", True),
                        ("S-take", False), ("int-random", False), ("cl-pca-embed", False)]
)  # fmt: skip
def test_claims_that_name_the_book_s_text_are_found(slug, reads):
    assert reads_text(CLAIMS[slug].measure) is reads


def test_their_tokens_are_the_shelf_s_if_their_tokenizer_is(tmp_path):
    save_model(their_model(), tmp_path)
    assert not load_others(tmp_path).reads_the_shelf
    (tmp_path / "tokenizer.json").write_bytes((DATA / "tokenizer.json").read_bytes())
    assert load_others(tmp_path).reads_the_shelf
    assert load_others(DATA / "models" / "two_layer").reads_the_shelf
    laptop = load_others(DATA / "models" / "laptop_standard")
    assert laptop.reads_the_laptops_text and not laptop.reads_the_shelf


def test_every_claim_says_which_model_it_takes_by_a_name_that_is_known():
    assert kind_of(RECIPES["laptop_smeared"].model) == "1 layer with smeared keys"
    assert len({kind_of(recipe.model) for recipe in RECIPES.values()}) == 10  # none is taken for another


def test_the_command_prints_what_was_asked_and_what_was_not(tmp_path, capsys):
    save_model(their_model(), tmp_path)
    main(["--model", str(tmp_path), "eq-heads-additive", "eq-0L", "tab-term-order"])
    printed = capsys.readouterr().out
    assert "1 of 3 claims can be asked of this model: 1 reproduced." in printed
    assert "another vocabulary. | 1 | tab-term-order" in printed
    with pytest.raises(ReaderError, match="no claim"):
        asked_of(tmp_path, ["nothing"])


def test_settings_of_another_kind_of_model_are_refused(tmp_path):
    save_model(their_model(), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"d_mlp": 64}))
    with pytest.raises(ReaderError, match="own form"):
        load_either(tmp_path)
