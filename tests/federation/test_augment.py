"""Augmentation against its definition: parameters are recovered from images whose transforms are known."""

from __future__ import annotations

import math
from collections.abc import Collection

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.nn import functional as F

from federation.models.stylegan2.augment import TRANSFORMS, adapted_probability, augment, diff_augment
from federation.models.stylegan2.losses import gradient_penalties
from federation.seeding import torch_stream

GEOMETRIC, COLOUR = TRANSFORMS[:7], TRANSFORMS[7:]


def stream(seed: int = 0) -> torch.Generator:
    return torch_stream(seed, "test augmentation")


def noise(count: int, side: int = 32, dtype: torch.dtype = torch.float32) -> Tensor:
    return (torch.rand(count, 3, side, side, generator=torch_stream(1, "test noise")) * 2 - 1).to(dtype)


def same(a: Tensor, b: Tensor) -> Tensor:
    """Return which images (batch,) are equal bit for bit."""
    return (a == b).flatten(1).all(dim=1)


def recover_geometry(transforms: Collection[str], count: int = 2000, p: float = 1.0) -> Tensor:
    """Return the inverse maps (count, 3, 3) on (x, y, 1), x and y in [-1, 1].

    The image is x in one channel and y in the other, so a pixel tells where it was looked up; sampling a ramp
    bilinearly is exact. Only the four central pixels are read: they are looked up inside the image.
    """
    side = 32
    axis = (torch.arange(side, dtype=torch.float64) + 0.5) * 2 / side - 1
    ramp = torch.stack([axis.expand(side, side), axis[:, None].expand(side, side), torch.zeros(side, side)])
    result = augment(ramp.expand(count, 3, side, side), p, transforms, stream())
    centre = result[:, :2, side // 2 - 1 : side // 2 + 1, side // 2 - 1 : side // 2 + 1]
    inverse = torch.eye(3, dtype=torch.float64).repeat(count, 1, 1)
    inverse[:, :2, 0] = (centre[..., 1] - centre[..., 0]).mean(dim=-1) * side / 2
    inverse[:, :2, 1] = (centre[..., 1, :] - centre[..., 0, :]).mean(dim=-1) * side / 2
    inverse[:, :2, 2] = centre.mean(dim=(2, 3))
    return inverse


def recover_colour(transforms: Collection[str], count: int = 2000, p: float = 1.0) -> Tensor:
    """Return the colour maps (count, 4, 4) on (red, green, blue, 1), from a black, red, green and blue stripe."""
    stripes = torch.eye(4, dtype=torch.float64)[:3].roll(1, dims=1)  # columns: black, red, green, blue
    stripes[:, 0] = 0
    result = augment(stripes[:, None].expand(count, 3, 4, 4), p, transforms, stream())
    assert torch.equal(result, result[:, :, :1].expand_as(result))  # every row alike
    colours = result[:, :, 0]
    matrix = torch.eye(4, dtype=torch.float64).repeat(count, 1, 1)
    matrix[:, :3, :3] = colours[..., 1:] - colours[..., :1]
    matrix[:, :3, 3] = colours[..., 0]
    return matrix


def recover_shift(result: Tensor, padded: Tensor) -> Tensor:
    """Return how many pixels, -4 … 4, each image moved right and down, (2, batch); every image must match one."""
    shifts = range(-4, 5)
    found = torch.stack([same(result, padded[:, :, 4 - y : 36 - y, 4 - x : 36 - x]) for x in shifts for y in shifts])
    assert bool((found.sum(dim=0) == 1).all())
    which = found.double().argmax(dim=0)
    return torch.stack([which // 9, which % 9]) - 4


def assert_normal(values: Tensor, sd: float) -> None:
    """Mean 0, this standard deviation, and the share within one of them; 4 standard errors of 2000 draws."""
    assert values.shape == (2000,)
    assert abs(values.mean()) < 4 * sd / math.sqrt(2000)
    assert float(values.std()) == pytest.approx(sd, rel=4 / math.sqrt(4000))
    assert float((values.abs() < sd).double().mean()) == pytest.approx(0.6827, abs=0.042)


def assert_uniform_angle(angle: Tensor) -> None:
    shares = torch.histc(angle, bins=8, min=-math.pi, max=math.pi) / len(angle)
    assert torch.allclose(shares, torch.full_like(shares, 1 / 8), atol=0.03)


def close(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b.expand_as(a).to(a), atol=1e-9)


# ---------------------------------------------------------------- pixel blitting


def test_names_in_the_order_of_application() -> None:
    assert ", ".join(TRANSFORMS) == (
        "x-flip, rotate90, integer-translation, "
        "scale, rotation, anisotropic-scale, fractional-translation, "
        "brightness, contrast, luma-flip, hue, saturation"
    )


def test_x_flip_tosses_a_coin() -> None:
    images = noise(800)
    result = augment(images, 1.0, ["x-flip"], stream())
    kept, flipped = same(result, images), same(result, images.flip(3))
    assert bool((kept ^ flipped).all())
    assert float(flipped.double().mean()) == pytest.approx(0.5, abs=0.07)


def test_rotate90_draws_all_quarter_turns() -> None:
    images = noise(800)
    result = augment(images, 1.0, ["rotate90"], stream())
    turns = torch.stack([same(result, images.rot90(k, dims=(2, 3))) for k in range(4)])
    assert bool((turns.sum(dim=0) == 1).all())
    assert torch.allclose(turns.double().mean(dim=1), torch.full((4,), 0.25, dtype=torch.float64), atol=0.06)


def test_integer_translation_moves_whole_pixels_and_mirrors_the_border() -> None:
    images = noise(800)
    result = augment(images, 1.0, ["integer-translation"], stream())
    padded = torch.from_numpy(np.pad(images.numpy(), ((0, 0), (0, 0), (4, 4), (4, 4)), mode="symmetric"))
    moved = recover_shift(result, padded)  # up to 0.125 of 32 px
    # U(-4, 4) rounded: the ends are reached from one side only.
    expected = torch.tensor([1, 2, 2, 2, 2, 2, 2, 2, 1], dtype=torch.float64) / 16
    for axis in moved:
        assert torch.allclose((axis + 4).bincount(minlength=9).double() / 800, expected, atol=0.05)
    assert abs(float(torch.corrcoef(moved.double())[0, 1])) < 0.14


def test_blitting_together_moves_pixels_exactly() -> None:
    images = noise(64, side=64)
    result = augment(images, 1.0, ["x-flip", "rotate90", "integer-translation"], stream())
    # Mirrored borders repeat some pixels and lose others, but invent none.
    assert all(torch.isin(after, before).all() for after, before in zip(result, images, strict=True))
    assert not same(result, images).all()


# ---------------------------------------------------------------- general geometry


def test_scale_is_lognormal_and_isotropic() -> None:
    inverse = recover_geometry(["scale"])
    factor = inverse[:, 0, 0]
    assert close(inverse, torch.diag_embed(torch.stack([factor, factor, torch.ones_like(factor)], dim=-1)))
    assert_normal(-factor.log2(), 0.2)


def test_rotation_turns_by_a_uniform_angle() -> None:
    inverse = recover_geometry(["rotation"])
    turn = inverse[:, :2, :2]
    assert close(turn @ turn.mT, torch.eye(2))
    assert close(torch.linalg.det(turn), torch.ones(()))
    assert close(inverse[:, :2, 2], torch.zeros(()))
    assert_uniform_angle(torch.atan2(turn[:, 1, 0], turn[:, 0, 0]))


def test_rotations_before_and_after_together_apply_with_probability_p() -> None:
    for p in (0.5, 0.9):
        changed = (recover_geometry(["rotation"], p=p) != torch.eye(3)).any(dim=(1, 2))
        assert float(changed.double().mean()) == pytest.approx(p, abs=0.045)


def test_anisotropic_scale_keeps_the_area() -> None:
    inverse = recover_geometry(["anisotropic-scale"])
    factor = inverse[:, 0, 0]
    assert close(inverse, torch.diag_embed(torch.stack([factor, 1 / factor, torch.ones_like(factor)], dim=-1)))
    assert_normal(-factor.log2(), 0.2)


def test_anisotropic_scale_stands_between_two_independent_rotations() -> None:
    linear = recover_geometry(["rotation", "anisotropic-scale"])[:, :2, :2]
    left, stretch, right = torch.linalg.svd(linear)
    assert close(stretch.prod(dim=1), torch.ones(()))
    # |N(0, 0.2)| has mean 0.2 sqrt(2 / pi).
    assert float(stretch[:, 0].log2().mean()) == pytest.approx(0.1596, abs=0.011)
    # Axes have no sign, so an axis's direction is twice its angle.
    before = 2 * torch.atan2(right[:, 0, 1], right[:, 0, 0])
    after = 2 * torch.atan2(left[:, 1, 0], left[:, 0, 0])
    for angle in (before, after, before + after, before - after):
        assert_uniform_angle(torch.atan2(angle.sin(), angle.cos()))


def test_fractional_translation_is_normal_on_each_axis() -> None:
    inverse = recover_geometry(["fractional-translation"])
    assert close(inverse[:, :2, :2], torch.eye(2))
    shift = inverse[:, :2, 2] / 2  # in sides
    assert_normal(shift[:, 0], 0.125)
    assert_normal(shift[:, 1], 0.125)
    assert abs(float(torch.corrcoef(shift.T)[0, 1])) < 0.09


def test_geometry_is_composed_in_order() -> None:
    # Rotation stands twice in the order; it is left out here and has its own tests.
    names = [name for name in GEOMETRIC if name != "rotation"]
    expected = torch.eye(3, dtype=torch.float64)
    for name in names:  # G = T_n ... T_1, so its inverse grows on the right
        expected = expected @ recover_geometry([name], count=200)
    assert close(recover_geometry(names[::-1], count=200), expected)


def test_smooth_images_are_resampled_closely() -> None:
    side, count = 64, 50
    axis = (torch.arange(side, dtype=torch.float64) + 0.5) * 2 / side - 1
    x, y = axis.expand(side, side), axis[:, None].expand(side, side)

    def picture(x: Tensor, y: Tensor) -> Tensor:
        return torch.stack([(math.pi * x).sin(), (2 * x + y).cos(), x * y], dim=-3)

    # Whole pixels are other fractions of 64 px than of the 32 px that the maps are recovered from.
    names = [name for name in GEOMETRIC if name != "integer-translation"]
    places = recover_geometry(names, count=count) @ torch.stack([x, y, torch.ones_like(x)]).flatten(1)
    at_x, at_y, _ = places.unflatten(2, (side, side)).unbind(1)
    result = augment(picture(x, y).expand(count, 3, side, side), 1.0, names, stream())
    inside = ((at_x.abs() < 1 - 1 / side) & (at_y.abs() < 1 - 1 / side))[:, None].expand_as(result)
    assert float(inside.double().mean()) > 0.5
    # Linear interpolation errs by at most step^2 / 8 times the curvature: (2 / 64)^2 / 8 (pi^2 or 2^2 + 1^2).
    assert float((result - picture(at_x, at_y)).abs()[inside].max()) < (2 / 64) ** 2 / 8 * math.pi**2 * 1.01


def test_border_is_mirrored() -> None:
    # A ramp with mirrors at -1 and 1 is a triangle wave.
    count, side = 200, 32
    axis = (torch.arange(side, dtype=torch.float64) + 0.5) * 2 / side - 1
    x, y = axis.expand(side, side), axis[:, None].expand(side, side)
    names = ["scale", "fractional-translation"]
    places = recover_geometry(names, count=count) @ torch.stack([x, y, torch.ones_like(x)]).flatten(1)
    mirrored = ((places[:, :2].unflatten(2, (side, side)) - 1) % 4 - 2).abs() - 1
    result = augment(torch.stack([x, y, x]).expand(count, 3, side, side), 1.0, names, stream())[:, :2]
    assert float(places[:, :2].abs().max()) > 1.4
    # The half pixel at the edge repeats the outermost value.
    edge = 1 - 1 / side
    assert torch.allclose(result, mirrored.clamp(-edge, edge), atol=1e-9)


# ---------------------------------------------------------------- colour

LUMA = torch.full((3, 3), 1 / 3, dtype=torch.float64)


def test_brightness_adds_a_normal_to_all_channels() -> None:
    matrix = recover_colour(["brightness"])
    shift = matrix[:, 0, 3]
    assert close(matrix[:, :3, :3], torch.eye(3))
    assert close(matrix[:, :3, 3], shift[:, None])
    assert_normal(shift, 0.2)


def test_contrast_multiplies_by_a_lognormal() -> None:
    matrix = recover_colour(["contrast"])
    factor = matrix[:, 0, 0]
    assert close(matrix[:, :3, :3], factor[:, None, None] * torch.eye(3))
    assert close(matrix[:, :3, 3], torch.zeros(()))
    assert_normal(factor.log2(), 0.5)


def test_luma_flip_reflects_half_of_the_images() -> None:
    matrix = recover_colour(["luma-flip"])[:, :3]
    kept = (matrix == torch.eye(4)[:3]).all(dim=2).all(dim=1)
    assert float(kept.double().mean()) == pytest.approx(0.5, abs=0.045)
    assert close(matrix[~kept][:, :, :3], torch.eye(3) - 2 * LUMA)
    assert close(matrix[~kept][:, :, 3], torch.zeros(()))


def test_hue_turns_about_the_luma_axis() -> None:
    matrix = recover_colour(["hue"])[:, :3]
    turn = matrix[:, :, :3]
    assert close(matrix[:, :, 3], torch.zeros(()))
    assert close(turn @ turn.mT, torch.eye(3))
    assert close(torch.linalg.det(turn), torch.ones(()))
    assert close(turn.sum(dim=2), torch.ones(()))  # grey stays
    # In the plane across the axis: the first direction's image along itself and along the second.
    across = torch.tensor([2.0, -1.0, -1.0], dtype=torch.float64) / math.sqrt(6)
    along = torch.tensor([0.0, 1.0, -1.0], dtype=torch.float64) / math.sqrt(2)
    assert_uniform_angle(torch.atan2(turn @ across @ along, turn @ across @ across))


def test_saturation_scales_what_is_not_grey() -> None:
    matrix = recover_colour(["saturation"])[:, :3]
    factor = matrix[:, :, :3].diagonal(dim1=1, dim2=2).sum(dim=1).sub(1) / 2
    assert close(matrix[:, :, :3], LUMA + factor[:, None, None] * (torch.eye(3) - LUMA))
    assert close(matrix[:, :, 3], torch.zeros(()))
    assert_normal(factor.log2(), 1.0)


def test_colour_is_composed_in_order() -> None:
    expected = torch.eye(4, dtype=torch.float64)
    for name in COLOUR:
        expected = recover_colour([name], count=200) @ expected
    assert close(recover_colour(COLOUR[::-1], count=200), expected)


def test_colour_follows_geometry() -> None:
    images = noise(16)
    moved = augment(images, 1.0, GEOMETRIC, stream())
    together = augment(images, 1.0, TRANSFORMS, stream())
    # One affine map of RGB for each image takes the moved pixels to the result.
    for before, after in zip(moved.flatten(2).double(), together.flatten(2).double(), strict=True):
        design = torch.cat([before, torch.ones(1, before.shape[1])]).T
        fitted = design @ torch.linalg.lstsq(design, after.T).solution
        assert torch.allclose(fitted, after.T, atol=1e-4)


# ---------------------------------------------------------------- probability


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("side", [32, 64, 256])
def test_p_zero_is_the_identity_bit_for_bit(side: int, dtype: torch.dtype, memory_format: torch.memory_format) -> None:
    images = (3 * noise(8, side, dtype)).contiguous(memory_format=memory_format)
    for p in (0.0, torch.zeros(())):
        result = augment(images, p, TRANSFORMS, stream())
        assert torch.equal(result, images)
        assert result.dtype == dtype


@pytest.mark.parametrize(
    ("name", "share"),
    # A flip is half a chance of staying; a quarter turn a quarter; a whole-pixel shift rounds to (0, 0) in 1 of 64.
    [(name, {"x-flip": 0.15, "luma-flip": 0.15, "rotate90": 0.225}.get(name, 0.3)) for name in TRANSFORMS],
)
def test_share_of_changed_images(name: str, share: float) -> None:
    images = noise(2000)
    changed = ~same(augment(images, 0.3, [name], stream()), images)
    assert float(changed.double().mean()) == pytest.approx(share, abs=0.042)


@pytest.mark.parametrize("names", [GEOMETRIC, COLOUR])
def test_transforms_apply_independently_of_each_other(names: tuple[str, ...]) -> None:
    # Alone or together, a transform draws the same.
    recover = recover_geometry if names == GEOMETRIC else recover_colour
    maps = torch.stack([recover([name], p=0.5) for name in names])
    applied = (maps != torch.eye(maps.shape[-1])).any(dim=(2, 3))
    assert float((torch.corrcoef(applied.double()) - torch.eye(len(names))).abs().max()) < 0.09


def test_p_as_a_tensor_equals_p_as_a_number() -> None:
    images = noise(32)
    for p in (0.3, 0.75, 1.0):
        number, tensor = (augment(images, value, TRANSFORMS, stream()) for value in (p, torch.tensor(p)))
        assert torch.equal(number, tensor)


def test_same_stream_same_result() -> None:
    images, draws = noise(8), stream()
    first, second = (augment(images, 1.0, TRANSFORMS, draws) for _ in range(2))
    assert torch.equal(first, augment(images, 1.0, TRANSFORMS, stream()))
    assert not same(first, second).any()
    first, second = (diff_augment(images, draws) for _ in range(2))
    assert not same(first, second).any()
    assert torch.equal(diff_augment(images, stream(7)), diff_augment(images, stream(7)))


@pytest.mark.parametrize("function", ["augment", "diff_augment"])
def test_memory_layout_and_type_do_not_change_the_result(function: str) -> None:
    def run(images: Tensor) -> Tensor:
        return augment(images, 0.8, TRANSFORMS, stream()) if function == "augment" else diff_augment(images, stream())

    images = noise(16)
    expected = run(images.double())
    assert expected.dtype == torch.float64
    # fp32 places are good to 1e-5 of a pixel or so.
    assert torch.allclose(run(images).double(), expected, atol=1e-3)
    assert torch.allclose(run(images.contiguous(memory_format=torch.channels_last)), run(images), atol=1e-6)


def test_unknown_names_are_refused_with_the_choices() -> None:
    with pytest.raises(ValueError, match=r"unknown augmentation transform 'flip'; choose from x-flip, rotate90, .*"):
        augment(noise(2), 1.0, ["scale", "flip"], stream())
    with pytest.raises(ValueError, match="unknown DiffAugment policy 'color'; choose from colour, translation, cutout"):
        diff_augment(noise(2), stream(), ["color"])


def test_nothing_enabled_changes_nothing() -> None:
    images = noise(4)
    assert torch.equal(augment(images, 1.0, (), stream()), images)
    assert torch.equal(diff_augment(images, stream(), ()), images)


def test_results_stay_finite() -> None:
    draws, images = stream(), noise(256)
    for _ in range(40):
        result = augment(images, 1.0, TRANSFORMS, draws)
        assert bool(result.isfinite().all())
    # The mirrored border only repeats pixels: nothing beyond their range without colour.
    moved = augment(images, 1.0, GEOMETRIC, draws)
    assert float(moved.abs().max()) <= 1 + 1e-6


def test_never_waits_for_a_value() -> None:
    with FakeTensorMode() as mode:
        images, p = torch.empty(8, 3, 32, 32), torch.empty(())
        assert augment(images, p, TRANSFORMS, torch.Generator()).shape == images.shape
        assert diff_augment(images, torch.Generator()).shape == images.shape
        assert adapted_probability(p, p, target=0.6, num_images=64, ada_kimg=500).shape == ()
        # What the mode would have raised at.
        with pytest.raises(DataDependentOutputException):
            mode.from_tensor(torch.ones(())).item()


# ---------------------------------------------------------------- gradients


def test_first_and_second_gradients() -> None:
    images = noise(2, side=4, dtype=torch.float64).requires_grad_()
    for function in (
        lambda images: augment(images, 0.8, TRANSFORMS, stream(3)),
        lambda images: diff_augment(images, stream(3)),
    ):
        assert torch.autograd.gradcheck(function, (images,))
        assert torch.autograd.gradgradcheck(function, (images,))


@pytest.mark.parametrize("function", ["augment", "diff_augment"])
def test_r1_of_a_linear_discriminator_is_the_norm_of_the_adjoint(function: str) -> None:
    def run(images: Tensor) -> Tensor:
        draws = stream(2)
        return augment(images, 1.0, TRANSFORMS, draws) if function == "augment" else diff_augment(images, draws)

    # The affine map A x + b, column by column.
    basis = torch.eye(48, dtype=torch.float64).view(48, 1, 3, 4, 4)
    origin = run(torch.zeros(1, 3, 4, 4, dtype=torch.float64))
    matrix = torch.stack([(run(column) - origin).flatten() for column in basis], dim=1)
    assert torch.linalg.matrix_rank(matrix) > 3

    weight = noise(1, side=4, dtype=torch.float64).requires_grad_()
    images = noise(1, side=4, dtype=torch.float64).mul(0.5).requires_grad_()
    logits = (run(images) * weight).sum(dim=(1, 2, 3))
    (penalty,) = gradient_penalties(logits, [images])
    adjoint = matrix.T @ weight.detach().flatten()
    assert float(penalty.detach()) == pytest.approx(float(adjoint.square().sum()), rel=1e-9)
    # And its gradient: of |A' w|^2 in w, 2 A A' w.
    (gradient,) = torch.autograd.grad(penalty, weight)
    assert torch.allclose(gradient.flatten(), 2 * matrix @ adjoint, rtol=1e-9)


# ---------------------------------------------------------------- controller


@pytest.mark.parametrize(
    ("p", "mean_sign", "expected"),
    [
        (0.5, 0.7, 0.5 + 64 / 500_000),
        (0.5, 0.6, 0.5),
        (0.5, 0.5, 0.5 - 64 / 500_000),
        (0.5, -1.0, 0.5 - 64 / 500_000),
        (0.0, 0.1, 0.0),
        (1.0, 0.9, 1.0),
        (0.99999, 0.9, 1.0),
        (0.00001, 0.1, 0.0),
    ],
)
def test_controller_moves_by_a_fixed_step(p: float, mean_sign: float, expected: float) -> None:
    moved = adapted_probability(
        torch.tensor(p, dtype=torch.float64),
        torch.tensor(mean_sign, dtype=torch.float64),
        target=0.6,
        num_images=64,
        ada_kimg=500,
    )
    assert float(moved) == pytest.approx(expected, abs=1e-12)
    assert moved.shape == ()


def test_controller_rises_from_zero_to_one_in_ada_kimg() -> None:
    p = torch.zeros(())
    for _ in range(100):  # 100 x 50 images of 5 kimg
        p = adapted_probability(p, torch.ones(()), target=0.6, num_images=50, ada_kimg=5)
    assert float(p) == pytest.approx(1.0, abs=1e-5)


# ---------------------------------------------------------------- DiffAugment


def test_diff_augment_colour_is_brightness_then_saturation_then_contrast() -> None:
    images = noise(2000, side=8, dtype=torch.float64)
    result = diff_augment(images, stream(), ["colour"])

    def parts(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Split into the mean of the image, what is grey, and what is colour."""
        grey, mean = images.mean(dim=1, keepdim=True), images.mean(dim=(1, 2, 3), keepdim=True)
        return mean, grey - mean, images - grey

    mean, grey, colour = parts(images)
    result_mean, result_grey, result_colour = parts(result)
    brightness = result_mean - mean
    contrast = (result_grey * grey).sum(dim=(1, 2, 3), keepdim=True) / grey.square().sum(dim=(1, 2, 3), keepdim=True)
    both = (result_colour * colour).sum(dim=(1, 2, 3), keepdim=True) / colour.square().sum(dim=(1, 2, 3), keepdim=True)
    saturation = both / contrast
    assert torch.allclose(result, mean + brightness + contrast * (grey + saturation * colour), atol=1e-9)
    for value, low, high in ((brightness, -0.5, 0.5), (saturation, 0.0, 2.0), (contrast, 0.5, 1.5)):
        shares = torch.histc(value, bins=8, min=low, max=high) / 2000
        assert float(shares.sum()) == 1
        assert torch.allclose(shares, torch.full_like(shares, 1 / 8), atol=0.03)
    correlation = torch.corrcoef(torch.stack([brightness, saturation, contrast]).flatten(1))
    assert float((correlation - torch.eye(3)).abs().max()) < 0.09


def test_diff_augment_translation_moves_in_zeros() -> None:
    images = noise(800)
    result = diff_augment(images, stream(), ["translation"])
    padded = F.pad(images, (4, 4, 4, 4))
    moved = recover_shift(result, padded)  # up to 1/8 of 32 px
    for axis in moved:
        assert torch.allclose((axis + 4).bincount(minlength=9) / 800, torch.full((9,), 1 / 9), atol=0.045)
    assert abs(float(torch.corrcoef(moved.double())[0, 1])) < 0.14


def test_diff_augment_cutout_blanks_a_square_around_a_random_pixel() -> None:
    images = noise(2000) + 2  # nowhere 0
    result = diff_augment(images, stream(), ["cutout"])
    blank = (result == 0).all(dim=1)
    assert torch.equal(result, images.masked_fill(blank[:, None], 0.0))
    rows, columns = blank.any(dim=2), blank.any(dim=1)
    assert torch.equal(blank, rows[:, :, None] & columns[:, None, :])  # a rectangle, but for holes
    for axis in (rows, columns):
        starts = axis.diff(dim=1).sum(dim=1)
        assert bool((starts <= 2).all())  # no holes: at most one edge on each side
        length = axis.sum(dim=1)
        assert int(length.max()) == 16
        # Around a place 0 … 32 between pixels the square lacks 8 - centre at the low end, centre - 24 at the high one.
        assert int(length.min()) == 8
        assert float((length == 16).double().mean()) == pytest.approx(17 / 33, abs=0.045)
        assert float(axis[:, 0].double().mean()) == pytest.approx(9 / 33, abs=0.045)
        assert float(axis[:, 31].double().mean()) == pytest.approx(9 / 33, abs=0.045)  # as often at either end
    assert abs(float(torch.corrcoef(torch.stack([rows[:, 0], columns[:, 0]]).double())[0, 1])) < 0.09


def test_diff_augment_applies_its_parts_in_order() -> None:
    images = noise(32, dtype=torch.float64)
    expected = images
    for part in ("colour", "translation", "cutout"):
        expected = diff_augment(expected, stream(), [part])
    assert torch.equal(diff_augment(images, stream()), expected)
