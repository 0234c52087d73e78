"""Depth and width of a decoder of a given size."""

ASPECT = 128  # features a layer, as of GPT-3's and Llama's larger models (Kaplan et al. 2020, §3.1)


def shape(parameters: float | int) -> tuple[int, int]:
    """(depth, width) with 12·depth·width² near `parameters`, embeddings aside.

    The width is a multiple of 64, and a layer for every 128 features.
    """
    width = max(64, 64 * round((ASPECT * parameters / 12) ** (1 / 3) / 64))
    return max(1, round(parameters / (12 * width**2))), width
