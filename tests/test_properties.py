"""Anything at all, in each place where something comes in: a good end, or one sentence and nothing written.

`tests/corpus` holds what was thought of or found before, by place; hypothesis thinks of more. What it finds belongs
there. `--hypothesis-profile=long` tries ten times as many, others each time.
"""

import ast
import io
import itertools
import json
import re
import shutil
import tempfile
import tokenize
import unicodedata
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as some
from papermill.engines import papermill_engines
from papermill.iorw import load_notebook_node

from opensci_lib import kernels
from opensci_lib.errors import OpensciError
from opensci_lib.hotfix import hotfix
from opensci_lib.miniature import MODEL
from opensci_lib.model_folder import check_model_folder
from opensci_lib.runs.prompts import check_length, read_prompt
from tests import tally
from tests.hotfix.folder import CONFIG, MODELING, make_folder

CORPUS = Path(__file__).parent / "corpus"
NOTEBOOKS = Path(__file__).parents[1] / "notebooks"

often = settings(max_examples=3 * settings().max_examples)
seldom = settings(max_examples=settings().max_examples // 4)


def corpus(place: str) -> list[Path]:
    return sorted((CORPUS / place).iterdir())


@contextmanager
def folder() -> Generator[Path]:
    """Yield a model folder that is whole, in a place of its own."""
    with tempfile.TemporaryDirectory() as place:
        yield make_folder(Path(place) / "tiny")


def check(source: Path, kind: str) -> None:
    """Fix a folder: Python and JSON come out, or one sentence; then nothing is left and nothing was changed."""
    before = {path.name: path.read_bytes() for path in source.iterdir()}
    with tally.case(kind):
        try:
            fixed = Path(hotfix(source).dst_dir)
        except OpensciError as error:
            assert re.fullmatch(r"[^\n]*[.?]", error.message), error.message
            assert {path.name for path in source.parent.iterdir()} <= {"tiny", ".tiny_fixed.lock"}
        else:
            compile((fixed / "modeling_tiny.py").read_bytes(), "modeling", "exec", ast.PyCF_ONLY_AST)
            assert isinstance(json.loads((fixed / "config.json").read_bytes()), dict)
            assert {path.name for path in source.parent.iterdir()} <= {"tiny", "tiny_fixed", ".tiny_fixed.lock"}
        assert {path.name: path.read_bytes() for path in source.iterdir()} == before


@pytest.mark.parametrize(
    ("place", "file"),
    [
        ("config", "config.json"),
        ("tokenizer_config", "tokenizer_config.json"),
        ("index", "model.safetensors.index.json"),
        ("modeling", "modeling_tiny.py"),
    ],
)
def test_the_corpus(place, file):
    for path in corpus(place):
        with folder() as source:
            shutil.copyfile(path, source / file)
            check(source, "folders of the corpus")


# Settings

texts = some.text(max_size=20) | some.sampled_from(
    ["modeling_tiny.TinyForCausalLM", "../a.B", "a--b.C", "default", "yarn", "GPTNeoXTokenizer", "model.safetensors"]
)
values = some.recursive(
    some.none() | some.booleans() | some.integers() | some.floats() | texts,
    lambda inner: some.lists(inner, max_size=3) | some.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
#: What rules look at, and what it may hold.
keys = some.sampled_from(
    [
        "auto_map", "architectures", "model_type", "rope_scaling", "rope_theta", "rope_parameters", "tokenizer_class",
        "tie_word_embeddings", "torch_dtype", "model_input_names", "head_dim", "hidden_size", "vocab_size", "factor",
        "rope_type", "AutoConfig", "AutoModel", "AutoModelForCausalLM", "AutoTokenizer", "type",
    ]
)  # fmt: skip
objects = some.dictionaries(keys | texts, values | some.dictionaries(keys, values, max_size=3), max_size=5)
layouts = some.sampled_from(
    [{}, {"indent": 2}, {"indent": "\t"}, {"separators": (",", ":")}, {"ensure_ascii": False}]
)


@often
@given(objects, objects, layouts)
def test_configurations(config, auto_map, layout):
    whole = {**CONFIG, **config}
    if isinstance(whole["auto_map"], dict):
        whole["auto_map"] = {**CONFIG["auto_map"], **auto_map} if len(auto_map) < 3 else whole["auto_map"]
    with folder() as source:
        (source / "config.json").write_bytes(json.dumps(whole, **layout).encode("utf-8", "surrogatepass"))
        check(source, "configurations")


@given(objects | values, layouts)
def test_tokenizer_configurations(config, layout):
    with folder() as source:
        (source / "tokenizer_config.json").write_bytes(json.dumps(config, **layout).encode("utf-8", "surrogatepass"))
        check(source, "tokenizer configurations")


@given(values | some.fixed_dictionaries({"weight_map": values | some.dictionaries(texts, texts, max_size=3)}))
def test_indexes(index):
    with folder() as source:
        (source / "model.safetensors.index.json").write_text(json.dumps(index))
        check(source, "indexes")


@given(
    some.sampled_from(["config.json", "modeling_tiny.py", "model.safetensors.index.json"]), some.binary(max_size=64)
)
def test_bytes(name, content):
    with folder() as source:
        (source / name).write_bytes(content)
        check(source, "files of any bytes")


# Headers

numbers = some.integers(-16, 32) | some.integers() | some.floats() | some.none()
tensors = some.fixed_dictionaries(
    {"dtype": some.sampled_from(["F32", "BF16", "I64", "F4", "f32", ""]) | values},
    optional={
        "shape": some.lists(some.integers(0, 4) | numbers, max_size=3),
        "data_offsets": some.tuples(some.integers(0, 16), some.integers(0, 32)) | some.lists(numbers, max_size=3),
    },
)


@often
@given(
    some.dictionaries(texts, tensors | values, max_size=3),
    some.integers(0, 32),
    some.integers(-9, 9),
    some.booleans(),
)
def test_headers(header, data, off, is_plain):
    """The library itself can read what is accepted."""
    plain = {"weight": {"dtype": "F32", "shape": [data // 4], "data_offsets": [0, data]}}
    text = json.dumps(plain if is_plain else header).encode()
    content = max(0, len(text) + off).to_bytes(8, "little") + text + bytes(data)
    with folder() as source, tally.case("safetensors headers"):
        (source / "model.safetensors").write_bytes(content)
        try:
            check_model_folder(source)
        except OpensciError as error:
            assert re.fullmatch(r"[^\n]*\.", error.message), error.message
        else:
            safetensors.numpy.load(content)


def test_headers_of_the_corpus():
    for path in corpus("header"):
        text = path.read_bytes().strip()
        with folder() as source, tally.case("headers of the corpus"):
            (source / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(8))
            if path.stem == "plain":
                assert check_model_folder(source) == source
            else:
                with pytest.raises(OpensciError, match="is cut off or no safetensors file"):
                    check_model_folder(source)


# Code

LAION = (MODEL / "modeling_opensci.py").read_text().replace("Opensci", "Tiny").replace("_opensci", "_tiny")
STRANGE = [
    "(", ")", "]", ":", "\n", "'", '"""', "\\", "\0", "\ufeff", "é", "lambda", "async ", "\t", "\r", "\x0c", "#",
    "0x", "*", "f'{x}'", ":=", "@", "\u2028", "=", "pass", "return ", "class ", "    ", "self", "\U0001d530elf",
]  # fmt: skip


def tokens(code: str) -> list[str]:
    """Return a text in pieces: tokens, and the space between them."""
    starts = [0]
    lines = [0, *(found.end() for found in re.finditer("\n", code))]
    for token in tokenize.generate_tokens(io.StringIO(code).readline):
        starts += [lines[row - 1] + column for row, column in (token.start, token.end) if row <= len(lines)]
    places = sorted({*starts, len(code)})
    return [code[start:end] for start, end in itertools.pairwise(places)]


PIECES = [tokens(MODELING), tokens(LAION)]
places = some.integers(0, 10**6)
token_edits = some.tuples(some.sampled_from(["drop", "double", "swap", "other", "strange"]), places, places)


@often
@given(some.sampled_from(PIECES), some.lists(token_edits, min_size=1, max_size=4))
def test_code_with_other_tokens(pieces, edits):
    pieces = list(pieces)
    for what, at, other in edits:
        at, other = at % len(pieces), other % len(pieces)
        match what:
            case "drop":
                del pieces[at]
            case "double":
                pieces.insert(at, pieces[at])
            case "swap":
                pieces[at], pieces[other] = pieces[other], pieces[at]
            case "other":
                pieces[at] = pieces[other]
            case "strange":
                pieces[at] += STRANGE[other % len(STRANGE)]
    with folder() as source:
        (source / "modeling_tiny.py").write_bytes("".join(pieces).encode())
        check(source, "modelling files, other tokens")


node_edits = some.tuples(some.sampled_from(["drop", "double", "swap", "expression", "name", "value"]), places, places)


def mutated(tree: ast.Module, what: str, at: int, other: int) -> None:
    """Change one node of a tree, to something that Python can still write down."""
    blocks = [value for node in ast.walk(tree) for _, value in ast.iter_fields(node) if isinstance(value, list)]
    blocks = [block for block in blocks if block and isinstance(block[0], ast.stmt)]
    block, donor = blocks[at % len(blocks)], blocks[other % len(blocks)]
    match what:
        case "drop":
            block[other % len(block)] = ast.Pass()
        case "double":
            block.append(block[other % len(block)])
        case "swap":
            block[-1], donor[0] = donor[0], block[-1]
        case "expression" | "name" | "value":
            holders = [
                (node, name, index)
                for node in ast.walk(tree)
                for name, value in ast.iter_fields(node)
                for index, one in enumerate(value if isinstance(value, list) else [value])
                if isinstance(one, ast.expr) and isinstance(getattr(one, "ctx", ast.Load()), ast.Load)
            ]
            node, name, index = holders[at % len(holders)]
            source, key, place = holders[other % len(holders)]
            given_ = getattr(source, key)
            new = {"expression": given_[place] if isinstance(given_, list) else given_, "value": ast.Constant(other),
                   "name": ast.Name(["config", "self", "torch", "nn", "x"][other % 5])}[what]  # fmt: skip
            if isinstance(getattr(node, name), list):
                getattr(node, name)[index] = new
            else:
                setattr(node, name, new)


@given(some.sampled_from([MODELING, LAION]), some.lists(node_edits, min_size=1, max_size=4))
def test_code_with_other_nodes(code, edits):
    tree = ast.parse(code)
    for edit in edits:
        mutated(tree, *edit)
    try:
        text = ast.unparse(tree)
    except (RecursionError, ValueError):  # a node was put into itself, or where it can't be written
        return
    with folder() as source:
        (source / "modeling_tiny.py").write_bytes(text.encode())
        check(source, "modelling files, other nodes")


# What users write

CATEGORIES = sorted({unicodedata.category(chr(code)) for code in range(0x110000)})


def refused(kind: str, work, *arguments) -> None:
    """Check that work ends well or is refused in one sentence that can be printed."""
    with tally.case(kind):
        try:
            work(*arguments)
        except OpensciError as error:
            assert error.message.isprintable()
            assert error.message.endswith(".")
            error.message.encode()


@pytest.mark.parametrize("category", CATEGORIES)
@seldom
@given(data=some.data())
def test_prompts(category, data):
    prompt = data.draw(some.text(some.characters(categories=[category])))
    suffix = data.draw(some.sampled_from(["", ".txt", "/.txt", "\0.txt"]))
    refused("prompts", read_prompt, prompt + suffix)
    refused("prompts", check_length, prompt, data.draw(some.integers(0, 10**6)), 2048)


spellings = some.text(max_size=12) | some.from_regex(
    r"\A[v=~<> ]{0,2}[0-9٣²]{1,3}([.,\-][0-9x*]{0,3}){0,4}(rc|\.dev|\+cu|\n)?[0-9]?\Z"
)


@given(spellings)
def test_spellings_of_a_release(tf_version):
    if tf_version in kernels.available():
        return
    with tally.case("spellings of tf_version"), pytest.raises(OpensciError) as caught:
        kernels.build(tf_version)
    assert caught.value.message.isprintable()
    assert "is not a release that this project supports: choose one from 4.48.0 on" in caught.value.message


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.name)
@seldom
@given(data=some.data())
def test_parameters_of_the_wrong_type(path, data):
    """Refused before a kernel starts or anything is written: `execute_notebook` is not reached with one."""
    notebook = load_notebook_node(str(path))
    cell = next(cell for cell in notebook.cells if "parameters" in cell.metadata.tags)
    typed = re.findall(r"^(\w+): ([\w\[\]]+) = ", cell.source, re.MULTILINE)
    name, kind = data.draw(some.sampled_from(typed))
    right = {"str": str, "int": int, "bool": bool, "list[str]": list}[kind]
    value = data.draw((values | some.integers(max_value=-1)).filter(lambda value: value is not None))
    if type(value) is right and not (right is int and value < 0):
        value = {"wrong": value}
    notebook.metadata["papermill"] = {"parameters": {name: value}}
    with tally.case("parameters of notebooks"), pytest.raises(OpensciError) as caught:
        papermill_engines.get_engine(None).execute_notebook(notebook, "python3")
    assert caught.value.message.startswith(f"The parameter {name} is ")
    assert caught.value.message.isprintable()
