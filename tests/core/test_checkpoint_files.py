"""A checkpoint from a stranger: every wrong field is one line with the file, and nothing outside
the folder is read or run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import sage_core
from sage_core.errors import InputError, ModelError, OptionError
from sage_core.media.types import Picture
from sage_core.models import catalog, chat_template, checkpoint
from sage_core.models.checkpoint_errors import checkpoint_errors, forward_errors
from tests.core.saved_pair import save_pair

PICTURE = Image.new("RGB", (40, 30), "red")


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pair(tmp_path_factory.mktemp("pair")) / "target"


@pytest.fixture
def folder(target: Path, tmp_path: Path) -> Path:
    """A checkpoint that a test may change."""
    return Path(shutil.copytree(target, tmp_path / "model"))


def caption(folder: Path) -> str:
    pipeline = sage_core.load(folder, "none", device="cpu")
    return str(pipeline.caption(PICTURE, max_new_tokens=3).text)


@pytest.fixture(scope="module")
def wanted(target: Path) -> str:
    return caption(target)


def change(folder: Path, file: str, place: str, value: Any) -> None:
    """Set the field ``place`` (``a.b``) of a JSON file."""
    path = folder / file
    content = json.loads(path.read_text()) if path.exists() else {}
    *outer, last = place.split(".")
    table = content
    for name in outer:
        table = table[name]
    table[last] = value
    path.write_text(json.dumps(content))


WRONG = {
    "config.json": {
        "model_type": [3, []],
        "text_config": ["x", []],
        "text_config.hidden_size": ["256", -1, 0, 1.5, [1]],
        "text_config.num_attention_heads": [0, "x"],
        "text_config.num_hidden_layers": [-1, "x"],
        "text_config.layer_types": [["full_attention"], "x", [1]],
        "text_config.rope_parameters": ["x", {"rope_type": "x"}],
        "text_config.vocab_size": ["x", -5],
        "vision_config": ["x"],
        "vision_config.patch_size": [0, "x"],
        "vision_config.num_attention_heads": [-1],
        "vision_config.num_hidden_layers": [0],
        "vision_feature_layer": [0],
        "dtype": ["float999", 5],
        "image_token_index": [-1, "x", 10**12],
        "image_grid_pinpoints": [[], "x", [[1]]],
        "vision_aspect_ratio": ["evil", 3],
        "quantization_config": ["x", {"quant_method": "x"}],
        "transformers_weights": ["../outside.safetensors", "adapter_model.bin"],
        "architectures": [5, [[]]],
    },
    "generation_config.json": {
        "eos_token_id": ["x", [["x"]], 10**30],
        "temperature": ["hot", [1]],
        "top_k": [1.5, "x"],
        "do_sample": ["yes"],
        "max_new_tokens": ["many"],
    },
    "preprocessor_config.json": {
        "size": ["x", {"height": 1, "width": 1}, {"height": -4, "width": 4}],
        "image_mean": ["x", [0.5]],
        "image_processor_type": [5, "Nothing"],
        "resample": ["x", 99],
    },
    "tokenizer_config.json": {"chat_template": [5]},
}
CASES = [
    (file, place, value)
    for file, fields in WRONG.items()
    for place, values in fields.items()
    for value in values
]


@pytest.mark.parametrize(("file", "place", "value"), CASES, ids=str)
def test_a_wrong_field_is_one_line_or_makes_no_difference(
    file: str, place: str, value: Any, folder: Path, wanted: str
) -> None:
    change(folder, file, place, value)
    try:
        text = caption(folder)
    except ModelError as error:
        assert "\n" not in str(error)
    else:
        assert text == wanted


@pytest.mark.parametrize(
    ("file", "place", "value", "says"),
    [
        ("config.json", "text_config.hidden_size", "256", "config.json: hidden_size: "),
        ("config.json", "dtype", "float999", "config.json: .*float999"),
        ("config.json", "vision_aspect_ratio", "evil", "config.json: vision_aspect_ratio: "),
        ("generation_config.json", "temperature", "hot", "generation_config.json: temperature: "),
        ("generation_config.json", "eos_token_id", 10**30, "generation_config.json: eos_token_id"),
        ("preprocessor_config.json", "size", "x", "preprocessor_config.json: "),
    ],
)
def test_the_file_and_the_field_are_named(
    file: str, place: str, value: Any, says: str, folder: Path
) -> None:
    change(folder, file, place, value)
    with pytest.raises(ModelError, match=says):
        caption(folder)


@pytest.mark.parametrize(
    "file", ["config.json", "generation_config.json", "preprocessor_config.json",
             "tokenizer_config.json"]
)  # fmt: skip
@pytest.mark.parametrize("text", ["[" * 100_000 + "]" * 100_000, "[]", "{", "\xff"])
def test_a_file_that_is_no_json_object_is_named(file: str, text: str, folder: Path) -> None:
    (folder / file).write_bytes(text.encode("latin-1"))
    with pytest.raises(ModelError, match=file):
        sage_core.load(folder, "none")


def index(folder: Path, shard: Any) -> None:
    """Weights in another file, as an index names it."""
    (folder / "model.safetensors").unlink()
    content = {"metadata": {}, "weight_map": {"a.weight": shard}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    "shard", ["../outside.safetensors", "/tmp/outside.safetensors", "a/../../outside.safetensors",
              "..\\outside.safetensors", "sub/outside.safetensors", "outside.bin", ".."]
)  # fmt: skip
def test_an_index_names_files_of_its_folder_only(shard: str, folder: Path) -> None:
    shutil.copy(folder / "model.safetensors", folder.parent / "outside.safetensors")
    shutil.copy(folder / "model.safetensors", folder / "outside.safetensors")
    index(folder, shard)
    with pytest.raises(ModelError, match=r"index\.json: weight_map names"):
        sage_core.load(folder, "none")


@pytest.mark.parametrize("shard", [5, None, ["a.safetensors"]])
def test_an_index_of_another_shape_is_refused(shard: Any, folder: Path) -> None:
    index(folder, shard)
    with pytest.raises(ModelError, match=r"index\.json: weight_map"):
        sage_core.load(folder, "none")


def test_files_may_be_links_as_in_the_hub_cache(folder: Path, wanted: str) -> None:
    blobs = folder.parent / "blobs"
    blobs.mkdir()
    for path in list(folder.iterdir()):
        path.rename(blobs / path.name)
        path.symlink_to(Path("..") / "blobs" / path.name)
    assert caption(folder) == wanted


def test_an_adapter_is_no_model(folder: Path) -> None:
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "some/model"}')
    with pytest.raises(ModelError, match="holds an adapter"):
        sage_core.load(folder, "none")


@pytest.mark.parametrize("part", ["", "text_config.", "vision_config."])
@pytest.mark.parametrize("name", ["attn_implementation", "_attn_implementation",
                                  "experts_implementation"])  # fmt: skip
def test_a_configuration_chooses_no_kernel(part: str, name: str, folder: Path) -> None:
    change(folder, "config.json", f"{part}{name}", "someone/kernel")
    config = checkpoint.load_config(folder)
    parts = (config, config.text_config, config.vision_config)
    for one in parts:
        assert one._attn_implementation is None
        assert one._experts_implementation is None


# Chat templates


NESTED = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}<image>"
DOUBLED = (
    "{% set n = namespace(x='aaaa') %}{% for a in range(99) %}{% set n.x = n.x ~ n.x %}{% endfor %}"
)
TEMPLATES = {
    "no syntax": "{% for %}",
    "no function": "{{ nope() }}",
    "no access": "{{ ''.__class__.__mro__ }}",
    "raises": "{{ raise_exception('this model takes no pictures') }}",
    "does not end": NESTED,
    "doubles": DOUBLED,
    "calls itself": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "a power": "{{ 9**9**9 }}",
    "a large number": "{{ 'x' * 10000000000 }}",
    "too deep": "{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}",
    "too long": "{{ 'x' * 100000 * 1000 }}",
    "no text": "",
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_that_fails_is_the_checkpoints_fault(name: str, folder: Path) -> None:
    (folder / "chat_template.jinja").write_text(TEMPLATES[name])
    change(folder, "tokenizer_config.json", "chat_template", TEMPLATES[name])
    with pytest.raises(ModelError, match="chat template") as caught:
        caption(folder)
    assert "\n" not in str(caught.value)


def test_a_tracing_function_outlives_a_rendering(target: Path) -> None:
    import sys

    def trace(frame: Any, event: str, value: Any) -> None:
        return None

    tokenizer = checkpoint.load_tokenizer(target)
    messages = [{"role": "user", "content": "hello"}]
    before = sys.gettrace()
    sys.settrace(trace)
    try:
        rendered = chat_template.render(tokenizer, "{{ messages[0].content }}", messages, "m")
        with pytest.raises(ModelError):
            chat_template.render(tokenizer, NESTED, messages, "m")
        assert sys.gettrace() is trace
    finally:
        sys.settrace(before)
    assert rendered == "hello"


# Who is to blame


class PanicException(BaseException):
    """As a library in Rust raises it."""


@pytest.mark.parametrize("error", [ValueError("a\nb"), PanicException("index"), RecursionError()])
def test_what_loading_raises_becomes_one_line(error: BaseException, tmp_path: Path) -> None:
    raises = pytest.raises(ModelError, match=r"config\.json")
    with raises as caught, checkpoint_errors(tmp_path, "config.json"):
        raise error
    assert "\n" not in str(caught.value) and caught.value.__cause__ is error


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), MemoryError(), InputError("a"), RuntimeError("out of memory")]
)
def test_what_is_no_fault_of_a_file_passes(error: BaseException, tmp_path: Path) -> None:
    with pytest.raises(type(error)) as caught, checkpoint_errors(tmp_path, "config.json"):
        raise error
    assert caught.value is error


def test_a_forward_that_fails_here_only_is_a_defect_of_sage() -> None:
    class Broken(torch.nn.Module):
        def forward(self) -> None:
            raise IndexError("shape")

    def fails() -> None:
        raise ValueError("shape")

    with pytest.raises(IndexError), forward_errors(lambda: None):
        Broken()()
    with pytest.raises(IndexError), forward_errors(fails):
        raise IndexError("an option")
    with pytest.raises(ModelError, match="cannot read this prompt"), forward_errors(fails):
        Broken()()


def test_a_picture_that_the_processor_cannot_use_is_the_pictures_fault(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    family = sage_core.load(target, "none", device="cpu")._pair.family
    process = family.process_media

    def narrow(media: Any) -> Any:
        if any(item.size[0] < 4 for item in media):
            raise ValueError("aspect ratio")
        return process(media)

    def never(media: Any) -> Any:
        raise ValueError("no processor")

    media = [Picture(PICTURE, "good.png"), Picture(Image.new("RGB", (2, 900)), "narrow.png")]
    monkeypatch.setattr(family, "process_media", narrow)
    with pytest.raises(InputError, match=r"narrow\.png: .*aspect ratio"):
        family.prepare(media, "What?")
    monkeypatch.setattr(family, "process_media", never)
    with pytest.raises(ModelError, match="no processor"):
        family.prepare(media, "What?")


@pytest.mark.parametrize("text", ["caf\udce9", "\ud83d what?"])
def test_text_that_is_no_unicode_is_refused(text: str, target: Path) -> None:
    pipeline = sage_core.load(target, "none", device="cpu")
    with pytest.raises(OptionError, match="not UTF-8 text"):
        pipeline.ask(PICTURE, text, max_new_tokens=3)
    chat = pipeline.chat(PICTURE, max_new_tokens=3)
    with pytest.raises(OptionError, match="not UTF-8 text"):
        chat.ask(text)
    assert chat.ask("What?").tokens


def test_a_tokenizer_that_panics_is_named(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    family = sage_core.load(target, "none", device="cpu")._pair.family

    def panics(text: str, **options: Any) -> Any:
        raise PanicException("index out of bounds")

    monkeypatch.setattr(family.tokenizer, "_encode_plus", panics)
    for encode in (family.encode, family.encode_more):
        with pytest.raises(ModelError, match=r"tokenizer cannot encode .*index out of bounds"):
            encode("What?")


def test_a_placeholder_in_a_training_answer_is_named_with_its_line(target: Path) -> None:
    from sage_core.distill.data import Sample
    from sage_core.distill.options import DistillOptions
    from sage_core.distill.teacher import Teacher

    pair = sage_core.load(target, "none", device="cpu")._pair
    samples = [Sample("list.jsonl:7", (), "What?", f"an {pair.family.placeholders[0]} here")]
    teacher = Teacher(pair, samples, DistillOptions(steps=1))
    with pytest.raises(OptionError, match=r"list\.jsonl:7: the answer may not contain"):
        teacher.given_answer(0)


def test_names_in_a_list_of_models_may_be_anything(tmp_path: Path) -> None:
    assert catalog.architecture({"architectures": 5, "model_type": "a"}) == "a"
    assert catalog.architecture({"architectures": ["B"], "model_type": "a"}) == "B"
    (tmp_path / "gone.safetensors").symlink_to("nowhere")
    assert catalog.weight_bytes(tmp_path) == 0
