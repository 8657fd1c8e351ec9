"""Every form of text gives the same documents; what is no document is named by file and row, or counted."""

import csv
import gzip
import io
import json
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from sae_atlas.io.errors import AtlasError
from sae_atlas.texts.documents import TRIED, Skipped, read_documents, read_in_order
from sae_atlas.texts.files import other_files, text_files
from sae_atlas.texts.rows import has_white_space_lines

DOCUMENTS = [f'document {number}, naïve ☃\nsecond line, "quoted"' for number in range(40)]
OTHER = [None, 1, "x", [2], {"a": 1}] * 8  # a column that changes its type from row to row


def content(kind: str, documents=DOCUMENTS) -> bytes:
    if kind == ".txt":
        return "\n\n".join(documents).encode()
    if kind == ".jsonl":
        rows = ({"other": other, "text": text} for text, other in zip(documents, OTHER, strict=True))
        return "".join(json.dumps(row) + "\n" for row in rows).encode()
    if kind == ".csv":
        lines = io.StringIO(newline="")
        csv.writer(lines).writerows(
            [["other", "text"], *([str(other), text] for text, other in zip(documents, OTHER, strict=True))]
        )
        return lines.getvalue().encode()
    file = pa.BufferOutputStream()
    pyarrow.parquet.write_table(pa.table({"other": range(len(documents)), "text": documents}), file)
    return file.getvalue().to_pybytes()


PACKED = {
    "": lambda plain: plain,
    ".gz": gzip.compress,
    ".zst": lambda plain: pa.compress(plain, "zstd", asbytes=True),
}


def read(path, seed=0, bad_row=None, **text):
    given = {"bad_row": bad_row} if bad_row else {}
    return [document for document, _ in read_documents({"source": "local", "path": path, **text}, seed, **given)]


def in_order(documents=DOCUMENTS, seed=0):
    return [documents[row] for row in np.random.default_rng(seed).permutation(len(documents))]


@pytest.mark.parametrize("packed", PACKED)
@pytest.mark.parametrize("kind", [".txt", ".jsonl", ".csv", ".parquet"])
def test_every_form_gives_the_same_documents_in_the_same_order(tmp_path, kind, packed):
    file = tmp_path / f"t{kind}{packed}"
    file.write_bytes(PACKED[packed](content(kind)))
    assert read(str(file)) == in_order()
    assert read(str(file), seed=3) == in_order(seed=3)


def test_a_folder_and_a_list_are_all_their_files_in_a_fixed_order(tmp_path):
    (tmp_path / "f" / "deep").mkdir(parents=True)
    (tmp_path / "f" / ".hidden").mkdir()
    for name, part in (("b.jsonl", slice(0, 10)), ("deep/a.csv.gz", slice(10, 20)), (".hidden/h.txt", slice(20, 30))):
        kind = ".csv" if "csv" in name else ".jsonl"
        plain = "".join(json.dumps({"text": text}) + "\n" for text in DOCUMENTS[part]).encode()
        if kind == ".csv":
            lines = io.StringIO(newline="")
            csv.writer(lines).writerows([["text"], *([text] for text in DOCUMENTS[part])])
            plain = gzip.compress(lines.getvalue().encode())
        (tmp_path / "f" / name).write_bytes(plain)
    (tmp_path / "f" / "README.md").write_text("no text")
    assert list(text_files(str(tmp_path / "f"), "corpus.path")) == ["b.jsonl", "deep/a.csv.gz"]
    assert read(str(tmp_path / "f")) == in_order(DOCUMENTS[:20])
    paths = [str(tmp_path / "f" / "deep"), str(tmp_path / "f" / "b.jsonl")]
    assert read(paths) == in_order(DOCUMENTS[10:20] + DOCUMENTS[:10])
    assert len(text_files(paths, "corpus.path")) == 2
    (tmp_path / "empty").mkdir()
    with pytest.raises(AtlasError, match=r"corpus\.path: .*empty holds no `\.txt`, .*`\.zst`"):
        read(str(tmp_path / "empty"))
    with pytest.raises(AtlasError, match=r"corpus\.path: README\.md is none of"):
        read(str(tmp_path / "f" / "README.md"))


