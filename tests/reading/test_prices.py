"""Prices as shops of many countries write them, by hand."""

import pytest

from calrec.reading.prices import clean_price, decimal_comma


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("$25.00", "25.00"),
        ("$1,299.99", "1299.99"),
        ("$5.00 - $10.00", "5.00 - 10.00"),
        ("2,07", "2.07"),
        ("12,99 €", "12.99"),
        ("¥1980", "1980"),
        ("￥１２３４", "1234"),
        ("R$ 10.00", "10.00"),
        ("R$ 1.234,56", "1234.56"),
        ("1.234.567", "1234567"),
        ("USD 5", "5"),
        ("5USD", "5"),
        ("US $5.00", "5.00"),
        ("5 kr", "5"),
        ("1 234,50 zł", "1234.50"),
        ("1\u202f234,50\u00a0€", "1234.50"),
        ("CHF 1'234.50", "1234.50"),
        ("CHF 12.-", "12"),
        ("₹1,299.00", "1299.00"),
        ("₹1,23,456.00", "123456.00"),
        ("٣٫٥٠", "3.50"),
        ("12.99 – 15.99", "12.99 - 15.99"),
        ("12,99—15,99 €", "12.99 - 15.99"),
        ("5 to 10", "5 - 10"),
        (".99", "0.99"),
        ("0", "0"),
        ("from $3", ""),
        ("-5.00", ""),
        ("12,34,5", ""),
        ("1.99.5", ""),
        ("5 kg", ""),
    ],
)
def test_prices(raw: str, clean: str):
    assert clean_price(raw) == clean


def test_three_digits_behind_a_single_separator_are_read_as_the_source_writes():
    assert [clean_price(raw) for raw in ("1.234", "1,234", "0,500")] == ["1.234", "1234", "0.500"]
    assert [clean_price(raw, comma=True) for raw in ("1.234", "1,234", "0.500")] == ["1234", "1.234", "0.500"]


@pytest.mark.parametrize(
    ("prices", "comma"),
    [
        (["1.234", "2,07"], True),
        (["1.234", "1,234"], False),
        (["1.234", "1.234.567"], True),
        (["2.07", "3.10", "4,50"], False),
        ([], False),
    ],
)
def test_the_decimal_separator_of_a_source_is_that_of_most_prices(prices: list[str], comma: bool):
    assert decimal_comma(prices) == comma
