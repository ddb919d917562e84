import subprocess
import sys
import unicodedata

import numpy as np
import pytest
import tiktoken
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from lfpc_jax.processing.tokenizer import Tokenizer
from support.qwen_vocabulary import ADDED, SPECIAL, SPLIT, ranks, special_ids, write_model_folder

TEXTS = [
    "",
    " ",
    "Hello, world!",
    "I'll say it's what THEY'VE said, isn't it?",
    "  leading,   inner\t\ttabs \n\n\n and trailing  ",
    "line\r\nline\rline\n",
    "12345 67.890e-12 ½ ④ Ⅷ",
    "bbox_2d: [103, 24, 981, 1176]",
    "def f(x):\n    return {'a': x ** 2}  # 中文注释\n",
    "你好，世界。日本語のテキスト。한국어 텍스트",
    "Привет Γειά σου שלום مرحبا नमस्ते ไทย",
    "cafe\u0301 A\u030a \u1e9b\u0323 \ufb01",
    "😀👩‍👩‍👧‍👦🇩🇪 \U0001f3f4\U000e0067\U000e0062\U000e007f",
    "\u00a0\u2003\u200b\ufeff\u0000\u001f\u0085\u2028",
    "<think>no ids of their own</think><answer>B</answer><tool_response>",
    "<|im_start <|image_pad| <|unknown|> < | im_end | >",
    "a" * 300 + " " * 40 + "=" * 77,
]


@pytest.fixture(scope="session")
def reference() -> tiktoken.Encoding:
    return tiktoken.Encoding(
        "qwen", pat_str=SPLIT, mergeable_ranks=ranks(), special_tokens=special_ids()
    )


def _reference_ids(reference: tiktoken.Encoding, text: str) -> list[int]:
    """Qwen2 normalises to NFC, which tiktoken leaves to its caller."""
    return reference.encode(unicodedata.normalize("NFC", text), disallowed_special=())


@pytest.mark.parametrize("text", TEXTS)
def test_ids_equal_tiktoken(tokenizer, reference, text):
    ids = tokenizer.encode(text)
    assert ids.dtype == np.int32
    assert ids.tolist() == _reference_ids(reference, text)
    assert tokenizer.decode(ids) == unicodedata.normalize("NFC", text)


@given(text=st.text(max_size=60))
def test_any_text_equals_tiktoken(tokenizer, reference, text):
    if tokenizer.reserved_in(text) is None and "tool_call>" not in text:
        assert tokenizer.encode(text).tolist() == _reference_ids(reference, text)


def test_the_published_ids(tokenizer):
    assert tokenizer.encode("Hello <|im_start|>").tolist() == [9707, 220, 151644]
    assert tokenizer.size == 151665
    assert tokenizer.endoftext == 151643
    assert (tokenizer.im_start, tokenizer.im_end) == (151644, 151645)
    assert (tokenizer.vision_start, tokenizer.vision_end) == (151652, 151653)
    assert (tokenizer.image_pad, tokenizer.video_pad) == (151655, 151656)
    assert (tokenizer.tool_call, tokenizer.tool_call_end) == (151657, 151658)


@pytest.mark.parametrize("token", SPECIAL + ADDED)
def test_every_added_token_is_one_id_both_ways(tokenizer, token):
    ids = tokenizer.encode(f"x{token}y")
    assert ids.tolist() == [87, special_ids()[token], 88]
    assert tokenizer.decode(ids) == f"x{token}y"


def test_ids_are_no_text_until_their_bytes_are(tokenizer):
    ids = tokenizer.encode("🜛")
    assert len(ids) > 1
    assert tokenizer.decode(ids[:1]) == "\ufffd"
    assert tokenizer.decode(ids) == "🜛"


def test_reserved_tokens_are_found_but_calls_are_not(tokenizer):
    assert set(tokenizer.reserved) == set(special_ids()) - {"<tool_call>", "</tool_call>"}
    assert tokenizer.reserved_in("see <|video_pad|> there") == "<|video_pad|>"
    assert tokenizer.reserved_in("<tool_call>{}</tool_call> <|not_one|>") is None


def test_half_a_surrogate_pair_is_named(tokenizer):
    with pytest.raises(ValueError, match=r"half a surrogate pair, '\\ud800', at 2 of 4 char"):
        tokenizer.encode("ab\ud800c")


@pytest.mark.seconds
def test_both_published_layouts_give_the_same_ids(tokenizer, tmp_path):
    fast = Tokenizer.from_folder(write_model_folder(tmp_path, "fast"))
    assert fast.reserved == tokenizer.reserved
    assert fast.size == tokenizer.size
    for text in [*TEXTS, *SPECIAL, *ADDED]:
        np.testing.assert_array_equal(fast.encode(text), tokenizer.encode(text))


@pytest.mark.parametrize("absent", ["vocab.json", "merges.txt", "tokenizer_config.json"])
def test_a_folder_without_its_files_is_named(model_folder, tmp_path, absent):
    for file in model_folder.iterdir():
        if file.name != absent:
            (tmp_path / file.name).symlink_to(file)
    with pytest.raises(ValueError, match=rf"{tmp_path}: no tokenizer; need tokenizer_config.json"):
        Tokenizer.from_folder(tmp_path)


@pytest.mark.seconds
def test_another_models_tokenizer_is_named(tmp_path):
    write_model_folder(tmp_path, "merges")
    config = (tmp_path / "tokenizer_config.json").read_text()
    (tmp_path / "tokenizer_config.json").write_text(config.replace("image_pad", "picture"))
    with pytest.raises(ValueError, match=r"the tokenizer has no <\|image_pad\|>"):
        Tokenizer.from_folder(tmp_path)


@pytest.mark.seconds
@pytest.mark.parametrize("layout", ["merges", "fast"])
def test_it_is_what_transformers_finds_for_the_folder(tmp_path, layout):
    folder = write_model_folder(tmp_path, layout)
    ours, theirs = Tokenizer.from_folder(folder).backend, AutoTokenizer.from_pretrained(folder)
    assert type(ours) is type(theirs)
    assert ours.get_vocab() == theirs.get_vocab()
    for text in [*TEXTS, *SPECIAL, *ADDED]:
        assert ours.encode(text) == theirs.encode(text)


@pytest.mark.seconds
def test_torch_is_not_imported_where_it_is_installed(model_folder):
    """It would be at every start of a command, for seconds."""
    program = f"""
import sys
from pathlib import Path
from lfpc_jax.processing.tokenizer import Tokenizer
Tokenizer.from_folder(Path({str(model_folder)!r})).encode("Which way?")
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.seconds
def test_neither_torch_nor_jax_is_needed(model_folder):
    """Each is made impossible to import; then a folder is read and a conversation encoded."""
    program = f"""
import sys
for name in ("torch", "torchvision", "jax", "flax"):
    sys.modules[name] = None
from pathlib import Path
from lfpc_jax.processing import geometry, images, positions
from lfpc_jax.processing.chat import ChatTemplate
from lfpc_jax.processing.tokenizer import Tokenizer
folder = Path({str(model_folder)!r})
template = ChatTemplate.from_folder(folder, Tokenizer.from_folder(folder))
processor = images.ImageProcessor.from_folder(folder)
message = {{"role": "user", "content": [{{"type": "image"}}]}}
print((template.encode([message], [processor.grid(100, 80)], True) == 151655).sum())
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["12"]