@pytest.mark.parametrize("kind", [".jsonl", ".parquet"])
def test_a_field_may_be_a_path_of_keys(tmp_path, kind):
    rows = [{"data": {"text": text, "n": number}, "a.b": text} for number, text in enumerate(DOCUMENTS)]
    file = tmp_path / f"t{kind}"
    if kind == ".jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pyarrow.parquet.write_table(pa.Table.from_pylist(rows), file)
    assert read(str(file), field="data.text") == in_order()
    assert read(str(file), field="a.b") == in_order()  # a column of that very name
    for field, line in (
        ("data.body", "no column 'body'|has no 'body'"),
        ("body", r"no column 'body'; there is data, a\.b"),
    ):
        with pytest.raises(AtlasError, match=rf"corpus\.field: .*({line})"):
            read(str(file), field=field)


# What stands in row 3 of a file -> what is said of it.
BAD = {
    "jsonl-syntax": (".jsonl", b'{"text": "a"\n', r"corpus\.path: no JSON \(JSONDecodeError.*row 3\)"),
    "jsonl-byte": (".jsonl", b'{"text": "a\xff"}\n', r"column 'text' holds byte 0xff at character 2, .*row 3\)"),
    "jsonl-surrogate": (".jsonl", b'{"text": "\\ud800"}\n', r"holds '\\ud800' at character 1, .*row 3\)"),
    "jsonl-number": (".jsonl", b'{"text": 5}\n', r"column 'text' holds 5, which is no text .*row 3\)"),
    "jsonl-null": (".jsonl", b'{"text": null}\n', r"column 'text' holds None, which is no text .*row 3\)"),
    "jsonl-missing": (".jsonl", b'{"body": "a"}\n', r"no column 'text'; there is body .*row 3\)"),
    "jsonl-list": (".jsonl", b'["a"]\n', r"'text' leads to \['a'\], which has no keys .*row 3\)"),
    "jsonl-deep": (".jsonl", b"[" * 100_000 + b"\n", r"no JSON \(RecursionError.*row 3\)"),
    "csv-cells": (".csv", b"a,b,c\n", r"3 cells, the header has 2 .*row 3\)"),
    "csv-quote": (".csv", b'a,"b"c\n', r"no CSV \(.*row 3\)"),
    "csv-byte": (".csv", b"a,\xfe\n", r"column 'text' holds byte 0xfe at character 1, .*row 3\)"),
}  # fmt: skip
GOOD = {".jsonl": [b'{"text": "one"}\n', b"\n", b'{"text": "two"}\n'], ".csv": [b"n,text\n", b"1,one\n", b"2,two\n"]}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_row_is_one_line_with_file_and_row_or_skipped_and_counted(tmp_path, case):
    kind, row, line = BAD[case]
    file = tmp_path / f"t{kind}"
    before, middle, after = GOOD[kind]
    file.write_bytes(before + middle + row + after)
    with pytest.raises(AtlasError, match=line) as refused:
        read(str(file))
    assert str(file) in str(refused.value) and "\n" not in str(refused.value)
    assert str(refused.value).endswith("mend the row, or set corpus.bad_rows: skip")
    skipped = Skipped()
    assert sorted(read(str(file), bad_row=skipped)) == (["one", "two"]) and skipped.rows == 1


def test_bytes_that_are_no_utf_8_do_not_matter_in_other_columns(tmp_path):
    (tmp_path / "t.jsonl").write_bytes(b'{"other": "\xff", "text": "one"}\n')
    (tmp_path / "t.csv").write_bytes(b"\xef\xbb\xbftext,other\none,\xff\n")  # after a byte order mark
    assert read(str(tmp_path / "t.jsonl")) == read(str(tmp_path / "t.csv")) == ["one"]


def test_a_bad_byte_of_a_text_file_is_named_by_its_paragraph(tmp_path):
    (tmp_path / "t.txt").write_bytes(b"one\r\n\r\ntwo\r\n\r\nthr\xe9e\n")
    with pytest.raises(AtlasError, match=r"byte 0xe9 at character 4, .*t\.txt, row 5\)"):
        read(str(tmp_path / "t.txt"))


@pytest.mark.parametrize(
    ("values", "line"),
    [
        (pa.array(["one", None, "two"]), r"holds None, which is no text .*row 2\)"),
        (pa.array([b"one", b"t\xff", b"two"]).view(pa.string()), r"no UTF-8 \(UnicodeDecodeError.*row 2\)"),
    ],
)
def test_a_bad_row_of_a_parquet_file_is_named(tmp_path, values, line):
    pyarrow.parquet.write_table(pa.table({"text": values}), tmp_path / "t.parquet")
    with pytest.raises(AtlasError, match=line):
        read(str(tmp_path / "t.parquet"))
    skipped = Skipped()
    assert len(read(str(tmp_path / "t.parquet"), bad_row=skipped)) + skipped.rows == 3


