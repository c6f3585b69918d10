"""What a reference is, what is a path, and what is neither."""

from __future__ import annotations

from pathlib import Path

import pytest

from sdcffi._references import CatalogueReference, HubReference, WebReference, parse, reference_of

DIGEST = "a1" * 32
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hf://owner/repo", HubReference("owner/repo")),
        ("hf://owner/repo/", HubReference("owner/repo")),
        ("hf://models/owner/repo", HubReference("owner/repo")),
        ("hf://owner/repo/a.safetensors", HubReference("owner/repo", "a.safetensors")),
        ("hf://Owner-1/re.po_2/sub folder/a.gguf", HubReference("Owner-1/re.po_2", "sub folder/a.gguf")),
        ("hf://owner/repo/vae/", HubReference("owner/repo", "vae")),
        ("hf://owner/repo@v1.0", HubReference("owner/repo", "", "v1.0")),
        (f"hf://owner/repo/a/b.gguf@{COMMIT}", HubReference("owner/repo", "a/b.gguf", COMMIT)),
        ("hf://owner/repo/a.gguf@refs/pr/1", HubReference("owner/repo", "a.gguf", "refs/pr/1")),
        ("hf://owner/repo@refs/pr/1", HubReference("owner/repo", "", "refs/pr/1")),
        (f"hf://o/r/a.gguf#sha256={'A1' * 32}", HubReference("o/r", "a.gguf", "main", "a1" * 32)),
        (f"hf://o/r/a.gguf@v1#sha256={'a1' * 32}", HubReference("o/r", "a.gguf", "v1", "a1" * 32)),
        ("hf://o/r/a#b.gguf", HubReference("o/r", "a#b.gguf")),
        ("hf://owner/repo@v1/sub/a.gguf", HubReference("owner/repo", "sub/a.gguf", "v1")),  # as huggingface_hub writes
        (f"https://host/a%20b.gguf#sha256={DIGEST.upper()}", WebReference("https://host/a%20b.gguf", DIGEST)),
        (f"http://host:80/x/a.gguf?key=1#sha256={DIGEST}", WebReference("http://host:80/x/a.gguf?key=1", DIGEST)),
        ("catalogue:sd-turbo", CatalogueReference("sd-turbo")),
        ("catalogue:sd-turbo/q8_0", CatalogueReference("sd-turbo", "q8_0")),
    ],
)
def test_a_reference_is_read(text: str, expected: object) -> None:
    assert parse(text) == expected


