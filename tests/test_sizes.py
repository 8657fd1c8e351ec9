"""Sizes read and write as people write them."""

import pytest

from sae_atlas.io.sizes import format_rounded, format_seconds, format_size, parse_size


@pytest.mark.parametrize(
    ("text", "number"),
    [("4096", 4096), (4096, 4096), ("120k", 120_000), ("300M", 300_000_000), ("1.5B", 1_500_000_000), ("0.5k", 500)],
)
def test_parse(text, number):
    assert parse_size(text) == number


@pytest.mark.parametrize("text", ["", "many", "-3", "1.5", "3 M", "1e6", "0.0001k", "9999999999B", 2**63, None, True])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(ValueError):
        parse_size(text)


@pytest.mark.parametrize("number", [1, 999, 4096, 120_000, 1_500_000, 300_000_000, 2_000_000_000])
def test_format_is_exact_and_fits_a_file_name(number):
    assert parse_size(format_size(number)) == number
    assert "." not in format_size(number)


def test_format_chooses_the_largest_unit():
    assert [format_size(n) for n in (300_000_000, 1_500_000, 4096, 0)] == ["300M", "1500k", "4096", "0"]


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (999, "999"), (1234, "1.23k"), (999_499, "999k"), (999_999, "1M"), (21_600_000_000, "21.6B")],
)
def test_rounded_to_three_digits(number, text):
    assert format_rounded(number) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(8.44, "8.4 s"), (720, "12.0 min"), (11_500, "3.2 h"), (99_066_240, "1,147 days")]
)
def test_times_have_no_more_digits_than_they_are_worth(seconds, text):
    assert format_seconds(seconds) == text
