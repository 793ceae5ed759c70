"""Secrets inside of addresses are found and not shown."""

import pytest

from configs.addresses import holds_secret, shown

SECRET = "s3cret"


@pytest.mark.parametrize(
    "address",
    [
        f"postgresql://ann:{SECRET}@db:5432/mlflow",
        f"https://ann:{SECRET}@host/text.txt",
        f"https://host/text.txt?X-Amz-Signature={SECRET}&X-Amz-Expires=1",
        f"https://host/text.txt?page=2&access_token={SECRET}",
        f"postgresql://db/mlflow?user=ann&password={SECRET}",
        f"https://host/text.txt?sig={SECRET}",
    ],
)
def test_a_secret_in_an_address_is_found_and_blotted_out(address: str) -> None:
    assert holds_secret(address)
    assert SECRET not in shown(f"FATAL: {address} does not answer")
    assert "***" in shown(address)


@pytest.mark.parametrize(
    "address",
    [
        "http://127.0.0.1:5000",
        "https://host/a/text.txt?page=2",
        "s3://bucket/folder/*.jsonl.gz",
        "postgresql://ann@db/mlflow",
        "dataset:ag_news:train",
        "my-texts/",
        "C:/texts/a:b@c.txt",
    ],
)
def test_an_address_without_one_is_shown_as_it_is(address: str) -> None:
    assert not holds_secret(address)
    assert shown(address) == address


def test_a_token_instead_of_a_name_counts() -> None:
    assert holds_secret(f"https://{SECRET}@host/text.txt")


def test_characters_that_no_password_should_have_are_blotted_out_with_it() -> None:
    assert shown(f"postgresql://ann:{SECRET}/@odd@db/one: refused") == "postgresql://ann:***@db/one: refused"
