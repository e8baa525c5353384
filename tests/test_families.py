"""The families of transformers: the table that is shipped, and that it is still true of forty of them."""

import sys
from pathlib import Path

import pytest

from qkspace import families
from qkspace.schema import QKSpaceError

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

CHECKED = [  # one or two of every way to attend, over both routes
    "bert", "gpt2", "llama", "t5", "bart", "whisper", "wav2vec2", "vit", "dinov2", "clip", "siglip", "swin",
    "gemma2", "gpt_oss", "deepseek_v3", "mixtral", "deberta", "deberta-v2", "xlnet", "bloom", "mpt",
    "falcon", "gptj", "gpt_neo", "codegen", "xglm", "mpnet", "roformer", "convbert", "fsmt", "roberta",
    "distilbert", "albert", "qwen3", "modernbert", "longformer", "beit", "qwen2_vl", "wavlm", "longt5",
]  # fmt: skip


@pytest.fixture(scope="module")
def survey() -> families.Survey:
    return families.read()


def test_shipped_survey_attempts_every_family_and_verifies_nine_in_ten(survey: families.Survey) -> None:
    assert len(survey.families) >= 250
    assert survey.count("verified", "refused") >= 250
    assert survey.share >= 0.9
    assert sum(survey.count(status) for status in families.STATUSES) == len(survey.families)


def test_a_family_is_verified_only_where_every_part_equals_the_models_own_attention(survey: families.Survey) -> None:
    for family in survey.families:
        if family.status == "verified":
            assert family.parts, family.model_type
            assert all(part.error <= 1e-4 and part.layers >= 1 for part in family.parts), family.model_type
        else:
            assert family.reason or family.status == "no attention", family.model_type


def test_families_without_attention_are_those_of_convolutions_and_recurrences(survey: families.Survey) -> None:
    status = {family.model_type: family.status for family in survey.families}
    assert {status[name] for name in ("mamba", "mamba2", "resnet", "convnext", "rwkv", "regnet")} == {"no attention"}
    attending = "bert llama jamba bamba zamba2 recurrent_gemma lfm2 falcon_h1 mobilevit cvt longformer reformer"
    assert not [name for name in attending.split() if status[name] == "no attention"]


def test_docs_are_what_the_survey_renders_to(survey: families.Survey) -> None:
    assert (ROOT / "docs" / "models.md").read_text(encoding="utf-8") == families.as_markdown(survey)


def test_table_for_the_terminal_finds_a_family_and_says_when_there_is_none(survey: families.Survey) -> None:
    table = families.as_text(survey, "deberta-v2")
    assert "deberta-v2" in table and "inline" in table and "llama" not in table
    assert len(families.as_text(survey).splitlines()) == len(survey.families) + 3
    with pytest.raises(QKSpaceError, match="no_such_model"):
        families.as_text(survey, "no_such_model")


def test_reading_no_survey_says_how_to_write_one(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("[]")
    for path in (tmp_path / "x.json", tmp_path / "missing.json"):
        with pytest.raises(QKSpaceError, match=r"check_families\.py"):
            families.read(path)


@pytest.mark.parametrize("model_type", CHECKED)
def test_survey_of_a_family_agrees_with_the_shipped_one(model_type: str, survey: families.Survey) -> None:
    from families.worker import look_at  # the zoo in scripts/, not qkspace.families

    record = look_at(model_type)
    shipped = next(family for family in survey.families if family.model_type == model_type)
    assert record["status"] == shipped.status, record.get("reason")
    found = [
        (p["name"], p["route"], p["layers"], tuple(p["positions"]), p["softcap"], p["sink"]) for p in record["parts"]
    ]
    assert found == [(p.name, p.route, p.layers, p.positions, p.softcap, p.sink) for p in shipped.parts]
    assert all(p["error"] <= 1e-4 for p in record["parts"])


def test_a_wrong_attention_is_not_verified() -> None:
    """What the survey compares must be able to fail: an attention function that lies is found out."""
    from families import tiny

    from qkspace.selfcheck import survey as check

    made = tiny.make("bert")
    layer = made.model.encoder.layer[0].attention.self
    own = layer.forward

    def lie(*args: object, **options: object) -> object:
        output, attention = own(*args, **options)
        return output, None if attention is None else attention.flip(-1)

    layer.forward = lie
    with pytest.raises(QKSpaceError):
        check(made.model, made.inputs)


def test_weights_are_wide_enough_that_attention_is_far_from_uniform() -> None:
    """Near uniform attention would equal anything; the mean row of these models puts three tenths of its weight on one key."""
    import torch
    from families import tiny

    for model_type in ("bert", "llama", "gpt_neo", "vit"):
        made = tiny.make(model_type)
        with torch.no_grad():
            attentions = made.model(**made.inputs, output_attentions=True).attentions
        assert min(float(weight[0].max(dim=-1).values.mean()) for weight in attentions) > 0.3, model_type
