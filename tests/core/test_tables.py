"""Columns of images in Parquet and Arrow files."""

from __future__ import annotations

from pathlib import Path

import pytest

from sage_core.captioning.tables import ImageTable
from sage_core.errors import InputError

pyarrow = pytest.importorskip("pyarrow")
from pyarrow import ipc, parquet  # noqa: E402

IMAGES = [f"image {number}".encode() for number in range(7)]
COLUMNS = {
    "bytes": pyarrow.array(IMAGES),
    "structs": pyarrow.array([{"bytes": one, "path": None} for one in IMAGES]),
    "large": pyarrow.array(IMAGES, pyarrow.large_binary()),
}


def written(path: Path, images: object) -> str:
    table = pyarrow.table({"label": list(range(7)), "image": images})
    if path.suffix == ".parquet":
        parquet.write_table(table, path, row_group_size=3)
    else:
        new = ipc.new_stream if path.stem == "stream" else ipc.new_file
        with new(str(path), table.schema) as writer:
            writer.write_table(table)
    return str(path)


@pytest.mark.parametrize("name", ["a.parquet", "stream.arrow", "file.arrow"])
@pytest.mark.parametrize("images", COLUMNS.values(), ids=COLUMNS)
def test_every_row_in_any_order(tmp_path, name, images):
    table = ImageTable(written(tmp_path / name, images))
    assert len(table) == 7 and table.column == "image"
    for row in (6, 0, 3, 2, 5, 1, 4):
        file = table.open(row)
        assert file.read() == IMAGES[row] and file.name.endswith(f"{name}#{row}")


def test_what_cannot_be_used(tmp_path):
    path = written(tmp_path / "a.parquet", pyarrow.array([*IMAGES[:6], None]))
    with pytest.raises(InputError, match=r"a\.parquet#6: no bytes of an image"):
        ImageTable(path).open(6)
    with pytest.raises(InputError, match="column 'picture'"):
        ImageTable(path, "picture")
    with pytest.raises(InputError, match="no bytes of an image"):
        ImageTable(path, "label").open(0)
    parquet.write_table(pyarrow.table({"label": [1]}), path)
    with pytest.raises(InputError, match=r"no column of images .* the columns are label"):
        ImageTable(path)
    for name in ("b.parquet", "b.arrow"):
        (tmp_path / name).write_bytes(b"no table")
        with pytest.raises(InputError, match=f"{name}: "):
            ImageTable(str(tmp_path / name))