def test_a_column_of_a_parquet_file_that_holds_no_text_is_named(tmp_path):
    pyarrow.parquet.write_table(pa.table({"text": [1, 2, 3], "body": ["a", "b", "c"]}), tmp_path / "t.parquet")
    with pytest.raises(AtlasError, match=r"holds 1, which is no text .*row 1\)"):
        read(str(tmp_path / "t.parquet"))
    with pytest.raises(
        AtlasError, match=r"holds 3, which is no text .*row 3\); .* this row has `text`, `body`: name the"
    ):
        read(str(tmp_path / "t.parquet"), bad_row=Skipped())


def test_an_open_quote_takes_no_rows_with_it_unnoticed(tmp_path):
    (tmp_path / "t.csv").write_bytes(b'text\none\n"two\nthree\nfour\n')
    with pytest.raises(AtlasError, match=r"t\.csv: unexpected end of data in what begins in row 3; mend it"):
        read(str(tmp_path / "t.csv"), bad_row=Skipped())


@pytest.mark.parametrize("name", ["t.jsonl.gz", "t.jsonl.zst", "t.parquet", "t.parquet.gz"])
def test_a_file_that_was_cut_off_is_one_line_whatever_is_skipped(tmp_path, name):
    kind, packed = (f".{part}" if part else "" for part in (*name.split(".")[1:], "")[:2])
    whole = PACKED[packed](content(kind, DOCUMENTS))
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(AtlasError, match=rf"corpus\.path: .*{name} cannot be read after row \d+ \(.*\); check it"):
        read(str(tmp_path / name), bad_row=Skipped())


def test_long_fields_and_lines_are_read(tmp_path):
    (tmp_path / "t.csv").write_bytes(b"text\n" + b"x" * 300_000 + b"\n")
    assert list(map(len, read(str(tmp_path / "t.csv")))) == [300_000]


def test_paragraphs_are_those_between_pairs_of_line_ends(tmp_path):
    """As `datasets` parts them, from which the corpora of finished atlases were made."""
    generator = np.random.default_rng(0)
    for _ in range(50):
        text = "".join(generator.choice(["a", "b", "\n", "\n", "\n"], 60))
        (tmp_path / "t.txt").write_text(text)
        expected = [each for each in text.split("\n\n") if each]
        assert read(str(tmp_path / "t.txt")) == in_order(expected)


@pytest.mark.parametrize("kind", [".txt", ".jsonl", ".csv"])
def test_a_byte_order_mark_is_no_text(tmp_path, kind):
    (tmp_path / f"t{kind}").write_bytes(b"\xef\xbb\xbf" + content(kind))
    assert read(str(tmp_path / f"t{kind}")) == in_order()


def test_two_columns_of_one_name_are_refused(tmp_path):
    (tmp_path / "t.csv").write_text("text,text\na,b\n")
    with pytest.raises(AtlasError, match=r"corpus\.field: .*t\.csv has 2 columns 'text'; rename one of them"):
        read(str(tmp_path / "t.csv"))


def test_lines_of_white_space_separate_paragraphs_as_empty_ones_do(tmp_path):
    """As in WikiText's own files, whose blank lines hold a blank."""
    generator, file = np.random.default_rng(0), tmp_path / "t.txt"
    for _ in range(50):
        lines = generator.choice(["a", " b c ", "", " ", "\t ", "\u3000"], 40).tolist()
        file.write_text("\n".join([*lines, "end"]), encoding="utf-8")
        emptied = "\n".join([*("" if line.isspace() else line for line in lines), "end"])
        assert read(str(file)) == in_order([each for each in emptied.split("\n\n") if each])
    file.write_text(" \n = Title = \n \n one \n two \n  ")
    assert sorted(read(str(file))) == ["\n = Title = ", " one \n two "]


def test_lines_of_white_space_are_found_wherever_they_lie_in_a_compressed_file(tmp_path):
    text = "a line\n" * 300_000 + " \t\nend\n"  # beyond what is read at once
    (tmp_path / "t.txt").write_text(text)
    (tmp_path / "t.txt.gz").write_bytes(gzip.compress(text.encode()))
    assert has_white_space_lines(tmp_path / "t.txt") and has_white_space_lines(tmp_path / "t.txt.gz")


