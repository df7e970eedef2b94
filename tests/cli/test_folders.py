"""``sage caption`` of folders: sidecars, skipping, going on after an end, further outputs."""

from __future__ import annotations

import csv
import errno
import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from sage_core.errors import InputError
from sage_core.files import atomic_write
from tests.cli.conftest import PICTURE
from tests.cli.fake import Script
from tests.cli.test_commands import TEXT

NAMES = ("1.png", "2.png", "10.png", "sub/ö 猫\nx.png")


@pytest.fixture
def folder() -> Path:
    root = Path("pictures")
    for number, name in enumerate(NAMES):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(PICTURE + bytes([number]))
    (root / "words.txt").write_text("no picture")
    return root


def files_below(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def records(path: str) -> list[dict]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def asked(pipeline) -> list[str]:
    return [str(Path(call["files"][0]).relative_to("pictures")) for call in pipeline.calls]


def test_a_folder_s_files_in_natural_order(sage, pipeline, folder):
    result = sage("caption", "pictures")
    assert result.exit_code == 0
    assert asked(pipeline) == ["1.png", "2.png", "10.png"]
    assert result.stdout.count("==>") == 3
    assert "3 of 3 done" in result.stderr and "1 files of other kinds" in result.stderr
    assert "1 folders inside (use --recursive)" in result.stderr


@pytest.mark.parametrize("form", ["--json", "--jsonl"])
def test_the_json_of_a_folder_does_not_depend_on_how_many_files_it_has(sage, form):
    Path("one").mkdir()
    Path("one/a.png").write_bytes(PICTURE)
    found = json.loads(sage("caption", "one", form).stdout)
    assert (found[0] if form == "--json" else found)["files"] == ["one/a.png"]


def test_a_folder_without_files_is_refused(sage, loads):
    Path("empty/sub").mkdir(parents=True)
    result = sage("caption", "empty")
    assert result.exit_code == 3 and loads.calls == []
    assert result.stderr == (
        "sage: empty: no images or videos in this folder; left out: 1 folders inside (use "
        "--recursive)\n"
    )
    assert sage("caption", "empty", "a.png").stdout.count(TEXT) == 1


def test_sidecars_are_written_once(sage, pipeline, loads, folder):
    before = files_below(folder)
    first = sage("caption", "pictures", "-r", "--sidecar", "txt")
    assert first.exit_code == 0 and first.stdout == ""
    written = files_below(folder) - before
    assert written == {"1.txt", "2.txt", "10.txt", "sub/ö 猫\nx.txt"}
    assert {(folder / name).read_text() for name in written} == {TEXT + "\n"}
    loads.calls.clear()
    again = sage("caption", "pictures", "-r", "--sidecar", "txt")
    assert again.exit_code == 0 and loads.calls == []
    assert "nothing to do" in again.stderr and "4 with a sidecar" in again.stderr


@pytest.mark.parametrize(
    ("existing", "content"),
    [("skip", "mine"), ("overwrite", TEXT + "\n"), ("append", f"mine\n{TEXT}\n")],
)
def test_a_sidecar_that_is_there(sage, folder, existing, content):
    (folder / "2.txt").write_text("mine")
    assert sage("caption", "pictures", "--sidecar", "txt", "--existing", existing).exit_code == 0
    assert (folder / "2.txt").read_text() == content
    assert (folder / "1.txt").read_text() == TEXT + "\n"


def test_sidecars_below_another_folder(sage, folder):
    before = files_below(folder)
    options = ("--sidecar", "json", "--output-dir", "out/deep")
    assert sage("caption", "pictures", "a.png", "-r", *options).exit_code == 0
    assert files_below(folder) == before
    assert files_below(Path("out/deep")) == {
        "1.json", "2.json", "10.json", "sub/ö 猫\nx.json", "a.json"
    }  # fmt: skip
    assert json.loads(Path("out/deep/1.json").read_text())["text"] == TEXT


def test_files_that_share_a_name(sage, folder):
    (folder / "1.mp4").write_bytes(PICTURE + b"another")
    result = sage("caption", "pictures", "--sidecar", "txt")
    assert {"1.txt", "1.png.txt"} <= files_below(folder)
    assert "1.png: another file has the same name" in result.stderr


def test_xmp_is_read_by_an_xml_parser_and_another_program_s_is_left(sage, pipeline, folder):
    (folder / "2.xmp").write_text("<x:xmpmeta>edits of a photo manager</x:xmpmeta>")
    options = ("--sidecar", "xmp", "--language", "de", "--existing", "overwrite")
    result = sage("caption", "pictures", *options)
    assert result.exit_code == 1
    assert "2.xmp: was written by another program" in result.stderr
    assert "edits" in (folder / "2.xmp").read_text()
    tree = ElementTree.fromstring((folder / "1.xmp").read_text())
    dc, rdf = "{http://purl.org/dc/elements/1.1/}", "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"
    texts = tree.findall(f".//{dc}description/{rdf}Alt/{rdf}li")
    assert [text.text for text in texts] == [TEXT] * 2
    assert tree.find(f".//{dc}language/{rdf}Bag/{rdf}li").text == "de"
    assert sage("caption", "pictures", *options).stderr.count("another program") == 1


def test_an_interrupted_run_goes_on(sage, pipeline, folder):
    options = ("caption", "pictures", "-r", "--jsonl", "--output", "out.jsonl", "--resume")
    pipeline.enqueue(
        Script(), InputError("pictures/2.png: damaged"), Script(error=KeyboardInterrupt())
    )
    assert sage(*options).exit_code == 130
    with Path("out.jsonl").open("a") as file:
        file.write('{"schema": 1, "torn')
    pipeline.calls.clear()
    again = sage(*options)
    assert again.exit_code == 0
    assert asked(pipeline) == ["2.png", "10.png", "sub/ö 猫\nx.png"]
    assert "1 finished by an earlier run" in again.stderr
    found = records("out.jsonl")
    assert sorted(one["files"][0] for one in found) == sorted(f"pictures/{n}" for n in NAMES)
    assert len({one["key"] for one in found}) == 4 and all("text" in one for one in found)
    assert "nothing to do" in sage(*options).stderr
    assert records("out.jsonl") == found


@pytest.mark.parametrize(
    "change", [("--prompt", "What?"), ("--max-new-tokens", "9"), ("--repetition-penalty", "1.2")]
)
def test_other_options_make_other_results(sage, pipeline, folder, change):
    options = ("caption", "pictures", "--jsonl", "--output", "out.jsonl", "--resume")
    sage(*options)
    pipeline.calls.clear()
    sage(*options, "--policy", "chain")
    assert pipeline.calls == []
    sage(*options, *change)
    assert len(pipeline.calls) == 3 and len(records("out.jsonl")) == 6


def test_what_a_run_without_resume_left_is_taken_over(sage, pipeline, folder):
    options = ("caption", "pictures", "--jsonl", "--output", "out.jsonl")
    pipeline.enqueue(Script(), Script(error=KeyboardInterrupt()))
    assert sage(*options, "--export", "all.csv").exit_code == 130
    assert Path("out.jsonl.partial").exists() and not Path("all.csv").exists()
    pipeline.calls.clear()
    assert sage(*options, "--resume", "--export", "all.csv").exit_code == 0
    assert asked(pipeline) == ["2.png", "10.png"]
    assert len(records("out.jsonl")) == 3 and not Path("out.jsonl.partial").exists()


@pytest.mark.parametrize("content", ["no json\n", "[1]\n", '{"a": 1}\nwords\n'])
def test_a_file_of_something_else_is_left_alone(sage, loads, folder, content):
    Path("out.jsonl").write_text(content)
    result = sage("caption", "pictures", "--jsonl", "--output", "out.jsonl", "--resume")
    assert result.exit_code == 2 and "is no result of sage" in result.stderr
    assert Path("out.jsonl").read_text() == content and loads.calls == []


def test_sidecars_that_an_end_left_out_are_made_of_the_results(sage, pipeline, folder):
    options = ("caption", "pictures", "--jsonl", "--output", "out.jsonl", "--resume")
    options = (*options, "--sidecar", "txt")
    sage(*options)
    (folder / "2.txt").unlink()
    pipeline.calls.clear()
    assert sage(*options).exit_code == 0
    assert pipeline.calls == [] and (folder / "2.txt").read_text() == TEXT + "\n"


def test_files_that_were_moved_are_found_by_content(sage, pipeline, folder):
    options = ("--jsonl", "--output", "out.jsonl", "--resume", "--content-keys")
    sage("caption", "pictures", *options)
    folder.rename("moved")
    pipeline.calls.clear()
    assert sage("caption", "moved", *options).exit_code == 0
    assert pipeline.calls == []


def test_identical_files_are_decoded_once(sage, pipeline, folder):
    for name in ("copy.png", "sub/copy.png"):
        (folder / name).write_bytes((folder / "2.png").read_bytes())
    result = sage("caption", "pictures", "-r", "--sidecar", "json")
    assert len(pipeline.calls) == 4 and "6 of 6 done" in result.stderr
    assert "2 of them copies of other files" in result.stderr
    copy = json.loads((folder / "sub/copy.json").read_text())
    assert copy["same_as"] == "pictures/2.png" and copy["files"] == ["pictures/sub/copy.png"]


def test_several_captions_for_each_file(sage, pipeline, folder):
    options = ("--captions", "3", "--seed", "5", "--sidecar", "txt")
    assert sage("caption", "pictures", *options).exit_code == 0
    assert [(call["seed"], call["sample"]) for call in pipeline.calls[:3]] == [
        (5, True), (6, True), (7, True)
    ]  # fmt: skip
    assert (folder / "1.txt").read_text() == f"{TEXT}\n" * 3
    lines = sage("caption", "pictures/1.png", "--captions", "2", "--jsonl").stdout.splitlines()
    assert [json.loads(line)["caption"] for line in lines] == [0, 1]


def test_parts_of_a_run(sage, pipeline, folder):
    for part in ("1/3", "2/3", "3/3"):
        sage("caption", "pictures", "-r", "--sidecar", "txt", "--shard", part)
    assert sorted(asked(pipeline)) == sorted(NAMES)


def test_at_most_so_many(sage, pipeline, folder):
    result = sage("caption", "pictures", "--sidecar", "txt", "--limit", "2")
    assert asked(pipeline) == ["1.png", "2.png"] and "1 beyond --limit" in result.stderr
    sage("caption", "pictures", "--sidecar", "txt", "--limit", "2")
    assert asked(pipeline)[2:] == ["10.png"]


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_a_dry_run_writes_nothing(sage, folder, form):
    before = files_below(Path())
    result = sage("caption", "pictures", "-r", "--sidecar", "txt", "--dry-run", *form)
    assert result.exit_code == 0 and files_below(Path()) == before
    assert "4 texts to do" in result.stderr
    assert "fake-target with fake-draft on cpu: about" in result.stderr
    if form:
        planned = json.loads(result.stdout)
        assert planned[0]["sidecar"] == "pictures/1.txt" and len(planned) == 4
    else:
        assert result.stdout.splitlines()[-1] == "pictures/sub/ö 猫\\nx.png"


def test_tables_of_all_results(sage, folder):
    pyarrow = pytest.importorskip("pyarrow.parquet")
    tables = ("all.csv", "all.parquet", "pictures/metadata.jsonl")
    exports = [word for name in tables for word in ("--export", name)]
    options = ("--jsonl", "--output", "out.jsonl", "--resume")
    sage("caption", "pictures", "-r", *options, "--limit", "1")
    assert sage("caption", "pictures", "-r", *options, *exports).exit_code == 0
    with Path("all.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["file"] for row in rows] == [f"pictures/{name}" for name in NAMES]
    assert pyarrow.read_table("all.parquet").column("text").to_pylist() == [TEXT] * 4
    lines = records("pictures/metadata.jsonl")
    assert [line["file_name"] for line in lines] == list(NAMES)


def test_failures_are_listed_and_do_not_stop_the_others(sage, pipeline, folder):
    pipeline.enqueue(Script(), InputError("pictures/2.png: damaged"))
    result = sage("caption", "pictures", "--sidecar", "txt", "--failures", "failed.jsonl")
    assert result.exit_code == 3
    (failed,) = records("failed.jsonl")
    assert failed["files"] == ["pictures/2.png"] and failed["error"]["kind"] == "input"
    assert not (folder / "2.txt").exists() and (folder / "10.txt").exists()


def test_where_memory_is_short_fewer_pixels_are_tried(sage, pipeline, folder):
    pipeline.enqueue(Script(error=MemoryError()), Script(error=MemoryError()))
    result = sage("caption", "pictures", "--jsonl")
    assert result.exit_code == 0
    assert result.stderr.count("1.png: out of memory: trying again") == 2
    first = json.loads(result.stdout.splitlines()[0])
    assert first["retried"] == {"max_pixels": 512**2}
    assert [call.get("max_pixels") for call in pipeline.calls[:4]] == [None, 1024**2, 512**2, None]


def test_a_file_that_is_written_while_it_is_read_has_no_result(sage, pipeline, folder):
    def change(step: int) -> None:
        (folder / "1.png").write_bytes(PICTURE + b"longer")

    pipeline.enqueue(Script(on_step=change))
    options = ("caption", "pictures", "--jsonl", "--output", "out.jsonl", "--resume")
    result = sage(*options)
    assert result.exit_code == 3 and "changed while it was read" in result.stderr
    assert sage(*options).exit_code == 0
    assert sorted(one["files"][0] for one in records("out.jsonl")) == [
        "pictures/1.png", "pictures/10.png", "pictures/2.png"
    ]  # fmt: skip


def test_a_full_disk_ends_the_run_and_leaves_nothing_half(sage, pipeline, folder, monkeypatch):
    real, written = Path.write_bytes, []

    def write_bytes(path: Path, data: bytes) -> int:
        if path.suffix == ".tmp" and len(written) == 1:
            real(path, data[: len(data) // 2])
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        written.append(path)
        return real(path, data)

    before = files_below(folder)
    monkeypatch.setattr(atomic_write.Path, "write_bytes", write_bytes)
    result = sage("caption", "pictures", "--sidecar", "txt")
    assert result.exit_code == 1 and "No space left" in result.stderr
    assert len(pipeline.calls) == 2
    assert files_below(folder) - before == {"1.txt"}
    monkeypatch.undo()


def test_an_output_folder_that_vanishes_is_made_again(sage, pipeline, folder):
    def remove(step: int) -> None:
        for path in sorted(Path("out").rglob("*"), reverse=True):
            path.unlink()
        Path("out").rmdir()

    pipeline.enqueue(Script(), Script(on_step=lambda step: remove(step) if not step else None))
    options = ("--sidecar", "txt", "--output-dir", "out")
    assert sage("caption", "pictures", *options).exit_code == 0
    assert files_below(Path("out")) == {"2.txt", "10.txt"}


REFUSED = [
    (("--resume",), "give --jsonl --output FILE"),
    (("--resume", "--jsonl"), "give --jsonl --output FILE"),
    (("--output-dir", "x"), "give --sidecar"),
    (("--existing", "append"), "give --sidecar"),
    (("--sidecar", "json", "--existing", "append"), "give --sidecar txt"),
    (("--sidecar", "txt", "--language", "de"), "--sidecar xmp"),
    (("--captions", "2", "--greedy"), "leave out --greedy"),
    (("--captions", "0"), "--captions"),
    (("--shard", "0/3"), "not I/N"),
    (("--shard", "3"), "not I/N"),
    (("--limit", "0"), "--limit"),
    (("--export", "all.xlsx"), ".csv or .parquet"),
    (("--export", "no/where.csv"), "no folder"),
    (("--failures", "no/where.jsonl"), "no folder"),
    (("--sidecar", "txt", "--output-dir", "a.png"), "is no folder"),
    (("--sidecar", "txt", "--include", "*"), "would overwrite an input"),
    (("-", "--sidecar", "txt"), "name the file"),
]


@pytest.mark.parametrize(("options", "says"), REFUSED, ids=lambda value: " ".join(value))
def test_what_cannot_work_is_refused_before_models_are_loaded(sage, loads, folder, options, says):
    (folder / "1.txt").write_text("an input too")
    result = sage("caption", "pictures", *options)
    assert result.exit_code == 2 and loads.calls == []
    assert says in " ".join(result.stderr.replace("│", " ").split())
    assert (folder / "1.txt").read_text() == "an input too"


def test_pictures_are_never_written_to(sage, folder):
    before = {name: (folder / name).read_bytes() for name in files_below(folder)}
    for kind in ("txt", "json", "xmp"):
        sage("caption", "pictures", "-r", "--sidecar", kind, "--existing", "overwrite")
    assert {name: (folder / name).read_bytes() for name in before} == before


def test_the_rows_of_a_table(sage, pipeline):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    images = [{"bytes": PICTURE + bytes([number]), "path": None} for number in range(3)]
    parquet.write_table(pyarrow.table({"image": images}), "t.parquet")
    options = ("caption", "t.parquet", "--jsonl", "--output", "out.jsonl", "--resume")
    assert sage(*options, "--limit", "1").exit_code == 0
    assert sage(*options, "--sidecar", "txt", "--output-dir", "texts").exit_code == 0
    assert [one["files"] for one in records("out.jsonl")] == [[f"t.parquet#{i}"] for i in range(3)]
    assert files_below(Path("texts")) == {"t/0.txt", "t/1.txt", "t/2.txt"}
    refused = sage("caption", "t.parquet", "--sidecar", "txt")
    assert refused.exit_code == 2 and "give --output-dir" in refused.stderr
    Path("bad.parquet").write_text("no table")
    assert sage("caption", "bad.parquet").exit_code == 3
