"""Text boxes: whatever a page sends arrives, and can be sent back."""

import ast
import json
from pathlib import Path

import pytest

import helpers
from helpers.views import Area, Field

BOXES = {"Text", "Textarea", "Combobox", "Password"}
TEXTS = {
    "a\ud800b": "a?b",
    "\udc80": "?",
    "\ud83d\ude00 😀": "?? 😀",
    "": "",
    "a\0\u202e</script>": "a\0\u202e</script>",
}


@pytest.mark.parametrize("kind", [Field, Area])
@pytest.mark.parametrize("typed, arrives", TEXTS.items(), ids=ascii)
def test_whatever_is_typed_arrives_and_can_be_sent_back(kind, typed, arrives, monkeypatch):
    box, sent, seen = kind("first"), [], []
    monkeypatch.setattr(box, "_send", lambda message, buffers=None: sent.append(message))
    box.observe(lambda change: seen.append(change["new"]), names="value")
    box.set_state({"value": typed})
    assert seen == [arrives] and box.value == arrives
    assert sent and json.dumps([sent, box.get_state()["value"]], ensure_ascii=False).encode("utf8")


def test_what_is_no_text_is_left_alone():
    box = Field("first")
    box.set_state({"placeholder": "type"})
    assert (box.value, box.placeholder) == ("first", "type")


def test_every_text_box_of_the_book_is_such_a_one():
    found = [
        (file.name, node.func.attr)
        for file in Path(helpers.__file__).parent.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text("utf8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in BOXES
        if isinstance(node.func.value, ast.Name) and node.func.value.id in ("ipywidgets", "widgets")
    ]
    assert found == []