@pytest.mark.parametrize("text", ["model.gguf", "hf:owner/repo", "C:\\models\\a.gguf", "~/a", "", "s3://a/b"])
def test_everything_else_is_a_path(text: str) -> None:
    assert parse(text) is None
    assert parse(Path(text)) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hf://owner", "must be of the form hf://OWNER/REPO"),
        ("hf://", "must be of the form"),
        ("hf://owner/..", "must be of the form"),
        ("hf://owner/re po", "must be of the form"),
        ("hf://owner//a.gguf", "must be of the form"),
        ("hf://datasets/owner/repo", "of a repository of models, not of datasets"),
        ("hf://owner/repo/../a.gguf", "the path must lead to a file or folder in it"),
        ("hf://owner/repo/a//b.gguf", "the path must lead"),
        ("hf://owner/repo/a\\b.gguf", "the path must lead"),
        ("hf://owner/repo/a\nb.gguf", "the path must lead"),
        ("hf://o/r/a.gguf#sha256=12", "#sha256= must be of a file, and have 64 hexadecimal digits"),
        (f"hf://o/r#sha256={'a1' * 32}", "#sha256= must be of a file"),
        ("hf://owner/repo/a.gguf@", "the revision must be a branch, a tag or a commit, not ''"),
        ("hf://owner/repo/a.gguf@../../x", "the revision must be"),
        ("https://host/a.gguf", "must end in #sha256= and the 64 digits .* so that nobody can put another file"),
        ("https://host/a.gguf#sha256=12", "must end in #sha256="),
        (f"https://host/a.gguf#md5={DIGEST}", "must end in #sha256="),
        (f"https://host#sha256={DIGEST}", "must be the address of a file"),
        (f"https://host/a/..#sha256={DIGEST}", "must be the address of a file"),
        (f"https://host/a/%2e%2e%2fb#sha256={DIGEST}", None),
        (f"https://host:x/a.gguf#sha256={DIGEST}", "must be an address: .*[Pp]ort"),
        (f"https://host:99999/a.gguf#sha256={DIGEST}", "must be an address: .*[Pp]ort"),
        (f"https://[::1/a.gguf#sha256={DIGEST}", "must be an address: Invalid IPv6"),
        (f"https://a..b/a.gguf#sha256={DIGEST}", "must be an address: "),
        (f"https://host/\xe4.gguf#sha256={DIGEST}", "must have %XX"),
        (f"https://host/{'a' * 256}#sha256={DIGEST}", "must be a file with a name of at most 255 bytes"),
        (f"https://host/{DIGEST}.lock#sha256={DIGEST}", "which does not end in .incomplete or .lock"),
        ("hf://\xe4/repo", "must be of the form hf://OWNER/REPO"),
        (f"https://user:secret@host/a.gguf#sha256={DIGEST}", "must not have a user or password"),
        (
            "https://huggingface.co/o/r/resolve/main/a/b.gguf",
            "is a file of the Hugging Face Hub: write hf://o/r/a/b.gguf$",
        ),
        ("https://hf.co/o/r/blob/v1/a.gguf?download=true", "write hf://o/r/a.gguf@v1$"),
        ("catalogue:", "must be of the form catalogue:NAME or catalogue:NAME/VARIANT"),
        ("catalogue:a/b/c", "must be of the form catalogue:NAME"),
    ],
)
def test_what_begins_as_a_reference_must_be_one(text: str, message: str | None) -> None:
    if message is None:  # its name is the last part, whatever is encoded in it
        found = parse(text)
        assert found is not None
        assert found.name == "b"
        return
    with pytest.raises(ValueError, match=message):
        parse(text)


def test_a_reference_in_a_path_is_refused() -> None:
    with pytest.raises(ValueError, match=r"hf:/owner/repo is a reference in a Path.* pass a string"):
        parse(Path("hf://owner/repo"))
    with pytest.raises(ValueError, match=r"catalogue:a/b is a reference in a Path"):
        parse(Path("catalogue:a/b"))


@pytest.mark.parametrize(
    "text",
    ["hf://owner/repo", "hf://o/r/a.gguf@v1", "hf://o/r/a@refs/pr/1", "hf://o/r/a#sha256=" + "0" * 64, "catalogue:a/b"],
)
def test_the_text_of_a_reference_is_one(text: str) -> None:
    assert str(parse(text)) == text
    assert parse(str(parse(text))) == parse(text)


@pytest.mark.parametrize("name", ["a.gguf", "sub folder/a.gguf", "", "a@b.gguf", "a\\b.gguf"])
def test_a_file_of_the_hubs_cache_has_a_reference_if_that_can_be_written(name: str) -> None:
    path = Path("/home/me/.cache/huggingface/hub/models--owner--re--po/snapshots", COMMIT, name)
    expected = f"hf://owner/re--po/{name}".rstrip("/") + f"@{COMMIT}"
    found = reference_of(path)
    assert (None if found is None else str(found)) == (None if "@" in name or "\\" in name else expected)
    assert reference_of(Path("/snapshots", COMMIT, "a.gguf")) is None


def test_a_key_in_an_address_is_not_shown() -> None:
    found = parse(f"https://host/a.gguf?key=secret#sha256={DIGEST}")
    assert str(found) == f"https://host/a.gguf#sha256={DIGEST}"
    with pytest.raises(ValueError, match=r"a.gguf must end") as caught:
        parse("https://host/a.gguf?key=secret")
    assert "secret" not in str(caught.value)
