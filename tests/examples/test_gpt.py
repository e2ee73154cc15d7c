"""The model and its key-value cache: parts computed apart are what they are together."""

from __future__ import annotations

import json
import os
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tests.examples.forks import Forks

pytestmark = pytest.mark.needs_module("torch")

PROGRAM = """
import json, random, sys, torch
sys.path.insert(0, sys.argv[1])
from gpt import Gpt, KeyValueCache, Places, Shape
from prefix_cache import PrefixCache

torch.manual_seed(1)
shape = Shape(layers=2, width=32, context=64)
model = Gpt(shape).eval()
prompt = bytes(random.Random(1).randrange(256) for _ in range(40))

def step(cache, row, start, tokens):
    positions = torch.arange(start, start + len(tokens))[None]
    return model(torch.tensor([list(tokens)]), Places(cache, torch.tensor([row]), positions))[0]

with torch.inference_mode():
    whole = model(torch.tensor([list(prompt)]))[0]
    cache = KeyValueCache(shape, 3, torch.device("cpu"))
    cache.keys.fill_(9.0)
    cache.values.fill_(9.0)
    parts = torch.cat([step(cache, 1, a, prompt[a:b]) for a, b in ((0, 7), (7, 8), (8, 40))])

    batch = Places(cache, torch.tensor([1, 0]), torch.tensor([[40], [0]]))
    two = model(torch.tensor([[65], [66]]), batch)
    alone = model(torch.tensor([list(prompt) + [65]]))[0, -1]

    prefixes = PrefixCache(2)
    prefixes.remember(prompt, cache, 1)
    restored = prefixes.restore(prompt, cache, 2)
    rest = step(cache, 2, restored, prompt[restored:])
    other = prefixes.restore(prompt[:16] + b"x" * 16, cache, 2)
    prefixes.remember(bytes(40), cache, 1)
    evicted = prefixes.restore(prompt, cache, 2)

close = lambda a, b: bool(torch.allclose(a, b, atol=1e-5))
print(json.dumps({
    "parts": close(parts, whole),
    "batched": close(two[0, 0], alone),
    "restored": restored,
    "rest": close(rest, whole[restored:]),
    "other": other,
    "evicted": evicted,
}))
"""


@pytest.fixture(scope="module")
def seen(repository: Path, tmp_path_factory: pytest.TempPathFactory, forks: Forks) -> Any:
    """What the program above saw, in a process of its own."""
    program = tmp_path_factory.mktemp("gpt") / "program.py"
    program.write_text(PROGRAM)
    with closing(forks.start(program, [str(repository / "examples")], os.environ)) as process:
        assert (process.wait(60), process.stderr.read()) == (0, "")
        return json.loads(process.stdout.read())


def test_a_cached_forward_pass_equals_the_whole(seen: Any) -> None:
    """A prompt computed in three parts gives the logits of the prompt computed at once."""
    assert seen["parts"]


def test_a_row_does_not_see_its_neighbours(seen: Any) -> None:
    """In one batch with another sequence, at other positions, a sequence is as it is alone."""
    assert seen["batched"]


def test_a_restored_prefix_is_the_computed_one(seen: Any) -> None:
    """Reusing a prefix changes nothing but the work: two blocks of 16 are known, 8 are left."""
    assert seen["restored"] == 32
    assert seen["rest"]


def test_only_an_equal_beginning_is_reused(seen: Any) -> None:
    """A block belongs to all tokens before it: the second block of another prompt is not reused."""
    assert seen["other"] == 16


def test_the_prefix_cache_is_bounded(seen: Any) -> None:
    """The oldest blocks make room: after two others came, none of the first prompt's is left."""
    assert seen["evicted"] == 0
