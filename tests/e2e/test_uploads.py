"""Files sent through the front door: to an agent on a laptop, and to one that is called."""

from __future__ import annotations

import hashlib
import json
import os
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Operator
from tests.e2e.test_tour import external_agent
from tests.stack.running import eventually
from tests.uploads.requests import CONTENT_TYPE, Part, body

MIB = 1024 * 1024
FOLDER = "workspace/.molecule/chat-uploads"


def sent(operator: Operator, workspace_id: str, raw: bytes, token: str | None = None) -> tuple[int, Any]:
    headers = {"Authorization": f"Bearer {token or operator.token}", "Content-Type": CONTENT_TYPE}
    address = f"{operator.url}/workspaces/{workspace_id}/chat/uploads"
    request = urllib.request.Request(address, data=raw, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as refusal:
        return refusal.code, json.load(refusal)


def digests(folder: Path) -> set[str]:
    whole = [path for path in folder.glob("*") if not path.name.startswith(".")]
    return {hashlib.sha256(path.read_bytes()).hexdigest() for path in whole}


def message(uri: str) -> dict[str, Any]:
    parts = [{"kind": "text", "text": "look"}, {"kind": "file", "file": {"uri": uri, "name": "a b.bin"}}]
    return {"method": "message/send", "params": {"message": {"role": "user", "parts": parts}}}


def test_a_polling_agent_has_the_file_before_the_message(operator: Operator, tmp_path: Path) -> None:
    created = operator.post("/workspaces", {"name": "laptop with files", "runtime": "external"})
    one, token = created["id"], created["connection"]["auth_token"]
    data = [os.urandom(20 * MIB), os.urandom(100)]
    with external_agent(operator.url, one, token, tmp_path):
        operator.until(one, "online")
        status, answer = sent(operator, one, body([Part("a b.bin", data[0]), Part("c.txt", data[1])]))
        assert status == 200
        uri = answer["files"][0]["uri"]
        operator.post(f"/workspaces/{one}/a2a", message(uri))
        expected = {hashlib.sha256(one).hexdigest() for one in data}
        eventually(lambda: digests(tmp_path / "state" / FOLDER) == expected, 20)
        eventually(lambda: operator.get(f"/workspaces/{one}/pending-uploads") == {"files": []}, 20)

        def replies() -> list[str]:
            rows = operator.get(f"/workspaces/{one}/activity?type=a2a_receive")
            return [row["response_body"]["result"] for row in rows if row["method"] == "notify"]

        eventually(replies, 20)
    (stored,) = (tmp_path / "state" / FOLDER).glob("*-a_b.bin")
    assert replies() == [f"echo: look\nworkspace:/workspace/.molecule/chat-uploads/{stored.name}"]
    content = f"/workspaces/{one}/pending-uploads/{uri.rpartition('/')[2]}/content"
    as_agent = urllib.request.Request(operator.url + content, headers={"Authorization": f"Bearer {token}"})
    with pytest.raises(urllib.error.HTTPError) as gone:
        urllib.request.urlopen(as_agent, timeout=20)
    assert gone.value.code == 404
    as_user = urllib.request.Request(
        operator.url + content,
        headers={"Authorization": f"Bearer {operator.token}", "Accept-Encoding": "gzip"},
    )
    with urllib.request.urlopen(as_user, timeout=20) as answer:  # the chat still shows it
        assert answer.headers["Content-Length"] == str(len(data[0]))
        assert answer.read() == data[0]


def test_an_agent_that_is_called_gets_the_body_and_gives_it_back(operator: Operator) -> None:
    one = operator.create("called with files")
    operator.until(one, "online", within_s=20)
    data = os.urandom(20 * MIB)
    status, answer = sent(operator, one, body([Part("a b.bin", data)]))
    assert status == 200
    (file,) = answer["files"]
    folder = operator.stack.folder / "workspaces" / one / FOLDER
    assert digests(folder) == {hashlib.sha256(data).hexdigest()}
    path = file["uri"].removeprefix("workspace:")
    request = urllib.request.Request(
        f"{operator.url}/workspaces/{one}/chat/download?path={path}",
        headers={"Authorization": f"Bearer {operator.token}"},
    )
    with urllib.request.urlopen(request, timeout=60) as back:
        assert back.headers["Content-Disposition"].startswith("attachment")
        assert back.read() == data
    refused = operator.call("GET", f"/workspaces/{one}/chat/download?path=/workspace/none")
    assert (refused.status, refused.json()) == (404, {"error": "no such file"})


def test_a_refusal_reaches_a_client_that_is_still_sending(operator: Operator) -> None:
    """Answered before the body was read, the refusal would be lost in a broken connection."""
    one = operator.post("/workspaces", {"name": "refusing", "runtime": "external"})["id"]
    large = body([Part("a.bin", bytes(20 * MIB)), Part("b.bin", bytes(20 * MIB))])
    for _ in range(5):
        assert sent(operator, one, large, token="nobody")[0] == 401
    too_large = body([Part("a.bin", bytes(26 * MIB)), Part("b.bin", bytes(20 * MIB))])
    status, answer = sent(operator, one, too_large)
    assert (status, answer["filename"]) == (413, "a.bin")
    assert sent(operator, one, body([Part("a.bin", bytes(51 * MIB))]))[1]["max"] == 50 * MIB
    assert operator.get(f"/workspaces/{one}/pending-uploads") == {"files": []}