@pytest.fixture
def linked(tmp_path):
    """A folder of four files of ten documents: in capitals, and in a folder that lies elsewhere and leads back."""
    data, scratch = tmp_path / "data", tmp_path / "scratch"
    (scratch / "part2").mkdir(parents=True)
    (data / "deep").mkdir(parents=True)
    files = {
        data / "B.JSONL": "",
        data / "d.Jsonl.GZ": ".gz",
        data / "deep" / "a.jsonl": "",
        scratch / "part2" / "c.TXT": "",
    }
    for number, (file, packed) in enumerate(files.items()):
        documents = DOCUMENTS[10 * number : 10 * number + 10]
        rows = "".join(json.dumps({"text": text}) + "\n" for text in documents)
        file.write_bytes(PACKED[packed](("\n\n".join(documents) if file.suffix == ".TXT" else rows).encode()))
    (data / "part2").symlink_to(scratch / "part2")
    (scratch / "part2" / "back").symlink_to(data)
    (data / "again").symlink_to(data / "deep")
    (data / "self").symlink_to(data)
    return data


def test_linked_folders_are_entered_once_and_suffixes_may_be_in_capitals(linked):
    assert list(text_files(str(linked), "corpus.path")) == ["B.JSONL", "d.Jsonl.GZ", "deep/a.jsonl", "part2/c.TXT"]
    assert read(str(linked)) == in_order()
    assert read(str(linked / "d.Jsonl.GZ")) == in_order(DOCUMENTS[10:20])


def test_files_that_are_not_read_are_counted_in_one_line(linked, caplog):
    caplog.set_level("INFO", "sae_atlas")
    assert read(str(linked)) and not caplog.records
    for name in ("README.md", "a.arrow", "b.ARROW", "part2/c.json.gz", "notes", ".hidden"):
        (linked / name).touch()
    counted = "2 `.arrow`, 1 `.md`, 1 without a suffix, 1 `.json.gz`"
    assert other_files([str(linked), str(linked / "B.JSONL")], "corpus.path") == counted
    assert read(str(linked))
    assert [each.getMessage() for each in caplog.records] == [
        f"corpus.path: also holds files that are not read: {counted}"
    ]
    (linked / "deep" / "only").mkdir()
    (linked / "deep" / "only" / "a.json").touch()
    with pytest.raises(AtlasError, match=r"corpus\.path: .*only holds no `\.txt`, .*`\.zst`; there are 1 `\.json`"):
        read(str(linked / "deep" / "only"))


def test_part_of_a_text_that_cannot_be_reached_is_one_line(linked):
    (linked / "part3").symlink_to(linked / "gone")
    with pytest.raises(AtlasError, match=r"corpus\.path: .*part3 is a link that leads nowhere; mend or remove it"):
        read(str(linked))
    (linked / "part3").unlink()
    (linked / "deep").chmod(0)
    try:
        if not os.access(linked / "deep", os.R_OK):  # root may
            with pytest.raises(AtlasError, match=r"corpus\.path: .*deep cannot be read \(PermissionError"):
                read(str(linked))
    finally:
        (linked / "deep").chmod(0o755)


@pytest.mark.parametrize("rows", [3, TRIED + 50])
@pytest.mark.parametrize(
    ("row", "line"),
    [
        (
            {"n": 1, "body": "x"},
            r"no column 'text'; there is n, body \(.*\); .* asks for `text`, this row has `n`, `body`",
        ),
        ({"text": None, "body": "x"}, r"'text' holds None, which is no text \(.*this row has `text`, `body`"),
        (["x"], r"'text' leads to \['x'\], which has no keys \(.*; check the text"),
    ],
)
def test_where_no_row_is_a_document_the_others_are_not_skipped(tmp_path, rows, row, line):
    file, skipped = tmp_path / "t.jsonl", Skipped()
    file.write_text((json.dumps(row) + "\n") * rows)
    last = min(rows, TRIED)
    with pytest.raises(AtlasError, match=rf"corpus\.field: .*{line}") as refused:
        read(str(file), bad_row=skipped)
    assert skipped.rows == last and f"t.jsonl, row {last}); it is the last of {last:,} rows, and none" in str(
        refused.value
    )
    file.write_text((json.dumps(row) + "\n") * rows + '{"text": "one"}\n')
    if rows < TRIED:
        assert read(str(file), bad_row=Skipped()) == ["one"]


