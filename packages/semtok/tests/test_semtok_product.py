from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from semtok.quantizers.product import OptimizedProductQuantizer, ProductQuantizer


def vectors(num_items: int, dim: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(num_items, dim)).astype(np.float32)


def oracle_codes(quantizer: ProductQuantizer, x: np.ndarray) -> list[list[int]]:
    """The nearest centroid of each part, in plain Python."""
    levels, _, size = quantizer.codebooks.shape
    codes = []
    for row in x:
        padded = [float(value) for value in row] + [0.0] * (levels * size - len(row))
        if quantizer.rotation is not None:
            columns = quantizer.rotation.T.tolist()
            padded = [
                float(np.float32(sum(a * b for a, b in zip(padded, column, strict=True))))
                for column in columns
            ]
        path = []
        for level in range(levels):
            part = padded[level * size : (level + 1) * size]
            costs = [
                sum((a - b) ** 2 for a, b in zip(part, centroid, strict=True))
                for centroid in quantizer.codebooks[level].tolist()
            ]
            path.append(costs.index(min(costs)))
        codes.append(path)
    return codes


@pytest.mark.parametrize("kind", [ProductQuantizer, OptimizedProductQuantizer])
@pytest.mark.parametrize("num_levels", [2, 3])
def test_encode_and_decode_agree_with_plain_python(
    kind: type[ProductQuantizer], num_levels: int
) -> None:
    x = vectors(200, 8)
    quantizer = kind.fit(x, num_levels=num_levels, codebook_size=8)
    new = vectors(40, 8, seed=1)
    codes = quantizer.encode(new)
    assert codes.tolist() == oracle_codes(quantizer, new)
    parts = [quantizer.codebooks[level][codes[:, level]] for level in range(num_levels)]
    expected = np.concatenate(parts, axis=1)
    assert isinstance(quantizer, kind)
    if quantizer.rotation is not None:
        expected = expected @ quantizer.rotation.T
    np.testing.assert_allclose(quantizer.decode(codes), expected[:, :8], atol=1e-5)


def test_levels_left_out_stand_for_the_mean() -> None:
    x = vectors(100, 4) + 3
    quantizer = ProductQuantizer.fit(x, num_levels=2, codebook_size=4)
    codes = quantizer.encode(x[:5])
    prefix = quantizer.decode(codes[:, :1])
    np.testing.assert_array_equal(prefix[:, :2], quantizer.decode(codes)[:, :2])
    np.testing.assert_allclose(prefix[:, 2:], np.tile(x.mean(axis=0)[2:], (5, 1)), rtol=1e-5)
    distortion = quantizer.distortion(x)
    assert distortion[0] > distortion[1]


def test_the_rotation_is_orthogonal_and_pays() -> None:
    # Correlated dimensions in different parts: a rotation can bring them together.
    x = vectors(600, 2) @ vectors(2, 8, seed=1) + 0.1 * vectors(600, 8, seed=2)
    x = np.ascontiguousarray(x, dtype=np.float32)
    plain = ProductQuantizer.fit(x, num_levels=4, codebook_size=8)
    rotated = OptimizedProductQuantizer.fit(x, num_levels=4, codebook_size=8)
    assert rotated.rotation is not None
    np.testing.assert_allclose(rotated.rotation @ rotated.rotation.T, np.eye(8), atol=1e-4)
    assert rotated.distortion(x)[-1] < 0.85 * plain.distortion(x)[-1]


@settings(max_examples=25, deadline=None)
@given(
    num_items=st.integers(1, 40),
    dim=st.integers(1, 7),
    num_levels=st.integers(1, 7),
    codebook_size=st.integers(2, 9),
    kind=st.sampled_from([ProductQuantizer, OptimizedProductQuantizer]),
)
def test_any_shape_is_quantized(
    num_items: int, dim: int, num_levels: int, codebook_size: int, kind: type[ProductQuantizer]
) -> None:
    x = vectors(num_items, dim)
    options = {"num_levels": num_levels, "codebook_size": codebook_size}
    if num_levels > dim:
        with pytest.raises(ValueError, match=f"num_levels must be at most {dim}"):
            kind.fit(x, **options)
        return
    quantizer = kind.fit(x, **options)
    assert quantizer.dim == dim
    assert quantizer.num_levels == num_levels
    assert quantizer.encode(x).tolist() == oracle_codes(quantizer, x)
    assert quantizer.decode(quantizer.encode(x)).shape == x.shape
    if num_items <= codebook_size:
        np.testing.assert_allclose(quantizer.decode(quantizer.encode(x)), x, atol=1e-5)
