"""Bytes and times as people read them."""

from gpt2core.machine.quantities import bytes_text, gigabytes


def test_bytes_have_the_unit_that_keeps_them_short() -> None:
    assert [bytes_text(count) for count in (7, 46_600, 1_500_000_000, 120_006_920_000_000)] == [
        "7 bytes",
        "46.6 KB",
        "1.5 GB",
        "120.0 TB",
    ]


def test_memory_is_said_in_gigabytes_until_they_are_thousands() -> None:
    assert [gigabytes(count) for count in (50_000_000, 3_254_000_000, 120_006_920_000_000)] == [
        "0.05 GB",
        "3.25 GB",
        "120.01 TB",
    ]