@pytest.mark.parametrize("kind", [".txt", ".jsonl", ".csv"])
def test_what_is_not_utf_8_and_what_is_no_text_yet_is_one_line(tmp_path, kind):
    plain = content(kind).decode()
    for encoding in ("utf-16", "utf-16-le", "utf-16-be", "utf-32"):
        (tmp_path / f"t{kind}").write_bytes(plain.encode(encoding))
        with pytest.raises(AtlasError, match=rf"corpus\.path: .*t\{kind} is UTF-16, or no text; text is read as UTF-8"):
            read(str(tmp_path / f"t{kind}"), bad_row=Skipped())
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
    (tmp_path / f"t{kind}").write_text(pointer)
    with pytest.raises(AtlasError, match=r"corpus\.path: .* is a pointer of Git LFS .*`git lfs pull`"):
        read(str(tmp_path / f"t{kind}"), bad_row=Skipped())


@pytest.mark.parametrize(
    ("header", "line"),
    [
        (
            "id;text",
            r"corpus\.field: no column 'text'; there is id;text .*separated by semicolons, write it with commas",
        ),
        ("id\ttext", r"corpus\.field: no column 'text'; .*separated by tabs, write it with commas"),
        ('"id";"text"', r"corpus\.path: .*t\.csv: its first row is no CSV \(.*\); cells are separated by commas"),
        ("id;body", r"corpus\.field: no column 'text'; there is id;body \(.*t\.csv\)$"),
    ],
)
def test_other_separators_than_commas_are_named(tmp_path, header, line):
    (tmp_path / "t.csv").write_text(f"{header}\n1;one\n")
    with pytest.raises(AtlasError, match=line):
        read(str(tmp_path / "t.csv"))
    with pytest.raises(AtlasError, match=line):
        list(read_in_order({"source": "local", "path": str(tmp_path / "t.csv")}))


@pytest.mark.parametrize("name", ["t.tsv", "t.json", "t.arrow", "t.jsonl.bz2", "t"])
def test_other_formats_are_refused_in_a_line_that_says_what_is_read(tmp_path, name):
    (tmp_path / name).write_text('[{"text": "one"}]')
    with pytest.raises(
        AtlasError, match=rf"corpus\.path: {name} is none of `\.txt`, `\.jsonl`, `\.csv`, `\.parquet`, each"
    ):
        read(str(tmp_path / name))


def test_odd_parquet_files_are_one_line_or_read(tmp_path):
    """Two columns of one name, a list where keys are asked for, and a folder as Spark partitions it."""
    file, columns = str(tmp_path / "t.parquet"), [pa.array(["a"]), pa.array(["b"])]
    pyarrow.parquet.write_table(pa.Table.from_arrays(columns, ["text", "text"]), file)
    with pytest.raises(AtlasError, match=r"corpus\.field: .*t\.parquet has 2 columns 'text'; rename one of them"):
        read(file)
    pyarrow.parquet.write_table(pa.table({"turns": [[{"text": "a"}]]}), file)
    for field in ("turns.text", "turns.list.element.text"):
        for reader in (lambda given: read(file, field=given), lambda given: list(read_in_order(local(file, given)))):
            with pytest.raises(AtlasError, match=r"corpus\.(field|path): .*t\.parquet") as refused:
                reader(field)
            assert "\n" not in str(refused.value)
    pyarrow.parquet.write_to_dataset(
        pa.table({"text": DOCUMENTS, "lang": ["en", "de"] * 20}), tmp_path / "parts.parquet", partition_cols=["lang"]
    )
    assert sorted(read(str(tmp_path / "parts.parquet"))) == sorted(DOCUMENTS)


def local(path, field):
    return {"source": "local", "path": path, "field": field}


def test_compressed_files_that_were_joined_are_read_to_their_end(tmp_path):
    for packed in (".gz", ".zst"):
        rows = (PACKED[packed](json.dumps({"text": text}).encode() + b"\n") for text in DOCUMENTS)
        (tmp_path / f"t.jsonl{packed}").write_bytes(b"".join(rows))
        assert read(str(tmp_path / f"t.jsonl{packed}")) == in_order()
