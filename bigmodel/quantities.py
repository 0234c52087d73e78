"""Large numbers in few characters."""

SI = {'E': 18, 'P': 15, 'T': 12, 'G': 9, 'M': 6, 'k': 3}
COUNTS = {'T': 12, 'B': 9, 'M': 6, 'k': 3}  # as sizes of models are said


def short(number: float | int, letters: dict[str, int] = SI, unit: str = '') -> str:
    """'1.2M', '340kB', '1.967': the first three digits, with the letter of a power of ten."""
    rounded = float(f'{number:.3g}')  # 999.9e6 is 1G
    for letter, exponent in letters.items():
        if rounded >= 10**exponent:
            return f'{rounded / 10**exponent:.3g}{letter}{unit}'
    return f'{number:.4g}{unit}'
